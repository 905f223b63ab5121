"""Adaptive preference scaling (2406.02764): a scale for every pair, for losses of preference models and of policies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def adaptive_scale(d: Tensor, rho: float, low: float, high: float) -> Tensor:
    """The scale kappa of each pair under adaptive preference scaling (arXiv 2406.02764): (n,), no gradient.

    kappa minimises -kappa logsigmoid(d / kappa) + (rho - log 2) kappa on [low, high], 0 < rho < log 2. Its derivative
    is H(sigmoid(d / kappa)) - (log 2 - rho) with H the binary entropy, so kappa = |d| / z for the one z > 0 with
    H(sigmoid(z)) = log 2 - rho: the optimum that the paper approaches by Newton steps. A soft label changes nothing:
    the derivative is the same whoever won.
    """
    return (d.detach().abs() / _entropy_point(math.log(2) - rho)).clamp(low, high)


def _entropy_point(entropy: float) -> float:
    """z > 0 with H(sigmoid(z)) = entropy in (0, log 2), by bisection: H falls from log 2 to 0."""
    low, high = 0.0, 60.0
    for _ in range(80):
        z = 0.5 * (low + high)
        q = 1.0 / (1.0 + math.exp(z))  # H = -q log q - (1 - q) log(1 - q) with q the smaller probability
        value = math.log1p(math.exp(-z)) + z * q
        low, high = (z, high) if value > entropy else (low, z)
    return 0.5 * (low + high)
