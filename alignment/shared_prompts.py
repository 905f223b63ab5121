"""Hidden states of responses whose prompts are read once, however many responses follow them.

The prompts pass through the model with a key-value cache that keeps its graph; each response then attends to its
prompt's keys and values. Values and gradients are those of whole sequences: nothing but the repetition is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from prefeval.batching import pad_right
from prefeval.generate.decoding import left_padded

if TYPE_CHECKING:
    from alignment.logprobs import TokenSequence

_WORTH = 0.9  # share of the padded tokens that must be left for two passes to be quicker than one


def is_worth_sharing(model: Any, batch: Sequence[TokenSequence]) -> bool:
    """Whether reading each prompt once saves work, with a model whose layers all attend to everything before them."""
    prompts = {s.ids[: s.prompt_length] for s in batch}
    widths = max(map(len, prompts)), max(s.response_length for s in batch)
    shared = len(prompts) * widths[0] + len(batch) * (widths[1] - 1)
    if min(widths) < 1 or shared > _WORTH * len(batch) * max(len(s.ids) for s in batch):
        return False
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return False  # a pass that is computed again must not write to a cache
    layers = DynamicCache(config=model.config.get_text_config()).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def response_states(backbone: Any, config: Any, batch: Sequence[TokenSequence], pad_id: int) -> torch.Tensor:
    """Last hidden states (T, H) before each response token of a batch, in its order."""
    places: dict[tuple[int, ...], int] = {}
    owner = torch.tensor([places.setdefault(s.ids[: s.prompt_length], len(places)) for s in batch])
    device = next(backbone.parameters()).device
    ids, mask, position = left_padded(list(places), pad_id, device)
    cache = DynamicCache(config=config.get_text_config())
    owner = owner.to(device)
    before: torch.Tensor = backbone(
        input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
    ).last_hidden_state[owner, -1]
    if max(s.response_length for s in batch) == 1:
        return before
    cache.batch_select_indices(owner)
    # the last token is only predicted; the padding behind a response is behind all that is looked at
    tail, _ = pad_right([s.ids[s.prompt_length : -1] for s in batch], pad_id)
    tail = tail.to(device)
    after = backbone(
        input_ids=tail,
        attention_mask=torch.cat([mask[owner], torch.ones_like(tail)], dim=1),
        position_ids=position[owner, -1:] + 1 + torch.arange(tail.shape[1], device=device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    states = torch.cat([before[:, None], after], dim=1)
    return torch.cat([row[: s.response_length] for row, s in zip(states, batch, strict=True)])
