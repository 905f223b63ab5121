"""Nash-MP, Nash mirror prox (2505.19731): two proximal steps with the regularisation kept implicit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.anchored import AnchoredMethod, Fit


@register
@dataclass(frozen=True, kw_only=True)
class NashMP(AnchoredMethod):
    """pi_{k+1/2} = argmin -P(pi > pi_k) + tau KL(pi||ref) + (tau / step) KL(pi||pi_k); pi_{k+1} against pi_{k+1/2}.

    Closed form: log pi = [log pi_k + step (log ref + P(y > opponent) / tau)] / (1 + step). `step` is the paper's eta:
    up to 2 tau KL(pi*||pi_k) falls by at least 1 / (1 + 2 tau) a round, beyond there is no guarantee. The closed form
    was reconstructed from the stated rate and checked against it (section 13.5 C).
    """

    name: ClassVar[str] = "nash_mp"
    arxiv: ClassVar[str] = "2505.19731"
    game: ClassVar[str] = "regularised"

    step: float = 0.2
    tau: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tau > 0:
            raise ValueError(f"tau must be a positive number, not {self.tau}")

    def fits(self, round: int) -> tuple[Fit, ...]:
        share = 1.0 / (1.0 + self.step)
        weights, step = {"policy": share, "start": 1.0 - share}, self.step * share / self.tau
        half = Phase("half", True, "policy", "policy", tuple(weights), "half", round=round)
        full = Phase("full", True, "half", "policy", tuple(weights), "policy", round=round)
        return Fit(half, weights, step), Fit(full, weights, step)
