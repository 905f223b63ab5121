"""QRPO, quantile reward policy optimisation (2507.08068): a pointwise regression whose normaliser is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import win_rate_against
from alignment.regression import PairMethod, constant, no_loss, relative_logp
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class QRPO(PairMethod):
    """(q(y) - beta log Z - beta log pi / ref (y))^2, q the quantile of y's reward among the reference's replies.

    `step` = 1 / beta. Under the reference a quantile is uniform on [0, 1], so Z = beta (e^{1 / beta} - 1) whatever the
    reward is, and each reply is fitted alone. The optimum is ref exp(step q). The reward of a reply is its win rate
    against the replies of the reference, which is sampled beside the policy; ties count half, so that the mean quantile
    is 1/2. Z is exact for many equally likely replies; in a game of few it is off, and the loss has no
    minimiser of its own. beta 0.1 is our choice.
    """

    name: ClassVar[str] = "qrpo"
    arxiv: ClassVar[str] = "2507.08068"
    game: ClassVar[str] = "none (best reply to ref)"

    step: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs != "all":
            raise ValueError("qrpo compares with all replies of the reference: pairs must be 'all'")

    @property
    def has_minimiser(self) -> bool:
        """Quantiles among few replies are steps, and their Z is not the analytic one."""
        return False

    @property
    def log_normaliser(self) -> float:
        """log Z, Z = integral of e^{step q} over q in [0, 1] (the paper's Z, for the quantile itself as the reward)."""
        return float(self.step + np.log1p(-np.exp(-self.step)) - np.log(self.step))

    def phases(self, round: int) -> tuple[Phase, ...]:
        return (Phase("fit", True, "policy", "policy", ("start",), "policy", opponent="start", round=round),)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        others = group.rows("opponent")
        rewards = win_rate_against(self.labelled(group), others)
        among = [n for n in others if np.isfinite(rewards[n])]
        own = [n for n in group.rows("policy") if np.isfinite(rewards[n])]
        if not own or not among:
            return no_loss(group)
        ranks = quantiles(rewards[own], rewards[among], np.full(len(among), 1.0 / len(among)))
        h = relative_logp(group, {"start": 1.0})[own]
        return ((constant(ranks - self.log_normaliser / self.step, h) - h / self.step) ** 2).mean()

    def population(self, P: FloatArray, state: State) -> State:
        ref = np.exp(state.log_ref)
        rewards = self.payoffs(P) @ ref
        ranks = quantiles(rewards, rewards, ref)
        return State(log_normalise(state.log_ref + self.step * ranks), state.log_ref, state.round + 1)


def quantiles(rewards: FloatArray, among: FloatArray, weights: FloatArray) -> FloatArray:
    """The share of `among`, by `weights`, that each of `rewards` (n,) is above; equal ones count half."""
    difference = rewards[:, None] - among[None, :]
    above = np.where(np.abs(difference) < 1e-12, 0.5, (difference > 0).astype(np.float64))
    return np.asarray(above @ weights, dtype=np.float64)
