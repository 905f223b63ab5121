"""Our decode loop against plain forward passes of the models it takes over, and which ones it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import make_tiny_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prefeval.generate import llama
from prefeval.generate.decoding import ModelDecoder, open_decoder
from prefeval.generate.llama_decoder import LlamaDecoder

ROPE = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}  # fmt: skip


def build(model: Any, config: Any, **options: Any) -> Any:
    """A small model with weights large enough that every part of it matters, biases and norms included."""
    shape = {"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        made = model(config(**{**shape, **heads, **options})).eval()
        for name, parameter in made.named_parameters():
            parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)
            if parameter.ndim == 1 or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made


KNOWN: dict[str, Callable[[], Any]] = {
    "llama": lambda: build(LlamaForCausalLM, LlamaConfig),
    "llama with biases, tied": lambda: build(
        LlamaForCausalLM, LlamaConfig, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "llama 3 rope, one key head, head dim 12": lambda: build(
        LlamaForCausalLM, LlamaConfig, rope_parameters=ROPE, num_key_value_heads=1, head_dim=12
    ),
    "mistral": lambda: build(MistralForCausalLM, MistralConfig, sliding_window=None),
    "qwen2": lambda: build(Qwen2ForCausalLM, Qwen2Config),
    "qwen3, no groups": lambda: build(Qwen3ForCausalLM, Qwen3Config, head_dim=16, num_key_value_heads=4),
}
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [20]]
RING = 7  # the most tokens that a row of the game gets


class Row:
    """One row as the caller of a decoder sees it."""

    def __init__(self, prompt: list[int]) -> None:
        self.ids, self.start = list(prompt), len(prompt)
        self.logits: list[torch.Tensor] = []


# what happens before the step of a turn: rows that stay (in the new order), prompts that join with their repeats
GAME: list[tuple[list[int] | None, tuple[list[list[int]], list[int]] | None]] = [
    (None, (PROMPTS, [2, 3, 1])),
    (None, None),
    ([0, 5, 2, 3], None),  # the prompt of row 5 moves to a hole
    ([0, 3, 2], ([[30, 31], [40] * 9], [1, 2])),  # joiners with a longer prompt than all before
    (None, None),
    ([0, 5, 4, 3], None),
    ([0, 1, 3], ([[50, 51]], [2])),
    ([4, 1, 3], None),
    ([2], None),
    (None, None),
    ([], (PROMPTS[:2], [2, 1])),  # all gone: as new
    (None, None),
]


def play(decoder: Any) -> list[Row]:
    """Every row of the game, with the logits it got; the ring of columns is turned round."""
    draw = torch.Generator().manual_seed(1)
    rows: list[Row] = []
    live: list[Row] = []
    with torch.inference_mode():
        for order, joining in GAME:
            if order is not None:
                decoder.keep(order)
                live = [live[n] for n in order]
            if joining is not None:
                new = [Row(p) for p, n in zip(*joining, strict=True) for _ in range(n)]
                for row, logits in zip(new, decoder.admit(*joining), strict=True):
                    row.logits.append(logits)
                live, rows = live + new, rows + new
            tokens = torch.randint(1, 120, (len(live),), generator=draw)
            for row, token, logits in zip(live, tokens.tolist(), decoder.step(tokens), strict=True):
                row.ids.append(token)
                row.logits.append(logits)
    return rows


def expected(model: Any, row: Row) -> torch.Tensor:
    """The logits of one unpadded forward pass without a cache."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, row.start - 1 :]


@pytest.mark.parametrize("name", KNOWN)
def test_the_own_loop_gives_the_logits_of_plain_forward_passes(name: str) -> None:
    model = KNOWN[name]()
    decoder = open_decoder(model, pad=0, rows=6, tokens=RING)
    assert isinstance(decoder, LlamaDecoder)
    for row in play(decoder):
        wanted = expected(model, row)
        assert wanted.std() > 0.5
        torch.testing.assert_close(torch.stack(row.logits), wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)


def test_without_packed_weights_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "_HELD_BYTES", 0)
    model = KNOWN["qwen2"]()
    for row in play(LlamaDecoder(model, pad=0, rows=6, tokens=RING)):
        torch.testing.assert_close(torch.stack(row.logits), expected(model, row), atol=1e-4, rtol=0)


def test_in_bf16_it_is_as_near_to_the_exact_logits_as_the_models_own_forward() -> None:
    """Stated bound: mean distance to the fp32 logits at most 1.25 times that of transformers' bf16 forward pass."""
    model = KNOWN["llama"]()
    rows = play(LlamaDecoder(model, pad=0, rows=6, tokens=RING))
    exact = torch.cat([expected(model, row) for row in rows])
    model = model.to(torch.bfloat16)
    theirs = torch.cat([expected(model, row) for row in rows]).float()
    ours = torch.cat([torch.stack(row.logits) for row in play(LlamaDecoder(model, pad=0, rows=6, tokens=RING))])
    assert ours.dtype == torch.bfloat16
    assert 0 < (ours.float() - exact).abs().mean() < 1.25 * (theirs - exact).abs().mean()


def test_weights_are_read_when_sampling_starts() -> None:
    model = make_tiny_model()
    first = LlamaDecoder(model, pad=0, rows=1, tokens=4)
    first.admit([[5, 6]], [1])
    first.step(torch.tensor([7]))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(3.0)
    second = LlamaDecoder(model, pad=0, rows=1, tokens=4)
    with torch.inference_mode():
        second.admit([[5, 6]], [1])
        found = second.step(torch.tensor([7]))
        wanted = model(input_ids=torch.tensor([[5, 6, 7]])).logits[:, -1]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def lora() -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(make_tiny_model(), LoraConfig(target_modules=["q_proj"])).base_model.model


def hooked() -> Any:
    model = make_tiny_model()
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, out: out * 2)
    return model


def patched() -> Any:
    model = make_tiny_model()
    model.model.layers[0].forward = lambda *args, **kwargs: args[0]  # what device maps and kernel libraries do
    return model


def sliding() -> Any:
    return build(Qwen2ForCausalLM, Qwen2Config, use_sliding_window=True, sliding_window=4, max_window_layers=1)


def mixed() -> Any:
    model = make_tiny_model()
    model.lm_head.to(torch.bfloat16)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lora,
        hooked,
        patched,
        sliding,
        mixed,
        lambda: build(MistralForCausalLM, MistralConfig, sliding_window=4),
        lambda: build(LlamaForCausalLM, LlamaConfig, rope_parameters=ROPE | {"rope_type": "dynamic"}),
        lambda: type("Other", (LlamaForCausalLM,), {})(make_tiny_model().config),
    ],
)  # fmt: skip
def test_whatever_is_not_known_in_every_part_decodes_by_its_own_forward(make: Callable[[], Any]) -> None:
    assert isinstance(open_decoder(make(), pad=0, rows=6, tokens=RING), ModelDecoder)


def test_autocast_goes_by_the_models_own_forward() -> None:
    model = make_tiny_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert isinstance(open_decoder(model, pad=0, rows=1, tokens=1), ModelDecoder)
    assert isinstance(open_decoder(model, pad=0, rows=1, tokens=1), LlamaDecoder)
