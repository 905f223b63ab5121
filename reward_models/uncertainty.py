"""How sure a linear reward is: last-layer Laplace, and the pessimistic maximum likelihood choice with its coverage.

Both take features of responses (the hidden states of a frozen backbone, or any others) and see only their differences:
a comparison says nothing about what its two responses share. Pure float64 functions of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefeval.errors import DataError
from prefeval.types import FloatArray, all_pairs
from reward_models.calibrate import expit, nll_terms

_PROBIT = math.pi / 8  # 0.392699: sigmoid(s) is close to the normal integral up to sqrt(pi / 8) s
_STEPS = 100  # Newton steps; ten are the rule
_DIRECTIONS = 1e-10  # smaller eigenvalues of a covariance, relative to its largest, count as none


@dataclass(frozen=True)
class Laplace:
    """Normal approximation of the posterior of the last layer: mean `weights` (d,), inverse covariance `hessian`."""

    weights: FloatArray
    hessian: FloatArray

    def score(self, x: FloatArray) -> FloatArray:
        """Log-odds of first over second, for feature differences x (n, d): (n,) nats."""
        return np.asarray(np.asarray(x, dtype=np.float64) @ self.weights)

    def variance(self, x: FloatArray) -> FloatArray:
        """Variance x' H^-1 x of the score: (n, d) -> (n,) squared nats."""
        return squared_norms(self.hessian, x)

    def lower(self, x: FloatArray, b: float = 1.0) -> FloatArray:
        """score - b standard deviations: (n,). Not antisymmetric: a bound for one side and never a game matrix."""
        return self.score(x) - b * np.sqrt(self.variance(x))

    def probability(self, x: FloatArray) -> FloatArray:
        """P(first beats second) averaged over the posterior: (n,)."""
        return expit(averaged(self.score(x), self.variance(x)))


def averaged(score: FloatArray, variance: FloatArray) -> FloatArray:
    """Log-odds of the mean of sigmoid over N(score, variance): score / sqrt(1 + pi/8 variance), in any shape.

    MacKay's approximation of the logistic-normal integral; it keeps P(i > j) + P(j > i) = 1.
    """
    return np.asarray(score / np.sqrt(1.0 + _PROBIT * variance))


def last_layer_laplace(x: FloatArray, label: FloatArray, *, ridge: float = 1.0) -> Laplace:
    """Laplace approximation around the penalised Bradley-Terry fit of feature differences.

    x (n, d) features of first minus second, label (n,) = P(first beats second) in [0, 1]; H = ridge I +
    sum_i p_i (1 - p_i) x_i x_i'. Memory is d^2 numbers of 8 bytes. Raises DataError for unusable input.
    """
    x, label = _checked(x, label, ridge)
    weights = bradley_terry_weights(x, label, ridge=ridge)
    return Laplace(weights, _hessian(x, weights, ridge, np.ones(len(x))))


def bradley_terry_weights(
    x: FloatArray, label: FloatArray, *, ridge: float, share: FloatArray | None = None
) -> FloatArray:
    """The weights w (d,) of least sum_i share_i NLL_i + ridge/2 |w|^2, by Newton steps halved until they descend.

    `share` (n,) is what each comparison counts, 1 when not given. Raises DataError for unusable input.
    """
    x, label = _checked(x, label, ridge)
    counts = np.ones(len(x)) if share is None else np.asarray(share, dtype=np.float64)
    w = np.zeros(x.shape[1])

    def objective(w: FloatArray) -> float:
        return float(counts @ nll_terms(x @ w, label) + 0.5 * ridge * (w @ w))

    for _ in range(_STEPS):
        gradient = x.T @ (counts * (expit(x @ w) - label)) + ridge * w
        step = np.linalg.solve(_hessian(x, w, ridge, counts), gradient)
        size, before = 1.0, objective(w)
        before += 1e-12 * abs(before)  # near the minimum only rounding is left of the descent
        while size > 1e-8 and objective(w - size * step) > before:
            size /= 2
        if size <= 1e-8 or float(np.abs(step).max()) < 1e-12:
            break
        w = w - size * step
    return w


def covariance(rankings: Sequence[FloatArray]) -> FloatArray:
    """Sigma (d, d) of the comparisons: 2 / (n K (K - 1)) sum over rankings and their pairs of Delta Delta'.

    Each ranking is (K, d), features of its responses; K may differ, then each ranking counts once. Pairs are K = 2.
    """
    return _covariance([_differences(np.asarray(g, dtype=np.float64)) for g in rankings])


