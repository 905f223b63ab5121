"""Methods that learn from demonstrations alone: what was written above what the sampler says, no oracle asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import Group, Phase, State
from alignment.anchored import fill_slots, sampler_of, store
from alignment.logistic import cross_entropy
from alignment.regression import no_loss, relative_logp
from prefeval.errors import ConfigError
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DemonstratedMethod:
    """-log s((h(shown) - h(y)) / step), h = log pi / anchor, y of the sampler mu; a mean over y and what is shown.

    Its minimiser is anchor (data / mu)^step: for labels that always favour the data the Bradley-Terry scores of i
    against j are log (data_i / mu_i) - log (data_j / mu_j) (2401.01335, theorem 5.4). `step` = 1 / beta.
    """

    name: ClassVar[str]

    step: float = 10.0

    def __post_init__(self) -> None:
        if not (self.step > 0 and np.isfinite(self.step)):
            raise ValueError(f"step must be a positive number, not {self.step}")

    @property
    def has_minimiser(self) -> bool:
        return True

    def phases(self, round: int) -> tuple[Phase, ...]:
        """One phase, with demonstrations and one anchor."""
        raise NotImplementedError

    def initial_state(self, log_start: FloatArray, log_ref: FloatArray) -> State:
        return State(log_normalise(log_start), log_normalise(log_ref))

    def loss(self, group: Group, phase: Phase) -> Tensor:
        own, shown = group.rows("policy"), group.rows("data")
        if not own or not shown:
            return no_loss(group)
        h = relative_logp(group, {phase.anchors[0]: 1.0}) / self.step
        margin = (h[shown][:, None] - h[own][None, :]).flatten()
        return cross_entropy(margin, np.ones(len(margin))).mean()

    def population(self, P: FloatArray, state: State) -> State:
        """anchor (data / mu)^step; `state.memory['data']` is the log-policy (n,) that was demonstrated.

        Raises ConfigError without one: the matrix of a game does not say what anybody wrote.
        """
        if "data" not in state.memory:
            raise no_demonstrations(self.name)
        (phase,) = self.phases(state.round + 1)
        slots = {**state.memory, "start": state.log_ref, "policy": state.log_policy}
        fill_slots(slots, phase, state.log_policy)
        gain = slots["data"] - sampler_of(slots, phase)
        store(slots, phase, log_normalise(slots[phase.anchors[0]] + self.step * gain))
        memory = {k: v for k, v in slots.items() if k not in ("start", "policy")}
        return State(slots["policy"], state.log_ref, state.round + 1, memory)


def no_demonstrations(name: str) -> ConfigError:
    """What to raise where such a method is to play a matrix game."""
    return ConfigError(f"{name} learns from demonstrations, and a matrix game has none")


def demonstrated(log_start: FloatArray, log_data: FloatArray, log_ref: FloatArray | None = None) -> State:
    """The start of exact play with demonstrations drawn from `log_data` (n,); the reference defaults to the start."""
    memory: Mapping[str, FloatArray] = {"data": log_normalise(log_data)}
    return State(log_normalise(log_start), log_normalise(log_start if log_ref is None else log_ref), 0, memory)
