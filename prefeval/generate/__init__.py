"""Generators: whatever can answer prompts. `open_generator` is the only parser of model specs that answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefeval.generate.base import Generator, SamplingParams

if TYPE_CHECKING:
    import torch

__all__ = ["Generator", "SamplingParams", "open_generator"]


def open_generator(spec: str, *, name: str = "", dtype: torch.dtype | None = None, batch_rows: int = 96) -> Generator:
    """A generator from a spec: a directory, hub id `[@REV]`, `FILE.gguf`, `quickstart` or `server:MODEL@BASE_URL`.

    Raises ConfigError for a spec that cannot be opened. `dtype` None takes what the device multiplies fastest.
    """
    if spec.startswith("server:"):
        from prefeval.generate.server import open_server

        return open_server(spec, name=name)
    from prefeval.generate.hf import HFGenerator
    from prefeval.models import default_device, fast_dtype, load_causal, load_tokenizer

    tokenizer = load_tokenizer(spec)
    model = load_causal(spec, dtype=dtype or fast_dtype()).to(default_device())
    return HFGenerator(model, tokenizer, name=name or spec, batch_rows=batch_rows)
