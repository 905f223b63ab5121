"""Bradley-Terry and Plackett-Luce maximum likelihood against choix (golden numbers, choix 0.4.1).

choix.opt_rankings(4, RANKINGS, alpha=0.0, tol=1e-12) and choix.opt_pairwise(4, PAIRS, alpha=0.0, tol=1e-12), rounded to
eight digits; both are centred.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from reward_models.losses import plackett_luce, soft_bce

RANKINGS = [(0, 1, 2, 3), (1, 0, 3, 2), (2, 0, 1, 3), (0, 2, 3, 1), (3, 1, 0, 2), (0, 1, 3, 2)]
PAIRS = [(0, 1), (1, 2), (2, 0), (0, 2), (1, 0), (0, 1), (1, 2), (3, 0), (2, 3), (1, 3)]


def fitted(loss: Callable[[Tensor], Tensor]) -> np.ndarray:
    """The centred rewards of four items with the least loss."""

    def value_and_slope(x: np.ndarray) -> tuple[float, np.ndarray]:
        r = torch.tensor(x, requires_grad=True)
        total = loss(r).sum()
        (slope,) = torch.autograd.grad(total, r)
        return float(total.detach()), slope.numpy()

    x = minimize(value_and_slope, np.zeros(4), jac=True, options={"gtol": 1e-9}).x
    return np.asarray(x - x.mean())


def test_plackett_luce_fit() -> None:
    golden = [1.00394922, 0.22370253, -0.69729779, -0.53035396]
    np.testing.assert_allclose(fitted(lambda r: plackett_luce(r[torch.tensor(RANKINGS)])), golden, atol=1e-6)


def test_bradley_terry_fit() -> None:
    golden = [0.14450406, 0.61338646, -0.2231636, -0.53472693]
    pairs = torch.tensor(PAIRS)
    np.testing.assert_allclose(fitted(lambda r: soft_bce(r[pairs[:, 0]] - r[pairs[:, 1]])), golden, atol=1e-6)
