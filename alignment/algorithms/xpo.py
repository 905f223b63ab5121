"""XPO, exploratory preference optimisation (2405.21046): DPO against the reference, and a bonus for leaving it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.logistic import cross_entropy, known_pairs
from alignment.regression import PairMethod, no_loss, pair_difference
from alignment.regression import relative_logp as relative
from alignment.solving import Part, added, logistic_pairs, mean_log, newton
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class XPO(PairMethod):
    """DPO's loss on pairs of a reply of pi_t and one of the reference, + alpha log pi(the reference's reply).

    Algorithm 1 of the paper. The second term lowers what the reference would say anyway: optimism, sqrt(T) regret
    without coverage. `step` = 1 / beta of DPO; log-ratios are to the start. Every reply of the policy meets every
    reply of the reference. The paper fits the pairs of all rounds so far: the run's option `replay`. alpha 0 is online
    DPO on these pairs. Defaults are beta 0.1 and alpha 1e-5 (sums over tokens, hard labels). An alpha that outweighs
    the pairs leaves the loss without a minimum, since log pi has no lower bound.
    """

    name: ClassVar[str] = "xpo"
    arxiv: ClassVar[str] = "2405.21046"
    game: ClassVar[str] = "none (Bradley-Terry)"

    step: float = 10.0
    alpha: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.alpha >= 0 and np.isfinite(self.alpha)):
            raise ValueError(f"alpha must be a number >= 0, not {self.alpha}")
        if self.pairs != "all":
            raise ValueError("xpo pairs each reply with each of the reference: pairs must be 'all'")

    def phases(self, round: int) -> tuple[Phase, ...]:
        phase = Phase(
            "fit", True, "policy", "policy", ("start",), "policy", opponent="start", opponent_logp=True, round=round
        )
        return (phase,)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        labels, others = self.labelled(group), group.rows("opponent")
        i, j = known_pairs(labels, group.rows("policy"), others)
        if len(i) == 0:
            return no_loss(group)
        margin = pair_difference(relative(group, {"start": 1.0}), i, j) / self.step
        return cross_entropy(margin, labels[i, j]).mean() + self.alpha * group.logp[others].mean()

    def population(self, P: FloatArray, state: State) -> State:
        """The minimiser of the expected loss, by Newton."""
        own, ref = np.exp(state.log_policy), np.exp(state.log_ref)
        weights = own[:, None] * ref[None, :]

        def loss(logits: FloatArray) -> Part:
            pairs = logistic_pairs(logits - state.log_ref, self.payoffs(P), weights, self.step)
            return added([pairs, mean_log(log_normalise(logits), ref).times(self.alpha)])

        return State(newton(loss, state.log_policy, own + ref), state.log_ref, state.round + 1)
