"""MPO, magnetic preference optimisation (2410.16714): mirror descent pulled to a magnet that follows the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.anchored import AnchoredMethod, Fit
from alignment.regression import check_magnet, moved_magnet


@register
@dataclass(frozen=True, kw_only=True)
class MPO(AnchoredMethod):
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
    alpha: float = 0.1
    refresh: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_magnet(self.alpha, self.refresh)

    def fits(self, round: int) -> tuple[Fit, ...]:
        share = 1.0 / (1.0 + self.step * self.alpha)
        weights, moves = {"policy": share, "magnet": 1.0 - share}, moved_magnet(round, self.refresh)
        phase = Phase("fit", True, "policy", "policy", tuple(weights), "policy", copies=moves, round=round)
        return (Fit(phase, weights, self.step * share),)
