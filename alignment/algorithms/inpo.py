"""INPO, iterative Nash policy optimisation (2407.00617): no-regret play of the regularised game."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from alignment.algorithm import Phase, register
from alignment.anchored import AnchoredMethod, Fit, pull
from alignment.regression import check_pull


@register
@dataclass(frozen=True, kw_only=True)
class INPO(AnchoredMethod):
    """pi_{t+1} ~ pi_t^{1 - a tau} ref^{a tau} exp(a P(y > pi_t)).

    The paper's eta is an INVERSE step: `step` a = 1 / eta. Its settings are eta = 0.005 (a = 200), tau = eta / 3, hard
    labels and a tournament among 8 responses (`labels='hard', pairs='tournament'`); the defaults keep its step and tau
    with the pairs and labels its theorem needs. `schedule='decaying'` is the theorem's eta_t = tau (t + 2) / 2, t from
    1, which ignores `step`. tau = 0 is online mirror descent (multiplicative weights).
    """

    name: ClassVar[str] = "inpo"
    arxiv: ClassVar[str] = "2407.00617"
    game: ClassVar[str] = "regularised"

    step: float = 200.0
    tau: float = 1.0 / 600.0
    schedule: Literal["constant", "decaying"] = "constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pull(self.step if self.schedule == "constant" else 0.0, self.tau)
        if self.schedule == "decaying" and self.tau == 0:
            raise ValueError("schedule 'decaying' needs tau > 0")

    def step_at(self, round: int) -> float:
        return self.step if self.schedule == "constant" else 2.0 / (self.tau * (round + 2))

    def fits(self, round: int) -> tuple[Fit, ...]:
        a = self.step_at(round)
        weights = pull("policy", a * self.tau, "start")
        return (Fit(Phase("fit", True, "policy", "policy", tuple(weights), "policy", round=round), weights, a),)
