"""MPO, magnetic preference optimisation (2410.16714): mirror descent pulled to a magnet that follows the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.anchored import Fit, MagneticMethod
from alignment.regression import moved_magnet


@register
@dataclass(frozen=True, kw_only=True)
class MPO(MagneticMethod):
    """pi_{k+1} ~ [pi_k magnet^{a alpha} exp(a P(y > pi_k))]^{1 / (1 + a alpha)}; every `refresh` rounds magnet <- pi.

    `step` a is the inverse weight of KL(pi||pi_k). The regularisation is implicit and the magnet moves, so that the
    last iterate goes to the equilibrium of the plain game; `refresh` 1 would be multiplicative weights, which cycles.
    The paper trains by token-level policy gradient and released no code; this is its update as a regression.
    Not maximum preference optimisation (2312.16430).
    """

    name: ClassVar[str] = "mpo"
    arxiv: ClassVar[str] = "2410.16714"
    game: ClassVar[str] = "plain"

    step: float = 0.5

    def fits(self, round: int) -> tuple[Fit, ...]:
        moves = moved_magnet(round, self.refresh)
        phase = Phase("fit", True, "policy", "policy", ("policy", "magnet"), "policy", copies=moves, round=round)
        return (self.magnetic(phase),)
