"""RSPO, regularised self-play (2503.00030): SPPO's or GPO's regression with KL divergences to the reference added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Algorithm, Group, Phase, State, get_algorithm, register
from alignment.labels import win_rate_against
from alignment.regression import PairMethod, no_loss
from alignment.solving import Part, added, forward_kl, newton, reverse_kl, spread
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True, kw_only=True)
class RSPO(PairMethod):
    """The base's loss on replies of pi_t, + forward KL(ref || pi) + reverse KL(pi || ref), with weights of those names.

    `base` and `normaliser` are those of `sppo` (published: log Z = a / 2) or `gpo` (published: 0); 'pairwise' regresses
    differences, and then the loss has a minimiser. Both weights 0 are the base. Forward KL is estimated on replies of
    the reference as r - 1 - log r, r = pi / ref, reverse KL on those of pi_t as w log(pi / ref) - w + 1, w = pi / pi_t:
    right on average, and flat where pi = pi_t = ref. How the paper estimates them could not be verified. With reverse
    KL alone the fixed point is the equilibrium of the regularised game, at tau = reverse / (4 step) with 'pairwise' and
    reverse / (2 step) with the published SPPO loss. Step 1 and weights 0.1 and 0.5 are our choice.
    """

    name: ClassVar[str] = "rspo"
    arxiv: ClassVar[str] = "2503.00030"
    game: ClassVar[str] = "regularised"

    step: float = 1.0
    forward: float = 0.1
    reverse: float = 0.5
    base: Literal["sppo", "gpo"] = "sppo"
    normaliser: Literal["published", "pairwise"] = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.forward < np.inf and 0 <= self.reverse < np.inf):
            raise ValueError(f"forward and reverse must be numbers >= 0, not {self.forward} and {self.reverse}")

    @property
    def method(self) -> Algorithm:
        """The base with this method's options."""
        options = {"normaliser": "pairwise"} if self.normaliser == "pairwise" else {}
        shared = {"labels": self.labels, "pairs": self.pairs, "labels_seed": self.labels_seed}
        return get_algorithm(self.base, step=self.step, **shared, **options)

    @property
    def has_minimiser(self) -> bool:
        return self.method.has_minimiser

    def phases(self, round: int) -> tuple[Phase, ...]:
        anchors = ("policy", "start") if self.forward or self.reverse else ("policy",)
        opponent = "start" if self.forward else None
        phase = Phase(
            "fit", True, "policy", "policy", anchors, "policy",
            opponent=opponent, opponent_logp=opponent is not None, round=round,
        )  # fmt: skip
        return (phase,)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        own = group.part(group.rows("policy"))
        known = np.flatnonzero(np.isfinite(win_rate_against(own.table, list(range(len(own.role))))))
        if len(known) == 0:
            return no_loss(group)
        total = self.method.loss(own, phase)
        if self.reverse:
            kept = own.part(known.tolist())
            weight = (kept.logp - kept.anchors["policy"].detach()).exp()
            ratio = kept.logp - kept.anchors["start"].detach()
            total = total + self.reverse * (weight * ratio - weight + 1.0).mean()
        others = group.rows("opponent")
        if self.forward and others:
            ratio = group.logp[others] - group.anchors["start"][others].detach()
            total = total + self.forward * (ratio.exp() - 1.0 - ratio).mean()
        return total

    def population(self, P: FloatArray, state: State) -> State:
        """The minimiser of the expected pairwise loss, by Newton where a KL leaves it without a closed form."""
        if not (self.forward or self.reverse):
            return self.method.population(P, state)
        p = np.exp(state.log_policy)
        target = self.method.population(P, state).log_policy - state.log_policy

        def loss(logits: FloatArray) -> Part:
            log_policy = log_normalise(logits)
            kl = [
                forward_kl(log_policy, state.log_ref).times(self.forward),
                reverse_kl(log_policy, state.log_ref).times(self.reverse),
            ]
            return added([spread(logits - state.log_policy, target, p), *kl])

        return State(newton(loss, state.log_policy, p), state.log_ref, state.round + 1)
