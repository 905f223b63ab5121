"""Laplace of a trained model: gradients by autograd on the weights, bounds, the stored file, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer

from prefeval.cli import main
from prefeval.errors import ConfigError
from prefeval.types import PairLabel, PreferenceRecord, Prompt
from reward_models.config import HeadConfig
from reward_models.heads import pair_logits
from reward_models.laplace import LaplaceOracle, gradients, information
from reward_models.modeling import PreferenceModel
from reward_models.oracles import ModelOracle, open_oracle
from reward_models.sure import sure_pairs
from reward_models.uncertainty import last_layer_laplace

TEXTS = ("Red.", "Green, I think.", "Sorry, I cannot help.")
PROMPTS = [Prompt.from_text(f"Question {n}?", id=str(n)) for n in range(6)]
RECORDS = [PreferenceRecord(p.id, p, TEXTS, (PairLabel(0, 1, 0.9), PairLabel(2, 1, 0.4))) for p in PROMPTS]


def build(head: HeadConfig) -> PreferenceModel:
    model = PreferenceModel.from_base(make_tiny_model(), make_tiny_tokenizer(), head, max_length=64)
    with torch.no_grad():
        model.classifier.score.weight.mul_(30)
    return model


@pytest.mark.parametrize("head", [HeadConfig("hybrid", tau=0.5), HeadConfig("gpm", blocks=2, unit_norm=True)])
def test_gradients_are_those_of_the_weights(head: HeadConfig) -> None:
    model = build(head)
    ((outputs, states),) = ModelOracle(model, "m").outputs_and_states(PROMPTS[:1], [TEXTS])
    pairs = [(0, 1), (2, 1)]
    found = gradients(outputs, states, pairs, head)
    weight = model.classifier.score.weight.detach().double().requires_grad_()
    for row, (i, j) in zip(found, pairs, strict=True):
        d = pair_logits(states[i] @ weight.T, states[j] @ weight.T, head)
        (expected,) = torch.autograd.grad(d, weight)
        np.testing.assert_allclose(row, expected.flatten().numpy(), atol=1e-5)


def test_a_scalar_head_has_the_precision_of_logistic_regression() -> None:
    """Around weights that are the penalised fit, it is the Laplace approximation of uncertainty.py."""
    model = build(HeadConfig("bt"))
    oracle = ModelOracle(model, "m")
    states = oracle.states(PROMPTS, [TEXTS] * 6)
    x = np.concatenate([s[[0, 2]] - s[[1, 1]] for s in states])
    fit = last_layer_laplace(x, np.tile([0.9, 0.4], 6), ridge=0.5)
    with torch.no_grad():
        model.classifier.score.weight.copy_(torch.tensor(fit.weights)[None])
    matrix, count = information(oracle, RECORDS)
    assert count == 12
    np.testing.assert_allclose(matrix + 0.5 * np.eye(32), fit.hessian, rtol=1e-4, atol=1e-4)
    bounded = LaplaceOracle(model, "m", fit.hessian)
    (p,), (low,) = bounded.matrix(PROMPTS[:1], [TEXTS]), bounded.lower(PROMPTS[:1], [TEXTS], 2.0)
    one = states[0][:1] - states[0][1:2]
    assert p[0, 1] == pytest.approx(float(fit.probability(one)[0]), abs=1e-4)
    assert low[0, 1] == pytest.approx(float(1 / (1 + np.exp(-fit.lower(one, 2.0)))[0]), abs=1e-4)
    assert np.array_equal(p + p.T, np.ones_like(p))
    assert bool((low <= p).all())
    assert low[0, 1] + low[1, 0] < 1.0


def test_sure_pairs_are_counted_by_hand() -> None:
    class Fixed:
        def lower(self, prompts: object, groups: object, width: float = 1.0) -> list[np.ndarray]:  # type: ignore[type-arg]
            return [np.array([[0.5, 0.6, 0.4], [0.3, 0.5, 0.2], [0.1, 0.45, 0.5]])]

    labels = (PairLabel(0, 1, 1.0), PairLabel(0, 2, 0.0), PairLabel(1, 2, 0.0), PairLabel(1, 2, 0.5))
    record = PreferenceRecord("r", PROMPTS[0], TEXTS, labels)
    found = sure_pairs(Fixed(), [record])["sure"]
    # 0 over 1: 0.6 decides, rightly; 0 against 2: the larger bound is 0's, wrong; 1 against 2: 2's, right; one tie
    assert (found["decided_by_the_bound"]["accuracy"], found["decided_by_the_bound"]["n"]) == (1.0, 1)
    assert (found["elsewhere"]["accuracy"], found["elsewhere"]["n"]) == (0.5, 2)
    assert sure_pairs(object(), [record]) == {}


def test_the_command_fits_stores_and_chooses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(HeadConfig("hybrid")).save_pretrained(tmp_path / "m")
    pairs, rows, out = tmp_path / "pairs.jsonl", tmp_path / "rows.jsonl", tmp_path / "choices.jsonl"
    pairs.write_text(
        "".join(json.dumps({"prompt": f"Q {n}?", "chosen": "Red.", "rejected": f"No {n}."}) + "\n" for n in range(12))
    )
    rows.write_text(json.dumps({"id": "a", "prompt": "Q?", "responses": list(TEXTS)}) + "\n")
    spec = f"laplace:{tmp_path / 'm'}"
    with pytest.raises(ConfigError, match="fit it with: prefeval uncertainty"):
        open_oracle(spec, device="cpu")
    argv = ["uncertainty", "--model", str(tmp_path / "m"), "--data", str(pairs), "--valid", str(pairs)]
    argv += ["--input", str(rows), "--device", "cpu"]
    assert main([*argv, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert all(text in said for text in ("Laplace over 96 weights", "held-out pairs", "lower bound decides", "cover"))
    (choice,) = (json.loads(line) for line in out.read_text().splitlines())
    assert len(choice["candidates"]) == 3
    assert choice["dimension"] == 32
    scores = tmp_path / "P.jsonl"
    argv = ["score", "--oracle", spec, "--input", str(rows), "--out", str(scores), "--lower", "--device", "cpu"]
    assert main(argv) == 0
    row = json.loads(scores.read_text())
    assert np.all(np.array(row["lower"]) <= np.array(row["P"]) + 1e-12)
    argv = ["evaluate", "--oracle", spec, "--data", str(pairs), "--out", str(tmp_path / "e"), "--bound", "1"]
    assert main([*argv, "--resamples", "20"]) == 0
    assert "lower bound decides" in capsys.readouterr().out
    assert main(["score", "--oracle", "rules:gold", "--input", str(rows), "--out", str(scores), "--lower"]) == 2
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["preference"]["tau"] = 3.0
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="another head's"):
        open_oracle(spec, device="cpu")
