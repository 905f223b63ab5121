"""Score against length: a scatter of the models, and how far the two go together over models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from leaderboard.report_svg import Axes, Point, Series, line_panel
from leaderboard.report_text import Figure, Style, clean, estimate, real
from prefeval.stats import Estimate, percentile_interval
from prefeval.types import FloatArray

_LEAST, _MOST = 3, 70  # models that a correlation needs, and that are drawn
_INTERVAL = 5  # models that its interval needs: resamples of fewer are mostly repetitions of the same order


def rank_correlation(x: FloatArray, y: FloatArray, *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Spearman's correlation of x (m,) and y (m,), mean ranks for ties, 95% percentile bootstrap over the m models.

    Pairs that are not finite are dropped and counted. Resamples in which one side is constant are left out of the
    interval. NaN for fewer than three pairs or a constant side; no interval for fewer than five."""
    known = np.isfinite(x) & np.isfinite(y)
    a, b = x[known], y[known]
    m = len(a)
    point = _spearman(a, b) if m >= _LEAST else math.nan
    low, high = math.nan, math.nan
    if math.isfinite(point) and m >= _INTERVAL:
        picks = np.random.default_rng(seed).integers(0, m, (resamples, m))
        draws = np.array([_spearman(a[pick], b[pick]) for pick in picks])
        low, high = percentile_interval(draws[np.isfinite(draws)])
    return Estimate(point, low, high, m, int((~known).sum()))


def length_figure(rows: Sequence[Mapping[str, Any]], style: Style, unit: str) -> Figure | None:
    """The scatter with its correlation; None for fewer than three models with a length and a score."""
    found = [(real(r.get("avg_length")), estimate(r, "score"), clean(r["name"])) for r in rows]
    rho = rank_correlation(np.array([x for x, _, _ in found]), np.array([e.point for _, e, _ in found]))
    if rho.n < _LEAST:
        return None
    drawn = [f for f in found if math.isfinite(f[0]) and math.isfinite(f[1].point)][:_MOST]
    series = [Series(name, 0, (Point(x, e.point, e.low, e.high),)) for x, e, name in drawn]
    told = "Spearman's correlation is not defined: all lengths or all scores are equal."
    if math.isfinite(rho.point):
        told = f"Spearman's correlation over models {rho.point:.2f} [{rho.low:.2f}, {rho.high:.2f}]"
        told += f", n = {rho.n} models, {rho.n_failed} dropped; bootstrap over models."
        if math.isnan(rho.low):
            told = f"Spearman's correlation over {rho.n} models {rho.point:.2f}; too few for an interval."
    told += f" The first {_MOST} of {rho.n} are drawn." if rho.n > _MOST else ""
    plot = line_panel(Axes("Score against length", f"mean length, {unit}", style), series)
    return Figure((plot,), f"One mark a model, whiskers are the 95% intervals of the score. {told}".replace("-", "−"))


def _spearman(x: FloatArray, y: FloatArray) -> float:
    a, b = rankdata(x), rankdata(y)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
