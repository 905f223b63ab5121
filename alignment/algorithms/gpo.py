"""GPO, general preference optimisation (2410.02197): SPPO on scores, the log-odds of P, instead of win rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import select_pairs, win_rate_against
from alignment.regression import PairMethod, constant, no_loss, pair_regression, relative_logp
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class GPO(PairMethod):
    """log pi / pi_t (y) is regressed on a s(y > pi_t), the mean log-odds of y over the group, with log Z = 0.

    `step` a = 1 / beta (beta 1e-3 in the released run, targets clamped to 1000 nats; best and worst of 5, means that
    count each response against itself as 0: `self_comparison`). `normaliser` 'zero' is published; 'pairwise' regresses
    differences, where log Z cancels, and has the minimiser pi_t exp(a s(y > pi_t)). The game is that of the scores, not
    of P: they tell strong from overwhelming wins, and are unbounded, so log-odds are cut at +-`clip` nats.
    """

    name: ClassVar[str] = "gpo"
    arxiv: ClassVar[str] = "2410.02197"
    game: ClassVar[str] = "plain, of log-odds"

    step: float = 1000.0
    normaliser: Literal["zero", "pairwise"] = "zero"
    self_comparison: bool = False
    clip: float = 20.0
    clamp: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.clip > 0 and self.clamp > 0):
            raise ValueError("clip and clamp must be positive")

    @property
    def has_minimiser(self) -> bool:
        return self.normaliser == "pairwise" and super().has_minimiser

    def phases(self, round: int) -> tuple[Phase, ...]:
        return (Phase("fit", True, "policy", "policy", ("policy",), "policy", round=round),)

    def scores(self, table: FloatArray) -> FloatArray:
        """Log-odds of P (N, N), antisymmetric, within +-clip; NaN kept."""
        with np.errstate(divide="ignore"):
            odds = np.log(table) - np.log1p(-table)
        return np.asarray(np.clip(odds, -self.clip, self.clip), dtype=np.float64)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        scores, h = self.scores(self.labelled(group)), relative_logp(group, {"policy": 1.0})
        if self.normaliser == "pairwise":
            return pair_regression(group, h, self.step * scores, self.pairs)
        if self.self_comparison:
            known = np.isfinite(scores).sum(axis=1)
            means = np.where(known > 1, np.nansum(scores, axis=1) / np.maximum(known, 1), np.nan)
        else:
            means = win_rate_against(scores, list(range(len(scores))))
        used = np.flatnonzero(np.isfinite(means))
        if self.pairs != "all":
            used = np.concatenate(select_pairs(group.table, self.pairs))
        if len(used) == 0:
            return no_loss(group)
        target = np.clip(self.step * means[used], -self.clamp, self.clamp)
        errors = h[used.tolist()]
        return ((errors - constant(target, errors)) ** 2).mean()

    def population(self, P: FloatArray, state: State) -> State:
        gain = self.scores(self.payoffs(P)) @ np.exp(state.log_policy)
        return State(log_normalise(state.log_policy + self.step * gain), state.log_ref, state.round + 1)
