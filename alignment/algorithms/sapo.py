"""SAPO, self-augmented preference optimisation (2405.20830): demonstrations against their own rewritten segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.demonstrated import DemonstratedMethod


@register
@dataclass(frozen=True, kw_only=True)
class SAPO(DemonstratedMethod):
    """DPO's loss of a demonstration over the same text with a segment rewritten by the moving average of the policy.

    The average, decay 0.5 in parameters, is sampler and reference. It draws `segment` tokens anew from a random place
    in the demonstration; what stood behind them is kept, unless the new tokens end the turn. The released FIFO buffer
    of 2000 pairs is the run's option `replay`, in rounds, newest first. `step` = 1 / beta (0.1). Its other loss,
    ORPO, has no reference and is not here. Where a response is one token the exact update is ema (data / ema)^step,
    with an average in log space.
    """

    name: ClassVar[str] = "sapo"
    arxiv: ClassVar[str] = "2405.20830"
    game: ClassVar[str] = "none (demonstrations)"

    decay: float = 0.5
    segment: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1 or self.segment < 1:
            raise ValueError(
                f"decay must lie in [0, 1) and segment be at least 1 token, not {self.decay} and {self.segment}"
            )

    def phases(self, round: int) -> tuple[Phase, ...]:
        phase = Phase(
            "fit", True, "ema", "policy", ("ema",), "policy",
            output_average="ema", average_weight=1.0 - self.decay, average_parameters=True,
            demonstrations=True, segment=self.segment, verdicts=False, round=round,
        )  # fmt: skip
        return (phase,)
