"""Scales read at the prompt's end: the boundary after any number of turns, slow sums, what only they can learn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer, save_tiny

from prefeval.fit import FitConfig
from prefeval.runs import RunDir
from prefeval.types import FloatArray, Message, PairLabel, Prompt
from reward_models.config import HeadConfig, LossConfig, TrainConfig
from reward_models.heads import pair_logits, prompt_scales, share_prompt
from reward_models.items import Item, item_loss
from reward_models.modeling import PreferenceModel
from reward_models.oracles import ModelOracle, open_oracle
from reward_models.train import train

HEAD = HeadConfig("hybrid", blocks=2, prompt_scales=True, tau=0.5)
RESPONSES = ("Light scatters.", "No idea", "a longer answer than that")
SINGLE = Prompt.from_text("Why is the sky blue?", id="1")
TURNS = Prompt(
    "2",
    (
        Message("system", "Be brief."),
        Message("user", "Hello."),
        Message("assistant", "Hello!"),
        Message("user", "Why?"),
    ),
)


def build(head: HeadConfig = HEAD, max_length: int = 256) -> PreferenceModel:
    model = PreferenceModel.from_base(make_tiny_model(), make_tiny_tokenizer(), head, max_length=max_length)
    with torch.no_grad():
        model.classifier.score.weight.mul_(30)  # scores and scales of order one
    return model


@pytest.fixture(scope="module")
def model() -> PreferenceModel:
    return build()


def chat(tokenizer: Any, messages: list[dict[str, str]], *, header: bool) -> list[int]:
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=header, return_dict=True)["input_ids"]
    return list(ids)


def slow_scores(model: PreferenceModel, prompt: Prompt) -> FloatArray:
    """Score by score: scales from the last prompt token inside each response's own sequence, found by hand."""
    tokenizer, weight = model.tokenizer, model.classifier.score.weight.detach().double().numpy()
    boundary = len(chat(tokenizer, prompt.as_dicts(), header=True)) - 1
    rows = []
    for text in RESPONSES:
        ids = chat(tokenizer, [*prompt.as_dicts(), {"role": "assistant", "content": text}], header=False)
        with torch.inference_mode():
            states = model.classifier.model(torch.tensor([ids])).last_hidden_state[0].double().numpy()
        rows.append((weight[:5] @ states[-1], weight[5:] @ states[boundary]))
    out = np.zeros((3, 3))
    for i, (a, scales) in enumerate(rows):
        for j, (b, _) in enumerate(rows):
            total = a[0] - b[0]
            for block, z in enumerate(scales):
                x, y = a[1 + 2 * block : 3 + 2 * block], b[1 + 2 * block : 3 + 2 * block]
                total += math.log(1 + math.exp(z) * (math.e - 1)) * (x[0] * y[1] - x[1] * y[0])
            out[i, j] = total / 0.5
    return out


@pytest.mark.parametrize("prompt", [SINGLE, TURNS])
def test_scores_are_those_of_a_slow_computation(model: PreferenceModel, prompt: Prompt) -> None:
    (found,) = ModelOracle(model, "m").scores([prompt], [RESPONSES])
    np.testing.assert_allclose(found, slow_scores(model, prompt), atol=1e-5)
    plain = build(HeadConfig("hybrid", blocks=2, tau=0.5))
    with torch.no_grad():
        plain.classifier.score.weight.copy_(model.classifier.score.weight[:5])
    (unscaled,) = ModelOracle(plain, "m").scores([prompt], [RESPONSES])
    assert np.abs(found - unscaled).max() > 0.01


def scales(model: PreferenceModel, prompt: Prompt) -> torch.Tensor:
    (rows,) = ModelOracle(model, "m").outputs([prompt], [RESPONSES])
    found = prompt_scales(rows, model.head)
    assert torch.equal(found, found[:1].expand(3, -1))  # the responses share them bit for bit
    return found[0]


def test_every_turn_of_the_prompt_counts_and_no_response(model: PreferenceModel) -> None:
    base = scales(model, TURNS)
    assert bool((base > 0).all())
    for turn in range(4):
        messages = list(TURNS.messages)
        messages[turn] = Message(messages[turn].role, messages[turn].content + " x")
        assert not torch.allclose(scales(model, Prompt("c", tuple(messages))), base, atol=1e-4)


