"""INPO, iterative Nash policy optimisation (2407.00617): no-regret play of the regularised game."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, PairMethod, Phase, State, register
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class INPO(PairMethod):
    """pi_{t+1} ~ pi_t^{1 - a tau} ref^{a tau} exp(a P(y > pi_t)).

    The paper's eta is an INVERSE step: `step` a = 1 / eta. Its settings are eta = 0.005 (a = 200), tau = eta / 3, hard
    labels and a tournament among 8 responses (`labels='hard', pairs='tournament'`); the defaults keep its step and tau
    with the pairs and labels its theorem needs. `schedule='decaying'` is the theorem's eta_t = tau (t + 2) / 2, t from
    1, which ignores `step`. tau = 0 is online mirror descent (multiplicative weights).
    """

    name: ClassVar[str] = "inpo"
    arxiv: ClassVar[str] = "2407.00617"
    game: ClassVar[str] = "regularised"

    step: float = 200.0
    tau: float = 1.0 / 600.0
    schedule: Literal["constant", "decaying"] = "constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.tau >= 0 and np.isfinite(self.tau)):
            raise ValueError(f"tau must be a number >= 0, not {self.tau}")
        if self.schedule == "decaying" and self.tau == 0:
            raise ValueError("schedule 'decaying' needs tau > 0")
        if self.schedule == "constant" and self.step * self.tau > 1 + 1e-12:
            raise ValueError(f"step * tau = {self.step * self.tau:g} must not exceed 1: the weight of the reference")

    def step_at(self, round: int) -> float:
        return self.step if self.schedule == "constant" else 2.0 / (self.tau * (round + 2))

    def phases(self, round: int) -> tuple[Phase, ...]:
        anchors = ("policy", "start") if self.tau > 0 else ("policy",)
        return (Phase("fit", True, "policy", "policy", anchors, "policy", round=round),)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        a = self.step_at(phase.round)
        weights = {"policy": 1.0 - a * self.tau, "start": a * self.tau} if self.tau > 0 else {"policy": 1.0}
        return self.regression(group, weights, a)

    def population(self, P: FloatArray, state: State) -> State:
        a, log_policy = self.step_at(state.round + 1), state.log_policy
        rates = self.payoffs(P) @ np.exp(log_policy)
        updated = (1.0 - a * self.tau) * log_policy + a * self.tau * state.log_ref + a * rates
        return State(log_normalise(updated), state.log_ref, state.round + 1)
