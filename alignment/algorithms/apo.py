"""APO, accelerated preference optimisation (2410.06293): momentum for an iterated method, by extrapolated anchors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.anchored import AnchoredMethod, Fit, fill_slots, sampler_of, store
from alignment.labels import select_pairs
from alignment.logistic import cross_entropy
from alignment.regression import no_loss, pair_difference, relative_logp
from prefeval.games import bradley_terry, log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class APO(AnchoredMethod):
    """fit_{t+1} is the base method's fit from E_t = fit_t (fit_t / fit_{t-1})^alpha, which samples and is the anchor.

    Algorithm 1 of the paper: Nesterov's extrapolation of log-policies, here weights 1 + alpha and -alpha on the last
    two fits. `base` 'dpo' is iterated DPO (`step` = 1 / beta), 'regression' the same step on win rates (iterated
    IPO, multiplicative weights). alpha 0 is the base method. A constant drift grows 1 / (1 - alpha) times as
    fast: the gap falls as (1 - alpha) / T. What is deployed is the fit; replies of E_t are sampled token by token from
    the extrapolated logits, since E_t itself cannot be sampled. alpha 0.3 is our choice: that of the paper's
    experiments could not be verified.
    """

    name: ClassVar[str] = "apo"
    arxiv: ClassVar[str] = "2410.06293"
    game: ClassVar[str] = "none (Bradley-Terry)"

    step: float = 10.0
    alpha: float = 0.3
    base: Literal["dpo", "regression"] = "dpo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must lie in [0, 1), not {self.alpha}")

    def fits(self, round: int) -> tuple[Fit, ...]:
        if self.alpha == 0:
            plain = Phase("fit", True, "policy", "policy", ("policy",), "policy", round=round)
            return (Fit(plain, {"policy": 1.0}, self.step),)
        weights = {"policy": 1.0 + self.alpha, "previous": -self.alpha}
        phase = Phase(
            "fit", True, "policy", "policy", tuple(weights), "policy",
            mix=("previous", -self.alpha), keeps=(("previous", "policy"),), round=round,
        )  # fmt: skip
        return (Fit(phase, weights, self.step),)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        if self.base == "regression":
            return super().loss(group, phase)
        i, j = select_pairs(group.table, self.pairs)
        if len(i) == 0:
            return no_loss(group)
        (fit,) = self.fits(phase.round)
        margin = pair_difference(relative_logp(group, fit.weights), i, j) / self.step
        return cross_entropy(margin, self.labelled(group)[i, j]).mean()

    def population(self, P: FloatArray, state: State) -> State:
        """E_t exp(step r), r the Bradley-Terry scores of P under E_t ('dpo') or the win rates against it."""
        if self.base == "regression":
            return super().population(P, state)
        (fit,) = self.fits(state.round + 1)
        slots = {**state.memory, "start": state.log_ref, "policy": state.log_policy}
        fill_slots(slots, fit.phase, state.log_policy)
        extrapolated = sampler_of(slots, fit.phase)
        scores = bradley_terry(self.payoffs(P), np.exp(extrapolated))
        store(slots, fit.phase, log_normalise(extrapolated + self.step * scores))
        memory = {k: v for k, v in slots.items() if k not in ("start", "policy")}
        return State(slots["policy"], state.log_ref, state.round + 1, memory)
