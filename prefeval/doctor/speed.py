"""What this machine can do, measured in about a minute: the floor under every stage's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from prefeval.doctor.findings import Finding

_SECONDS = 1.5  # each measurement runs at least that long
_TOKENS = 256  # a sequence


def examine_speed(spec: str) -> Iterator[Finding]:
    """Matrix product, memory, and a model's forward, forward with backward, and sampling in tokens a second."""
    import torch

    from prefeval.models import default_device, fast_dtype, load_causal, load_tokenizer

    device, dtype = default_device(), fast_dtype()
    for kind in dict.fromkeys((torch.float32, dtype)):
        yield Finding("ok", "matmul", f"{_matmul(device, kind) / 1e9:,.0f} GFLOP/s in {str(kind).split('.')[-1]}")
    yield Finding("ok", "memory copy", f"{_copy(device) / 1e9:,.1f} GB/s read and written")
    model = load_causal(spec, dtype=dtype).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (4, _TOKENS), device=device)
    forward = _rate(lambda: _forward(model, ids), ids.numel(), device)
    work = f"{2 * parameters * forward / 1e9:,.0f} GFLOP/s, {parameters / 1e6:.0f}M parameters"
    yield Finding("ok", "forward", f"{forward:,.0f} tokens/s ({work})")
    backward = _rate(lambda: _forward_backward(model, ids), ids.numel(), device)
    yield Finding("ok", "forward and backward", f"{backward:,.0f} tokens/s")
    model.zero_grad(set_to_none=True)
    yield Finding("ok", "sampling", f"{_sampling(model, load_tokenizer(spec)):,.0f} tokens/s, 48 replies side by side")


def _rate(work: Callable[[], object], units: int, device: str) -> float:
    """Units a second: one call to warm up, then as many as fit the time."""
    import torch

    def settled() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    work()
    start, calls = settled(), 0
    while (spent := settled() - start) < _SECONDS:
        work()
        calls += 1
    return units * calls / spent


def _matmul(device: str, dtype: Any) -> float:
    import torch

    size = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return _rate(lambda: a @ b, 2 * size**3, device)


def _copy(device: str) -> float:
    import torch

    source = torch.zeros(2**26 if device == "cpu" else 2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _rate(lambda: target.copy_(source), 2 * source.numel(), device)


def _forward(model: Any, ids: Any) -> object:
    import torch

    with torch.inference_mode():
        return model(ids, logits_to_keep=1).logits


def _forward_backward(model: Any, ids: Any) -> object:
    return model(ids, logits_to_keep=1).logits.float().square().mean().backward()


def _sampling(model: Any, tokenizer: Any) -> float:
    from prefeval.generate.base import SamplingParams
    from prefeval.generate.hf import HFGenerator
    from prefeval.types import Prompt

    generator = HFGenerator(model, tokenizer, name="speed", batch_rows=48)
    prompts = [Prompt.from_text(f"Write down the number {n} and what you like about it.") for n in range(6)]
    start = time.perf_counter()
    groups = generator.sample(prompts, 8, SamplingParams(max_new_tokens=48), 0)
    return sum(len(r.token_ids or ()) for g in groups for r in g) / (time.perf_counter() - start)
