"""IPO-MD (2403.08635): IPO's regression on samples of a mixture of policy and reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alignment.algorithm import Group, Phase, register
from alignment.anchored import AnchoredMethod, Fit
from alignment.regression import pair_regression, relative_logp

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class IPOMD(AnchoredMethod):
    """pi_{t+1} ~ ref exp(step P(y > M)), M = pi_t^{1 - mixture} ref^{mixture}.

    `step` = 1 / tau of IPO (2310.12036). `mixture` 0 is online IPO, whose fixed point is the equilibrium of the
    regularised game; in exact play only small steps stay near it. Samples come token by token from M.
    `length_average` divides each log-ratio by its tokens first, as TRL's offline "ipo" does: another loss, whose steps
    are not comparable.
    """

    name: ClassVar[str] = "ipo_md"
    arxiv: ClassVar[str] = "2403.08635"
    game: ClassVar[str] = "regularised"

    step: float = 10.0
    mixture: float = 0.125
    length_average: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mixture <= 1:
            raise ValueError(f"mixture must lie in [0, 1], not {self.mixture}")

    def fits(self, round: int) -> tuple[Fit, ...]:
        mix = ("start", self.mixture) if self.mixture > 0 else None
        phase = Phase("fit", True, "policy", "policy", ("start",), "policy", mix=mix, round=round)
        return (Fit(phase, {"start": 1.0}, self.step),)

    @property
    def has_minimiser(self) -> bool:
        return not self.length_average and super().has_minimiser

    def loss(self, group: Group, phase: Phase) -> Tensor:
        if not self.length_average:
            return super().loss(group, phase)
        h = relative_logp(group, {"start": 1.0}) / group.length.to(group.logp)
        return pair_regression(group, h, self.step * (self.labelled(group) - 0.5), self.pairs)
