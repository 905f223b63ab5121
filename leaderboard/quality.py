"""How well a benchmark tells models apart (Arena-Hard's paper, arXiv 2406.11939; reference/benchmarks.md 2.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prefeval.stats import Estimate

Scores = Mapping[str, Estimate]


def separability(scores: Sequence[Estimate]) -> float:
    """Share of pairs of models whose intervals do not overlap; NaN for fewer than two models."""
    order = _order(scores)
    above = np.triu_indices(len(order), 1)
    return float((order[above] != 0).mean()) if len(order) > 1 else float("nan")


def agreement_with_confidence(first: Scores, second: Scores) -> float:
    """Mean over the pairs of models that both benchmarks hold: +1 where both separate the pair the same way, -1 where
    they do so in opposite ways, 0 where either does not; NaN for fewer than two common models."""
    names = [name for name in first if name in second]
    if len(names) < 2:
        return float("nan")
    a, b = (_order([scores[name] for name in names]) for scores in (first, second))
    above = np.triu_indices(len(names), 1)
    return float((a * b)[above].mean())


def _order(scores: Sequence[Estimate]) -> NDArray[np.int64]:
    """(k, k): +1 where the row's interval lies wholly above the column's, -1 below, 0 where they overlap."""
    low, high = (np.array([getattr(e, side) for e in scores], dtype=np.float64) for side in ("low", "high"))
    above = low[:, None] > high[None, :]
    return above.astype(np.int64) - above.T.astype(np.int64)
