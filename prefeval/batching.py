"""Batches: by token budget for the device, by seeded shuffles for the optimiser, and padding on the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prefeval.seeds import rng

if TYPE_CHECKING:
    from torch import Tensor


def token_batches(lengths: Sequence[int], budget: int, *, max_items: int | None = None) -> list[list[int]]:
    """Indices grouped so that a group's padded cost, max(length) * count, stays within `budget` tokens.

    Sorted by length (ties by index), so that padding is small; every index appears once. An item longer than the
    budget comes alone: it is the caller's to cut, not ours to drop. Raises ValueError for a negative length, a
    budget or a `max_items` below one.
    """
    batches: list[list[int]] = []
    for index in _shortest_first(lengths, budget, max_items):
        last = batches[-1] if batches else []
        fits = lengths[index] * (len(last) + 1) <= budget and (max_items is None or len(last) < max_items)
        if last and fits:
            last.append(index)
        else:
            batches.append([index])
    return batches


def least_work_batches(lengths: Sequence[int], budget: int, call_cost: float) -> list[list[int]]:
    """`token_batches` that cost least: padded tokens, and `call_cost` tokens' worth of work for each batch.

    Texts of unequal length share a batch only where padding them costs less than a call of their own. Raises ValueError
    as `token_batches` does, and for a negative `call_cost`.
    """
    if not call_cost >= 0:
        raise ValueError(f"call_cost ({call_cost}) must not be negative")
    order = _shortest_first(lengths, budget)
    least = np.zeros(len(order) + 1)  # least[n]: of the n shortest
    first = np.zeros(len(order) + 1, dtype=np.int64)  # where the last batch of that plan begins
    for n, index in enumerate(order, 1):
        width = lengths[index]
        begin = max(0, n - max(1, budget // width)) if width else 0
        work = least[begin:n] + width * np.arange(n - begin, 0, -1) + call_cost
        best = int(np.argmin(work))
        least[n], first[n] = work[best], begin + best
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[first[end] : end])
        end = int(first[end])
    return batches[::-1]


def _shortest_first(lengths: Sequence[int], budget: int, max_items: int | None = None) -> list[int]:
    """Indices by length, ties in their order. Raises ValueError for what no batches can be made of."""
    if budget < 1 or (max_items is not None and max_items < 1):
        raise ValueError(f"budget ({budget}) and max_items ({max_items}) must be at least 1")
    if any(length < 0 for length in lengths):
        raise ValueError(f"lengths must not be negative; the smallest is {min(lengths)}")
    return sorted(range(len(lengths)), key=lambda i: (lengths[i], i))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Optimiser steps in one pass over `count` items."""
    return math.ceil(count / batch_size)


def step_batches(count: int, batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """The items of every optimiser step: each epoch is a fresh shuffle, drawn from (seed, epoch), cut into batches.

    No item is lost: the last batch of an epoch is shorter where `batch_size` does not divide `count`. A fractional
    epoch is rounded up to a whole step. Raises ValueError unless count, batch_size and epochs are positive.
    """
    if count < 1 or batch_size < 1 or not (0 < epochs < math.inf):
        raise ValueError(f"count ({count}), batch_size ({batch_size}) and epochs ({epochs}) must be positive")
    # 0.1 * 30 is 3.0000000000000004 in floating point and means three steps
    total = math.ceil(epochs * steps_per_epoch(count, batch_size) - 1e-9)
    steps: list[list[int]] = []
    epoch = 0
    while len(steps) < total:
        order = rng("step_batches", seed, epoch).permutation(count).tolist()
        steps += [order[start : start + batch_size] for start in range(0, count, batch_size)]
        epoch += 1
    return steps[:total]


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) int64, filled with `pad_id` behind each sequence, and the true lengths (B,) int64."""
    import torch

    lengths = [len(s) for s in sequences]
    ids = np.full((len(sequences), max(lengths, default=0)), pad_id, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : lengths[row]] = np.asarray(sequence, dtype=np.int64)
    return torch.from_numpy(ids), torch.tensor(lengths, dtype=torch.int64)
