"""Random generators derived from what they are for, so that batch size and process count never change a draw."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*keys: str | int) -> int:
    """A 63-bit seed from a tuple such as (seed, round, stage, prompt id)."""
    text = "\x1f".join(f"{type(k).__name__}:{k}" for k in keys)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little") >> 1


def rng(*keys: str | int) -> np.random.Generator:
    """A numpy generator (Philox) for the tuple of keys."""
    return np.random.Generator(np.random.Philox(derive_seed(*keys)))
