"""KTO, Kahneman-Tversky optimisation (2402.01306): single responses, each desirable or not."""

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
class KTO(PairMethod):
    """lambda_D (1 - s(beta (h - z0))) for a desirable response, lambda_U (1 - s(beta (z0 - h))) for an undesirable one.

    h = log pi / ref, `step` = 1 / beta. A response is desirable where its win rate over the others of its group is
    above 1/2 and undesirable below; at 1/2 it is half of each. Data are unpaired: a label belongs to one response, no
    pair is formed, and a group may hold any number of either kind; `desirable` and `undesirable` are the lambdas that
    balance them (the paper keeps lambda_D n_D / (lambda_U n_U) within [1, 3/2]).

    z0 is max(0, an estimate of KL(pi || ref)), through which no gradient flows. The paper and TRL take mismatched pairs
    of a batch, since their responses are not the policy's; a group has one prompt, but its responses are the policy's
    own, so z0 is the mean h of the group: unbiased when the fit begins, and one a prompt where the paper's is one a
    batch. There is no minimiser (undesirable responses go to 0 for ever): a round in games is one gradient step, of
    size `step` on logits, which cancels beta.
    """

    name: ClassVar[str] = "kto"
    arxiv: ClassVar[str] = "2402.01306"
    game: ClassVar[str] = "none (above the mean)"

    step: float = 10.0
    desirable: float = 1.0
    undesirable: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not min(self.desirable, self.undesirable) >= 0:
            raise ValueError("desirable and undesirable must be numbers >= 0")
        if self.pairs != "all":
            raise ValueError("kto has no pairs: pairs must be 'all'")

    @property
    def has_minimiser(self) -> bool:
        return False

    def phases(self, round: int) -> tuple[Phase, ...]:
        return (Phase("fit", True, "policy", "policy", ("start",), "policy", gradient_step=True, round=round),)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        rates = win_rate_against(self.labelled(group), list(range(len(group.role))))
        known = np.flatnonzero(np.isfinite(rates))
        if len(known) == 0:
            return no_loss(group)
        ratio = relative_logp(group, {"start": 1.0})[known.tolist()]
        lead = (ratio - ratio.detach().mean().clamp(min=0.0)) / self.step
        good = constant(share_desirable(rates[known]), lead)
        losses = self.desirable * good * (-lead).sigmoid() + self.undesirable * (1.0 - good) * lead.sigmoid()
        return losses.mean()

    def population(self, P: FloatArray, state: State) -> State:
        """One gradient step, with the win rates and the KL of large groups."""
        p, ratio = np.exp(state.log_policy), state.log_policy - state.log_ref
        good = share_desirable(self.payoffs(P) @ p)
        lead = (ratio - max(0.0, float(p @ ratio))) / self.step
        pull = (self.desirable * good - self.undesirable * (1.0 - good)) / (2.0 + 2.0 * np.cosh(lead))
        slope = p * (pull - p @ pull)  # beta of the loss and 1 / beta of the step cancel
        return State(log_normalise(state.log_policy + slope), state.log_ref, state.round + 1)


def share_desirable(rates: FloatArray) -> FloatArray:
    """1 above a win rate of 1/2, 0 below, 1/2 at it, up to rounding: (k,)."""
    return np.asarray(0.5 + 0.5 * np.sign(np.round(rates - 0.5, 12)), dtype=np.float64)
