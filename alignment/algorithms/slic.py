"""SLiC-HF, sequence likelihood calibration (2305.10425): a hinge on log-probs, and likelihood of good replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import register
from alignment.pair_losses import KINKED, PairLossMethod, Side, positive

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class SLiC(PairLossMethod):
    """max(0, delta - lw + ll) + regulariser (-lw), log-probs summed over tokens; no reference in either term.

    `step` is delta, the lead in nats beyond which a pair costs nothing. The paper's second term is -log pi(y_ref), with
    y_ref the target of the SFT data or the best ranked of the sampled replies; there are no SFT targets in the loop,
    so y_ref is the winner of each pair: the best ranked, where a group has one pair. `regulariser` is the paper's
    lambda; its value and delta's are our choice (unverified). The start is an anchor for the KL in the log alone.
    regulariser 0 leaves the hinge, which any policy with leads of delta minimises.
    """

    name: ClassVar[str] = "slic"
    arxiv: ClassVar[str] = "2305.10425"
    game: ClassVar[str] = "none (ranking)"

    step: float = 1.0
    regulariser: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.regulariser >= 0 and np.isfinite(self.regulariser)):
            raise ValueError(f"regulariser must be a number >= 0, not {self.regulariser}")

    @property
    def has_minimiser(self) -> bool:
        return self.regulariser > 0 and super().has_minimiser

    @property
    def softness(self) -> tuple[float, ...]:
        return KINKED

    def cost(self, won: Side, lost: Side, softness: float = 0.0) -> Tensor:
        return positive(self.step - won.logp + lost.logp, softness) - self.regulariser * won.logp
