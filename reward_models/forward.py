"""Running a preference model over many sequences of unequal length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefeval.batching import least_work_batches, pad_right

Encoded = tuple[int, ...]
# What a call costs beside its tokens, in tokens: on a CPU reading a small model's weights and adding up its gradients;
# on an accelerator, which is fast at tokens and slow to start, more (a guess: measured on CPUs only).
_CALL_COST = {"cpu": 256.0}
_ACCELERATED_CALL_COST = 2048.0


@dataclass(frozen=True)
class Layout:
    """How batches are laid out: at most `budget` padded tokens each, filled with `pad_id`, on `device`."""

    budget: int
    pad_id: int
    device: torch.device


def run_ragged(
    call: Callable[[Tensor, Tensor], Tensor],
    sequences: Sequence[Encoded],
    layout: Layout,
    *,
    done: Callable[[int], None] | None = None,
) -> Tensor:
    """`call(ids (B, L), lengths (B,)) -> (B, width)` over batches of similar length: (N, width) in the given order.

    `done` is told how many sequences each batch finished.
    """
    call_cost = _CALL_COST.get(layout.device.type, _ACCELERATED_CALL_COST)
    batches = least_work_batches([len(s) for s in sequences], layout.budget, call_cost)
    parts = []
    for batch in batches:
        ids, lengths = pad_right([sequences[i] for i in batch], layout.pad_id)
        parts.append(call(ids.to(layout.device), lengths.to(layout.device)))
        if done is not None:
            done(len(batch))
    order = torch.tensor([i for batch in batches for i in batch], device=parts[0].device)
    return torch.cat(parts)[torch.argsort(order)]
