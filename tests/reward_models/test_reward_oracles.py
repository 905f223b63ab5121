"""Oracle specs, and a model as an oracle."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer

from prefeval.errors import ConfigError
from prefeval.oracle import Ensemble, check_complementary
from prefeval.types import Comparison, Message, Prompt
from reward_models.config import HeadConfig
from reward_models.modeling import PreferenceModel
from reward_models.oracles import ModelOracle, open_oracle

PROMPTS = [
    Prompt.from_text("Why is the sky blue?", id="1"),
    Prompt("2", (Message("system", "Be brief."), Message("user", "Name a colour."))),
    Prompt.from_text("x", id="3"),
]
GROUPS = [("Light scatters.", "Because.", "No idea"), ("Red", "Green"), ("", "one", "one", "a longer answer than that")]


def build(head: HeadConfig, seed: int = 0) -> PreferenceModel:
    model = PreferenceModel.from_base(make_tiny_model(), make_tiny_tokenizer(), head, seed=seed)
    with torch.no_grad():
        model.classifier.score.weight.mul_(30)  # scores of order one
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(HeadConfig("hybrid", tau=0.5)).save_pretrained(tmp_path_factory.mktemp("oracle") / "model")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    def write(source: str) -> str:
        (tmp_path / "tiny_rule.py").write_text(source)
        return "tiny_rule"

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    sys.modules.pop("tiny_rule", None)


@pytest.mark.parametrize(
    "head", [HeadConfig("bt"), HeadConfig("gpm", blocks=2, tau=0.1), HeadConfig("hybrid"),
             HeadConfig("regression", attributes=("a", "b")), HeadConfig("gpm", blocks=2, prompt_scales=True)]
)  # fmt: skip
def test_every_head_keeps_the_contract(head: HeadConfig) -> None:
    oracle = ModelOracle(build(head), "m")
    tables, scores = oracle.matrix(PROMPTS, GROUPS), oracle.scores(PROMPTS, GROUPS)
    for p, s, group in zip(tables, scores, GROUPS, strict=True):
        assert p.dtype == s.dtype == np.float64
        assert p.shape == (len(group), len(group))
        check_complementary(p, "m")
        assert np.array_equal(p + p.T, np.ones_like(p))
        assert np.array_equal(s, -s.T)
        np.testing.assert_allclose(p, 1 / (1 + np.exp(-s)), atol=1e-12)
    assert tables[2][1, 2] == 0.5  # the same text twice
    assert np.ptp(tables[0]) > 0.01


@pytest.mark.parametrize("scales", [False, True])
def test_answers_do_not_depend_on_the_batch(scales: bool) -> None:
    model = build(HeadConfig("hybrid", prompt_scales=scales))
    whole = ModelOracle(model, "m").scores(PROMPTS, GROUPS)
    for budget in (1, 64):
        for a, b in zip(whole, ModelOracle(model, "m", budget=budget).scores(PROMPTS, GROUPS), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    for prompt, group, s in zip(PROMPTS, GROUPS, whole, strict=True):
        np.testing.assert_allclose(ModelOracle(model, "m").scores([prompt], [group[::-1]])[0], s[::-1, ::-1], atol=1e-5)
    pair = Comparison(PROMPTS[0], GROUPS[0][2], GROUPS[0][0])
    assert ModelOracle(model, "m").compare([pair])[0] == pytest.approx(1 / (1 + np.exp(-whole[0][2, 0])), abs=1e-6)


def test_each_distinct_text_is_encoded_once() -> None:
    model = build(HeadConfig("hybrid"))
    rows = 0
    original = model.forward

    def counting(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        nonlocal rows
        rows += len(ids)
        return original(ids, lengths)

    model.forward = counting  # type: ignore[method-assign]
    ModelOracle(model, "m").compare([Comparison(PROMPTS[0], a, b) for a in "abcd" for b in "abcd"])
    assert rows == 4
    assert ModelOracle(model, "m").matrix([], []) == []


def test_model_and_hf_specs_open_the_same_model(saved: Path) -> None:
    by_model, by_hf = open_oracle(f"model:{saved}", device="cpu"), open_oracle(f"hf:{saved}", device="cpu")
    assert by_model.name == f"model:{saved}"
    for a, b in zip(by_model.matrix(PROMPTS, GROUPS), by_hf.matrix(PROMPTS, GROUPS), strict=True):
        assert np.array_equal(a, b)


def test_a_stock_reward_model_pools_as_the_stock_class_does(tmp_path: Path) -> None:
    """A checkpoint that pads with its end token, as many published ones do: pooled by the stock rule, not by ours."""
    from transformers import AutoModelForSequenceClassification

    model = build(HeadConfig("bt")).classifier
    tokenizer = make_tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.eos_token_id
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()

    def reward(prompt: Prompt, text: str) -> float:
        chat = [*prompt.as_dicts(), {"role": "assistant", "content": text}]
        ids: Any = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
        with torch.inference_mode():
            return float(stock(ids["input_ids"]).logits[0, 0])

    (scores, *_) = open_oracle(f"hf:{tmp_path}", device="cpu").scores(PROMPTS, GROUPS)
    rewards = [reward(PROMPTS[0], text) for text in GROUPS[0]]
    np.testing.assert_allclose(scores, np.subtract.outer(rewards, rewards), atol=1e-5)


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    make_tiny_model().save_pretrained(tmp_path)
    make_tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="not a reward model"):
        open_oracle(f"hf:{tmp_path}")


def test_python_functions_and_objects(module: Callable[[str], str], caplog: pytest.LogCaptureFixture) -> None:
    name = module(
        "from prefeval.oracle import PairwiseRule\n"
        "def longer(prompt, a, b):\n    return 0.9 if len(a) > len(b) else 0.1\n"
        "def bad(prompt, a, b):\n    return 3.0\n"
        "def silent(prompt, a, b):\n    return None\n"
        "rule = PairwiseRule('mine', lambda p, a, b: 0.5)\n"
        "number = 3\n"
    )
    with caplog.at_level("WARNING", logger="prefeval"):
        longer = open_oracle(f"py:{name}:longer")
    assert "runs its code" in caplog.text
    (p,) = longer.matrix([PROMPTS[0]], [("aaa", "b")])
    np.testing.assert_allclose(p, [[0.5, 0.9], [0.1, 0.5]])
    assert open_oracle(f"py:{name}:rule").name == "mine"
    assert np.isnan(open_oracle(f"py:{name}:silent").matrix([PROMPTS[0]], [("a", "b")])[0][0, 1])
    with pytest.raises(ConfigError, match="not a probability"):
        open_oracle(f"py:{name}:bad").matrix([PROMPTS[0]], [("a", "b")])
    for spec in (f"py:{name}:number", f"py:{name}:absent", f"py:{name}", "py:no_such_module_here:x"):
        with pytest.raises(ConfigError, match="py:"):
            open_oracle(spec)


def test_ensembles_average_probabilities(saved: Path, module: Callable[[str], str]) -> None:
    name = module("def first(prompt, a, b):\n    return 1.0 if a < b else 0.0\n")
    ensemble = open_oracle(f"ensemble:model:{saved}+py:{name}:first", device="cpu")
    assert isinstance(ensemble, Ensemble)
    (mixed,) = ensemble.matrix(PROMPTS[:1], [("a", "b")])
    (alone,) = open_oracle(f"model:{saved}", device="cpu").matrix(PROMPTS[:1], [("a", "b")])
    assert mixed[0, 1] == pytest.approx((alone[0, 1] + 1.0) / 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("modle:x", "did you mean 'model'"), ("nonsense", "known: model"), ("model:", "nothing after"),
     ("model:/no/such/place", "no such"), ("ensemble:bt:x", "unknown kind 'bt'")],
)  # fmt: skip
def test_unusable_specs(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_oracle(spec)


def test_rules_and_judges_are_opened_by_name() -> None:
    from prefeval.judges.as_oracle import JudgeOracle
    from prefeval.oracle import Oracle

    judge = open_oracle("judge:some-model@http://127.0.0.1:9/v1")
    assert isinstance(judge, JudgeOracle)
    assert "some-model" in judge.name
    with pytest.raises(ConfigError, match="no model name"):
        open_oracle("judge:@http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError):
        open_oracle("rules:no-such-rule")
    assert isinstance(judge, Oracle)
