"""SPAC, self-play with an adversarial critic (2406.04274), merged form: fit the labels, think little of oneself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import IntArray, select_pairs
from alignment.logistic import cross_entropy
from alignment.regression import PairMethod, no_loss, pair_difference
from alignment.regression import relative_logp as relative
from alignment.solving import Part, added, logistic_pairs, newton
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class SPAC(PairMethod):
    """E_data[-log s(beta u)] + lambda E[-log s(beta (h(data) - h(own)))], h = log pi / pi_t.

    The critic f that fits the labels of the data but thinks little of pi_t (L(f) + lambda (E_{pi_t} f - E_data f)) and
    the policy pi_t exp(f / beta) are one fit. The difference f(own) - f(data) has no lower bound in log-ratios, so it
    is smoothed by a log-sigmoid, with data replies in it: where the paper smooths could not be verified. The data are
    replies of the start, labelled by the oracle; own replies need no label. `step` = 1 / beta; `weight` is lambda,
    whose value in theory, C sqrt(n), is of no practical use. weight 0 is DPO on the data. `reference` 'start' puts ref
    in place of pi_t (also unverified). Where the data all tie, this is SPIN's loss with replies of the start as shown.
    """

    name: ClassVar[str] = "spac"
    arxiv: ClassVar[str] = "2406.04274"
    game: ClassVar[str] = "none (Bradley-Terry)"

    step: float = 10.0
    weight: float = 0.1
    reference: Literal["start", "previous"] = "previous"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.weight >= 0 and np.isfinite(self.weight)):
            raise ValueError(f"weight must be a number >= 0, not {self.weight}")

    @property
    def anchor(self) -> str:
        return "start" if self.reference == "start" else "policy"

    def phases(self, round: int) -> tuple[Phase, ...]:
        phase = Phase(
            "fit", True, "policy", "policy", (self.anchor,), "policy", opponent="start", opponent_logp=True, round=round
        )
        return (phase,)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        own, data = group.rows("policy"), group.rows("opponent")
        shown = group.part(data)
        i, j = select_pairs(shown.table, self.pairs)
        if len(i) == 0:
            return no_loss(group)
        h = relative(group, {self.anchor: 1.0}) / self.step
        rows: IntArray = np.asarray(data, dtype=np.int64)
        fit = cross_entropy(pair_difference(h, rows[i], rows[j]), self.labelled(shown)[i, j]).mean()
        margin = (h[data][:, None] - h[own][None, :]).flatten()
        return fit + self.weight * cross_entropy(margin, np.ones(len(margin))).mean()

    def population(self, P: FloatArray, state: State) -> State:
        """The minimiser of the expected loss, by Newton: a Bradley-Terry fit in which data also beat own replies."""
        own, data = np.exp(state.log_policy), np.exp(state.log_ref)
        anchor = state.log_ref if self.reference == "start" else state.log_policy

        def loss(logits: FloatArray) -> Part:
            h = logits - anchor
            labelled = logistic_pairs(h, self.payoffs(P), data[:, None] * data[None, :], self.step)
            shown = logistic_pairs(h, np.ones_like(P), data[:, None] * own[None, :], self.step)
            return added([labelled, shown.times(self.weight)])

        return State(newton(loss, state.log_policy, own + data), state.log_ref, state.round + 1)
