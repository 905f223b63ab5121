"""A token-level geometric mixture of language models, sampled like one model."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from prefeval.generate.cache import growing_cache


class MixtureModel:
    """Next-token distribution ~ prod_k p_k^{w_k}, each member with its own cache (Nash-MD, 2312.00886, section 7).

    The members share a vocabulary. This is the marginal approximation of the mixture of whole replies, which cannot be
    sampled. Takes and gives what `HFGenerator` uses of a transformers model.
    """

    def __init__(self, members: Sequence[tuple[float, Any]]) -> None:
        """`members` are (weight, model); the weights sum to 1."""
        if not members or abs(sum(w for w, _ in members) - 1.0) > 1e-9:
            raise ValueError("a mixture needs weights that sum to 1")
        self.members = [(w, m) for w, m in members if w != 0.0]

    @property
    def device(self) -> Any:
        return self.members[0][1].device

    @property
    def training(self) -> bool:
        return any(m.training for _, m in self.members)

    def eval(self) -> MixtureModel:
        return self.train(False)

    def train(self, mode: bool = True) -> MixtureModel:
        for _, member in self.members:
            member.train(mode)
        return self

    def growing_cache(self, capacity: int) -> _Caches:
        return _Caches([growing_cache(m, capacity) for _, m in self.members])

    def __call__(self, *, past_key_values: _Caches, **inputs: Any) -> Any:
        """`logits` are the weighted sum of the members' log-probs, fp32: not normalised, which no sampler needs."""
        total: torch.Tensor | None = None
        for (weight, member), cache in zip(self.members, past_key_values.caches, strict=True):
            logits = member(past_key_values=cache, **inputs).logits
            part = weight * torch.log_softmax(logits.float(), dim=-1)
            total = part if total is None else total + part
        return SimpleNamespace(logits=total)


class _Caches:
    """One cache a member, changed together."""

    def __init__(self, caches: Sequence[Any]) -> None:
        self.caches = list(caches)

    def batch_repeat_interleave(self, repeats: int) -> None:
        for cache in self.caches:
            cache.batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        for cache in self.caches:
            cache.batch_select_indices(indices)
