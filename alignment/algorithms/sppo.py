"""SPPO, self-play preference optimisation (2405.00675): multiplicative weights, one regression target a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import select_pairs, win_rate_against
from alignment.regression import PairMethod, constant, no_loss, relative_logp
from prefeval.games import log_normalise
from prefeval.oracle import win_rates
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class SPPO(PairMethod):
    """log pi / pi_t (y) is regressed on a P(y > pi_t) - log Z, whose exact minimiser is pi_t exp(a P(y > pi_t)).

    `step` a is the paper's eta, a learning rate (1e3; the code's beta = 1 / eta). The paper takes best and worst of 5
    (`pairs='best_worst'`); its released code counts each response against itself (`self_comparison`), which shrinks
    targets by (K - 1) / K. `normaliser` is log Z: 'half' = a / 2 (published), 'quantile' = log((e^a - 1) / a), close to
    a - log a, 'sampled' = log mean exp(a p_k) over the group, 'pairwise' = differences only, where log Z cancels.
    """

    name: ClassVar[str] = "sppo"
    arxiv: ClassVar[str] = "2405.00675"
    game: ClassVar[str] = "plain"

    step: float = 1000.0
    normaliser: Literal["half", "quantile", "sampled", "pairwise"] = "half"
    self_comparison: bool = False

    @property
    def has_minimiser(self) -> bool:
        """Only differences: a constant log Z is not the normaliser of any policy but one."""
        return self.normaliser == "pairwise" and super().has_minimiser

    def phases(self, round: int) -> tuple[Phase, ...]:
        return (Phase("fit", True, "policy", "policy", ("policy",), "policy", round=round),)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        if self.normaliser == "pairwise":
            return self.regression(group, {"policy": 1.0}, self.step)
        table = self.labelled(group)
        rates = win_rate_against(table, list(range(len(table))))
        known = np.flatnonzero(np.isfinite(rates))
        used = known if self.pairs == "all" else np.concatenate(select_pairs(group.table, self.pairs))
        if len(used) == 0:
            return no_loss(group)
        if self.self_comparison:
            rates = np.where(np.isfinite(rates), win_rates(table, include_self=True), np.nan)
        target = self.step * rates[used] - self.log_normaliser(rates[known])
        errors = relative_logp(group, {"policy": 1.0})[used.tolist()]
        return ((errors - constant(target, errors)) ** 2).mean()

    def log_normaliser(self, rates: FloatArray) -> float:
        """log Z_t, the normaliser of pi_t exp(a P(y > pi_t)); `rates` are the group's win rates."""
        if self.normaliser == "half":
            return self.step / 2.0
        if self.normaliser == "quantile":
            return float(self.step + np.log1p(-np.exp(-self.step)) - np.log(self.step))
        return float(np.logaddexp.reduce(self.step * rates) - np.log(len(rates)))

    def population(self, P: FloatArray, state: State) -> State:
        rates = self.payoffs(P) @ np.exp(state.log_policy)
        return State(log_normalise(state.log_policy + self.step * rates), state.log_ref, state.round + 1)
