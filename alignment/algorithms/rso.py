"""RSO, statistical rejection sampling optimisation (2309.06657): pairs drawn as from the optimal policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import mean_log_odds
from alignment.pair_losses import KINKED, SMOOTH, PairLossMethod, Side, logistic, positive
from alignment.selection import part_of, rejection_sample
from prefeval.games import log_normalise
from prefeval.seeds import rng
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class RSO(PairLossMethod):
    """-log s(gamma u), or max(0, 1 - gamma u) as `form` 'hinge', on `accept` responses of the candidates of a group.

    Candidates are samples of the start; `alignment.selection` accepts them in proportion to ref exp(r / beta). r is the
    group's `reward` or else the mean log-odds of a response over its group: the paper's r against a baseline reply,
    for each reply as the baseline, and the score itself where P is Bradley-Terry. Candidates without a verdict are
    passed over; where there are no more than `accept` all are taken. `step` = 1 / gamma (gamma 0.05, beta 0.5, 8 of 64
    in the paper). `pairs` 'first_round' and 'knockout' are its rankings, 'all' uses the verdicts that are there anyway.
    Draws depend on (`draw_seed`, the group's key). Every candidate is compared with every other.
    """

    name: ClassVar[str] = "rso"
    arxiv: ClassVar[str] = "2309.06657"
    game: ClassVar[str] = "none (Bradley-Terry)"
    sampler: ClassVar[str] = "start"

    step: float = 20.0
    form: Literal["sigmoid", "hinge"] = "sigmoid"
    accept: int = 8
    beta: float = 0.5
    draw_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accept < 2:
            raise ValueError(f"accept must be at least 2, not {self.accept}")
        if not self.beta >= 0:
            raise ValueError(f"beta must be a number >= 0, not {self.beta}")

    @property
    def has_minimiser(self) -> bool:
        """Only in the limit of many candidates."""
        return False

    @property
    def softness(self) -> tuple[float, ...]:
        return KINKED if self.form == "hinge" else SMOOTH

    def cost(self, won: Side, lost: Side, softness: float = 0.0) -> Tensor:
        margin = (won.ratio - lost.ratio) / self.step
        return logistic(margin) if self.form == "sigmoid" else positive(1.0 - margin, softness)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        return super().loss(part_of(group, self.accepted(group)), phase)

    def accepted(self, group: Group) -> list[int]:
        """Indices of the responses that are trained on, in a random order where some are left."""
        rewards = mean_log_odds(group.table)
        if group.reward is not None:
            rewards = np.asarray(group.reward.detach().cpu().numpy(), dtype=np.float64)
        known = np.flatnonzero(np.isfinite(rewards))
        if len(known) <= self.accept:
            return [int(k) for k in known]
        generator = rng("accept", self.draw_seed, group.key)
        chosen = rejection_sample(rewards[known], self.accept, self.beta, generator)
        return [int(k) for k in known[generator.permutation(chosen)]]  # the first accepted are the best: pair at random

    def drawn_from(self, P: FloatArray, state: State) -> FloatArray:
        """ref exp(r / beta), r the mean log-odds against the reference; what many candidates leave."""
        odds = mean_log_odds_against(P, np.exp(state.log_ref))
        if self.beta == 0:
            return np.exp(log_normalise(np.where(odds >= odds.max() - 1e-12, state.log_ref, -np.inf)))
        return np.exp(log_normalise(state.log_ref + odds / self.beta))


def mean_log_odds_against(P: FloatArray, opponent: FloatArray, clip: float = 20.0) -> FloatArray:
    """Mean log-odds of every action over the actions of a policy (n,), cut at +-`clip` nats: (n,)."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.clip(np.log(P) - np.log1p(-P), -clip, clip) @ opponent, dtype=np.float64)
