"""The regressions that most methods are made of, and what methods trained on pairs share.

Section 2 of the algorithms reference: h = log pi - sum_k w_k log pi_k is regressed, pair by pair, on the win rates of
the responses. All pairs with soft labels cost N numbers instead of N^2 (FACT 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alignment.algorithm import Group, State
from alignment.labels import UNBIASED, IntArray, Labels, PairRule, is_complete, relabel, select_pairs, win_rate_against
from prefeval.games import log_normalise
from prefeval.seeds import rng
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PairMethod:
    """Options and behaviour that methods trained on pairs share.

    `labels` and `pairs` are `alignment.labels`' kinds; `labels_seed` seeds drawn labels. All pairs and the
    first round of matches keep the population minimiser (FACT 3 and section 13.7), the other rules do not.
    """

    step: float = 1.0
    labels: Labels = "soft"
    pairs: PairRule = "all"
    labels_seed: int = 0

    def __post_init__(self) -> None:
        if not (self.step > 0 and np.isfinite(self.step)):
            raise ValueError(f"step must be a positive number, not {self.step}")

    @property
    def has_minimiser(self) -> bool:
        return self.pairs in UNBIASED

    def initial_state(self, log_start: FloatArray, log_ref: FloatArray) -> State:
        return State(log_normalise(log_start), log_normalise(log_ref))

    def regression(self, group: Group, weights: Mapping[str, float], step: float) -> Tensor:
        return anchored_regression(
            group, weights, step, labels=self.labels, pairs=self.pairs, labels_seed=self.labels_seed
        )

    def payoffs(self, P: FloatArray) -> FloatArray:
        """The matrix whose game the labels play: thresholded for hard labels, P otherwise."""
        return relabel(P, "hard") if self.labels == "hard" else P

    def labelled(self, group: Group) -> FloatArray:
        return labelled_table(group, self.labels, self.labels_seed)


def check_pull(step: float, tau: float) -> None:
    """Raise ValueError unless step * tau, the weight of the reference, lies in [0, 1]."""
    if not (tau >= 0 and np.isfinite(tau)):
        raise ValueError(f"tau must be a number >= 0, not {tau}")
    if step * tau > 1 + 1e-12:
        raise ValueError(f"step * tau = {step * tau:g} must not exceed 1: the weight of the reference")


def check_refresh(refresh: int) -> None:
    """Raise ValueError for a magnet that never comes to move."""
    if refresh < 1:
        raise ValueError(f"refresh must be at least 1 round, not {refresh}")


def moved_magnet(round: int, refresh: int) -> tuple[tuple[str, str], ...]:
    """The copies of a phase that moves the magnet to the policy every `refresh` rounds."""
    return (("magnet", "policy"),) if round % refresh == 0 else ()


def relative_logp(group: Group, weights: Mapping[str, float]) -> Tensor:
    """h (N,) = log pi - sum_k w_k log pi_k; only log pi carries gradient. Raises ValueError for a missing anchor."""
    h = group.logp
    for slot, weight in weights.items():
        if slot not in group.anchors:
            raise ValueError(f"the group has no anchor '{slot}' (it has: {', '.join(group.anchors) or 'none'})")
        h = h - weight * group.anchors[slot].detach().to(h)
    return h


def labelled_table(group: Group, labels: Labels, labels_seed: int) -> FloatArray:
    """The group's P with its labels; drawn ones depend on (labels_seed, group.key) only."""
    generator = rng("labels", labels_seed, group.key) if labels == "bernoulli" else None
    return relabel(group.table, labels, generator)


def anchored_regression(
    group: Group,
    weights: Mapping[str, float],
    step: float,
    *,
    labels: Labels = "soft",
    pairs: PairRule = "all",
    labels_seed: int = 0,
) -> Tensor:
    """Mean over pairs of (h_i - h_j - step (label_ij - 1/2))^2, h = log pi - sum_k w_k log pi_k (section 2).

    With i.i.d. responses from mu and all pairs its minimiser is prod_k pi_k^{w_k} exp(step P(y > mu)), normalised
    (FACTs 1 to 3). All pairs with soft labels and a complete P cost N numbers instead of N^2 (FACT 4).
    """
    target = step * (labelled_table(group, labels, labels_seed) - 0.5)
    return pair_regression(group, relative_logp(group, weights), target, pairs)


def pair_regression(group: Group, h: Tensor, target: FloatArray, pairs: PairRule) -> Tensor:
    """Mean over pairs of (h_i - h_j - target_ij)^2; `target` (N, N) is antisymmetric, NaN where a verdict failed.

    The value over all pairs of a complete table comes from N row means; what no h can fit is a constant in it.
    """
    if pairs == "all" and is_complete(target) and len(target) > 1:
        i, j = np.triu_indices(len(target), 1)
        means = target.mean(axis=1)
        rest = float(np.mean((target[i, j] - (means[i] - means[j])) ** 2))
        return centred_regression(h, means) + rest
    i, j = select_pairs(group.table, pairs)
    if len(i) == 0:
        return no_loss(group)
    errors = pair_difference(h, i, j) - constant(target[i, j], h)
    return (errors**2).mean()


def win_rate_regression(group: Group, weights: Mapping[str, float], step: float, table: FloatArray) -> Tensor:
    """Mean over pairs of the policy's responses of (h_i - h_j - step (p_i - p_j))^2, p_i the win rate over opponents.

    `table` holds the labels of the group, whose roles tell the policy's responses from the opponent's. Its minimiser is
    prod_k pi_k^{w_k} exp(step P(y > opponent)) whoever the opponent is (EGPO's loss, 2503.08942).
    """
    opponents = [n for n, role in enumerate(group.role) if role == "opponent"]
    rates = win_rate_against(table, opponents)
    own = [n for n, role in enumerate(group.role) if role != "opponent" and np.isfinite(rates[n])]
    if len(own) < 2:
        return no_loss(group)
    return centred_regression(relative_logp(group, weights)[own], step * rates[own])


def centred_regression(h: Tensor, target: FloatArray) -> Tensor:
    """Mean over all pairs of ((h_i - h_j) - (t_i - t_j))^2 = 2 / (N - 1) sum_i (h_i - t_i - mean(h - t))^2."""
    errors = h - constant(target, h)
    return 2.0 / (len(target) - 1) * ((errors - errors.mean()) ** 2).sum()


def pair_difference(h: Tensor, i: IntArray, j: IntArray) -> Tensor:
    """h_i - h_j: (pairs,)."""
    import torch

    return h[torch.from_numpy(i).to(h.device)] - h[torch.from_numpy(j).to(h.device)]


def constant(values: FloatArray, like: Tensor) -> Tensor:
    """A float64 array as a tensor with the type and device of `like`."""
    import torch

    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


def no_loss(group: Group) -> Tensor:
    """Exactly 0, still attached to the graph so that a backward pass works."""
    return (group.logp * 0.0).sum()