def test_a_cut_prompt_still_has_one_scale_for_all_responses() -> None:
    model = build(max_length=24)
    assert all(len(ids) == 24 for ids in model.group(TURNS, RESPONSES)[2:])  # the long response and the prompt
    scales(model, TURNS)


def test_neutral_scales_change_nothing() -> None:
    o = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    o[3, 5:] = 0.0
    o = share_prompt(o, [4], HEAD)[:3]
    plain = HeadConfig("hybrid", blocks=2, tau=0.5)
    torch.testing.assert_close(pair_logits(o[:2], o[1:], HEAD), pair_logits(o[:2, :5], o[1:, :5], plain))


def fitted(head: HeadConfig) -> list[float]:
    """P(first beats second) under two prompts after fitting labels 0.95 and 0.55, on states that differ by prompt only
    where the prompt is read."""
    states = {(n,): row for n, row in enumerate(torch.eye(4))}  # two responses, then two prompts
    model = build(head)
    items = [Item(((0,), (1,), (2 + n,)), (PairLabel(0, 1, p),)) for n, p in enumerate((0.95, 0.55))]
    model.classifier.score = torch.nn.Linear(4, head.width(), bias=False)
    torch.nn.init.normal_(model.classifier.score.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    rows = torch.stack([states[ids] for item in items for ids in item.ids])
    adam = torch.optim.Adam([model.classifier.score.weight], lr=0.05)
    for _ in range(300):
        adam.zero_grad()
        item_loss(model.head_outputs(rows), items, head, LossConfig()).loss_sum.backward()
        adam.step()
    outputs = model.head_outputs(rows).detach()
    outputs = share_prompt(outputs, [3, 3], head) if head.prompt_columns() else outputs
    return torch.sigmoid(pair_logits(outputs[[0, 3]], outputs[[1, 4]], head)).tolist()


def test_strengths_that_differ_by_prompt_are_learned_by_scales_alone() -> None:
    assert fitted(HeadConfig("gpm", prompt_scales=True)) == pytest.approx([0.95, 0.55], abs=0.01)
    assert fitted(HeadConfig("gpm")) == pytest.approx([0.75, 0.75], abs=0.01)  # the best single answer to both


@pytest.mark.parametrize("trainable", ["head", pytest.param("full", marks=pytest.mark.slow)])
def test_training_with_scales_saves_a_model_that_answers_as_measured(trainable: str, tmp_path: Path) -> None:
    """Also on cached hidden states, of which the prompt's own is one."""
    texts, edges = ("Red.", "Green.", "Blue."), ((0, 1), (1, 2), (0, 2))
    data = tmp_path / "order.jsonl"
    row = '{{"prompt": "Name a colour.", "chosen": "{}", "rejected": "{}"}}\n'
    data.write_text("".join(row.format(texts[i], texts[j]) for i, j in edges))
    rate = 0.05 if trainable == "head" else 3e-3
    fit = FitConfig(epochs=40.0, learning_rate=rate, precision="fp32", schedule="constant", warmup_ratio=0.0)
    config = TrainConfig(
        data=str(data), valid_data=str(data), model=str(save_tiny(tmp_path / "base")), head=HEAD, resamples=5,
        trainable=trainable, fit=fit, out=str(tmp_path / "run"),
    )  # fmt: skip
    result = train(config, RunDir(config.out, {}))
    assert result["metrics"]["accuracy"] == 1.0
    oracle = open_oracle(f"model:{tmp_path / 'run' / 'final'}", device="cpu")
    (p,) = oracle.matrix([Prompt.from_text("Name a colour.")], [texts])
    assert result["metrics"]["nll"] == pytest.approx(-np.mean([math.log(p[i, j]) for i, j in edges]), abs=1e-4)
    weight = PreferenceModel.from_pretrained(tmp_path / "run" / "final").classifier.score.weight
    change = weight[5:] - build().classifier.score.weight[5:] / 30
    assert change.abs().max() > 0.01  # the rows of the scales are trained too
