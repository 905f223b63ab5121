"""DPO, direct preference optimisation (2305.18290), on fresh samples every round (iterative DPO, 2405.07863)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import select_pairs
from alignment.regression import PairMethod, constant, no_loss, pair_difference
from alignment.regression import relative_logp as relative
from prefeval.adaptive import adaptive_scale
from prefeval.games import bradley_terry, log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

_SCALES = (0.1, 5.0)  # the paper's range of kappa


@register
@dataclass(frozen=True, kw_only=True)
class DPO(PairMethod):
    """-y log s(beta u) - (1 - y) log s(-beta u), u the pair's log-ratio to the reference, y the label of the pair.

    `step` = 1 / beta: the optimum is ref exp(step r), r the Bradley-Terry scores of P under the sampler (beta = 0.1 is
    step 10). Hard labels are the paper's; a soft label, or `smoothing` e, which moves y to (1 - e) y + e (1 - y), is
    conservative DPO. `noise` e is robust DPO (2403.00409): labels are taken to be flipped at rate e, and y becomes
    (y - e) / (1 - 2 e), so that the loss is right on average. `form` 'hinge' is max(0, 1 - beta u), as SLiC's and RSO's
    hinge-norm; it has no minimiser. `form` 'adaptive' is adaptive preference scaling (2406.02764): a scale kappa in
    [0.1, 5] for every pair, kappa (loss of beta u / kappa) + (`rho` - log 2) kappa with the kappa that minimises it,
    solved exactly and held in the gradient; between the bounds a pair then pulls as hard at any margin, and there is no
    minimiser either. Exact games play the sigmoid's update under all forms. `reference` 'start' is the fixed SFT model
    (RLHF workflow: best and worst of 8), 'previous' the policy the round started from.
    """

    name: ClassVar[str] = "dpo"
    arxiv: ClassVar[str] = "2305.18290"
    game: ClassVar[str] = "none (Bradley-Terry)"

    step: float = 10.0
    reference: Literal["start", "previous"] = "start"
    smoothing: float = 0.0
    noise: float = 0.0
    form: Literal["sigmoid", "hinge", "adaptive"] = "sigmoid"
    rho: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.smoothing < 0.5:
            raise ValueError(f"smoothing must lie in [0, 0.5), not {self.smoothing}")
        if not 0 < self.rho < math.log(2):
            raise ValueError(f"rho must lie in (0, log 2), not {self.rho}")
        if self.form == "adaptive" and self.noise:
            raise ValueError("form 'adaptive' excludes noise")
        if not 0 <= self.noise < 0.5 or (self.noise and self.smoothing):
            raise ValueError(f"noise must lie in [0, 0.5) and excludes smoothing, not {self.noise}")

    @property
    def has_minimiser(self) -> bool:
        """Robust labels of a sure verdict lie outside of [0, 1], where there is none either."""
        return self.form == "sigmoid" and self.noise == 0 and super().has_minimiser

    @property
    def anchor(self) -> str:
        """The slot of the reference: 'policy', as an anchor, is the policy before the fit."""
        return "start" if self.reference == "start" else "policy"

    def phases(self, round: int) -> tuple[Phase, ...]:
        return (Phase("fit", True, "policy", "policy", (self.anchor,), "policy", round=round),)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        from torch.nn.functional import logsigmoid

        i, j = select_pairs(group.table, self.pairs)
        if len(i) == 0:
            return no_loss(group)
        margin = pair_difference(relative(group, {self.anchor: 1.0}), i, j) / self.step
        label = constant(self.smooth(self.labelled(group))[i, j], margin)
        if self.form == "hinge":
            return (label * (1.0 - margin).relu() + (1.0 - label) * (1.0 + margin).relu()).mean()
        kappa = adaptive_scale(margin, self.rho, *_SCALES) if self.form == "adaptive" else margin.new_ones(())
        margin = margin / kappa
        losses = -kappa * (label * logsigmoid(margin) + (1.0 - label) * logsigmoid(-margin))
        return losses.mean() if self.form == "sigmoid" else (losses + (self.rho - math.log(2)) * kappa).mean()

    def smooth(self, table: FloatArray) -> FloatArray:
        """The labels after smoothing, or corrected for noise."""
        if self.noise:
            return (table - self.noise) / (1.0 - 2.0 * self.noise)
        return (1.0 - self.smoothing) * table + self.smoothing * (1.0 - table)

    def population(self, P: FloatArray, state: State) -> State:
        """The minimiser of the expected loss: no closed form, a Bradley-Terry fit of P weighted by pi_t x pi_t."""
        scores = bradley_terry(self.smooth(self.payoffs(P)), np.exp(state.log_policy))
        anchor = state.log_ref if self.reference == "start" else state.log_policy
        return State(log_normalise(anchor + self.step * scores), state.log_ref, state.round + 1)
