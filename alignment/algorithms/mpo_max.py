"""MPO, maximum preference optimisation (2312.16430): the chance of ranking a pair right, with no reference in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import register
from alignment.pair_losses import PairLossMethod, Side

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class MPOMax(PairLossMethod):
    """Minimises -s((lw - ll) / step) - beta E_ref[log pi]; the paper's sigmoid has `step` 1.

    The sigmoid itself, not its logarithm: pairs that are ranked clearly wrong have no more pull than clear ones, and
    the loss is not convex. E_ref[log pi] is the likelihood of samples of the reference, the paper's stand-in for a KL:
    both terms are taken on the responses of the start. The weighting of the terms and beta's value are our choice
    (unverified), and the paper's third term, on pretraining text, is left out. The start is an anchor for the KL in the
    log alone. The update of a game is the minimum that Newton steps from pi_t reach.
    Not magnetic preference optimisation (`mpo`).
    """

    name: ClassVar[str] = "mpo_max"
    arxiv: ClassVar[str] = "2312.16430"
    game: ClassVar[str] = "none (ranking)"
    sampler: ClassVar[str] = "start"

    step: float = 1.0
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.beta >= 0 and np.isfinite(self.beta)):
            raise ValueError(f"beta must be a number >= 0, not {self.beta}")

    @property
    def has_minimiser(self) -> bool:
        return self.beta > 0 and super().has_minimiser

    def cost(self, won: Side, lost: Side, softness: float = 0.0) -> Tensor:
        ranked = ((won.logp - lost.logp) / self.step).sigmoid()
        return -ranked - 0.5 * self.beta * (won.logp + lost.logp)
