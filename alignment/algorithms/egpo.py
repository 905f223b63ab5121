"""EGPO, extragradient preference optimisation (2503.08942): look half a step ahead, then step from where you stood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.anchored import AnchoredMethod, Fit, pull
from alignment.regression import check_pull


@register
@dataclass(frozen=True, kw_only=True)
class EGPO(AnchoredMethod):
    """pi_{t+1/2} ~ B exp(a P(y > pi_t)), pi_{t+1} ~ B exp(a P(y > pi_{t+1/2})), B = pi_t^{1 - a tau} ref^{a tau}.

    `step` a is the paper's learning rate and tau its beta (0.1 in the released run, with one gradient step a half step:
    `fit.max_steps: 1`). Both fits start from pi_t. tau = 0 is mirror prox on the plain game. Each half step samples
    afresh, so a round costs twice the samples and verdicts of INPO's.
    """

    name: ClassVar[str] = "egpo"
    arxiv: ClassVar[str] = "2503.08942"
    game: ClassVar[str] = "regularised"

    step: float = 1.0
    tau: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pull(self.step, self.tau)

    def fits(self, round: int) -> tuple[Fit, ...]:
        weights = pull("policy", self.step * self.tau, "start")
        anchors = tuple(weights)
        half = Phase("half", True, "policy", "policy", anchors, "half", round=round)
        full = Phase("full", True, "half", "policy", anchors, "policy", round=round)
        return Fit(half, weights, self.step), Fit(full, weights, self.step)
