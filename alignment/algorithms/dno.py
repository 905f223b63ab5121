"""DNO, direct Nash optimisation (2404.03715): a classifier of pairs by their difference in win rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import centred_win_rates, select_pairs
from alignment.regression import PairMethod, constant, no_loss, pair_difference
from alignment.regression import relative_logp as relative
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class DNO(PairMethod):
    """-s(r_i - r_j) log s(D) - s(r_j - r_i) log s(-D), D = eta (log-ratio_i - log-ratio_j) to pi_t, r = P(y > pi_t).

    `step` a = 1 / eta: with exact win rates the minimiser is pi_t exp(a P(y > pi_t)). Win rates are those within the
    group, itself at 1/2; a sigmoid of a noisy rate is biased, so small groups shrink the step. The paper's practical
    DNO-Prct is `dpo` with `reference: previous` on pairs with a large margin.
    """

    name: ClassVar[str] = "dno"
    arxiv: ClassVar[str] = "2404.03715"
    game: ClassVar[str] = "plain"

    step: float = 10.0

    @property
    def has_minimiser(self) -> bool:
        """Only in the limit of large groups."""
        return False

    def phases(self, round: int) -> tuple[Phase, ...]:
        return (Phase("fit", True, "policy", "policy", ("policy",), "policy", round=round),)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        from torch.nn.functional import logsigmoid

        rates = centred_win_rates(self.labelled(group))
        i, j = select_pairs(group.table, self.pairs)
        if len(i) == 0:
            return no_loss(group)
        margin = pair_difference(relative(group, {"policy": 1.0}), i, j) / self.step
        label = constant(1.0 / (1.0 + np.exp(-(rates[i] - rates[j]))), margin)
        return -(label * logsigmoid(margin) + (1.0 - label) * logsigmoid(-margin)).mean()

    def population(self, P: FloatArray, state: State) -> State:
        rates = self.payoffs(P) @ np.exp(state.log_policy)
        return State(log_normalise(state.log_policy + self.step * rates), state.log_ref, state.round + 1)
