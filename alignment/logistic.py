"""The logistic loss of pairs, for methods that differ in whose pairs they take and how they weigh them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from alignment.labels import IntArray
from alignment.regression import constant
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(margin: Tensor, label: FloatArray) -> Tensor:
    """-y log s(m) - (1 - y) log s(-m) of each pair: (pairs,)."""
    from torch.nn.functional import logsigmoid

    y = constant(label, margin)
    return -(y * logsigmoid(margin) + (1.0 - y) * logsigmoid(-margin))


def known_pairs(table: FloatArray, first: Sequence[int], second: Sequence[int]) -> tuple[IntArray, IntArray]:
    """The pairs (i of `first`, j of `second`) that have a verdict, as two index arrays."""
    a, b = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    i, j = np.nonzero(np.isfinite(table[np.ix_(a, b)]))
    return a[i], b[j]
