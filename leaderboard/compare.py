"""Which models differ: paired comparisons on the same questions, and the matrix of win rates between models.

Pairing matters because all models share the baseline: intervals of single scores overlap too often. The comparisons are
of the uncontrolled outcomes (shares of wins, or ratings), question by question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from leaderboard.table import Table
from prefeval.stats import Estimate, holm, minimum_detectable_difference, paired_difference
from prefeval.types import FloatArray


@dataclass(frozen=True)
class Comparison:
    """Mean outcome of `first` minus `second` over their common questions; `p` is Holm-adjusted over the table.

    `detectable` is the difference that this many questions find with 80% power.
    """

    first: str
    second: str
    difference: Estimate
    p: float
    detectable: float


def paired_comparisons(table: Table, *, resamples: int = 1000, seed: int = 0) -> list[Comparison]:
    """Each pair of models (in the table's order) that shares at least two questions."""
    found, raw = [], []
    for i, a in enumerate(table.rows):
        for b in table.rows[i + 1 :]:
            common = [q for q in a.outcomes if q in b.outcomes]
            x = np.array([a.outcomes[q] for q in common], dtype=np.float64)
            y = np.array([b.outcomes[q] for q in common], dtype=np.float64)
            d = (x - y)[~np.isnan(x - y)]
            if len(d) < 2:
                continue
            difference, p = paired_difference(x, y, resamples=resamples, seed=seed)
            raw.append(p)
            detectable = minimum_detectable_difference(float(d.std(ddof=1)), len(d))
            found.append((a.name, b.name, difference, detectable))
    adjusted = holm(raw) if raw else []
    return [Comparison(a, b, d, p, m) for (a, b, d, m), p in zip(found, adjusted, strict=True)]


def win_rate_matrix(table: Table) -> tuple[list[str], FloatArray]:
    """(names, W) with W[i, j] = share of common questions on which i did better than j, ties half; NaN without any."""
    names = [row.name for row in table.rows]
    w = np.full((len(names), len(names)), math.nan)
    for i, a in enumerate(table.rows):
        for j, b in enumerate(table.rows):
            d = np.array([a.outcomes[q] - b.outcomes[q] for q in a.outcomes if q in b.outcomes], dtype=np.float64)
            d = d[~np.isnan(d)]
            if i == j:
                w[i, j] = 0.5
            elif len(d):
                w[i, j] = float((d > 0).mean() + 0.5 * (d == 0).mean())
    return names, w
