"""COMAL, convergent meta-alignment (2410.23223): regularised play against a reference that is moved now and then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.anchored import AnchoredMethod, Fit, pull
from alignment.regression import check_pull, check_refresh, moved_magnet


@register
@dataclass(frozen=True, kw_only=True)
class COMAL(AnchoredMethod):
    """INPO's update with the reference replaced by the policy every `refresh` rounds.

    The last iterate goes to the equilibrium of the plain game for every tau. `step` a = 1 / eta of the released code
    (0.002 in the first stage, so a = 500; 0.1 afterwards), whose ratio is a tau = 1/3; it moves the reference every 12
    rounds and trains on the best against the second best of 5. Here the default is all pairs.
    """

    name: ClassVar[str] = "comal"
    arxiv: ClassVar[str] = "2410.23223"
    game: ClassVar[str] = "plain"

    step: float = 0.5
    tau: float = 0.1
    refresh: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pull(self.step, self.tau)
        check_refresh(self.refresh)

    def fits(self, round: int) -> tuple[Fit, ...]:
        weights, moves = pull("policy", self.step * self.tau, "magnet"), moved_magnet(round, self.refresh)
        phase = Phase("fit", True, "policy", "policy", tuple(weights), "policy", copies=moves, round=round)
        return (Fit(phase, weights, self.step),)
