"""Nash-MD (2312.00886) as a regression: mirror descent whose opponent is drawn a little towards the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.anchored import AnchoredMethod, Fit, pull
from alignment.regression import check_pull


@register
@dataclass(frozen=True, kw_only=True)
class NashMD(AnchoredMethod):
    """pi_{t+1} ~ M exp(a P(y > M)), M = pi_t^{1 - a tau} ref^{a tau}; INPO differs only in the opponent, pi_t.

    `step` a is the paper's eta_t. Samples come from M: exactly in games, token by token in language models (the
    sequence-level mixture cannot be sampled). With a constant step the fixed point is off by O(a tau).
    """

    name: ClassVar[str] = "nash_md"
    arxiv: ClassVar[str] = "2312.00886"
    game: ClassVar[str] = "regularised"

    step: float = 1.0
    tau: float = 0.125

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pull(self.step, self.tau)

    def fits(self, round: int) -> tuple[Fit, ...]:
        weight = self.step * self.tau
        weights = pull("policy", weight, "start")
        anchors = tuple(weights)
        mix = ("start", weight) if weight > 0 else None
        phase = Phase("fit", True, "policy", "policy", anchors, "policy", mix=mix, round=round)
        return (Fit(phase, weights, self.step),)
