"""Splits by prompt: the same prompt never lands in two of them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping

from prefeval.errors import ConfigError
from prefeval.seeds import derive_seed
from prefeval.types import PreferenceRecord, Prompt


def split_by_prompt(
    records: Iterable[PreferenceRecord], fractions: Mapping[str, float], seed: int
) -> dict[str, list[PreferenceRecord]]:
    """Records by split name, in their order; `fractions` must sum to 1 and hold in expectation.

    A prompt's split depends on its normalised text, the names, the fractions and the seed only: not on the other
    records, so that adding data moves nothing. Where `meta` has a `question`, that decides instead of the text: one
    question may follow different earlier turns. Raises ConfigError for unusable fractions.
    """
    if not fractions or any(f < 0 or not math.isfinite(f) for f in fractions.values()):
        raise ConfigError(f"split fractions must not be negative: {dict(fractions)}")
    if abs(math.fsum(fractions.values()) - 1.0) > 1e-6:
        raise ConfigError(f"split fractions must sum to 1, not {math.fsum(fractions.values()):g}: {dict(fractions)}")
    out: dict[str, list[PreferenceRecord]] = {name: [] for name in fractions}
    for record in records:
        key = str(record.meta.get("question") or prompt_key(record.prompt))
        point = derive_seed("split", seed, key) / 2.0**63
        out[_locate(point, fractions)].append(record)
    return out


def prompt_key(prompt: Prompt) -> str:
    """The conversation without system messages, case, compatibility forms and white space: equal for equal prompts."""
    turns = [f"{m.role}: {m.content}" for m in prompt.messages if m.role != "system"]
    return " ".join(unicodedata.normalize("NFKC", "\n".join(turns)).casefold().split())


def _locate(point: float, fractions: Mapping[str, float]) -> str:
    """The name whose interval of the cumulated fractions holds the point; empty intervals hold nothing."""
    edge, last = 0.0, ""
    for name, fraction in fractions.items():
        edge += fraction
        if fraction > 0:
            last = name
            if point < edge:
                return name
    return last
