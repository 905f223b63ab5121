"""Pair models on tiny random weights: the token layout, both orders, batches, reload, and learning something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer, save_tiny

from prefeval.errors import ConfigError
from prefeval.oracle import TwoOrders, check_complementary
from prefeval.types import Comparison, Message, Prompt
from reward_models.evaluate_cli import evaluate
from reward_models.generative_pairs import ABModel, ABOracle, pair_text
from reward_models.oracles import open_oracle
from reward_models.pair_train import train_pair_command
from reward_models.pairwise import PREFIXES, CrossEncoder, CrossPairOracle

PROMPTS = [Prompt.from_text("Name a colour", id="1"), Prompt.from_text("Why?", id="2")]
GROUPS = [("Red", "Green and blue", "I think that the answer is red"), ("Because", "No")]


def save_encoder(path: Path) -> Path:
    """A two-layer BERT of 32 dimensions with the tiny tokenizer, which gets CLS and SEP."""
    from transformers import BertConfig, BertModel

    tokenizer = make_tiny_tokenizer()
    tokenizer.add_special_tokens({"cls_token": "<s>", "sep_token": "<|end|>"})
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=64, max_position_embeddings=256, pad_token_id=0)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("pairs") / "bert")


def cross(encoder: Path) -> CrossEncoder:
    model = CrossEncoder.from_base(str(encoder), max_length=256)
    with torch.no_grad():
        model.head_layer[4].weight.mul_(20)
    return model


def ab() -> ABModel:
    return ABModel(make_tiny_model(), make_tiny_tokenizer())


def test_cross_tokens_and_the_limits_of_llm_blender(encoder: Path) -> None:
    model = cross(encoder)
    tok, tokens = model.tokenizer, model.tokens
    marks = tok.convert_tokens_to_ids(list(PREFIXES))
    plain = lambda text: tok(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    ids = tokens(Comparison(PROMPTS[0], "Red", "Green"))
    s, e = tok.cls_token_id, tok.sep_token_id
    assert list(ids) == [
        s,
        marks[0],
        *plain("Name a colour"),
        e,
        marks[1],
        *plain("Red"),
        e,
        marks[2],
        *plain("Green"),
        e,
    ]
    assert (tokens.encoded, tokens.truncated) == (1, 0)
    tokens.max_length, tokens.source_length = 64, 20
    cut = tokens(Comparison(Prompt.from_text("quick brown fox " * 40), "lazy dog " * 40, "Red"))
    first, second = cut.index(marks[1]), cut.index(marks[2])
    assert first == 20
    assert second - first == (64 - 20) // 2
    assert cut[second + 1 :] == (*plain("Red"), e)
    assert tokens.truncated == 1
    quoted = tokens(Comparison(PROMPTS[0], f"Red{PREFIXES[2]}", "Green"))
    assert quoted.count(marks[2]) == 1


def test_cross_logit_is_the_mlp_at_the_three_marks(encoder: Path) -> None:
    model = cross(encoder)
    ids = torch.tensor([model.tokens(Comparison(PROMPTS[0], "Red", "Green"))])
    with torch.inference_mode():
        hidden = model.pretrained_model(input_ids=ids).last_hidden_state[0]
        at = [hidden[ids[0].tolist().index(m)] for m in model.tokens.marks]
        one, _, two = model.head_layer[1], None, model.head_layer[4]
        f = [two(torch.tanh(one(torch.cat([at[0], h])))) for h in at[1:]]
        assert model(ids, torch.tensor([ids.shape[1]]))[0, 0].item() == pytest.approx((f[0] - f[1]).item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["cross", "ab"])
def test_pair_oracles_keep_the_contract_and_average_both_orders(kind: str, encoder: Path) -> None:
    oracle: Any = CrossPairOracle(cross(encoder), "c") if kind == "cross" else ABOracle(ab(), "ab")
    assert isinstance(oracle, TwoOrders)
    tables, scores = oracle.matrix(PROMPTS, GROUPS), oracle.scores(PROMPTS, GROUPS)
    asked = oracle.consistency.pairs
    assert asked == 2 * (3 + 1)
    for p, s in zip(tables, scores, strict=True):
        check_complementary(p, kind)
        assert np.array_equal(s, -s.T)
        np.testing.assert_allclose(p, 1 / (1 + np.exp(-s)), atol=1e-9)
    one, other = oracle.shown([Comparison(PROMPTS[0], "Red", "Green"), Comparison(PROMPTS[0], "Green", "Red")])
    assert abs(one + other) > 1e-4  # the raw answer depends on the order
    (p,) = oracle.matrix([PROMPTS[0]], [("Red", "Green")])
    sigma = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    expected = sigma((one - other) / 2) if kind == "cross" else (sigma(one) + 1 - sigma(other)) / 2
    assert p[0, 1] == pytest.approx(expected, abs=1e-6)
    assert oracle.matrix([PROMPTS[0]], [("same", "same")])[0][0, 1] == 0.5
    np.testing.assert_allclose(
        oracle.ordered([Comparison(PROMPTS[0], "Red", "Green")]), [[sigma(one), 1 - sigma(other)]], atol=1e-6
    )


@pytest.mark.parametrize("kind", ["cross", "ab"])
def test_answers_do_not_depend_on_the_batch(kind: str, encoder: Path) -> None:
    make = (
        (lambda b: CrossPairOracle(cross(encoder), "c", budget=b))
        if kind == "cross"
        else (lambda b: ABOracle(ab(), "ab", budget=b))
    )
    for small, large in zip(make(1).scores(PROMPTS, GROUPS), make(10000).scores(PROMPTS, GROUPS), strict=True):
        np.testing.assert_allclose(small, large, atol=1e-5)
    alone = make(10000).scores(PROMPTS[:1], [GROUPS[0][1:]])[0]
    np.testing.assert_allclose(alone, make(1).scores(PROMPTS, GROUPS)[0][1:, 1:], atol=1e-5)


def test_saved_pair_models_reload_to_equal_answers(encoder: Path, tmp_path: Path) -> None:
    models: list[Any] = [cross(encoder), ab()]
    for n, model in enumerate(models):
        path = model.save_pretrained(tmp_path / str(n))
        oracle = (CrossPairOracle if n == 0 else ABOracle)(model, "x")
        found = open_oracle(f"pair:{path}", device="cpu")
        assert type(found) is type(oracle)
        for a, b in zip(oracle.scores(PROMPTS, GROUPS), found.scores(PROMPTS, GROUPS), strict=True):
            assert np.array_equal(a, b)


def test_weights_have_the_names_of_llm_blender_and_pickles_are_refused(encoder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = cross(encoder).save_pretrained(tmp_path / "cross")
    state = load_file(path / "model.safetensors")
    heads = {k for k in state if not k.startswith("pretrained_model.")}
    assert heads == {f"head_layer.{n}.{kind}" for n in (1, 4) for kind in ("weight", "bias")}
    save_file({k: v for k, v in state.items() if k != "head_layer.4.weight"}, path / "model.safetensors")
    with pytest.raises(ConfigError, match="head_layer"):
        open_oracle(f"pair:{path}", device="cpu")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pickled"):
        open_oracle(f"pair:{path}", device="cpu")
    with pytest.raises(ConfigError, match="only 'justify'"):
        open_oracle(f"pair:{path}#jsutify", device="cpu")


def test_the_ab_question_and_its_two_tokens() -> None:
    prompt = Prompt("p", (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")))
    assert pair_text(Comparison(prompt, "x", "y")) == (
        "[CONTEXT] \n\n<turn> user\n Hi\n\n<turn> assistant\n Hello\n\n<turn> user\n Bye\n\n\n"
        " [RESPONSE A] x [RESPONSE B] y \n"
    )
    model = ab()
    ids = model.tokens(Comparison(prompt, "x", "y"))
    assert model.tokenizer.bos_token_id not in ids
    assert [model.tokenizer.decode([i]) for i in model.tokens.verdicts] == ["A", "B"]
    assert ids[-1] == model.tokenizer.convert_tokens_to_ids("<|assistant|>")

    class TwoTokens:
        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [1, ord(text)]}

    with pytest.raises(ConfigError, match="one token each"):
        ABModel(make_tiny_model(), TwoTokens())


def test_ab_reads_the_next_token_distribution() -> None:
    model = ab()
    ids = torch.tensor([model.tokens(Comparison(PROMPTS[0], "Red", "Green"))])
    with torch.inference_mode():
        full = torch.log_softmax(model.model(input_ids=ids).logits[0, -1], -1)
        found = model(ids, torch.tensor([ids.shape[1]]))[0]
    torch.testing.assert_close(found, full[list(model.tokens.verdicts)])


@pytest.mark.parametrize("kind", ["cross", "ab"])
def test_training_learns_a_toy_and_the_command_saves_it(
    kind: str, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The response that says yes wins, whatever the question; held-out questions are new."""
    rows = [{"prompt": f"question {n} {n * 7 % 13}", "chosen": "yes yes", "rejected": "no"} for n in range(96)]
    data = tmp_path / "toy.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    base = encoder if kind == "cross" else save_tiny(tmp_path / "base")
    argv = ["--data", str(data), "--model", str(base), "--kind", kind, "--max-length", "200", "--valid-fraction", "0.3",
            "--out", str(tmp_path / "run"), "--fit.epochs", "4", "--fit.batch-size", "8", "--fit.learning-rate", "3e-3",
            "--fit.precision", "fp32", "--resamples", "50", "--json"]  # fmt: skip
    assert train_pair_command(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["metrics"]["accuracy_low"] > 0.5
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["values"]["loss"] for row in log if "loss" in row.get("values", {})]
    assert losses[-1] < 0.7 * losses[0]
    out = tmp_path / "eval"
    spec = f"pair:{tmp_path / 'run' / 'final'}"
    assert (
        evaluate(["--oracle", spec, "--data", str(data), "--out", str(out), "--device", "cpu", "--resamples", "20"])
        == 0
    )
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["accuracy_low"] > 0.5
    assert (metrics["encoding"]["sequences"], metrics["encoding"]["truncated"]) == (192, 0)
    assert metrics["position"]["pairs"] == 96
