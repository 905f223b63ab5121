"""Chi-squared preference optimisation (2407.13399): DPO whose implicit reward also grows with the ratio itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import State, register
from alignment.pair_losses import PairLossMethod, Side, logistic
from prefeval.games import bradley_terry, log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 20.0  # nats of log rho beyond which rho grows no more: e^20 is out of reach, and fp32 sums stay finite


@register
@dataclass(frozen=True, kw_only=True)
class Chi2PO(PairLossMethod):
    """-log s(clip(beta phi(rho_w) - beta phi(rho_l))), phi(rho) = gamma rho + log rho, rho = pi / ref.

    `step` = 1 / beta. The optimum is regularised by KL and chi-squared together: a pessimism that keeps rho, and not
    only its logarithm, from growing. gamma 1 is the paper's, gamma 0 is DPO. Margins are clipped to +-`clip`, twice the
    largest reward (whose value in the experiments is unverified): beyond it a pair has no gradient.
    """

    name: ClassVar[str] = "chi2_po"
    arxiv: ClassVar[str] = "2407.13399"
    game: ClassVar[str] = "none (Bradley-Terry)"

    step: float = 10.0
    gamma: float = 1.0
    clip: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.gamma >= 0 and np.isfinite(self.gamma)):
            raise ValueError(f"gamma must be a number >= 0, not {self.gamma}")
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, not {self.clip}")

    def cost(self, won: Side, lost: Side, softness: float = 0.0) -> Tensor:
        margin = (self.link(won.ratio) - self.link(lost.ratio)) / self.step
        return logistic(margin.clamp(-self.clip, self.clip))

    def link(self, ratio: Tensor) -> Tensor:
        """phi(rho) of log rho."""
        return ratio + self.gamma * ratio.clamp(max=_LARGEST).exp()

    def population(self, P: FloatArray, state: State) -> State:
        """phi(rho) = step r + c, r the Bradley-Terry fit of P under pi_t and c what makes pi a policy."""
        from scipy.optimize import brentq  # here: games of other methods do without
        from scipy.special import wrightomega

        rewards = self.step * bradley_terry(self.payoffs(P), np.exp(state.log_policy))

        def ratios(c: float) -> FloatArray:
            if self.gamma == 0:
                return rewards + c
            return np.asarray(rewards + c - wrightomega(rewards + c + np.log(self.gamma)), dtype=np.float64)

        def surplus(c: float) -> float:
            return float(np.logaddexp.reduce(state.log_ref + ratios(c)))

        # All phi at most 0 leave rho at most 1, all at least gamma leave it at least 1.
        c = brentq(surplus, -rewards.max() - 1.0, self.gamma - rewards.min() + 1.0, xtol=1e-14)
        return State(log_normalise(state.log_ref + ratios(c)), state.log_ref, state.round + 1)
