"""RPO, regularised preference optimisation (2405.16436): DPO, and the likelihood of what was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import register
from alignment.pair_losses import PairLossMethod, Side, logistic

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class RPO(PairLossMethod):
    """-log s(beta u) + eta beta (-log pi(y_w)), u the pair's log-ratio to the reference; `step` = 1 / beta.

    The paper: beta 0.01 and eta beta 0.005, so eta = 0.5. Log pi(y_w) is the sum over tokens here. TRL's `rpo_alpha`,
    now `loss_type` sigmoid and sft with weights, takes the mean over the tokens of the batch: `length_average`, with
    alpha = eta beta, is that for batches of one pair, and else weighs short replies' tokens more. Divide alpha by the
    usual length to compare the two. eta 0 is DPO.
    Not relative preference optimisation, nor iterative reasoning PO, of the same letters.
    """

    name: ClassVar[str] = "rpo"
    arxiv: ClassVar[str] = "2405.16436"
    game: ClassVar[str] = "none (Bradley-Terry)"

    step: float = 100.0
    eta: float = 0.5
    length_average: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.eta >= 0 and np.isfinite(self.eta)):
            raise ValueError(f"eta must be a number >= 0, not {self.eta}")

    def cost(self, won: Side, lost: Side, softness: float = 0.0) -> Tensor:
        likelihood = won.logp / won.length if self.length_average else won.logp
        return logistic((won.ratio - lost.ratio) / self.step) - self.eta / self.step * likelihood
