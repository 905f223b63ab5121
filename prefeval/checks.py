"""Verifiable rewards as oracles, opened as `check:NAME`: a reply is right or wrong by the prompt's reference answer.

The reference is `prompt.meta['reference']`: the column `reference` of a prompts file or of a `prefeval score` row (with
`columns: {reference: answer}` any other). A reply earns 1 or 0; P is 1 where only the row's reply is right, 0 where
only the column's is, 1/2 where both or none are. The rewards themselves tell two right replies from two wrong ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np

from prefeval.errors import ConfigError, DataError, nearest
from prefeval.oracle import Group, MatrixOracle, symmetrise
from prefeval.types import FloatArray, Prompt

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
Check = Callable[[str, str], bool]  # (reference, reply) -> right?


class CheckOracle(MatrixOracle):
    """One reply at a time is checked, so whole groups cost no more than their replies."""

    per_response = True

    def __init__(self, kind: str, check: Check) -> None:
        self.name, self._check = f"check:{kind}", check

    def rewards(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        """1 for a right reply, 0 for a wrong one: (k,) a prompt. Raises DataError for a prompt without a reference."""
        return [
            np.array([self._right(prompt, text) for text in group], dtype=np.float64)
            for prompt, group in zip(prompts, groups, strict=True)
        ]

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        return [preferences_of(rewards) for rewards in self.rewards(prompts, groups)]

    def _right(self, prompt: Prompt, text: str) -> bool:
        reference = prompt.meta.get("reference")
        if reference is None or not str(reference).strip():
            raise DataError(
                f"prompt '{prompt.id}' has no reference answer, which {self.name} compares replies with; "
                "give its row a column 'reference', or name another with columns: {reference: COLUMN}"
            )
        try:
            return self._check(str(reference), text)
        except ValueError as error:
            raise DataError(f"prompt '{prompt.id}', reference {str(reference)!r}: {error}") from None


def preferences_of(rewards: FloatArray) -> FloatArray:
    """P (k, k) of rewards (k,): the higher one wins for certain, equal ones tie."""
    return symmetrise(0.5 + 0.5 * np.sign(rewards[:, None] - rewards[None, :]))


def same_text(reference: str, reply: str) -> bool:
    """Equal, white space apart: any stretch of it counts as one blank, and at the ends as nothing."""
    return reference.split() == reply.split()


def same_number(reference: str, reply: str) -> bool:
    """The last number of the reply equals the last of the reference ('... #### 1,024' is 1024, and so is 1024.0).

    Raises ValueError for a reference without a number; a reply without one is wrong.
    """
    wanted = last_number(reference)
    if wanted is None:
        raise ValueError("holds no number")
    return last_number(reply) == wanted


def last_number(text: str) -> Decimal | None:
    """The last number written in digits, with or without commas between thousands; None where there is none."""
    found = _NUMBER.findall(text.replace("\N{MINUS SIGN}", "-"))
    return Decimal(found[-1].replace(",", "")) if found else None


def matches(reference: str, reply: str) -> bool:
    """The reference, a regular expression of Python's, is found somewhere in the reply. Raises ValueError for none."""
    try:
        return re.search(reference, reply) is not None
    except re.error as error:
        raise ValueError(f"is no regular expression ({error})") from None


CHECKS: dict[str, tuple[Check, str]] = {
    "exact": (same_text, "the reply is the reference, white space apart"),
    "number": (same_number, "the reply's last number is the reference's last number"),
    "regex": (matches, "the reference is a regular expression that is found in the reply"),
}


def open_check(name: str) -> CheckOracle:
    """The check of that name. Raises ConfigError with the nearest name."""
    if name not in CHECKS:
        raise ConfigError(f"oracle 'check:{name}': no such check{nearest(name, CHECKS)} (known: {', '.join(CHECKS)})")
    return CheckOracle(name, CHECKS[name][0])