@dataclass(frozen=True)
class Pessimist:
    """The maximum likelihood weights with their confidence set { w : |w - weights|_(Sigma + ridge I) <= radius }."""

    weights: FloatArray
    sigma: FloatArray
    ridge: float
    radius: float
    n: int

    def values(self, features: FloatArray, reference: FloatArray) -> FloatArray:
        """The plain estimate (f - v)' w of candidates (m, d) against a reference v (d,): (m,)."""
        return np.asarray((np.asarray(features, dtype=np.float64) - reference) @ self.weights)

    def uncovered(self, features: FloatArray, reference: FloatArray) -> FloatArray:
        """|(Sigma + ridge I)^-1/2 (f - v)|: how far each candidate lies outside of what was compared, (m,)."""
        x = np.asarray(features, dtype=np.float64) - reference
        return np.sqrt(squared_norms(self.sigma + self.ridge * np.eye(len(self.sigma)), x))

    def lower(self, features: FloatArray, reference: FloatArray) -> FloatArray:
        """The least value that a candidate has in the confidence set: values - radius * uncovered, (m,)."""
        return self.values(features, reference) - self.radius * self.uncovered(features, reference)

    def choose(self, features: FloatArray, reference: FloatArray) -> int:
        """The candidate whose least value is the largest."""
        return int(np.argmax(self.lower(features, reference)))

    def report(self, features: FloatArray, reference: FloatArray) -> dict[str, Any]:
        """What the comparisons cover: of the whole space, and a row for each candidate. JSON-able.

        `effective_dimension` is sum s / (s + ridge) over the eigenvalues s of Sigma, `directions` how many of them
        are not zero. A candidate whose `penalty` exceeds the differences of the values is chosen by noise, if at all.
        """
        eigenvalues = np.maximum(np.linalg.eigvalsh(self.sigma), 0.0)
        columns = (self.values(features, reference), self.uncovered(features, reference))
        rows = [
            {"candidate": i, "value": float(v), "uncovered": float(u), "penalty": self.radius * float(u),
             "lower": float(v) - self.radius * float(u)}
            for i, (v, u) in enumerate(zip(*columns, strict=True))
        ]  # fmt: skip
        return {
            "n": self.n,
            "dimension": len(self.sigma),
            "directions": int((eigenvalues > _DIRECTIONS * eigenvalues.max()).sum()),
            "effective_dimension": float((eigenvalues / (eigenvalues + self.ridge)).sum()),
            "radius": self.radius,
            "plain_choice": int(np.argmax(columns[0])),
            "pessimistic_choice": self.choose(features, reference),
            "candidates": rows,
        }


def pessimistic_mle(rankings: Sequence[FloatArray], *, radius: float, ridge: float = 1e-3) -> Pessimist:
    """Pessimistic maximum likelihood of arXiv 2301.11270 from rankings (K, d), best response first; pairs are K = 2.

    Rankings are split into their pairs (the paper's MLE_2). The fit carries the penalty n ridge / 2 |w|^2, so that it
    exists for separable comparisons and its curvature has the ridge of the confidence set. `radius` is `radius_of`,
    or a number chosen on held-out data: the theory's constant is not known. Raises DataError for unusable input.
    """
    if not rankings or any(np.ndim(g) != 2 or len(g) < 2 for g in rankings):
        raise DataError("pessimistic MLE needs rankings of at least two responses, each an array (K, d)")
    if len({np.shape(g)[1] for g in rankings}) > 1:
        raise DataError("pessimistic MLE: the rankings have features of different lengths")
    if not radius >= 0:
        raise DataError(f"pessimistic MLE: the radius must not be negative, not {radius}")
    deltas = [_differences(np.asarray(g, dtype=np.float64)) for g in rankings]
    x = np.concatenate(deltas)
    share = np.repeat([1.0 / len(d) for d in deltas], [len(d) for d in deltas])  # a ranking weighs as much as a pair
    weights = bradley_terry_weights(x, np.ones(len(x)), ridge=ridge * len(deltas), share=share)
    return Pessimist(weights, _covariance(deltas), ridge, radius, len(deltas))


def radius_of(
    n: int, dimension: int, *, norm: float, length: float, ridge: float, delta: float = 0.05, constant: float = 1.0
) -> float:
    """C sqrt((d + log 1/delta) / (gamma^2 n) + ridge B^2), gamma = 1 / (2 + e^-LB + e^LB) (arXiv 2301.11270).

    For |w| <= `norm` (B) and feature differences no longer than `length` (L), with probability 1 - delta. The paper
    leaves C unnamed; with C = 1 the radius is cautious, because gamma is the worst slope of the likelihood.
    """
    reach = length * norm
    gamma = 1.0 / (2.0 + math.exp(-reach) + math.exp(reach))
    return constant * math.sqrt((dimension + math.log(1.0 / delta)) / (gamma**2 * n) + ridge * norm**2)


def _differences(group: FloatArray) -> FloatArray:
    """Better minus worse for all pairs of a ranking, best first: (K, d) -> (K (K - 1) / 2, d)."""
    first, second = np.transpose(all_pairs(len(group)))
    return np.asarray(group[first] - group[second])


def _covariance(deltas: Sequence[FloatArray]) -> FloatArray:
    x = np.concatenate([d / math.sqrt(len(d)) for d in deltas])
    return np.asarray(x.T @ x / len(deltas))


def _hessian(x: FloatArray, w: FloatArray, ridge: float, counts: FloatArray) -> FloatArray:
    """ridge I + sum_i counts_i p_i (1 - p_i) x_i x_i': (d, d)."""
    p = expit(x @ w)
    return np.asarray((x * (counts * p * (1.0 - p))[:, None]).T @ x + ridge * np.eye(len(w)))


def squared_norms(matrix: FloatArray, x: FloatArray) -> FloatArray:
    """x_i' matrix^-1 x_i of each row, by Cholesky: (n,), never negative."""
    from scipy.linalg import solve_triangular

    factor = np.linalg.cholesky(matrix)
    solved = solve_triangular(factor, np.asarray(x, dtype=np.float64).T, lower=True)
    return np.asarray((solved**2).sum(axis=0))


def _checked(x: FloatArray, label: FloatArray, ridge: float) -> tuple[FloatArray, FloatArray]:
    x, label = np.asarray(x, dtype=np.float64), np.asarray(label, dtype=np.float64)
    if x.ndim != 2 or not len(x) or label.shape != (len(x),):
        raise DataError(f"feature differences are (n, d) with n labels, not {x.shape} with {label.shape}")
    if not (np.isfinite(x).all() and np.isfinite(label).all() and ((label >= 0) & (label <= 1)).all()):
        raise DataError("feature differences must be finite and labels in [0, 1]")
    if not ridge > 0:
        raise DataError(f"the ridge must be positive, not {ridge}")
    return x, label
