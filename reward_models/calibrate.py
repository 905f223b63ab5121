"""Calibration of pair probabilities: the temperature, and what is left of miscalibration after it.

All functions take pairs in random orientation (otherwise every label is 1 and a constant looks calibrated): `score` is
the log-odds of first over second in nats, `p` = sigmoid(score), `label` = P(first beats second) in [0, 1], all (n,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefeval.stats import Estimate, bootstrap_statistic
from prefeval.types import FloatArray

_LOG_RANGE = (-9.0, 9.0)  # of the multiplier of the scores: e^-9 to e^9


def fit_temperature(score: FloatArray, label: FloatArray, *, pseudo_pairs: float = 0.0) -> float:
    """The tau > 0 for which sigmoid(score / tau) has the least negative log-likelihood.

    The likelihood is convex in a = 1 / tau, so the sign of its derivative is bisected. Accuracy never changes.
    `pseudo_pairs` adds that weight of pairs with the mean |score| on which the score is wrong: with it a model that is
    right on all of 50 held-out pairs ends near odds of 50 to 1 and not at infinite confidence. Without it separable
    pairs end at tau = e^-9 times the mean |score|. Returns 1 when there is
    nothing to fit: no pairs, or scores all zero.
    """
    s, y = np.asarray(score, dtype=np.float64), np.asarray(label, dtype=np.float64)
    keep = np.isfinite(s) & np.isfinite(y)
    s, y = s[keep], y[keep]
    scale = float(np.abs(s).mean()) if len(s) else 0.0
    if scale == 0.0:
        return 1.0
    s = s / scale
    low, high = _LOG_RANGE
    for _ in range(80):
        a = np.exp(0.5 * (low + high))
        slope = float(((expit(a * s) - y) * s).sum() + pseudo_pairs * expit(np.asarray(a)))  # d NLL / d a
        low, high = (np.log(a), high) if slope < 0 else (low, np.log(a))
    return float(scale * np.exp(-0.5 * (low + high)))


def expit(x: FloatArray) -> FloatArray:
    """The logistic function without overflow."""
    with np.errstate(invalid="ignore"):  # NaN stays NaN, without a warning
        return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(x, dtype=np.float64))), dtype=np.float64)


def nll_terms(score: FloatArray, label: FloatArray) -> FloatArray:
    """-y log p - (1 - y) log(1 - p) in nats, from log-odds, without overflow: (n,). Always 0.5 scores 0.693."""
    s, y = np.asarray(score, dtype=np.float64), np.asarray(label, dtype=np.float64)
    return np.asarray(y * np.logaddexp(0.0, -s) + (1 - y) * np.logaddexp(0.0, s), dtype=np.float64)


def brier_terms(p: FloatArray, label: FloatArray) -> FloatArray:
    """(p - y)^2: (n,). Always 0.5 on decided pairs scores 0.25."""
    return np.asarray((np.asarray(p) - np.asarray(label)) ** 2, dtype=np.float64)


def ece(p: FloatArray, label: FloatArray, bins: int = 15) -> float:
    """Expected calibration error: sum over equal-width bins of p of (n_b / n) |mean y - mean p|; NaN without pairs."""
    p, y = np.asarray(p, dtype=np.float64), np.asarray(label, dtype=np.float64)
    if not len(p):
        return float("nan")
    index = np.clip((p * bins).astype(int), 0, bins - 1)
    gap = np.bincount(index, weights=y - p, minlength=bins)
    return float(np.abs(gap).sum() / len(p))


def ece_estimate(
    p: FloatArray,
    label: FloatArray,
    clusters: Sequence[Any],
    *,
    bins: int = 15,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`ece` with an interval from a bootstrap over clusters; `p` (n,) without NaN.

    Resampling adds noise to every bin and |.| turns noise into error, so the quantiles are moved down by the mean
    excess of the draws over the point.
    """
    point = ece(p, label, bins)
    if not len(p):
        return Estimate(point, point, point, 0)
    codes: dict[Any, int] = {}
    place = np.array([codes.setdefault(c, len(codes)) for c in clusters])
    cell = place * bins + np.clip((p * bins).astype(int), 0, bins - 1)
    gaps = np.bincount(cell, weights=label - p, minlength=len(codes) * bins).reshape(-1, bins)
    sizes = np.bincount(place, minlength=len(codes)).astype(np.float64)

    def resampled(counts: FloatArray) -> float:
        return float(np.abs(counts @ gaps).sum() / max(float(counts @ sizes), 1.0))

    _, low, high, draws = bootstrap_statistic(resampled, len(codes), resamples=resamples, seed=seed)
    excess = float(draws.mean()) - point
    return Estimate(point, max(0.0, low - excess), max(0.0, high - excess), len(p))
