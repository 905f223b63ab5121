"""Verdicts by pair of answers, whatever the protocol: two orders side by side, or two grades compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaderboard.rulings import Ruling
from prefeval.types import FloatArray

PairKey = tuple[str, int, str, str]  # question, turn, model a, model b


@dataclass(frozen=True)
class Pairs:
    """n pairs of answers. `forward` is a's share of the win where a was shown first, `backward` where it was shown
    second; NaN where the judge failed or was not asked. `swapped` says which were asked in both orders. All (n,)."""

    keys: list[PairKey]
    forward: FloatArray
    backward: FloatArray
    swapped: NDArray[np.bool_]

    @property
    def outcome(self) -> FloatArray:
        """a's share of the win: the mean of both orders where both were asked (NaN if one failed), else the one."""
        one = np.where(np.isnan(self.forward), self.backward, self.forward)
        return np.asarray(np.where(self.swapped, (self.forward + self.backward) / 2, one), dtype=np.float64)

    @property
    def verdict(self) -> FloatArray:
        """1 for a, 0 for b, else 1/2; where both orders were asked they must agree (FastChat's rule)."""
        first, second = _sign(self.forward), _sign(self.backward)
        both = np.where(np.isnan(first + second), math.nan, np.where(first == second, first, 0.5))
        return np.asarray(np.where(self.swapped, both, np.where(np.isnan(first), second, first)), dtype=np.float64)

    @property
    def questions(self) -> list[str]:
        return [question for question, *_ in self.keys]

    @property
    def models(self) -> list[tuple[str, str]]:
        return [(a, b) for *_, a, b in self.keys]

    def part(self, used: NDArray[np.bool_]) -> Pairs:
        keys = [key for key, u in zip(self.keys, used, strict=True) if u]
        return Pairs(keys, self.forward[used], self.backward[used], self.swapped[used])


def pairs_of(rulings: Sequence[Ruling]) -> Pairs:
    """The pairs of one judge; of repeated verdicts the last counts, as for the scorers.

    Where answers were graded one at a time, each model is compared with the next by name, and the last with the first:
    the higher grade wins. That is as many pairs as grades, however many models there are.
    """
    found: dict[PairKey, list[float | None]] = {}
    for ruling in rulings:
        if ruling.second:
            a, b = sorted((ruling.first, ruling.second))
            both = found.setdefault((ruling.question, ruling.turn, a, b), [None, None])
            both[ruling.first != a] = ruling.value if ruling.first == a else 1.0 - ruling.value
    for key, value in _graded(rulings).items():
        found.setdefault(key, [value, None])
    sides = np.array([[math.nan if v is None else v for v in both] for both in found.values()], dtype=np.float64)
    forward, backward = sides.reshape(len(found), 2).T
    swapped = np.array([None not in both for both in found.values()], dtype=bool)
    return Pairs(list(found), forward, backward, swapped)


def grades_of(rulings: Sequence[Ruling]) -> dict[tuple[str, str, int], float]:
    """(model, question, turn) -> grade, the last one of each; NaN where the judge failed."""
    return {(r.first, r.question, r.turn): r.value for r in rulings if not r.second}


def compare_grades(first: float, second: float) -> float:
    """1, 1/2 or 0 as the first grade is higher, equal or lower; NaN where one is missing."""
    return math.nan if math.isnan(first + second) else 0.5 + 0.5 * float(np.sign(first - second))


def _graded(rulings: Sequence[Ruling]) -> dict[PairKey, float]:
    grades = grades_of(rulings)
    names = sorted({model for model, _, _ in grades})
    following = dict(zip(names, [*names[1:], *names[:1]], strict=True)) if len(names) > 1 else {}
    found: dict[PairKey, float] = {}
    for (model, question, turn), grade in grades.items():
        other = following.get(model)
        if other is not None and (other, question, turn) in grades:
            value = compare_grades(grade, grades[other, question, turn])
            a, b = sorted((model, other))
            found[question, turn, a, b] = value if a == model else 1.0 - value
    return found


def _sign(share: FloatArray) -> FloatArray:
    """1, 1/2, 0 or NaN of shares of the win."""
    return np.asarray(0.5 + 0.5 * np.sign(share - 0.5), dtype=np.float64)
