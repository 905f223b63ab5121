"""Decoding of many rows side by side: a prompt's pass once, then one token a row and step.

A `Decoder` holds the rows; which tokens they get is the caller's business. `open_decoder` picks the implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from prefeval.generate.cache import growing_cache


class Decoder(Protocol):
    """Rows of a batch in order; all methods but `keep` give next-token logits (rows, V) in the model's precision."""

    @property
    def refills(self) -> bool:
        """Whether `admit` may be called while rows are under way."""
        ...

    def admit(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> torch.Tensor:
        """Append `repeats[i]` rows of each prompt, in order; the logits of the new rows alone."""
        ...

    def keep(self, order: Sequence[int]) -> None:
        """Row n becomes what row order[n] was; order[n] is n or a row beyond the new number of rows."""
        ...

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token (rows,) to each row."""
        ...


def open_decoder(model: Any, *, pad: int, rows: int, tokens: int) -> Decoder:
    """For at most `rows` rows of at most `tokens` new tokens. A mixture of models brings its own `open_decoder`.

    Our own loop where it knows the architecture in every part, else the model's own forward pass.
    """
    from prefeval.generate.llama import is_known
    from prefeval.generate.llama_decoder import LlamaDecoder

    if hasattr(model, "open_decoder"):
        decoder: Decoder = model.open_decoder(pad=pad, rows=rows, tokens=tokens)
        return decoder
    if is_known(model):
        return LlamaDecoder(model, pad=pad, rows=rows, tokens=tokens)
    return ModelDecoder(model, pad=pad, tokens=tokens)


def left_padded(
    prompts: Sequence[Sequence[int]], pad: int, device: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask (1 = real) and positions (P, T) of prompts padded on the left, so that all end in the last column."""
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for r, prompt in enumerate(prompts):
        ids[r, width - len(prompt) :] = torch.tensor(prompt)
        mask[r, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device), (mask.cumsum(1) - 1).clamp(min=0).to(device)


def owners(repeats: Sequence[int], device: Any) -> torch.Tensor:
    """The prompt (rows,) of each row."""
    return torch.arange(len(repeats), device=device).repeat_interleave(torch.tensor(repeats, device=device))


class ModelDecoder:
    """By the model's own forward pass, whatever it is; all rows start together."""

    refills = False

    def __init__(self, model: Any, *, pad: int, tokens: int) -> None:
        self.model, self.pad, self.tokens = model, pad, tokens

    def admit(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> torch.Tensor:
        """One pass over the prompts, whose keys and values are then copied for each row."""
        ids, mask, position = left_padded(prompts, self.pad, self.model.device)
        self.cache = growing_cache(self.model, capacity=ids.shape[1] + self.tokens)
        owner = owners(repeats, self.model.device)
        self.padded = bool((mask == 0).any())
        self.mask, self.position = mask[owner], position[owner, -1:]
        logits = self._forward(ids, mask, position)
        self.cache.batch_select_indices(owner)
        return logits[owner]

    def keep(self, order: Sequence[int]) -> None:
        index = torch.tensor(order, dtype=torch.long, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.position = self.mask[index], self.position[index]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        self.position = self.position + 1
        return self._forward(tokens[:, None], self.mask if self.padded else None, self.position)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor | None, position: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits
