"""ONPO, optimistic Nash policy optimisation (2502.16852): last-iterate play of the plain game."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import Group, PairMethod, Phase, State, register
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class ONPO(PairMethod):
    """aux_{t+1} ~ aux_t exp(a P(y > pi_t)), pi_{t+1} ~ aux_{t+1} exp(a P(y > pi_t)); both fits use the same data.

    `step` a is the paper's eta, a learning rate (1 / eta = 0.01, so a = 100). `one_fit` is the derived variant:
    pi_{t+1} is fitted against aux_t with the doubled target and aux moves half way to it in log space; the same in
    exact games, another method away from the minimiser. tau > 0 is not in the paper: both steps then use
    aux^{1 - a tau} ref^{a tau} as their anchor and play the regularised game.
    """

    name: ClassVar[str] = "onpo"
    arxiv: ClassVar[str] = "2502.16852"
    game: ClassVar[str] = "plain"

    step: float = 100.0
    tau: float = 0.0
    one_fit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.step * self.tau <= 1 + 1e-12:
            raise ValueError(f"step * tau = {self.step * self.tau:g} must lie in [0, 1]: the weight of the reference")
        if self.one_fit and self.tau > 0:
            raise ValueError("one_fit needs tau = 0")

    def phases(self, round: int) -> tuple[Phase, ...]:
        anchors = ("aux", "start") if self.tau > 0 else ("aux",)
        if self.one_fit:
            return (Phase("main", True, "policy", "policy", anchors, "policy", output_average="aux", round=round),)
        return (
            Phase("aux", True, "policy", "aux", anchors, "aux", round=round),
            Phase("main", False, "policy", "aux", anchors, "policy", round=round),
        )

    def loss(self, group: Group, phase: Phase) -> Tensor:
        weight = self.step * self.tau
        weights = {"aux": 1.0 - weight, "start": weight} if weight > 0 else {"aux": 1.0}
        return self.regression(group, weights, self.step * (2.0 if self.one_fit else 1.0))

    def initial_state(self, log_start: FloatArray, log_ref: FloatArray) -> State:
        first = super().initial_state(log_start, log_ref)
        return State(first.log_policy, first.log_ref, 0, {"aux": first.log_policy})

    def population(self, P: FloatArray, state: State) -> State:
        aux, gain = state.memory["aux"], self.step * (self.payoffs(P) @ np.exp(state.log_policy))
        if self.one_fit:
            log_policy = log_normalise(aux + 2.0 * gain)
            aux = log_normalise(0.5 * (aux + log_policy))
        else:
            weight = self.step * self.tau
            aux = log_normalise((1.0 - weight) * aux + weight * state.log_ref + gain)
            log_policy = log_normalise((1.0 - weight) * aux + weight * state.log_ref + gain)
        return State(log_policy, state.log_ref, state.round + 1, {"aux": aux})
