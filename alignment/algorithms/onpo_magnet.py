"""ONPO with a moving magnet: optimism and regularisation together (our own; section 13.8 of the reference)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.anchored import AnchoredMethod, Fit
from alignment.regression import check_magnet, moved_magnet


@register
@dataclass(frozen=True, kw_only=True)
class ONPOMagnet(AnchoredMethod):
    """aux <- [aux magnet^{a alpha} exp(a P(y > pi))]^{1 / (1 + a alpha)}, pi likewise from the new aux; magnet <- pi.

    ONPO's (2502.16852) two fits on the same data with MPO's (2410.16714) magnet in both, moved every `refresh` rounds.
    The best last iterate of all methods in exact play of the plain game.
    """

    name: ClassVar[str] = "onpo_magnet"
    arxiv: ClassVar[str] = "2502.16852, 2410.16714"
    game: ClassVar[str] = "plain"

    step: float = 1.0
    alpha: float = 0.05
    refresh: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_magnet(self.alpha, self.refresh)

    def fits(self, round: int) -> tuple[Fit, ...]:
        share = 1.0 / (1.0 + self.step * self.alpha)
        weights, step = {"aux": share, "magnet": 1.0 - share}, self.step * share
        aux = Phase("aux", True, "policy", "aux", tuple(weights), "aux", round=round)
        moves = moved_magnet(round, self.refresh)
        main = Phase("main", False, "policy", "aux", tuple(weights), "policy", copies=moves, round=round)
        return Fit(aux, weights, step), Fit(main, weights, step)
