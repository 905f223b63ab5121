"""Return-conditioned training (2403.04642): every reply behind an instruction that says how good it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.algorithms.expert_iteration import SAME, sets_of_draws
from alignment.labels import win_rate_against
from alignment.regression import PairMethod, constant, no_loss
from alignment.reinforce import Reward, group_rewards
from prefeval.errors import ConfigError
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class ReturnConditioned(PairMethod):
    """Maximum likelihood of all replies, each behind its prompt and `good` or `bad`; policies are asked with `good`.

    A reply is good with a win rate in its group above 1/2 (`reward: win_rate`) or a positive reward of the oracle
    (`given`), bad below; one at exactly 1/2 is not trained on. Rounds sample, and probes look, with `good` behind the
    prompt, and so must whoever uses the policy, unless `deploy: distilled` fits its replies to the bare prompts. The
    paper marks single steps of a solution as well, which is not done here; the words are our choice. `init` as in
    `expert_iteration`. In a game the policy is the one told `good`: pi_t given a win rate above 1/2 among `best_of`
    draws. `step` has no meaning here.
    """

    name: ClassVar[str] = "return_conditioned"
    arxiv: ClassVar[str] = "2403.04642"
    game: ClassVar[str] = "none (own better half)"

    good: str = "[GOOD]"
    bad: str = "[BAD]"
    reward: Reward = "win_rate"
    init: Literal["start", "previous"] = "start"
    best_of: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.good.strip() or not self.bad.strip() or self.good == self.bad:
            raise ValueError("good and bad must be two different instructions")
        if self.best_of < 2:
            raise ValueError(f"best_of must be at least 2, not {self.best_of}")
        if self.pairs != "all" or self.labels == "bernoulli":
            raise ValueError("return_conditioned takes win rates as they are: pairs must be 'all', labels soft or hard")

    @property
    def needs_reward(self) -> bool:
        return self.reward == "given"

    @property
    def has_minimiser(self) -> bool:
        """In games; not where rewards decide, which they lack."""
        return not self.needs_reward

    def phases(self, round: int) -> tuple[Phase, ...]:
        init = "start" if self.init == "start" else "policy"
        return (Phase("fit", True, "policy", init, (), "policy", round=round),)

    def told(self, table: FloatArray, reward: FloatArray | None, count: int) -> tuple[str, ...]:
        """`good`, `bad` or '' for each of the first `count` replies."""
        if self.needs_reward:
            if reward is None:
                raise ConfigError("return_conditioned on given rewards needs an oracle that gives them: check:number")
            return tuple(self.good if r > 0 else self.bad for r in reward[:count])
        rates = win_rate_against(self.payoffs(table), list(range(count)))[:count]
        return tuple(self.good if r > 0.5 + SAME else self.bad if r < 0.5 - SAME else "" for r in rates)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        count = sum(role != "opponent" for role in group.role)
        reward = group_rewards(group) if self.needs_reward else None
        told = group.told or tuple(t if t == self.good else "" for t in self.told(group.table, reward, count))
        weights = np.array([bool(text) for text in told], dtype=np.float64) / count
        kept = np.flatnonzero(weights)
        if len(kept) == 0:
            return no_loss(group)
        return -(constant(weights[kept], group.logp) * group.logp[kept.tolist()]).sum()

    def population(self, P: FloatArray, state: State) -> State:
        if self.needs_reward:
            raise ConfigError("a matrix game has P and no rewards: reward must be 'win_rate'")
        chance, counts, rates = sets_of_draws(self.payoffs(P), np.exp(state.log_policy), self.best_of)
        law = chance @ (counts * (rates > 0.5 + SAME))
        kept = np.log(np.maximum(law, 1e-300)) if law.any() else state.log_policy  # nobody beats anybody
        return State(log_normalise(kept), state.log_ref, state.round + 1)
