"""Policy gradients without a value network: the rewards of a group's replies, and advantages by the group itself.

A reply's reward is its win rate within the group or the reward that a verifiable oracle gives, less tau times its
log-ratio to the reference. What it is compared with comes from the other replies alone, so that the gradient stays the
exact one on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from alignment.algorithm import Group
from alignment.labels import win_rate_against
from alignment.regression import PairMethod, constant
from prefeval.errors import ConfigError
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

Reward = Literal["win_rate", "given"]


@dataclass(frozen=True, kw_only=True)
class ReinforceMethod(PairMethod):
    """`reward` 'win_rate' is the mean P of a reply over the others of its group; 'given' is the oracle's own reward.

    `tau` is the strength of the KL to the reference, in units of the reward.
    """

    step: float = 1.0
    tau: float = 0.05
    reward: Reward = "win_rate"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.tau >= 0 and np.isfinite(self.tau)):
            raise ValueError(f"tau must be a number >= 0, not {self.tau}")
        if self.pairs != "all":
            raise ValueError(f"{type(self).__name__.lower()} compares each reply with all others: pairs must be 'all'")

    @property
    def needs_reward(self) -> bool:
        """Whether the oracle must give rewards beside P."""
        return self.reward == "given"

    @property
    def has_minimiser(self) -> bool:
        """A gradient to follow, not a regression."""
        return False

    def rewarded(self, group: Group) -> tuple[list[int], FloatArray]:
        """(replies of the policy with a reward, those rewards); no reply where there are fewer than two."""
        own = [n for n, role in enumerate(group.role) if role != "opponent"]
        rates = group_rewards(group) if self.needs_reward else win_rate_against(self.labelled(group), own)
        known = [n for n in own if np.isfinite(rates[n])]
        return (known, rates[known]) if len(known) > 1 else ([], rates[:0])

    def leave_one_out(self, rewards: FloatArray, ratio: Tensor) -> Tensor:
        """Advantages (n,): reward less baseline, less tau (log-ratio less the mean of the others' log-ratios).

        The baseline of given rewards is the mean of the others' (2402.14740). Win rates of the others among
        themselves average 1/2, and their rates against this very reply must not enter: they would stretch the
        gradient by K / (K - 1).
        """
        centre = without_one(rewards) if self.needs_reward else rewards - 0.5
        n = len(rewards)
        return constant(centre, ratio) - self.tau * n / (n - 1) * (ratio - ratio.mean())

    def exact_gain(self, P: FloatArray, log_policy: FloatArray, log_ref: FloatArray) -> FloatArray:
        """Advantages (n,) of a game's actions under the policy itself, whose mean is 0."""
        if self.needs_reward:
            raise ConfigError("a matrix game has P and no rewards: reward must be 'win_rate'")
        p = np.exp(log_policy)
        gain = self.payoffs(P) @ p - self.tau * (log_policy - log_ref)
        return np.asarray(gain - p @ gain, dtype=np.float64)


def group_rewards(group: Group) -> FloatArray:
    """The rewards (N,) of a group. Raises ConfigError where the oracle gave none."""
    if group.reward is None:
        raise ConfigError("these options train on rewards, and the oracle gave none; check:number is one that does")
    return np.asarray(group.reward.detach().cpu().numpy(), dtype=np.float64)


def without_one(values: FloatArray) -> FloatArray:
    """Each value less the mean of the others: (n,), n > 1."""
    return np.asarray((values - values.mean()) * len(values) / (len(values) - 1), dtype=np.float64)
