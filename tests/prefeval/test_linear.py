"""Linear alignment as a sampler: its two ends, steps between and beyond against a plain loop, and its specs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer, save_tiny

from prefeval import chat
from prefeval.errors import ConfigError
from prefeval.generate import SamplingParams, open_generator
from prefeval.generate.base import Generator
from prefeval.generate.hf import HFGenerator
from prefeval.generate.linear import LinearGenerator
from prefeval.generate.select import SelectingGenerator
from prefeval.generate.specs import Steering, is_combined, parse_linear
from prefeval.rules import open_rule
from prefeval.seeds import rng
from prefeval.types import Prompt

TOKENIZER, INSTRUCTION = make_tiny_tokenizer(), "Say it in few words."
PROMPTS = [
    Prompt.from_text("Why is the sky blue?", id="sky"),
    Prompt.from_text("Hi", id="hi"),
    Prompt.from_text("Name three colours of the rainbow, please.", id="long"),
]
PARAMS = SamplingParams(max_new_tokens=10)


@pytest.fixture(scope="module")
def plain() -> HFGenerator:
    """Peaked, so that the instruction moves the replies, and with an end token that is common."""
    model = make_tiny_model()
    with torch.no_grad():
        model.lm_head.weight.mul_(12.0)
        model.model.embed_tokens.weight.mul_(8.0)
        model.lm_head.weight[TOKENIZER.eos_token_id].mul_(1.6)
    return HFGenerator(model, TOKENIZER, batch_rows=4)


def tokens(generator: Generator, prompts: list[Prompt]) -> list[list[tuple[int, ...] | None]]:
    return [[r.token_ids for r in group] for group in generator.sample(prompts, 3, PARAMS, seed=5)]


def test_the_ends_are_the_model_and_the_instructed_model(plain: HFGenerator) -> None:
    instructed = [chat.with_instruction(p, INSTRUCTION) for p in PROMPTS]
    model, other = tokens(plain, PROMPTS), tokens(plain, instructed)
    assert tokens(LinearGenerator(plain, 0.0, INSTRUCTION), PROMPTS) == model
    assert tokens(LinearGenerator(plain, 1.0, INSTRUCTION), PROMPTS) == other
    assert model != other


@pytest.mark.parametrize("gamma", [0.4, 2.5])
def test_steps_between_and_beyond(gamma: float, plain: HFGenerator) -> None:
    """A loop without caches on the same uniforms, whole forwards of both prompts in double precision."""
    drawn = LinearGenerator(plain, gamma, INSTRUCTION).sample(PROMPTS, 2, PARAMS, seed=7)
    for prompt, group in zip(PROMPTS, drawn, strict=True):
        heads = [chat.encode_prompt(TOKENIZER, p) for p in (prompt, chat.with_instruction(prompt, INSTRUCTION))]
        for index, response in enumerate(group):
            reply, total = [], 0.0
            for u in rng(7, "sample", prompt.id, index).random(PARAMS.max_new_tokens)[: len(response.token_ids or ())]:
                with torch.no_grad():
                    bare, steered = (
                        plain.model(input_ids=torch.tensor([[*head, *reply]])).logits[0, -1].double() for head in heads
                    )
                logp = torch.log_softmax(bare + gamma * (steered - bare), -1)
                reply.append(int(torch.searchsorted(logp.exp().cumsum(0), torch.tensor(u))))
                total += float(logp[reply[-1]])
            assert tuple(reply) == response.token_ids
            assert response.logprob == pytest.approx(total, abs=1e-3)


def test_specs(tmp_path: Path) -> None:
    assert parse_linear("linear:0.5[Be [very] kind: now.]:runs/a") == Steering(0.5, "Be [very] kind: now.", "runs/a")
    assert parse_linear("runs/linear") is None
    assert is_combined("linear:1[x]:a")
    assert is_combined("mix:0.5*a+0.5*b")
    assert is_combined("best-of-2[rules:longer]:a")
    assert not is_combined("runs/a")
    path = save_tiny(tmp_path / "m")
    spec = f"linear:1[{INSTRUCTION}]:{path}"
    opened = open_generator(spec, dtype=torch.float32)
    assert isinstance(opened, LinearGenerator)
    assert opened.name == spec
    alone = open_generator(str(path), dtype=torch.float32)
    assert tokens(opened, PROMPTS[:1]) == tokens(alone, [chat.with_instruction(PROMPTS[0], INSTRUCTION)])
    mixed = open_generator(f"linear:0[{INSTRUCTION}]:mix:0.5*{path}+0.5*{path}", dtype=torch.float32)
    assert tokens(mixed, PROMPTS[:1]) == tokens(alone, PROMPTS[:1])
    best = open_generator(
        f"best-of-2[rules:shorter]:{spec}", dtype=torch.float32, open_oracle=lambda s: open_rule(s.partition(":")[2])
    )
    assert isinstance(best, SelectingGenerator)
    assert isinstance(best.generator, LinearGenerator)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("linear:0.5:a", "is written linear:GAMMA"),
        ("linear:0.5[ ]:a", "is written linear:GAMMA"),
        ("linear:much[x]:a", "'much' is no weight"),
        ("linear:-1[x]:a", "must be a number >= 0"),
        ("linear:nan[x]:a", "must be a number >= 0"),
        ("linear:1[x]:server:m@http://localhost:1", "needs the logits"),
        ("linear:1[x]:best-of-2[rules:shorter]:a", "nothing here opens the oracle"),
    ],
)
def test_specs_that_cannot_be_opened(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_generator(spec)
