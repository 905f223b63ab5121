"""ONPO with a moving magnet: optimism and regularisation together (our own; section 13.8 of the reference)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.anchored import Fit, MagneticMethod
from alignment.regression import moved_magnet


@register
@dataclass(frozen=True, kw_only=True)
class ONPOMagnet(MagneticMethod):
    """aux <- [aux magnet^{a alpha} exp(a P(y > pi))]^{1 / (1 + a alpha)}, pi likewise from the new aux; magnet <- pi.

    ONPO's (2502.16852) two fits on the same data with MPO's (2410.16714) magnet in both, moved every `refresh` rounds.
    The best last iterate of all methods in exact play of the plain game.
    """

    name: ClassVar[str] = "onpo_magnet"
    arxiv: ClassVar[str] = "2502.16852, 2410.16714"
    game: ClassVar[str] = "plain"

    step: float = 1.0
    alpha: float = 0.05

    def fits(self, round: int) -> tuple[Fit, ...]:
        anchors, moves = ("aux", "magnet"), moved_magnet(round, self.refresh)
        aux = Phase("aux", True, "policy", "aux", anchors, "aux", round=round)
        main = Phase("main", False, "policy", "aux", anchors, "policy", copies=moves, round=round)
        return self.magnetic(aux), self.magnetic(main)
