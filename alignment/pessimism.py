"""Pessimism: a policy is trained on the win rates that a reply has at least, not on those it has on average.

Where an oracle is unsure it errs both ways, and a policy that maximises P finds the errors that flatter it. An oracle
with `lower()` (its Laplace approximation, the spread of an ensemble) says how much of P is doubt (2301.11270).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefeval.errors import ConfigError
from prefeval.oracle import Group, MatrixOracle, Oracle
from prefeval.types import FloatArray, Prompt


class Pessimistic(MatrixOracle):
    """T_ij = P_ij - (c_i - c_j), c_i = mean_j (P_ij - lower_ij): what a policy is trained on, and never a P.

    c_i is what the bound, `width` standard deviations down, takes from the mean of row i. The row means of T are then,
    up to one constant, those of the bound: the lower-bound win rates, which is all that regressions over all pairs see
    (FACT 4). A bound by itself would not do: made complementary it is P again. T is kept in [0, 1]; where nothing is in
    doubt, or everything equally, it is P.
    """

    def __init__(self, base: Oracle, width: float) -> None:
        if not hasattr(base, "lower"):
            raise ConfigError(f"pessimism: {base.name} has no bound; give laplace:PATH or ensemble:SPEC+SPEC")
        self.base, self.width = base, width
        self.name = f"pessimistic({base.name}, {width:g})"
        self.per_response = bool(getattr(base, "per_response", False))

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        bounded: Any = self.base
        lower = bounded.lower(prompts, groups, self.width)
        return [cautious(p, low) for p, low in zip(self.base.matrix(prompts, groups), lower, strict=True)]


def cautious(P: FloatArray, lower: FloatArray) -> FloatArray:
    """T (k, k) of P and its lower bound (k, k): complementary, in [0, 1], NaN where P has no verdict."""
    # where a Laplace oracle is sure, its bound on the mean score may lie above P, the mean of the probability
    doubt = np.maximum(P - lower, 0.0)
    np.fill_diagonal(doubt, 0.0)  # a reply against itself is 1/2 for sure
    known = np.isfinite(doubt)
    cost = np.where(known, doubt, 0.0).sum(axis=1) / known.sum(axis=1)
    upper = np.triu(np.clip(P - (cost[:, None] - cost[None, :]), 0.0, 1.0), 1)
    table: FloatArray = upper + np.tril(1.0 - upper.T, -1)
    np.fill_diagonal(table, 0.5)
    return table
