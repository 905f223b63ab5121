"""RLOO (2402.14740): REINFORCE whose baseline is the reward of the group's other replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.regression import no_loss, relative_logp
from alignment.reinforce import ReinforceMethod
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class RLOO(ReinforceMethod):
    """Gradient 1/K sum_i A_i grad log pi(y_i), A_i = R_i - mean of the others' R, R = reward - tau log pi / ref.

    A whole reply is one action, and the KL is part of its reward, as in the paper. With win rates as rewards this is
    the gradient of the tau-regularised game in self-play. `step` is the size of the exact gradient step in games; for
    language models the learning rate rules, and a round should be few steps: nothing corrects for samples that are no
    longer the policy's (`ppo` does). Paper: K = 2 or 4; tau 0.05 is TRL's default.
    """

    name: ClassVar[str] = "rloo"
    arxiv: ClassVar[str] = "2402.14740"
    game: ClassVar[str] = "regularised"

    def phases(self, round: int) -> tuple[Phase, ...]:
        return (Phase("fit", True, "policy", "policy", ("start",), "policy", gradient_step=True, round=round),)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        own, rewards = self.rewarded(group)
        if not own:
            return no_loss(group)
        ratio = relative_logp(group, {"start": 1.0})[own].detach()
        return -(self.leave_one_out(rewards, ratio) * group.logp[own]).mean()

    def population(self, P: FloatArray, state: State) -> State:
        """One step along the exact gradient with respect to the logits."""
        gain = self.exact_gain(P, state.log_policy, state.log_ref)
        slope = np.exp(state.log_policy) * gain
        return State(log_normalise(state.log_policy + self.step * slope), state.log_ref, state.round + 1)
