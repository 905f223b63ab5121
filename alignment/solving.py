"""Exact updates that have no closed form: Newton on the logits of a policy, for the losses of games.

A loss is a sum of parts, each a function of h or log pi with its gradient and Hessian with respect to the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prefeval.games import log_normalise
from prefeval.types import FloatArray


@dataclass(frozen=True, eq=False)
class Part:
    """A loss at some logits: its value, gradient (n,) and Hessian (n, n)."""

    value: float
    gradient: FloatArray
    hessian: FloatArray

    def times(self, weight: float) -> Part:
        return Part(weight * self.value, weight * self.gradient, weight * self.hessian)


def added(parts: Sequence[Part]) -> Part:
    value = float(sum(p.value for p in parts))
    gradient = np.asarray(np.sum([p.gradient for p in parts], axis=0), dtype=np.float64)
    return Part(value, gradient, np.asarray(np.sum([p.hessian for p in parts], axis=0), dtype=np.float64))


def logistic_pairs(h: FloatArray, P: FloatArray, weights: FloatArray, step: float) -> Part:
    """sum_ij weights_ij of the cross-entropy of P_ij with sigmoid((h_i - h_j) / step); weights (n, n) as drawn.

    P is clipped to [1e-12, 1 - 1e-12], so that a finite minimiser exists.
    """
    target = np.clip(P, 1e-12, 1.0 - 1e-12)
    z = (h[:, None] - h[None, :]) / step
    value = float(np.sum(weights * (np.logaddexp(0.0, z) - target * z)))
    fitted = 0.5 * (1.0 + np.tanh(0.5 * z))
    slope = weights * (fitted - target)
    curve = weights * fitted * (1.0 - fitted)
    both = curve + curve.T
    gradient = (slope.sum(axis=1) - slope.sum(axis=0)) / step
    return Part(value, gradient, (np.diag(both.sum(axis=1)) - both) / step**2)


def spread(h: FloatArray, target: FloatArray, p: FloatArray) -> Part:
    """E_{i, j ~ p} (h_i - h_j - target_i + target_j)^2, twice the variance of h - target."""
    error = h - target - p @ (h - target)
    return Part(float(2.0 * p @ error**2), 4.0 * p * error, 4.0 * _covariance(p))


def mean_log(log_policy: FloatArray, q: FloatArray) -> Part:
    """E_q log pi."""
    p = np.exp(log_policy)
    return Part(float(q @ log_policy), q - p, -_covariance(p))


def forward_kl(log_policy: FloatArray, log_ref: FloatArray) -> Part:
    """KL(ref || pi)."""
    ref = np.exp(log_ref)
    cross = mean_log(log_policy, ref).times(-1.0)
    return Part(cross.value + float(ref @ log_ref), cross.gradient, cross.hessian)


def reverse_kl(log_policy: FloatArray, log_ref: FloatArray) -> Part:
    """KL(pi || ref); not convex in logits."""
    p, ratio = np.exp(log_policy), log_policy - log_ref
    excess = ratio - p @ ratio
    cross = p[:, None] * p[None, :] * (excess[:, None] + excess[None, :])
    hessian = np.asarray(np.diag(p * excess) - cross + _covariance(p), dtype=np.float64)
    return Part(float(p @ ratio), p * excess, hessian)


def newton(loss: Callable[[FloatArray], Part], log_start: FloatArray, scale: FloatArray) -> FloatArray:
    """The log-policy (n,) that minimises a loss of logits which a shift of them all does not change.

    Each response's equation is divided by its `scale`, so that one of tiny probability is solved for as well. Where the
    Newton step is no descent, the step on the absolute Hessian is taken; both are halved until the loss falls.
    """
    current = log_normalise(log_start)
    weights = np.maximum(scale, 1e-300) / np.sum(scale)
    for _ in range(200):
        here = loss(current)
        system = here.hessian / weights[:, None] + weights[None, :]  # the last term fixes the free constant
        move = _solved(system, -here.gradient / weights)
        if not np.all(np.isfinite(move)) or here.gradient @ move > 0:
            curve, axes = np.linalg.eigh(here.hessian)
            steep = np.abs(curve) > 1e-12 * np.max(np.abs(curve))
            move = -axes @ np.where(steep, (axes.T @ here.gradient) / np.where(steep, np.abs(curve), 1.0), 0.0)
        move = move * min(1.0, 5.0 / max(float(np.max(np.abs(move))), 1e-300))
        size = 1.0
        allowed = 1e-14 * max(1.0, abs(here.value))
        while size > 1e-9 and loss(current + size * move).value > here.value + allowed:
            size *= 0.5
        current = log_normalise(current + size * move)
        if np.max(np.abs(move)) < 1e-12 or size <= 1e-9:
            break
    return current


def _solved(system: FloatArray, right: FloatArray) -> FloatArray:
    """NaN where the system is singular."""
    try:
        return np.asarray(np.linalg.solve(system, right), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.full(len(right), np.nan)


def _covariance(p: FloatArray) -> FloatArray:
    """d p / d logits (n, n)."""
    return np.asarray(np.diag(p) - np.outer(p, p), dtype=np.float64)
