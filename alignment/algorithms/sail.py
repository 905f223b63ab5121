"""SAIL, self-improving online alignment (2406.15567): DPO's loss, and how its data move with the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alignment.algorithm import Group, Phase, State, register
from alignment.labels import IntArray
from alignment.logistic import cross_entropy, known_pairs
from alignment.regression import PairMethod, no_loss, pair_difference, relative_logp
from prefeval.games import log_normalise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

LOG_2 = float(np.log(2.0))  # DPO's loss at the reference: the baseline of the score function


@register
@dataclass(frozen=True, kw_only=True)
class SAIL(PairMethod):
    """DPO's loss on labelled pairs + `coefficient` times what the bilevel problem adds, by `variant`.

    Online RLHF with the reward beta log pi / ref is one level: J = E[-log s(beta u)] over pairs whose replies, labels
    or both come from pi itself, and its gradient has a part for each (labelled pairs; what is added):
    'PR': replies of the policy, labels of the oracle; + E[-log s(beta u) grad(log pi(y1) + log pi(y2))].
    'PP': pairs of the start, labelled by the oracle; + the gradient of J on replies of the policy, each pair labelled
    by the policy's own s(beta u): J is then the mean entropy H(s(beta u)), and replies and labels both move.
    'DP': pairs of the start, labelled by the oracle; + the gradient of the entropy on these very pairs.
    Labels of the policy are taken in expectation, not drawn. A loss less a baseline of log 2 weighs the score function.
    coefficient 0 is DPO, 1 with 'PR' the exact gradient of J; what the experiments used could not be verified, nor how
    they mixed the two kinds of data (here: two sums). It is a gradient of the moment: few steps a round.
    `step` is the size of the exact gradient step on logits in games; for language models the learning rate rules.
    """

    name: ClassVar[str] = "sail"
    arxiv: ClassVar[str] = "2406.15567"
    game: ClassVar[str] = "none (Bradley-Terry)"

    step: float = 1.0
    beta: float = 0.1
    variant: Literal["PR", "PP", "DP"] = "PR"
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.beta > 0 and 0 <= self.coefficient < np.inf):
            raise ValueError("beta must be positive and coefficient a number >= 0")
        if self.pairs != "all":
            raise ValueError("sail's gradient is a mean over independent pairs: pairs must be 'all'")

    @property
    def has_minimiser(self) -> bool:
        """A gradient, not a regression."""
        return False

    def phases(self, round: int) -> tuple[Phase, ...]:
        sampler = "start" if self.variant == "DP" else "policy"
        opponent = "start" if self.variant == "PP" else None
        phase = Phase(
            "fit", True, sampler, "policy", ("start",), "policy",
            opponent=opponent, opponent_logp=opponent is not None, gradient_step=True, round=round,
        )  # fmt: skip
        return (phase,)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        labels, h = self.labelled(group), self.beta * relative_logp(group, {"start": 1.0})
        own = group.rows("policy")
        data = group.rows("opponent") if self.variant == "PP" else own
        i, j = _upper(*known_pairs(labels, data, data))
        if len(i) == 0:
            return no_loss(group)
        fit = cross_entropy(pair_difference(h, i, j), labels[i, j])
        if self.variant == "PR":
            return (fit + self.coefficient * _moved(fit, group, i, j)).mean()
        if self.variant == "PP":
            i, j = (np.asarray(own)[index] for index in np.triu_indices(len(own), 1))
        doubt = _entropy(pair_difference(h, i, j))
        added = doubt if self.variant == "DP" else doubt + _moved(doubt, group, i, j)
        return fit.mean() + self.coefficient * added.mean() if len(i) else fit.mean()

    def population(self, P: FloatArray, state: State) -> State:
        """One step along the exact gradient with respect to the logits."""
        p, ref = np.exp(state.log_policy), np.exp(state.log_ref)
        h = self.beta * (state.log_policy - state.log_ref)
        z = h[:, None] - h[None, :]
        won = 0.5 * (1.0 + np.tanh(0.5 * z))
        table = self.payoffs(P)
        data = p if self.variant == "PR" else ref
        slope = 2.0 * self.beta * data * ((won - table) @ data)
        loss = np.logaddexp(0.0, z) - table * z
        if self.variant != "PR":
            loss = np.logaddexp(0.0, z) - won * z
            pairs = p if self.variant == "PP" else ref
            slope = slope - self.coefficient * 2.0 * self.beta * pairs * ((z * won * (1.0 - won)) @ pairs)
        if self.variant != "DP":
            slope = slope + self.coefficient * 2.0 * p * (loss @ p - p @ loss @ p)
        return State(log_normalise(state.log_policy - self.step * slope), state.log_ref, state.round + 1)


def _upper(i: IntArray, j: IntArray) -> tuple[IntArray, IntArray]:
    return i[i < j], j[i < j]


def _moved(value: Tensor, group: Group, i: IntArray, j: IntArray) -> Tensor:
    """The score function of each pair's replies, weighted by its value less the baseline: (pairs,)."""
    return (value.detach() - LOG_2) * (group.logp[i.tolist()] + group.logp[j.tolist()])


def _entropy(margin: Tensor) -> Tensor:
    """H(s(margin)) in nats: (pairs,)."""
    from torch.nn.functional import logsigmoid

    return -(margin.sigmoid() * logsigmoid(margin) + (-margin).sigmoid() * logsigmoid(-margin))
