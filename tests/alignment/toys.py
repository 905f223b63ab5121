"""What the tests of algorithms share: configurations, a small game and groups made of plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from alignment.algorithm import Algorithm, Group, get_algorithm
from prefeval.games import open_game
from prefeval.oracle import symmetrise

STEP, TAU = 0.7, 0.3
# One configuration of every method whose loss has `population` as its minimiser.
EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "inpo": ("inpo", {"step": STEP, "tau": TAU}),
    "inpo decaying": ("inpo", {"tau": 2.0, "schedule": "decaying"}),
    "onpo": ("onpo", {"step": STEP}),
    "onpo one fit": ("onpo", {"step": 1.3, "one_fit": True}),
    "onpo with tau": ("onpo", {"step": STEP, "tau": TAU}),
    "sppo": ("sppo", {"step": STEP, "normaliser": "pairwise"}),
    "dpo": ("dpo", {"step": STEP}),
    "dpo smoothed": ("dpo", {"step": STEP, "smoothing": 0.1}),
    "dpo previous": ("dpo", {"step": STEP, "reference": "previous"}),
    "inpo hard": ("inpo", {"step": STEP, "tau": TAU, "labels": "hard"}),
}
GAME = open_game("cyc3")
SLOTS = {
    "start": np.log([0.3, 0.3, 0.4]),
    "policy": np.log([0.5, 0.2, 0.3]),
    "aux": np.log([0.25, 0.6, 0.15]),
}


def make(name: str) -> Algorithm:
    algorithm, options = EXACT[name]
    return get_algorithm(algorithm, **options)


def group_of(
    logp: Any, anchors: Mapping[str, Any], P: Any, *, key: str = "", dtype: torch.dtype = torch.float64
) -> Group:
    logp = logp if isinstance(logp, torch.Tensor) else torch.tensor(logp, dtype=dtype, requires_grad=True)
    fixed = {name: torch.as_tensor(value, dtype=dtype) for name, value in anchors.items()}
    n = len(logp)
    return Group(logp, fixed, torch.as_tensor(P, dtype=dtype), torch.ones(n), ("policy",) * n, key=key)


def random_table(n: int, seed: int) -> np.ndarray:
    return symmetrise(np.random.default_rng(seed).random((n, n)))
