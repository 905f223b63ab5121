"""ONPO, optimistic Nash policy optimisation (2502.16852): last-iterate play of the plain game."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.anchored import AnchoredMethod, Fit, pull
from alignment.regression import check_pull


@register
@dataclass(frozen=True, kw_only=True)
class ONPO(AnchoredMethod):
    """aux_{t+1} ~ aux_t exp(a P(y > pi_t)), pi_{t+1} ~ aux_{t+1} exp(a P(y > pi_t)); both fits use the same data.

    `step` a is the paper's eta, a learning rate (1 / eta = 0.01, so a = 100). `one_fit` is the derived variant:
    pi_{t+1} is fitted against aux_t with the doubled target and aux moves half way to it in log space; the same in
    exact games, another method away from the minimiser. tau > 0 is not in the paper: both steps then use
    aux^{1 - a tau} ref^{a tau} as their anchor and play the regularised game.
    """

    name: ClassVar[str] = "onpo"
    arxiv: ClassVar[str] = "2502.16852"
    game: ClassVar[str] = "plain"

    step: float = 100.0
    tau: float = 0.0
    one_fit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pull(self.step, self.tau)
        if self.one_fit and self.tau > 0:
            raise ValueError("one_fit needs tau = 0")

    def fits(self, round: int) -> tuple[Fit, ...]:
        weights = pull("aux", self.step * self.tau, "start")
        anchors = tuple(weights)
        if self.one_fit:
            main = Phase("main", True, "policy", "policy", anchors, "policy", output_average="aux", round=round)
            return (Fit(main, weights, 2.0 * self.step),)
        aux = Phase("aux", True, "policy", "aux", anchors, "aux", round=round)
        main = Phase("main", False, "policy", "aux", anchors, "policy", round=round)
        return Fit(aux, weights, self.step), Fit(main, weights, self.step)
