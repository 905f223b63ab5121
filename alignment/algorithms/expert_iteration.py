"""Expert iteration (2403.04642): keep the replies that won and fit them by maximum likelihood; repeat."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import win_rate_against
from alignment.regression import PairMethod, constant, no_loss
from alignment.reinforce import group_rewards
from prefeval.errors import ConfigError
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

SAME = 1e-12  # win rates that differ by less are equal
_TINY = 1e-300  # a chance that underflows is not a logarithm of 0
_MOST = 500_000  # multisets of K actions whose winners are worked out one by one


@register
@dataclass(frozen=True, kw_only=True)
class ExpertIteration(PairMethod):
    """Minus the log-prob of kept replies, whose minimiser is the law of what is kept.

    `keep` 'winner': the reply with the highest win rate in its group, ties in equal shares, so the policy becomes its
    own best-of-K. 'wins': every reply, weighted by its win rate, so it becomes pi_t given that it wins against itself,
    ~ pi_t P(y > pi_t). 'correct': every reply with a positive reward, the paper's rule for verifiable answers, pooled
    over prompts, so that a prompt counts as often as it was solved. `init` 'start' fits the start's weights anew each
    round (paper), 'previous' goes on from the policy. The paper adds each round's replies to the earlier ones':
    `replay` of the recipe. `best_of` is K of the exact update in games; language models take `responses`. `step` has
    no meaning here.
    """

    name: ClassVar[str] = "expert_iteration"
    arxiv: ClassVar[str] = "2403.04642"
    game: ClassVar[str] = "none (own best of K)"

    keep: Literal["winner", "wins", "correct"] = "winner"
    init: Literal["start", "previous"] = "start"
    best_of: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.best_of < 2:
            raise ValueError(f"best_of must be at least 2, not {self.best_of}")
        if self.pairs != "all":
            raise ValueError("expert_iteration compares each reply with all others: pairs must be 'all'")

    @property
    def needs_reward(self) -> bool:
        return self.keep == "correct"

    @property
    def has_minimiser(self) -> bool:
        """Not where rewards decide, which games lack, nor for the winner by drawn labels: its law is another one."""
        return self.keep == "wins" or (self.keep == "winner" and self.labels != "bernoulli")

    def phases(self, round: int) -> tuple[Phase, ...]:
        init = "start" if self.init == "start" else "policy"
        return (Phase("fit", True, "policy", init, (), "policy", round=round),)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        own = [n for n, role in enumerate(group.role) if role != "opponent"]
        weights = self.weights(group, own)
        if not weights.any():
            return no_loss(group)
        kept = np.flatnonzero(weights)
        return -(constant(weights[kept], group.logp) * group.logp[[own[n] for n in kept]]).sum()

    def weights(self, group: Group, own: list[int]) -> FloatArray:
        """What each of the policy's replies counts: (len(own),), 0 where it is not kept."""
        if self.keep == "correct":
            return np.asarray((group_rewards(group)[own] > 0) / len(own), dtype=np.float64)
        rates = win_rate_against(self.labelled(group), own)[own]
        if not np.isfinite(rates).any():
            return np.zeros(len(own))
        if self.keep == "winner":
            rates = (rates >= np.nanmax(rates) - SAME).astype(np.float64)
        rates = np.nan_to_num(rates, nan=0.0)
        return np.asarray(rates / rates.sum(), dtype=np.float64)

    def population(self, P: FloatArray, state: State) -> State:
        if self.keep == "correct":
            raise ConfigError("a matrix game has P and no rewards: keep must be 'winner' or 'wins'")
        payoffs, p = self.payoffs(P), np.exp(state.log_policy)
        if self.keep == "wins":
            kept = state.log_policy + np.log(np.maximum(payoffs @ p, _TINY))
        else:
            kept = np.log(np.maximum(winner_law(payoffs, p, self.best_of), _TINY))
        return State(log_normalise(kept), state.log_ref, state.round + 1)


def winner_law(P: FloatArray, p: FloatArray, k: int) -> FloatArray:
    """How likely each action is the winner among k i.i.d. draws of p: (n,).

    The winner has the highest mean P over the other draws (one's double counts 1/2); draws that share it have equal
    chances. Raises ConfigError where there are too many sets of k actions.
    """
    chance, counts, rates = sets_of_draws(P, p, k)
    shares = counts * (rates >= rates.max(axis=1, keepdims=True) - SAME)
    return np.asarray(chance @ (shares / shares.sum(axis=1, keepdims=True)), dtype=np.float64)


def sets_of_draws(P: FloatArray, p: FloatArray, k: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """All multisets of k i.i.d. draws of p: their chances (sets,), how often each action is in (sets, n), its win rate.

    A win rate (sets, n) is the mean P over the other draws, -inf for an action that was not drawn.
    """
    n = len(p)
    if comb(n + k - 1, k) > _MOST:
        raise ConfigError(f"best_of {k}: a game of {n} actions has too many sets of {k}; play it with --sampled")
    drawn = np.array(list(combinations_with_replacement(range(n), k)))
    counts = (drawn[:, :, None] == np.arange(n)).sum(axis=1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, k + 1)))])
    chance = np.exp(log_factorial[k] - log_factorial[counts].sum(axis=1)) * np.prod(p**counts, axis=1)
    rates = np.where(counts > 0, (counts @ P.T - 0.5) / (k - 1), -np.inf)
    return chance, counts.astype(np.float64), rates
