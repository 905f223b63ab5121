"""Changes to a model, and to torch's random state, that end with a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prefeval.checkpoint import generator_states, set_generator_states
from prefeval.errors import ConfigError


@contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put torch's random state and every module's train/eval mode back afterwards."""
    states, modes = generator_states(device), [(m, m.training) for m in model.modules()]
    try:
        yield
    finally:
        set_generator_states(states, device)
        for module, training in modes:
            module.training = training


@contextmanager
def gradient_checkpointing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Recompute activations in the backward pass. Raises ConfigError when the model does not offer it."""
    if not wanted:
        yield
        return
    # transformers 5.2x renamed the method; older and other models have the old name
    names = ("activation_checkpointing", "gradient_checkpointing")
    found = next(((m, n) for m in model.modules() for n in names if hasattr(m, f"{n}_enable")), None)
    if found is None:
        raise ConfigError(f"fit.gradient_checkpointing: {type(model).__name__} does not offer it")
    base: Any = found[0]
    getattr(base, f"{found[1]}_enable")({"use_reentrant": False})
    for module in base.modules():
        # transformers recomputes only layers in train mode; the layer alone, so that no dropout below it wakes up
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
    try:
        yield
    finally:
        getattr(base, f"{found[1]}_disable")()
