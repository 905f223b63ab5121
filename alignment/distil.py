"""One policy for the mixture of several: maximum likelihood on replies that each of them sampled in equal shares.

The theorems are about the uniform mixture of iterates, and averages beat last iterates (section 13.6 of the algorithms
reference). Replies of a policy drawn at random are samples of the mixture, whole ones, and fitting them minimises
KL(mixture || student), which no average of parameters does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignment.logprobs import TokenSequence, sequence_logprobs
from prefeval.fit import LossOutput


def sequence_cost(sequence: TokenSequence) -> int:
    return len(sequence.ids)


def likelihood_loss(model: Any, batch: Sequence[TokenSequence], pad_id: int) -> LossOutput:
    """Minus the log-probs of whole replies, summed: nats a reply in the log."""
    total = -sequence_logprobs(model, batch, pad_id).sum()
    return LossOutput(total, float(len(batch)), {"nats": float(total.detach())})
