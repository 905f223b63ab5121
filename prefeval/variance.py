"""Where the variance of judged outcomes comes from: the questions, the order of showing, the judge's own noise.

Outcomes of repeated judgments follow

    y_qor = mean + Q_q + position o / 2 + O_qo + e_qor,    o = -1 or +1 (first or second order shown)

with independent parts of variance `question`, `order` (how differently the orders turn out from question to question)
and `noise` (how differently the same request turns out), and a fixed `position` bias. The estimates are unbiased
moments, so a small component may come out negative; they need no balance, only questions that were asked repeatedly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prefeval.errors import DataError
from prefeval.stats import Estimate, percentile_interval, resample_counts
from prefeval.types import FloatArray


@dataclass(frozen=True)
class VarianceComponents:
    """Variances in squared units of the outcome, `position` in its units (mean of the second order minus the first);
    NaN where the design cannot tell. Intervals resample questions; n counts the questions behind each number."""

    question: Estimate
    order: Estimate
    noise: Estimate
    position: Estimate

    def standard_error(self, questions: int, *, orders: int = 1, repeats: int = 1) -> float:
        """Of the mean over so many questions, each asked `repeats` times in each of `orders` orders.

        sqrt((question + order / orders + noise / (orders repeats)) / questions); unknown and negative parts count 0.
        """
        q, o, e = (max(0.0, v.point) if v.point == v.point else 0.0 for v in (self.question, self.order, self.noise))
        return math.sqrt((q + o / orders + e / (orders * repeats)) / questions)


@dataclass(frozen=True)
class _Cells:
    """Per question: cell means (n, orders), 1 / cell size (n, orders), squares within cells (n,), freedom (n,)."""

    mean: FloatArray
    inverse: FloatArray
    squares: FloatArray
    freedom: FloatArray


def variance_components(
    values: ArrayLike,
    questions: Sequence[Any],
    orders: Sequence[Any] | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> VarianceComponents:
    """Components of outcomes (n,) by question and order of showing; NaN outcomes are dropped and counted.

    Without a second order, `question` holds the order's share too, and `order` and `position` are NaN; without
    repeats, `noise` and `order` are NaN. Raises DataError for more than two orders.
    """
    x = np.asarray(values, dtype=np.float64)
    kept = ~np.isnan(x)
    cells = _cells(x[kept], [q for q, k in zip(questions, kept, strict=True) if k], orders, kept)
    n, failed = len(cells.mean), int((~kept).sum())
    points = _moments(cells, np.ones((1, n)))[0]
    draws = _moments(cells, resample_counts(n, resamples, seed)) if n else np.full((1, 4), np.nan)
    both = int((~np.isnan(cells.mean)).all(axis=1).sum()) if cells.mean.shape[1] > 1 else 0
    behind = (both or n, both, int((cells.freedom > 0).sum()), both)
    found = []
    for i, size in enumerate(behind):
        low, high = percentile_interval(draws[~np.isnan(draws[:, i]), i], level)
        found.append(Estimate(float(points[i]), low, high, size, failed))
    return VarianceComponents(*found)


def _cells(x: FloatArray, questions: Sequence[Any], orders: Sequence[Any] | None, kept: Any) -> _Cells:
    labels = [0] * len(kept) if orders is None else list(orders)
    names = {name: i for i, name in enumerate(dict.fromkeys(labels))}
    if len(names) > 2:
        raise DataError(f"variance components know two orders of showing, not {len(names)}", field="order")
    o = np.array([names[label] for label, k in zip(labels, kept, strict=True) if k], dtype=np.int64)
    codes = {name: i for i, name in enumerate(dict.fromkeys(questions))}
    q = np.array([codes[name] for name in questions], dtype=np.int64)
    shape = (len(codes), max(1, len(names)))
    cell = q * shape[1] + o
    size = np.bincount(cell, minlength=shape[0] * shape[1]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(cell, x, len(size)) / size
        inverse = 1.0 / size
    squares = np.asarray(np.bincount(q, (x - mean[cell]) ** 2, shape[0]), dtype=np.float64)
    freedom = np.maximum(size - 1, 0).reshape(shape).sum(axis=1)
    return _Cells(mean.reshape(shape), inverse.reshape(shape), squares, freedom)


def _moments(cells: _Cells, counts: FloatArray) -> FloatArray:
    """(question, order, noise, position) under multiplicities `counts` (r, n): (r, 4)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = counts @ cells.freedom
        noise = np.where(freedom > 0, (counts @ cells.squares) / freedom, np.nan)
        if cells.mean.shape[1] == 1:
            variance = _covariance(counts, cells.mean[:, 0], cells.mean[:, 0])
            excess = noise * (counts @ cells.inverse[:, 0]) / counts.sum(axis=1)
            nothing = np.full(len(counts), np.nan)
            question = variance - np.where(np.isnan(excess), 0.0, excess)
            return np.column_stack([question, nothing, noise, nothing])
        both = ~np.isnan(cells.mean).any(axis=1)
        c, first, second = counts[:, both], cells.mean[both, 0], cells.mean[both, 1]
        gap = second - first
        excess = noise * (c @ cells.inverse[both].sum(axis=1)) / c.sum(axis=1)
        order = (_covariance(c, gap, gap) - excess) / 2
        return np.column_stack([_covariance(c, first, second), order, noise, (c @ gap) / c.sum(axis=1)])


def _covariance(counts: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """Unbiased covariance of a and b (n,) under each row of multiplicities (r, n): (r,)."""
    total = counts.sum(axis=1)
    mean_a, mean_b = (counts @ a) / total, (counts @ b) / total
    return np.asarray(((counts @ (a * b)) / total - mean_a * mean_b) * total / (total - 1), dtype=np.float64)
