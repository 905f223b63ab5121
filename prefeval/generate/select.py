"""Choosing at decoding time: best-of-n and best-of-Nash, a generator and an oracle that answer like one generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prefeval.errors import RunError
from prefeval.games import nash_lp
from prefeval.generate.base import Generator, SamplingParams
from prefeval.oracle import Oracle, win_rates
from prefeval.seeds import derive_seed, rng
from prefeval.types import FloatArray, Prompt, Response

Rule = Literal["best", "nash"]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class SelectingGenerator:
    """Samples n candidates for each reply and keeps one.

    'best' keeps the candidate with the highest mean P against the others (best-of-n). 'nash' draws from the equilibrium
    of the n x n game of the candidates (best-of-Nash): no other way to choose among them beats it, also where P cycles
    and there is no best one. The kept reply's `logprob` is still its own under the generator, not under the selection.
    """

    generator: Generator
    oracle: Oracle
    n: int = 8
    rule: Rule = "best"
    title: str = ""  # its name where another one is wanted than what it does

    def __post_init__(self) -> None:
        if self.n < 2 or self.rule not in ("best", "nash"):
            raise ValueError(f"a selection needs n >= 2 and the rule best or nash, not {self.n} and {self.rule}")

    @property
    def name(self) -> str:
        return self.title or f"{self.rule}-of-{self.n}:{self.generator.name}"

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        """k replies a prompt, each the choice among n of its own; k n replies are sampled and k n^2 pairs asked.

        Raises RunError where every verdict about a set of candidates failed.
        """
        drawn = self.generator.sample(prompts, k * self.n, params, derive_seed("select", seed))
        sets = [
            (p, group[j * self.n : (j + 1) * self.n]) for p, group in zip(prompts, drawn, strict=True) for j in range(k)
        ]
        tables = self.oracle.matrix([p for p, _ in sets], [[r.text for r in c] for _, c in sets])
        kept = [
            candidates[self._choose(table, prompt, number % k, seed)]
            for number, ((prompt, candidates), table) in enumerate(zip(sets, tables, strict=True))
        ]
        return [kept[i * k : (i + 1) * k] for i in range(len(prompts))]

    def _choose(self, table: FloatArray, prompt: Prompt, index: int, seed: int) -> int:
        usable = complete_part(table)
        if len(usable) < 2:
            raise RunError(f"{self.oracle.name}: no verdict about the candidates for prompt '{prompt.id}'")
        known = table[np.ix_(usable, usable)]
        if self.rule == "best":
            return int(usable[np.argmax(win_rates(known))])
        weights = nash_lp(known)
        draw = rng("nash", seed, prompt.id or repr(prompt.as_dicts()), index).random()
        return int(usable[min(int(np.searchsorted(np.cumsum(weights), draw, side="right")), len(usable) - 1)])


def complete_part(table: FloatArray) -> IntArray:
    """Indices of responses with every verdict among them: whoever misses most is left out until none is missing."""
    kept = np.arange(len(table))
    while len(kept):
        missing = np.isnan(table[np.ix_(kept, kept)]).sum(axis=1)
        if not missing.any():
            break
        kept = np.delete(kept, int(np.argmax(missing)))
    return kept.astype(np.int64)
