"""Scores as parts: means over items with bootstrap draws, and their weighted means with the draws that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefeval.seeds import derive_seed
from prefeval.stats import percentile_interval, resample_counts
from prefeval.types import FloatArray


@dataclass(frozen=True, eq=False)
class Part:
    """A score in [0, 1] with its bootstrap draws (resamples,); `n` items count, `n_dropped` had no answer."""

    name: str
    level: str
    point: float
    draws: FloatArray
    n: int
    n_dropped: int

    def row(self) -> dict[str, Any]:
        low, high = percentile_interval(self.draws)
        values = {"score": self.point, "score_low": low, "score_high": high}
        shown = {k: None if np.isnan(v) else float(v) for k, v in values.items()}
        return {"name": self.name, "level": self.level, **shown, "n": self.n, "n_dropped": self.n_dropped}


class Measure:
    """Means over items with bootstrap draws, every part with draws of its own."""

    def __init__(self, seed: int, resamples: int) -> None:
        self.seed, self.resamples = seed, resamples

    def __call__(self, name: str, level: str, values: FloatArray, weights: FloatArray | None = None) -> Part:
        """`values` (n,) or (n, m) with NaN; the score is `weights` (m,) times the means of the columns."""
        table = np.asarray(values, dtype=np.float64).reshape(len(values), 1 if weights is None else len(weights))
        there = ~np.isnan(table)
        rows = there.any(axis=1)
        w = np.ones(table.shape[1]) if weights is None else weights
        if not rows.any():
            return Part(name, level, np.nan, np.full(self.resamples, np.nan), 0, len(table))
        counts = resample_counts(len(table), self.resamples, derive_seed("suite", self.seed, name))
        every = np.vstack([np.ones(len(table)), counts])
        means = (every @ np.where(there, table, 0.0)) / np.where(every @ there > 0, every @ there, np.nan)
        scores = means @ w
        return Part(name, level, float(scores[0]), scores[1:], int(rows.sum()), int((~rows).sum()))


def combined(name: str, level: str, parts: Sequence[Part], weights: Sequence[float]) -> Part:
    """The weighted mean of the parts that have items."""
    there = [(p, w) for p, w in zip(parts, weights, strict=True) if p.n]
    dropped = sum(p.n_dropped for p in parts)
    if not there:
        return Part(name, level, np.nan, np.zeros(0), 0, dropped)
    total = sum(w for _, w in there)
    draws = np.sum([p.draws * (w / total) for p, w in there], axis=0)
    return Part(name, level, sum(p.point * w for p, w in there) / total, draws, sum(p.n for p, _ in there), dropped)


def mean_of(name: str, parts: Sequence[Part]) -> Part:
    """The plain mean of all parts; without a score when one of them has no items."""
    if all(p.n for p in parts):
        return combined(name, "overall", parts, [1.0] * len(parts))
    n, dropped = sum(p.n for p in parts), sum(p.n_dropped for p in parts)
    return Part(name, "overall", np.nan, np.zeros(0), n, dropped)
