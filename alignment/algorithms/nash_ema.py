"""Nash-EMA (2312.00886): the opponent is an exponential moving average of the policy's own parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.anchored import AnchoredMethod, Fit, pull
from alignment.regression import check_pull


@register
@dataclass(frozen=True, kw_only=True)
class NashEMA(AnchoredMethod):
    """pi_{t+1} ~ pi_t^{1 - a tau} ref^{a tau} exp(a P(y > ema_t)); then ema <- decay ema + (1 - decay) pi_{t+1}.

    The average is one of parameters (of logits in games): a cheap stand-in for the average iterate, without guarantee.
    The policy's responses are compared with as many of the average; the paper takes a policy gradient, this is its
    mirror-descent step as a regression. decay 0 is INPO up to the opponent's own samples.
    """

    name: ClassVar[str] = "nash_ema"
    arxiv: ClassVar[str] = "2312.00886"
    game: ClassVar[str] = "regularised"

    step: float = 1.0
    tau: float = 0.1
    decay: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pull(self.step, self.tau)
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), not {self.decay}")
        if self.pairs != "all":
            raise ValueError("nash_ema compares with an opponent's responses: pairs must be 'all'")

    def fits(self, round: int) -> tuple[Fit, ...]:
        weights = pull("policy", self.step * self.tau, "start")
        phase = Phase(
            "fit", True, "policy", "policy", tuple(weights), "policy", opponent="ema", round=round,
            output_average="ema", average_weight=1.0 - self.decay, average_parameters=True,
        )  # fmt: skip
        return (Fit(phase, weights, self.step),)
