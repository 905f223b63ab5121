"""EXO, efficient exact optimisation (2402.00856): reverse KL between the policy's and the target's choice of K."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import is_complete, select_pairs
from alignment.regression import PairMethod, constant, no_loss, pair_difference
from alignment.regression import relative_logp as relative
from prefeval.games import bradley_terry, log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class EXO(PairMethod):
    """'rewards': KL(f || softmax(r / beta_r)) over the K responses, f = softmax(beta log pi / ref), r scores of P.

    'pairs' is EXO-pref: KL(q || (1 - e, e)) a pair, q = s(beta u), the label kept within [e, 1 - e], e = `smoothing`.
    Both pull towards ref exp(step r) where P is Bradley-Terry with scores r: `step` = 1 / (beta beta_r), and with pairs
    1 / beta. The reverse KL seeks a mode and is not monotone in u: its gradient vanishes as q goes to 0, so a badly
    wrong start learns slowly. The scores of a group are the Bradley-Terry fit of its P.
    """

    name: ClassVar[str] = "exo"
    arxiv: ClassVar[str] = "2402.00856"
    game: ClassVar[str] = "none (Bradley-Terry)"

    step: float = 4.0
    beta: float = 0.5
    form: Literal["rewards", "pairs"] = "rewards"
    smoothing: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0 or not 0 < self.smoothing < 0.5:
            raise ValueError("beta must be positive and smoothing in (0, 0.5)")
        if self.form == "rewards" and self.pairs != "all":
            raise ValueError("form 'rewards' uses all responses: pairs must be 'all'")

    @property
    def has_minimiser(self) -> bool:
        """Only where P is Bradley-Terry: otherwise what the groups ask for does not fit together."""
        return False

    def phases(self, round: int) -> tuple[Phase, ...]:
        return (Phase("fit", True, "policy", "policy", ("start",), "policy", round=round),)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        table = self.labelled(group)
        return self._of_pairs(group, table) if self.form == "pairs" else self._of_rewards(group, table)

    def _of_pairs(self, group: Group, table: FloatArray) -> Tensor:
        from torch.nn.functional import logsigmoid

        i, j = select_pairs(group.table, self.pairs)
        if len(i) == 0:
            return no_loss(group)
        margin = pair_difference(relative(group, {"start": 1.0}), i, j) / self.step
        label = constant(np.clip(table[i, j], self.smoothing, 1.0 - self.smoothing), margin)
        won, lost = logsigmoid(margin), logsigmoid(-margin)
        return (won.exp() * (won - label.log()) + lost.exp() * (lost - (1.0 - label).log())).mean()

    def _of_rewards(self, group: Group, table: FloatArray) -> Tensor:
        known = np.flatnonzero(np.isfinite(table).all(axis=1)) if not is_complete(table) else np.arange(len(table))
        if len(known) < 2:
            return no_loss(group)
        clipped = np.clip(table[np.ix_(known, known)], self.smoothing, 1.0 - self.smoothing)
        rewards = bradley_terry(clipped, np.ones(len(known)))
        own = (self.beta * relative(group, {"start": 1.0})[known.tolist()]).log_softmax(0)
        wanted = constant(log_normalise(self.beta * self.step * rewards), own)
        return (own.exp() * (own - wanted)).sum()

    def population(self, P: FloatArray, state: State) -> State:
        """ref exp(step r), r the Bradley-Terry fit of P under pi_t."""
        clipped = np.clip(self.payoffs(P), self.smoothing, 1.0 - self.smoothing)
        scores = bradley_terry(clipped, np.exp(state.log_policy))
        return State(log_normalise(state.log_ref + self.step * scores), state.log_ref, state.round + 1)
