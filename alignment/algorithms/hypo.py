"""HyPO, hybrid preference optimisation (2406.01462): DPO on pairs, and KL to the reference on own samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import mean_log_odds
from alignment.pair_losses import PairLossMethod, Side, logistic
from alignment.regression import no_loss, relative_logp
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class HyPO(PairLossMethod):
    """-log s(beta u) + kl KL(pi || ref), u the pair's log-ratio to the reference; `step` = 1 / beta, `kl` is lambda.

    The KL is the score-function estimate on the round's samples of pi_t, each against the mean log-ratio of the others.
    The paper draws afresh at every step; here a sample is weighted by min(pi / pi_t, `cap`), so that the gradient stays
    that of KL(pi || ref) as the fit moves on. Replayed samples are not pi_t's, so leave `replay` at 0. Pairs are the
    policy's own where the paper has given ones. kl 0 is DPO. The paper's lambda is of order 1e-4 (unverified).
    """

    name: ClassVar[str] = "hypo"
    arxiv: ClassVar[str] = "2406.01462"
    game: ClassVar[str] = "none (Bradley-Terry)"

    step: float = 10.0
    kl: float = 1e-4
    cap: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.kl >= 0 and np.isfinite(self.kl)):
            raise ValueError(f"kl must be a number >= 0, not {self.kl}")
        if not self.cap >= 1:
            raise ValueError(f"cap must be at least 1, not {self.cap}")

    def phases(self, round: int) -> tuple[Phase, ...]:
        return (Phase("fit", True, "policy", "policy", ("start", "policy"), "policy", round=round),)

    def cost(self, won: Side, lost: Side, softness: float = 0.0) -> Tensor:
        return logistic((won.ratio - lost.ratio) / self.step)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        return super().loss(group, phase) + self.kl * self.divergence(group)

    def divergence(self, group: Group) -> Tensor:
        """KL(pi || ref) from the group's responses with a verdict, unbiased while no weight reaches the cap.

        mean_i w_i h_i - b_i (w_i - 1): h the log-ratio to the reference, w = pi / pi_t, b_i one more than the others'
        mean h. At pi = pi_t the gradient is mean_i (h_i - mean of others) grad log pi_i.
        """
        used = np.flatnonzero(np.isfinite(mean_log_odds(group.table))).tolist()
        if len(used) < 2:
            return no_loss(group)
        ratio = relative_logp(group, {"start": 1.0})[used]
        weight = relative_logp(group, {"policy": 1.0})[used].clamp(max=float(np.log(self.cap))).exp()
        held = ratio.detach()
        baseline = 1.0 + (held.sum() - held) / (len(used) - 1)
        return (weight * ratio - baseline * (weight - 1.0)).mean()

    def expected(self, P: FloatArray, state: State, softness: float) -> Callable[[Tensor], Tensor]:
        import torch

        pairs, reference = super().expected(P, state, softness), torch.from_numpy(state.log_ref)

        def mean_cost(logits: Tensor) -> Tensor:
            logp = torch.log_softmax(logits, 0)
            return pairs(logits) + self.kl * (logp.exp() * (logp - reference)).sum()

        return mean_cost
