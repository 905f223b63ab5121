"""One decode step of our own loop beside transformers' forward pass: `python tests/speed/decode_step.py`.

Rows are four to a prompt, as in an alignment round. The three ways take turns step by step, so that other work on the
machine hits them alike: transformers' forward with its DynamicCache (what `generate` does), the same with our growing
cache (`ModelDecoder`), and `LlamaDecoder`. A step is the draw of one token a row and the pass that follows. `--profile`
prints in which kernels each way spends its time instead.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from timing import ROOT, machine, print_table

sys.path.insert(0, str(ROOT))

GROUPS = {
    "matmul": ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"),
    "attention": ("aten::bmm", "aten::_scaled_dot_product_flash_attention_for_cpu"),
    "copies": ("aten::copy_", "aten::cat", "aten::index", "aten::index_select", "aten::fill_", "aten::roll"),
    "softmax, sums, search": ("aten::_softmax", "aten::_log_softmax", "aten::cumsum", "aten::searchsorted", "aten::sum",
                              "aten::amax", "aten::logsumexp", "aten::gather"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="quickstart")
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 48, 96])
    parser.add_argument("--context", type=int, nargs="+", default=[100, 600], help="tokens of a prompt")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    import torch

    from prefeval.models import load_causal

    print(machine())
    table = []
    with torch.inference_mode():
        for dtype in args.dtype:
            model = load_causal(args.model, dtype=getattr(torch, dtype)).eval()
            for rows in args.rows:
                for context in args.context:
                    ways = steppers(model, rows, context, args.steps + 2)
                    table += [
                        (dtype, rows, context, *cells)
                        for cells in (profiled if args.profile else timed)(ways, rows, args.steps)
                    ]
    if args.profile:
        print_table(["type", "rows", "context", "way", "ms", *GROUPS, "rest", "operations"], table)
    else:
        print_table(["type", "rows", "context", *(f"{n} ms (tokens/s)" for n in ways), "ratio to the first"], table)


def steppers(model: Any, rows: int, context: int, steps: int) -> dict[str, Callable[[], None]]:
    """name -> a function that takes one step of its own batch."""
    import torch
    from transformers import DynamicCache

    from prefeval.generate.base import SamplingParams
    from prefeval.generate.decoding import ModelDecoder
    from prefeval.generate.drawing import draw
    from prefeval.generate.llama_decoder import LlamaDecoder

    class Plain(ModelDecoder):
        def admit(self, prompts: Any, repeats: Any) -> torch.Tensor:
            logits = super().admit(prompts, repeats)
            cache = DynamicCache(config=self.model.config)
            for number, layer in enumerate(self.cache.layers):
                cache.update(layer.keys.clone(), layer.values.clone(), number)
            self.cache = cache
            return logits

    ids = torch.randint(5, 30000, (rows // 4, context), generator=torch.Generator().manual_seed(0)).tolist()
    ids[0] = ids[0][5:]  # so that there is padding, as there nearly always is
    decoders = {
        "transformers": Plain(model, pad=0, tokens=steps),
        "growing cache": ModelDecoder(model, pad=0, tokens=steps),
        "own loop": LlamaDecoder(model, pad=0, rows=rows, tokens=steps),
    }

    def stepper(decoder: Any) -> Callable[[], None]:
        logits = decoder.admit(ids, [4] * len(ids))

        def step() -> None:
            nonlocal logits
            tokens, _ = draw(logits.float(), torch.rand(rows, dtype=torch.float64), SamplingParams(1))
            logits = decoder.step(tokens)

        step()
        return step

    return {name: stepper(decoder) for name, decoder in decoders.items()}


def timed(ways: dict[str, Callable[[], None]], rows: int, steps: int) -> list[tuple[str, ...]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(steps):
        for name, step in ways.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    cells = [f"{1e3 * m:.0f} ({rows / m:.0f})" for m in medians.values()]
    return [(*cells, f"{medians['transformers'] / medians['own loop']:.2f}")]


def profiled(ways: dict[str, Callable[[], None]], rows: int, steps: int) -> list[tuple[str, ...]]:
    import torch

    out = []
    for name, step in ways.items():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            start = time.perf_counter()
            for _ in range(steps):
                step()
            whole = (time.perf_counter() - start) / steps * 1e3
        spent: collections.Counter[str] = collections.Counter()
        operations = 0
        for event in found.key_averages():
            operations += event.count
            group = next((g for g, keys in GROUPS.items() if event.key in keys), "rest")
            spent[group] += event.self_cpu_time_total / steps / 1e3
        cells = [f"{spent[group]:.1f}" for group in (*GROUPS, "rest")]
        out.append((name, f"{whole:.0f}", *cells, str(operations // steps)))
    return out


if __name__ == "__main__":
    main()
