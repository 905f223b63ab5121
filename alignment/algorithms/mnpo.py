"""MNPO, multiplayer Nash preference optimisation (2509.23102), time-dependent form: several past selves as anchors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.anchored import AnchoredMethod, Fit
from alignment.regression import check_pull


@register
@dataclass(frozen=True, kw_only=True)
class MNPO(AnchoredMethod):
    """pi_{t+1} ~ prod_j pi_{t-j}^{(1 - a tau) lambda_j} ref^{a tau} exp(a P(y > pi_t)), j = 0 .. history - 1.

    `step` a = 1 / eta (eta 0.0075, so a = 133, and a tau = 1/3). lambda_j is proportional to decay^j; policies before
    the first are the start. The paper leaves the weights open; `history` 1 is INPO. HT-MNPO, an oracle for every
    player, is this method with a mixture of oracles.
    """

    name: ClassVar[str] = "mnpo"
    arxiv: ClassVar[str] = "2509.23102"
    game: ClassVar[str] = "regularised"

    step: float = 1.0 / 0.0075
    tau: float = 0.0025
    history: int = 2
    decay: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pull(self.step, self.tau)
        if self.history < 1 or not 0 < self.decay <= 1:
            raise ValueError(f"history must be at least 1 and decay in (0, 1], not {self.history} and {self.decay}")

    def fits(self, round: int) -> tuple[Fit, ...]:
        past = ["policy", *(f"past{j}" for j in range(1, self.history))]
        powers = [self.decay**j for j in range(self.history)]
        own = 1.0 - self.step * self.tau
        weights = {name: own * p / sum(powers) for name, p in zip(past, powers, strict=True)}
        if own < 1.0:
            weights["start"] = 1.0 - own
        older = tuple(zip(past[1:], past[:-1], strict=True))  # past1 <- policy, past2 <- past1, ...
        phase = Phase("fit", True, "policy", "policy", tuple(weights), "policy", keeps=older, round=round)
        return (Fit(phase, weights, self.step),)
