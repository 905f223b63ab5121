"""What drives an oracle's answers besides quality: length, the strength of the label, its own confidence.

Pairs are in random orientation: `score` are log-odds of first over second, `label` = P(first beats second), `lengths`
(n, 2) characters of first and second. Ties and missing answers are NaN in `correct` and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefeval.stats import Estimate, bootstrap_mean, finite, paired_difference, percentile_interval, resample_counts
from prefeval.types import FloatArray
from reward_models.calibrate import expit

MATCHED = 0.1  # lengths within this share of the longer one count as equal
_SLOPE_RESAMPLES = 200


def length_bias(
    score: FloatArray,
    label: FloatArray,
    correct: FloatArray,
    lengths: FloatArray,
    clusters: Sequence[Any],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy on length-matched pairs, the difference to "longer wins", and the slope of length beside the score.

    `difference_to_longer` is the mean of correct(oracle) - correct(longer) over the same pairs, its interval a paired
    bootstrap over clusters. `length_slope` is the log-odds that 100 more characters add to the label at equal score: b
    of logit P = a s + b dlen, without intercept: pairs within a prompt cancel whatever the prompt itself adds.
    """
    matched = is_matched(lengths)
    near = bootstrap_mean(np.where(matched, correct, np.nan), clusters, resamples=resamples, seed=seed)
    rule = 0.5 * (1.0 + np.sign(label - 0.5) * np.sign(lengths[:, 0] - lengths[:, 1]))
    gap, p_value = paired_difference(correct, rule, clusters, resamples=resamples, seed=seed)
    known = ~np.isnan(correct)
    difference = (lengths[:, 0] - lengths[:, 1]) / 100.0
    slope = _slope(
        score[known], difference[known], label[known], [c for c, k in zip(clusters, known, strict=True) if k]
    )
    return {
        **near.named("accuracy_length_matched"),
        "n_length_matched": near.n,
        **gap.named("difference_to_longer"),
        "difference_to_longer_p": finite(p_value),
        "length_correlation": finite(_correlation(score[known], difference[known])),
        **slope.named("length_slope"),
    }


def is_matched(lengths: FloatArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Pairs whose lengths differ by at most a tenth of the longer one: (n,)."""
    return np.asarray(np.abs(lengths[:, 0] - lengths[:, 1]) <= MATCHED * np.maximum(lengths.max(axis=1), 1.0))


def logistic_weights(features: FloatArray, label: FloatArray, counts: FloatArray, *, ridge: float = 1e-3) -> FloatArray:
    """Coefficients (d,) of logit P = features @ w without intercept, weighted by counts (n,), by Newton's method.

    Soft labels in [0, 1]. `ridge` (of ||w||^2 / 2 per standardised feature, beside a sum over pairs) keeps the fit
    finite where the pairs are separable.
    """
    scale = np.sqrt((features**2).mean(axis=0)) if len(features) else np.ones(features.shape[1])
    scale = np.where(scale > 0, scale, 1.0)
    x = features / scale
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = expit(x @ w)
        gradient = x.T @ (counts * (label - p)) - ridge * w
        hessian = (x * (counts * p * (1.0 - p))[:, None]).T @ x + ridge * np.eye(len(w))
        move = np.linalg.solve(hessian, gradient)
        w = w + move * min(1.0, 2.0 / max(float(np.abs(move).max()), 1e-12))
        if np.abs(move).max() < 1e-9:
            break
    return np.asarray(w / scale, dtype=np.float64)


def by_strength(
    correct: FloatArray, strength: FloatArray, clusters: Sequence[Any], *, resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Accuracy by strength of the label: one row a value where there are at most six, else four bins of equal size."""
    known = ~np.isnan(correct) & ~np.isnan(strength)
    values = np.unique(strength[known])
    edges = values if len(values) <= 6 else np.unique(np.quantile(strength[known], [0.0, 0.25, 0.5, 0.75]))
    return _binned(correct, strength, edges, clusters, resamples, seed)


def by_confidence(
    correct: FloatArray, score: FloatArray, clusters: Sequence[Any], *, resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Accuracy by the oracle's own |score|, in five bins of equal size: it should rise."""
    size = np.abs(score)
    known = size[~np.isnan(correct) & ~np.isnan(size)]
    edges = np.unique(np.quantile(known, [0.0, 0.2, 0.4, 0.6, 0.8])) if len(known) else np.zeros(0)
    return _binned(correct, size, edges, clusters, resamples, seed)


def _binned(
    correct: FloatArray, size: FloatArray, edges: FloatArray, clusters: Sequence[Any], resamples: int, seed: int
) -> list[dict[str, Any]]:
    rows = []
    index = np.where(np.isnan(size), -1, np.searchsorted(edges, size, side="right") - 1)
    for b in range(len(edges)):
        inside = (index == b) & ~np.isnan(correct)
        chosen = [c for c, k in zip(clusters, inside, strict=True) if k]
        e = bootstrap_mean(correct[inside], chosen, resamples=resamples, seed=seed)
        row = {"from": float(edges[b]), "to": float(size[inside].max()) if inside.any() else None}
        rows.append({**row, **e.named("accuracy"), "n": e.n})
    return rows


def _slope(score: FloatArray, difference: FloatArray, label: FloatArray, clusters: Sequence[Any]) -> Estimate:
    if len(score) < 3 or not difference.any():
        return Estimate(math.nan, math.nan, math.nan, 0)
    x = np.stack([score, difference], axis=1)
    codes: dict[Any, int] = {}
    index = np.array([codes.setdefault(c, len(codes)) for c in clusters])
    point = logistic_weights(x, label, np.ones(len(x)))[1]
    counts = resample_counts(len(codes), _SLOPE_RESAMPLES, 0)
    draws = np.array([logistic_weights(x, label, row[index])[1] for row in counts])
    return Estimate(float(point), *percentile_interval(draws), len(score))


def _correlation(a: FloatArray, b: FloatArray) -> float:
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
