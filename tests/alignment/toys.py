"""What the tests of algorithms share: configurations, a small game and groups made of plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from alignment.algorithm import Algorithm, Group, get_algorithm
from prefeval.games import open_game
from prefeval.oracle import symmetrise

STEP, TAU, ALPHA = 0.7, 0.3, 0.4
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
    "egpo": ("egpo", {"step": STEP, "tau": TAU}),
    "mirror prox": ("mirror_prox", {"step": STEP}),
    "nash_mp": ("nash_mp", {"step": 0.5, "tau": TAU}),
    "mpo": ("mpo", {"step": STEP, "alpha": ALPHA}),
    "onpo_magnet": ("onpo_magnet", {"step": STEP, "alpha": ALPHA}),
    "comal": ("comal", {"step": STEP, "tau": TAU}),
    "nash_md": ("nash_md", {"step": STEP, "tau": TAU}),
    "nash_ema": ("nash_ema", {"step": STEP, "tau": TAU}),
    "ipo_md": ("ipo_md", {"step": STEP, "mixture": 0.4}),
    "ipo": ("ipo", {"step": STEP}),
    "mnpo": ("mnpo", {"step": STEP, "tau": TAU, "history": 3}),
    "gpo": ("gpo", {"step": STEP, "normaliser": "pairwise"}),
    # offline methods (test_offline_methods)
    "rpo": ("rpo", {"step": STEP, "eta": 0.3}),
    "chi2_po": ("chi2_po", {"step": STEP}),
    "hypo": ("hypo", {"step": STEP, "kl": 0.2}),
    "mpo_max": ("mpo_max", {"step": 1.2, "beta": 0.5}),
    # self-play and exploration
    "xpo": ("xpo", {"step": STEP, "alpha": 0.05}),
    "apo": ("apo", {"step": STEP, "alpha": ALPHA}),
    "apo of win rates": ("apo", {"step": STEP, "alpha": ALPHA, "base": "regression"}),
    "rspo": ("rspo", {"step": STEP, "normaliser": "pairwise", "forward": 0.0, "reverse": 0.2}),
    "rspo of scores": ("rspo", {"step": STEP, "normaliser": "pairwise", "base": "gpo", "forward": 0.0}),
    "spac": ("spac", {"step": STEP, "weight": 0.3}),
}
# Methods whose losses hold log-probs themselves, or ratios, and not only differences of a pair.
ABSOLUTE = {"rpo", "chi2_po", "hypo", "mpo_max"}
GAME = open_game("cyc3")
SLOTS = {
    "start": np.log([0.3, 0.3, 0.4]),
    "policy": np.log([0.5, 0.2, 0.3]),
    "aux": np.log([0.25, 0.6, 0.15]),
    "magnet": np.log([0.15, 0.15, 0.7]),
    "ema": np.log([0.2, 0.5, 0.3]),
    "past1": np.log([0.45, 0.1, 0.45]),
    "past2": np.log([0.1, 0.7, 0.2]),
    "previous": np.log([0.35, 0.3, 0.35]),
}


def make(name: str) -> Algorithm:
    algorithm, options = EXACT[name]
    return get_algorithm(algorithm, **options)


def group_of(
    logp: Any,
    anchors: Mapping[str, Any],
    P: Any,
    *,
    key: str = "",
    dtype: torch.dtype = torch.float64,
    opponents: int = 0,
) -> Group:
    """A group of plain numbers; the last `opponents` responses are the opponent's."""
    logp = logp if isinstance(logp, torch.Tensor) else torch.tensor(logp, dtype=dtype, requires_grad=True)
    fixed = {name: torch.as_tensor(value, dtype=dtype) for name, value in anchors.items()}
    n = len(logp)
    role = ("policy",) * (n - opponents) + ("opponent",) * opponents
    return Group(logp, fixed, torch.as_tensor(P, dtype=dtype), torch.ones(n), role, key=key)


def random_table(n: int, seed: int) -> np.ndarray:
    return symmetrise(np.random.default_rng(seed).random((n, n)))
