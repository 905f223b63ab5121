"""Methods that say what a pair costs where its first response wins: loss and exact update follow from that formula.

The cost is given for tensors of any shape, so the same lines make the loss of a group's pairs and its expectation over
all pairs of a matrix game, which is minimised numerically there: these methods have no closed form. Costs with kinks
come with a `softness`, 0 in the loss; a game is solved for ever harder kinks, each from the last solution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alignment.algorithm import Group, Phase, State
from alignment.labels import IntArray, select_pairs
from alignment.regression import PairMethod, constant, no_loss, relative_logp
from alignment.tabular import minimise
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

SMOOTH = (0.0,)
KINKED = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)


@dataclass(frozen=True, eq=False)
class Side:
    """The winners or the losers of pairs: log pi, `ratio` log pi / ref, and tokens; of shapes that broadcast."""

    logp: Tensor
    ratio: Tensor
    length: Tensor


@dataclass(frozen=True, kw_only=True)
class PairLossMethod(PairMethod):
    """A method given by its `cost`; pairs are of `sampler`'s responses, the reference is the start.

    The loss is the mean over pairs of y cost(i, j) + (1 - y) cost(j, i), y the label of i over j: the paper's loss with
    hard labels, its expectation over verdicts drawn from P with soft ones.
    """

    sampler: ClassVar[str] = "policy"

    @property
    def softness(self) -> tuple[float, ...]:
        """The kinks' softness in solving a game, the last as good as none."""
        return SMOOTH

    def cost(self, won: Side, lost: Side, softness: float = 0.0) -> Tensor:
        """What each pair costs whose first response wins."""
        raise NotImplementedError

    def phases(self, round: int) -> tuple[Phase, ...]:
        return (Phase("fit", True, self.sampler, "policy", ("start",), "policy", round=round),)

    def loss(self, group: Group, phase: Phase) -> Tensor:
        i, j = select_pairs(group.table, self.pairs)
        if len(i) == 0:
            return no_loss(group)
        first, second = side(group, i), side(group, j)
        label = constant(self.labelled(group)[i, j], group.logp)
        return (label * self.cost(first, second) + (1.0 - label) * self.cost(second, first)).mean()

    def drawn_from(self, P: FloatArray, state: State) -> FloatArray:
        """The policy (n,) that the responses of pairs are drawn from in a game."""
        return np.exp(state.log_ref if self.sampler == "start" else state.log_policy)

    def population(self, P: FloatArray, state: State) -> State:
        """The minimiser of the expected loss nearest to pi_t, by Newton steps from there."""
        log_policy = state.log_policy
        for softness in self.softness:
            log_policy = minimise(self.expected(P, state, softness), log_policy, steps=100 if softness == 0 else 25)
        return State(log_policy, state.log_ref, state.round + 1)

    def expected(self, P: FloatArray, state: State, softness: float) -> Callable[[Tensor], Tensor]:
        """logits (n,) -> the expected loss of a pair of independent responses; P is kept within [1e-12, 1 - 1e-12]."""
        import torch

        mu = self.drawn_from(P, state)
        labels = np.clip(self.payoffs(P), 1e-12, 1.0 - 1e-12)
        weight = torch.from_numpy(2.0 * mu[:, None] * mu[None, :] * labels)
        reference, token = torch.from_numpy(state.log_ref), torch.ones(1, 1, dtype=torch.float64)

        def mean_cost(logits: Tensor) -> Tensor:
            logp = torch.log_softmax(logits, 0)
            ratio = logp - reference
            won, lost = (Side(logp.reshape(s), ratio.reshape(s), token) for s in ((-1, 1), (1, -1)))
            return (weight * self.cost(won, lost, softness)).sum()

        return mean_cost


def side(group: Group, index: IntArray) -> Side:
    """The responses of one side of a group's pairs, in the order of the pairs."""
    import torch

    where = torch.from_numpy(index).to(group.logp.device)
    ratio, length = relative_logp(group, {"start": 1.0}), group.length.to(group.logp)
    return Side(group.logp[where], ratio[where], length[where])


def logistic(margin: Tensor) -> Tensor:
    """-log sigmoid(margin), elementwise."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(margin)


def positive(x: Tensor, softness: float = 0.0) -> Tensor:
    """max(0, x), with slope 1 at 0 itself; with softness s the smooth s log(1 + exp(x / s)) above it."""
    from torch.nn.functional import softplus

    return x.clamp(min=0.0) if softness == 0 else softness * softplus(x / softness)
