"""A key-value cache that writes in place: decoding appends to preallocated buffers and copies nothing."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """Keys and values (B, heads, capacity, dim), of which the first `filled` positions are in use."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.filled = capacity, 0
        self.key_buffer: torch.Tensor | None = None
        self.value_buffer: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append along the sequence and return views of everything so far (transformers' layer interface)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, stop = self.filled, self.filled + key_states.shape[-2]
        if self.key_buffer is None or self.value_buffer is None or stop > self.key_buffer.shape[2]:
            self.capacity = max(self.capacity, stop if self.key_buffer is None else 2 * stop)
            self.key_buffer = self._enlarged(self.key_buffer, key_states)
            self.value_buffer = self._enlarged(self.value_buffer, value_states)
        self.key_buffer[:, :, start:stop] = key_states
        self.value_buffer[:, :, start:stop] = value_states
        self.filled = stop
        self._expose()
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.key_buffer is not None and self.value_buffer is not None:
            self.key_buffer = self.key_buffer[indices]
            self.value_buffer = self.value_buffer[indices]
            self._expose()

    def get_seq_length(self) -> int:
        return self.filled

    def _enlarged(self, old: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """A buffer of `capacity` positions for states as `like`, with what was in the old one."""
        buffer = like.new_empty((*like.shape[:2], self.capacity, like.shape[-1]))
        if old is not None:
            buffer[:, :, : self.filled] = old[:, :, : self.filled]
        return buffer

    def _expose(self) -> None:
        assert self.key_buffer is not None
        assert self.value_buffer is not None
        self.keys = self.key_buffer[:, :, : self.filled]
        self.values = self.value_buffer[:, :, : self.filled]


def growing_cache(model: Any, capacity: int) -> Any:
    """A cache for `capacity` positions; models with sliding or linear attention layers get transformers' own."""
    cache = DynamicCache(config=model.config.get_text_config())
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [_GrowingLayer(capacity) for _ in cache.layers]
    return cache
