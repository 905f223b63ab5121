"""Length-controlled win rates of resampled questions: the refits of all resamples at once (reference 1.8, 6.3).

Every resample is its own fit of `length_control`: the deviation of the length gaps is computed again, the gamed rows
and C stay. The fits are three numbers each and lie close to the fit of all rows, so Newton's method takes two or three
steps for all of them together; a resample that does not settle is fitted by the careful solver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaderboard.length_control import GAMED_WEIGHT, GamedRows, build_problem, fit, rate_from_weights, violation
from prefeval.stats import percentile_interval
from prefeval.types import FloatArray

_CHUNK = 64  # resamples at a time: their rows fit into a core's cache
_STEP = 1e-3  # Newton's error after a step of this size is of the order of its square
_ROUNDS = 12


@dataclass(frozen=True)
class LengthControlled:
    """`rate`, `low`, `high` and `spread` (upstream's lc_standard_error) in percent; `weights` = (w1, w2, w3).

    `draws` (R,) are the rates of the resamples; `violation` says how well the fit converged (0 is the optimum).
    """

    rate: float
    low: float
    high: float
    spread: float
    weights: FloatArray
    c: float
    n: int
    draws: FloatArray
    violation: float


def length_controlled(
    y: FloatArray,
    length_gap: FloatArray,
    difficulty: FloatArray | None,
    gamed: GamedRows,
    counts: FloatArray,
    *,
    c: float,
    level: float = 0.95,
) -> LengthControlled:
    """The LC win rate in percent with a bootstrap interval over instructions (the model is refitted in each resample).

    `y` (n,) = share of the win in [0, 1]; `length_gap` (n,) = baseline minus model, characters; `difficulty` (n,) or
    None for the formula without it; `counts` (R, n) = how often each resample draws each row.
    """
    hard = np.zeros(len(y)) if difficulty is None else difficulty
    if not len(y):
        nothing = np.full(len(counts), math.nan)
        return LengthControlled(math.nan, math.nan, math.nan, math.nan, np.full(3, math.nan), c, 0, nothing, math.nan)
    if np.all(y == 0.5):  # the baseline against itself
        even = np.full(len(counts), 50.0)
        return LengthControlled(50.0, 50.0, 50.0, 0.0, np.zeros(3), math.nan, len(y), even, 0.0)
    problem = build_problem(y, length_gap, hard, gamed)
    weights = fit(problem, c)
    predictions = _sigmoid(weights[1] * hard + weights[2])
    spread = float(100 * predictions.std(ddof=1) / math.sqrt(len(y))) if len(y) > 1 else math.nan
    draws = lc_draws(y, length_gap, hard, gamed, counts, weights, c)
    low, high = percentile_interval(draws[~np.isnan(draws)], level)
    rate, left = rate_from_weights(weights, hard), violation(problem, weights, c)
    return LengthControlled(rate, low, high, spread, weights, c, len(y), draws, left)


def lc_draws(
    y: FloatArray,
    length_gap: FloatArray,
    difficulty: FloatArray,
    gamed: GamedRows,
    counts: FloatArray,
    weights: FloatArray,
    c: float,
) -> FloatArray:
    """The LC win rate in percent in each resample: (R,); NaN where a resample drew none of the rows.

    `y`, `length_gap` (baseline minus model, characters), `difficulty`: (n,). `counts` (R, n) = how often each row is
    drawn; `weights` (3,) = the fit of all rows, from which all resamples start.
    """
    draws = np.full(len(counts), np.nan)
    prior = _Prior(gamed)
    drawn = np.flatnonzero(counts.sum(axis=1) > 0)
    for i in range(0, len(drawn), _CHUNK):
        part = drawn[i : i + _CHUNK]
        k = np.ascontiguousarray(counts[part].T)
        w, settled = _fit_chunk(y, _length_features(length_gap, k), difficulty, prior, k, weights, c)
        for r in np.flatnonzero(~settled):
            rows = np.repeat(np.arange(len(y)), k[:, r].astype(np.int64))
            w[:, r] = fit(build_problem(y[rows], length_gap[rows], difficulty[rows], gamed), c, weights)
        z = difficulty[:, None] * w[1] + w[2]
        draws[part] = 100 * (k * _sigmoid(z)).sum(axis=0) / k.sum(axis=0)
    return draws


class _Prior:
    """The gamed rows' share of gradient and Hessian, with the products that do not change from step to step."""

    def __init__(self, gamed: GamedRows) -> None:
        self.x = np.stack([gamed.tanh_gap, gamed.difficulty])  # (2, m)
        self.products = np.stack([self.x[0] ** 2, self.x[0] * self.x[1], self.x[1] ** 2])  # (3, m)
        self.label = gamed.label[:, None]

    def terms(self, w: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient (2, r) and Hessian entries 11, 12, 22 (3, r) of (lambda / 2) sum_j CE at weights `w` (3, r)."""
        p = _sigmoid(self.x.T @ w[:2])
        return GAMED_WEIGHT * (self.x @ (p - self.label)), GAMED_WEIGHT * (self.products @ (p * (1 - p)))


def _length_features(length_gap: FloatArray, k: FloatArray) -> FloatArray:
    """tanh(delta / std(delta)) with the deviation (ddof 1) of each resample `k` (n, r): (n, r)."""
    total = k.sum(axis=0)
    mean = (length_gap @ k) / total
    variance = np.maximum((length_gap**2) @ k - total * mean**2, 0.0) / np.maximum(total - 1, 1)
    spread = np.sqrt(variance)
    flat = spread <= 1e-9 * (np.abs(mean) + 1e-300)
    return np.asarray(np.tanh(length_gap[:, None] / np.where(flat, np.inf, spread)), dtype=np.float64)


def _fit_chunk(
    y: FloatArray, x1: FloatArray, x2: FloatArray, prior: _Prior, k: FloatArray, start: FloatArray, c: float
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Weights (3, r) of the resamples `k` (n, r), and whether each settled (r,)."""
    w = np.repeat(start[:, None], k.shape[1], axis=1)
    settled: NDArray[np.bool_] = np.zeros(k.shape[1], dtype=bool)
    shared, second = start[:, None], np.stack([x2, np.ones(len(x2))])  # the first step starts from one point for all
    products = np.stack([x2**2, x2, np.ones(len(x2))])
    for _ in range(_ROUNDS):
        p = _sigmoid(x1 * w[0] + x2[:, None] * w[1] + w[2])
        residual, v = k * (p - y[:, None]), k * (p * (1 - p))
        xv = x1 * v
        prior_gradient, prior_hessian = prior.terms(shared)
        gradient = np.concatenate([np.einsum("ij,ij->j", x1, residual)[None], second @ residual])
        gradient[:2] += prior_gradient
        h11 = np.einsum("ij,ij->j", x1, xv) + prior_hessian[0]
        h12, h13 = second @ xv + np.stack([prior_hessian[1], np.zeros_like(prior_hessian[1])])
        h22, h23, h33 = products @ v
        hessian = np.array([[h11, h12, h13], [h12, h22 + prior_hessian[2], h23], [h13, h23, h33]])
        step = _lasso_steps(w, c * gradient, c * hessian)
        largest = np.abs(step).max(axis=0)
        w = w + step * np.minimum(1.0, 1.0 / np.maximum(largest, 1e-300))
        settled = largest < _STEP
        if settled.all():
            break
        shared = w
    return w, settled


def _lasso_steps(w: FloatArray, gradient: FloatArray, hessian: FloatArray) -> FloatArray:
    """argmin_d g.d + d.H.d / 2 + ||w + d||_1 of each column: `w`, `gradient` (3, r), `hessian` (3, 3, r) -> (3, r).

    A column whose signs survive the smooth step has found it; the others go through coordinate descent.
    """
    h = np.ascontiguousarray(hessian.transpose(2, 0, 1)) + 1e-10 * np.eye(len(w))
    step = np.linalg.solve(h, -(gradient + np.sign(w)).T[:, :, None])[:, :, 0].T
    crossed = np.flatnonzero(((w == 0) | (np.sign(w + step) != np.sign(w))).any(axis=0))
    if len(crossed):
        step[:, crossed] = _coordinate_steps(w[:, crossed], gradient[:, crossed], h[crossed])
    return np.asarray(step, dtype=np.float64)


def _coordinate_steps(w: FloatArray, gradient: FloatArray, h: FloatArray) -> FloatArray:
    """The same by coordinate descent; `h` (r, 3, 3)."""
    d = np.zeros_like(w)
    for _ in range(500):
        change = 0.0
        for j in range(len(w)):
            slope = gradient[j] + np.einsum("rk,kr->r", h[:, j], d) - h[:, j, j] * d[j]
            target = w[j] - slope / h[:, j, j]
            new = np.sign(target) * np.maximum(np.abs(target) - 1 / h[:, j, j], 0.0) - w[j]
            change = max(change, float(np.abs(new - d[j]).max()))
            d[j] = new
        if change < 1e-10:
            break
    return d


def _sigmoid(z: FloatArray) -> FloatArray:
    """1 / (1 + exp(-z)) for |z| < 700, which fits of win rates never leave."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-z)), dtype=np.float64)
