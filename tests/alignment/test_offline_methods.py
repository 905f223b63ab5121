"""Methods that the literature trains on given pairs: values by hand, limits, minimisers by another solver.

Rows of `rpo`, `chi2_po`, `hypo` and `mpo_max` in toys.EXACT hold their losses against their updates as well.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from toys import group_of

from alignment.algorithm import Algorithm, Group, get_algorithm
from prefeval.errors import ConfigError
from prefeval.games import open_game

PAIR = [[0.5, 0.7], [0.3, 0.5]]
BT10 = open_game("bt10")
SCORES = np.random.default_rng(7).normal(size=10)  # those that bt10 is made of (13.5)


def loss_of(name: str, logp: Any, reference: Any, table: Any = PAIR, **options: Any) -> float:
    """With hard labels."""
    algorithm = get_algorithm(name, **{"labels": "hard", **options})
    phase = algorithm.phases(1)[0]
    return algorithm.loss(group_of(logp, dict.fromkeys(phase.anchors, reference), table), phase).item()


def gradient(algorithm: Algorithm, group: Group) -> np.ndarray:
    group.logp.grad = None
    algorithm.loss(group, algorithm.phases(1)[0]).backward()
    return np.asarray(group.logp.grad)


def softplus(x: Any) -> Any:
    return np.logaddexp(0.0, x)


# ---- adaptive preference scaling


@pytest.mark.parametrize(("margin", "rho"), [(2.0, 0.1), (-0.6, 0.3), (0.05, 0.1), (60.0, 0.05)])
def test_adaptive_dpo_takes_the_scale_that_minimises(margin: float, rho: float) -> None:
    """Against a bounded search of the kappa of section 11, for either outcome; kappa is held in the gradient."""

    def objective(kappa: float, d: float) -> float:
        return float(kappa * softplus(-d / kappa) + (rho - math.log(2)) * kappa)

    logp = [10.0 * margin, 0.0]
    found = minimize_scalar(objective, bounds=(0.1, 5.0), args=(margin,), method="bounded", options={"xatol": 1e-10})
    options: dict[str, Any] = {"form": "adaptive", "rho": rho}
    assert loss_of("dpo", logp, [0.0, 0.0], **options) == pytest.approx(found.fun, abs=1e-7)
    upset = minimize_scalar(objective, bounds=(0.1, 5.0), args=(-margin,), method="bounded", options={"xatol": 1e-10})
    soft = 0.7 * found.fun + 0.3 * upset.fun
    assert loss_of("dpo", logp, [0.0, 0.0], labels="soft", **options) == pytest.approx(soft, abs=1e-7)
    group = group_of(logp, {"start": [0.0, 0.0]}, PAIR)
    slope = -0.1 / (1 + math.exp(margin / found.x))
    wanted = [slope, -slope]
    np.testing.assert_allclose(gradient(get_algorithm("dpo", labels="hard", **options), group), wanted, atol=1e-6)


# ---- options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpo", {"rho": 0.7}, "rho must lie in"),
        ("dpo", {"form": "adaptive", "noise": 0.1}, "excludes noise"),
    ],
)
def test_bad_options_of_offline_methods(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_algorithm(name, **options)
