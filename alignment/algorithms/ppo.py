"""PPO's clipped surrogate (1707.06347) over several passes on the same replies, with advantages by the group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.regression import constant, no_loss
from alignment.reinforce import ReinforceMethod
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 1e-4  # beside the standard deviation, as in TRL: rewards that are all equal have none


@register
@dataclass(frozen=True, kw_only=True)
class PPO(ReinforceMethod):
    """-mean over replies of sum_t min(q_t A, clip(q_t, 1 - clip, 1 + clip) A), q_t = pi / pi_t of token t.

    There is no value network: all tokens of a reply share its advantage A, which the group gives. 'leave_one_out' is
    RLOO's, so the first step is `rloo`'s whatever `clip`, and without clip ('clip: .inf') every step is importance
    sampling. 'standardised' is GRPO's (2402.03300): (R - mean) / (standard deviation + 1e-4) of the group. The KL to
    the reference is part of R, taken once, of the policy that sampled (GRPO has it in the loss, and divides by length,
    which is not done here). `ratio` 'sequence' clips one ratio for a whole reply (TRL's RLOO). Passes over the replies
    are `fit.epochs`; `passes` and `step` are those of games.
    """

    name: ClassVar[str] = "ppo"
    arxiv: ClassVar[str] = "1707.06347"
    game: ClassVar[str] = "regularised"

    clip: float = 0.2
    advantage: Literal["leave_one_out", "standardised"] = "leave_one_out"
    ratio: Literal["token", "sequence"] = "token"
    passes: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.clip > 0 or self.passes < 1:
            raise ValueError("clip must be positive and passes at least 1")

    def phases(self, round: int) -> tuple[Phase, ...]:
        phase = Phase(
            "fit", True, "policy", "policy", ("policy", "start"), "policy",
            gradient_step=True, token_anchors=True, round=round,
        )  # fmt: skip
        return (phase,)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        own, rewards = self.rewarded(group)
        if not own:
            return no_loss(group)
        before, start = (group.anchors[slot].detach().to(group.logp) for slot in ("policy", "start"))
        gain = self.advantages(rewards, (before - start)[own])[:, None]
        if group.token_logp is None or group.token_anchors is None:  # a game: a response is one token
            moved, real = (group.logp - before)[own][:, None], gain.new_ones(len(own), 1)
        else:
            moved = group.token_logp[own] - group.token_anchors["policy"][own].detach().to(gain)
            place = constant(np.arange(moved.shape[1], dtype=np.float64), gain)
            real = (place[None, :] < group.length[own][:, None]).to(gain)
        if self.ratio == "sequence":
            moved, real = moved.sum(1, keepdim=True), gain.new_ones(len(own), 1)
        q = moved.exp()
        return -(self.surrogate(q, gain) * real).sum() / len(own)

    def surrogate(self, q: Tensor, gain: Tensor) -> Tensor:
        """min(q A, clip(q) A): no slope once q has gone far enough the way that A points (1707.06347, eq. 7)."""
        import torch

        return torch.minimum(q * gain, q.clamp(1.0 - self.clip, 1.0 + self.clip) * gain)

    def advantages(self, rewards: FloatArray, ratio: Tensor) -> Tensor:
        """(n,) of rewards (n,) and the log-ratios (n,) of the policy that sampled to the reference."""
        if self.advantage == "leave_one_out":
            return self.leave_one_out(rewards, ratio)
        total = constant(rewards, ratio) - self.tau * ratio
        return (total - total.mean()) / (total.std() + SMALL)

    def population(self, P: FloatArray, state: State) -> State:
        """`passes` steps along the exact gradient of the surrogate; groups are taken to be large."""
        begun = state.log_policy
        gain = self.exact_gain(P, begun, state.log_ref)
        if self.advantage == "standardised":
            gain = gain / (np.sqrt(np.exp(begun) @ gain**2) + SMALL)
        current = begun
        for _ in range(self.passes):
            q = np.exp(current - begun)
            open_ = np.where(gain > 0, q < 1.0 + self.clip, q > 1.0 - self.clip)
            slope = np.where(open_, gain, 0.0)
            p = np.exp(current)
            current = log_normalise(current + self.step * p * (slope - p @ slope))
        return State(current, state.log_ref, state.round + 1)
