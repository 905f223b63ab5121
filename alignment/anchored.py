"""Methods that are a sequence of anchored regressions: their phases, loss and exact update from one description.

Section 2 of the algorithms reference: with pairs of i.i.d. responses of mu, the regression of pair log-ratios on win
rates has the minimiser prod_k pi_k^{w_k} exp(step P(y > mu)). A method is then a list of `Fit`s: which anchors with
which weights, who samples, which step, where the result goes. The minimiser is also the exact update in games.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alignment.algorithm import Group, Phase, State
from alignment.regression import PairMethod, check_refresh, win_rate_regression
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fit:
    """A phase with the weights of its anchors; the minimiser is prod_k slot_k^{w_k} exp(step P(y > opponent))."""

    phase: Phase
    weights: Mapping[str, float]
    step: float


@dataclass(frozen=True, kw_only=True)
class AnchoredMethod(PairMethod):
    """A method that says which `fits` it makes in a round; everything else follows."""

    def fits(self, round: int) -> tuple[Fit, ...]:
        """The fits of a round, in order; rounds count from 1."""
        raise NotImplementedError

    def phases(self, round: int) -> tuple[Phase, ...]:
        return tuple(fit.phase for fit in self.fits(round))

    def loss(self, group: Group, phase: Phase) -> Tensor:
        fit = next(f for f in self.fits(phase.round) if f.phase.name == phase.name)
        if phase.opponent is not None:
            return win_rate_regression(group, fit.weights, fit.step, self.labelled(group))
        return self.regression(group, fit.weights, fit.step)

    def population(self, P: FloatArray, state: State) -> State:
        payoffs, number = self.payoffs(P), state.round + 1
        slots = {**state.memory, "start": state.log_ref, "policy": state.log_policy}
        rates = np.zeros(len(P))
        for fit in self.fits(number):
            fill_slots(slots, fit.phase, state.log_policy)
            if fit.phase.sample:
                rates = payoffs @ np.exp(opponent_of(slots, fit.phase))
            anchored = np.sum([w * slots[name] for name, w in fit.weights.items()], axis=0)
            store(slots, fit.phase, log_normalise(anchored + fit.step * rates))
        memory = {k: v for k, v in slots.items() if k not in ("start", "policy")}
        return State(slots["policy"], state.log_ref, number, memory)


@dataclass(frozen=True, kw_only=True)
class MagneticMethod(AnchoredMethod):
    """Fits pulled to a magnet of strength `alpha`, which moves to the policy every `refresh` rounds (2206.05825)."""

    alpha: float = 0.1
    refresh: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.alpha > 0 and np.isfinite(self.alpha)):
            raise ValueError(f"alpha must be a positive number, not {self.alpha}")
        check_refresh(self.refresh)

    def magnetic(self, phase: Phase) -> Fit:
        """The fit of [slot magnet^{a alpha} exp(a P(y > pi))]^{1 / (1 + a alpha)}, slot the first anchor of `phase`."""
        share = 1.0 / (1.0 + self.step * self.alpha)
        slot, magnet = phase.anchors
        return Fit(phase, {slot: share, magnet: 1.0 - share}, self.step * share)


def pull(slot: str, weight: float, toward: str) -> dict[str, float]:
    """Weights of slot^{1 - weight} toward^{weight}; an anchor without weight is none."""
    return {slot: 1.0 - weight, toward: weight} if weight > 0 else {slot: 1.0}


def fill_slots(slots: dict[str, FloatArray], phase: Phase, start: FloatArray) -> None:
    """A slot that was never written holds the weights that the run started from."""
    named = {*phase.anchors, phase.init_from, phase.sample_from, phase.output_average, phase.opponent}
    named |= {name for pair in (*phase.keeps, *phase.copies) for name in pair}
    named |= {phase.mix[0]} if phase.mix else set()
    for name in named - {None, *slots}:
        slots[str(name)] = start


def sampler_of(slots: Mapping[str, FloatArray], phase: Phase) -> FloatArray:
    """The log-policy (n,) that a phase samples from."""
    return slots[phase.sample_from] if phase.opponent is not None else _mixed(slots, phase.sample_from, phase)


def opponent_of(slots: Mapping[str, FloatArray], phase: Phase) -> FloatArray:
    """The log-policy (n,) that the responses of a phase are compared with."""
    return _mixed(slots, phase.opponent or phase.sample_from, phase)


def _mixed(slots: Mapping[str, FloatArray], slot: str, phase: Phase) -> FloatArray:
    if phase.mix is None:
        return slots[slot]
    other, weight = phase.mix
    return log_normalise((1.0 - weight) * slots[slot] + weight * slots[other])


def store(slots: dict[str, FloatArray], phase: Phase, fitted: FloatArray, floor: float = -np.inf) -> None:
    """What happens to the log-policies (n,) when a phase is over; log-probs stay above `floor`."""
    kept = {to: slots[source] for to, source in phase.keeps}
    slots[phase.output] = log_normalise(np.maximum(fitted, floor))
    slots.update(kept)
    if phase.output_average is not None:
        mixed = (1.0 - phase.average_weight) * slots[phase.output_average] + phase.average_weight * fitted
        slots[phase.output_average] = log_normalise(np.maximum(mixed, floor))
    for to, source in phase.copies:
        slots[to] = slots[source]
