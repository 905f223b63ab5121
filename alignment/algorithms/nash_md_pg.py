"""Nash-MD-PG (2312.00886): the policy gradient of the regularised game against a mixture with the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import win_rate_against
from alignment.regression import PairMethod, constant, no_loss, relative_logp
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class NashMDPG(PairMethod):
    """Gradient E[grad log pi(y) (P(y > y') - 1/2 - tau log pi / ref (y))], y ~ pi, y' ~ pi^{1 - mixture} ref^{mixture}.

    The KL part is a reward-to-go: token t is charged with the log-ratios of t and what follows, the exact
    score-function gradient with less variance. (TRL charges the log-ratio of t alone: another, greedy, objective.) Each
    response is compared with all opponents of its prompt. mixture 0.125 to 0.375 worked best in the paper; 0 is
    self-play. `step` is the size of the exact gradient step on logits in games; for language models the learning rate
    rules, and a round should be few steps, since nothing corrects for samples that are no longer the policy's.
    """

    name: ClassVar[str] = "nash_md_pg"
    arxiv: ClassVar[str] = "2312.00886"
    game: ClassVar[str] = "regularised"

    step: float = 1.0
    tau: float = 0.1
    mixture: float = 0.125

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.tau >= 0 and np.isfinite(self.tau)):
            raise ValueError(f"tau must be a number >= 0, not {self.tau}")
        if not 0 <= self.mixture <= 1:
            raise ValueError(f"mixture must lie in [0, 1], not {self.mixture}")
        if self.pairs != "all":
            raise ValueError("nash_md_pg compares with all opponents: pairs must be 'all'")

    @property
    def has_minimiser(self) -> bool:
        """A gradient, not a regression."""
        return False

    def phases(self, round: int) -> tuple[Phase, ...]:
        mix = ("start", self.mixture) if self.mixture > 0 else None
        phase = Phase(
            "fit", True, "policy", "policy", ("start",), "policy",
            opponent="policy", mix=mix, gradient_step=True, token_anchors=True, round=round,
        )  # fmt: skip
        return (phase,)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        opponents = [n for n, role in enumerate(group.role) if role == "opponent"]
        rates = win_rate_against(self.labelled(group), opponents)
        own = [n for n, role in enumerate(group.role) if role != "opponent" and np.isfinite(rates[n])]
        if not own:
            return no_loss(group)
        if group.token_logp is None or group.token_anchors is None:  # a game: a response is one token
            logp = group.logp[own][:, None]
            ratio = relative_logp(group, {"start": 1.0})[own][:, None].detach()
        else:
            logp = group.token_logp[own]
            ratio = (logp - group.token_anchors["start"][own].to(logp)).detach()
        to_go = ratio.flip(1).cumsum(1).flip(1)
        gain = constant(rates[own] - 0.5, logp)[:, None] - self.tau * to_go
        return -(gain * logp).sum() / len(own)

    def population(self, P: FloatArray, state: State) -> State:
        """One step along the exact gradient with respect to the logits."""
        p, log_policy = np.exp(state.log_policy), state.log_policy
        opponent = np.exp(log_normalise((1.0 - self.mixture) * log_policy + self.mixture * state.log_ref))
        gain = self.payoffs(P) @ opponent - 0.5 - self.tau * (log_policy - state.log_ref)
        slope = p * (gain - p @ gain)
        return State(log_normalise(log_policy + self.step * slope), state.log_ref, state.round + 1)
