"""MinorDPO (2408.09834): DPO that stops pushing a loser down once it is less likely than under the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alignment.algorithm import register
from alignment.pair_losses import KINKED, PairLossMethod, Side, logistic, positive

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class MinorDPO(PairLossMethod):
    """-log s(beta (lw - lw_ref) - beta max(0, ll - ll_ref)), `step` = 1 / beta.

    DPO wherever all losers are above the reference; a loser at the reference itself is still pushed, so that the first
    step from there is DPO's. With soft labels either response of a pair is the loser with the weight of its verdict.
    Its kinks make for a dead zone: with soft labels and win rates p against pi_t = ref, the reference itself is the
    minimiser as long as no 2 p - 1 exceeds the smallest p. There is one minimiser: the cost is convex in log pi / ref,
    and a policy with less than its whole mass could always be bettered.
    """

    name: ClassVar[str] = "minor_dpo"
    arxiv: ClassVar[str] = "2408.09834"
    game: ClassVar[str] = "none (Bradley-Terry)"

    step: float = 10.0

    @property
    def softness(self) -> tuple[float, ...]:
        return KINKED

    def cost(self, won: Side, lost: Side, softness: float = 0.0) -> Tensor:
        return logistic((won.ratio - positive(lost.ratio, softness)) / self.step)
