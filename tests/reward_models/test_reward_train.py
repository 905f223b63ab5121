"""Training end to end at toy size: cycles through `fit`, every loss and trainable part, resume, the files of a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer, save_tiny

from prefeval.config import to_dict
from prefeval.errors import ConfigError, DataError
from prefeval.fit import FitConfig
from prefeval.lora import LoraConfig
from prefeval.runs import RunDir, read_run
from prefeval.types import PairLabel, PreferenceRecord, Prompt
from reward_models import train as training
from reward_models.config import HeadConfig, LossConfig, TrainConfig
from reward_models.heads import pair_logits
from reward_models.items import Item, item_loss, make_items
from reward_models.modeling import PreferenceModel
from reward_models.oracles import open_oracle
from reward_models.train import train

CYCLE = (("Red.", "Green.", "Blue."), ((0, 1), (1, 2), (2, 0)))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def cycles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts, edges = CYCLE
    rows = [{"prompt": "Name a colour.", "chosen": texts[i], "rejected": texts[j]} for i, j in edges]
    path = tmp_path_factory.mktemp("data") / "cycles.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def config_for(base: Path, data: Path, out: Path, **changes: Any) -> TrainConfig:
    fit = changes.pop("fit", {})
    settings = {"epochs": 40.0, "learning_rate": 3e-3, "precision": "fp32", "schedule": "constant", "log_every": 10}
    settings |= {"batch_size": 2, "warmup_ratio": 0.0, **fit}
    options: dict[str, Any] = {"valid_data": str(data), "max_length": 64, "resamples": 20, **changes}
    return TrainConfig(data=str(data), model=str(base), out=str(out), fit=FitConfig(**settings), **options)


def run_training(config: TrainConfig) -> dict[str, Any]:
    return train(config, RunDir(config.out, to_dict(config)))


def test_hybrid_learns_a_cycle_and_bt_cannot(base: Path, cycles: Path, tmp_path: Path) -> None:
    hybrid = run_training(config_for(base, cycles, tmp_path / "hybrid"))
    assert hybrid["metrics"]["accuracy"] == 1.0
    assert hybrid["metrics"]["cycle_rate"] == 1.0
    bt = run_training(config_for(base, cycles, tmp_path / "bt", head=HeadConfig("bt")))
    assert bt["metrics"]["accuracy"] <= 2 / 3 + 1e-9
    assert bt["metrics"]["nll"] >= math.log(2) - 1e-6  # a symmetric cycle: no scalar beats chance in likelihood
    check_files(tmp_path / "hybrid", hybrid)


SHAPES = {
    "4-cycle": (("Red.", "Green.", "Blue.", "Pink."), ((0, 1), (1, 2), (2, 3), (3, 0)), 3 / 4),
    "5-cycle": (("Red.", "Green.", "Blue.", "Pink.", "Grey."), ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0)), 4 / 5),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.slow
def test_hybrid_holds_every_cycle_and_bt_stays_at_its_ceiling(shape: str, base: Path, tmp_path: Path) -> None:
    """A scalar can please all edges of a cycle but one."""
    texts, edges, ceiling = SHAPES[shape]
    data = tmp_path / "shape.jsonl"
    rows = [{"prompt": "Name a colour.", "chosen": texts[i], "rejected": texts[j]} for i, j in edges]
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    fit = {"epochs": 150.0}
    hybrid = run_training(config_for(base, data, tmp_path / "hybrid", fit=fit, resamples=2))
    assert hybrid["metrics"]["accuracy"] == 1.0
    bt = run_training(config_for(base, data, tmp_path / "bt", head=HeadConfig("bt"), fit=fit, resamples=2))
    assert bt["metrics"]["accuracy"] <= ceiling + 1e-9


def check_files(out: Path, result: dict[str, Any]) -> None:
    """What a run leaves: a model that answers as the metrics say, its card, its rows, and no training state."""
    oracle = open_oracle(f"model:{out / 'final'}", device="cpu")
    (p,) = oracle.matrix([Prompt.from_text("Name a colour.")], [CYCLE[0]])
    assert all(p[i, j] > 0.5 for i, j in CYCLE[1])
    nll = -np.mean([math.log(p[i, j]) for i, j in CYCLE[1]])
    assert result["metrics"]["nll"] == pytest.approx(nll, abs=1e-4)
    assert f"{result['metrics']['nll']:.3f}" in (out / "final" / "README.md").read_text()
    _, rows = read_run(out)
    assert {r.kind for r in rows} == {"fit", "evaluation"}
    assert json.loads((out / "evaluation.json").read_text())["n"] == 3
    assert not (out / "fit").exists()


def test_finished_run_is_skipped_and_other_config_refused(base: Path, cycles: Path, tmp_path: Path) -> None:
    config = config_for(base, cycles, tmp_path / "run", fit={"epochs": 2.0})
    first = run_training(config)
    stamp = (tmp_path / "run" / "final" / "model.safetensors").stat().st_mtime_ns
    assert run_training(config) == first
    assert (tmp_path / "run" / "final" / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match="another configuration"):
        run_training(config_for(base, cycles, tmp_path / "run", fit={"epochs": 3.0}))


def test_a_killed_run_ends_with_the_same_weights(
    base: Path, cycles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = {"epochs": 12.0, "batch_size": 1, "checkpoint_every": 4, "checkpoint_seconds": 0.0}
    whole = config_for(base, cycles, tmp_path / "whole", fit=fit)
    broken = config_for(base, cycles, tmp_path / "broken", fit=fit)
    run_training(whole)
    original, calls = training.item_loss, 0

    def dying(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise MemoryError("killed here")
        return original(*args)

    monkeypatch.setattr(training, "item_loss", dying)
    with pytest.raises(Exception, match="killed here"):
        run_training(broken)
    monkeypatch.setattr(training, "item_loss", original)
    run_training(broken)
    weights = [PreferenceModel.from_pretrained(tmp_path / n / "final").state_dict() for n in ("whole", "broken")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("trainable", ["head", "top:1"])
def test_partial_training_leaves_the_rest_alone(base: Path, cycles: Path, tmp_path: Path, trainable: str) -> None:
    fit = {"learning_rate": 0.05 if trainable == "head" else 3e-3}
    result = run_training(config_for(base, cycles, tmp_path / "run", trainable=trainable, fit=fit))
    assert result["metrics"]["accuracy"] == 1.0
    trained = PreferenceModel.from_pretrained(tmp_path / "run" / "final").classifier.model.state_dict()
    before = make_tiny_model().model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], trained[name])}
    assert changed == (set() if trainable == "head" else {n for n in before if n.startswith(("layers.1.", "norm."))})


def test_adapters_learn_the_cycle_and_the_saved_model_is_plain(base: Path, cycles: Path, tmp_path: Path) -> None:
    """Only linear layers and the head differ from the base; the head is always saved."""
    fit = {"learning_rate": 1e-2}
    result = run_training(config_for(base, cycles, tmp_path / "lora", lora=LoraConfig(rank=4), fit=fit))
    assert result["metrics"]["accuracy"] == 1.0
    check_files(tmp_path / "lora", result)
    assert "LoRA of rank 4" in (tmp_path / "lora" / "final" / "README.md").read_text()
    saved, before = (PreferenceModel.from_pretrained(tmp_path / "lora" / "final"), make_tiny_model().state_dict())
    weights = saved.classifier.state_dict()
    assert weights["score.weight"].abs().max() > 0.01
    for name, tensor in weights.items():
        if name in before:
            change = (tensor - before[name]).abs().max()
            assert bool(change > 1e-5) == ("_proj." in name), name
    with pytest.raises(ConfigError, match="exclude one another"):
        config_for(base, cycles, tmp_path / "both", lora=LoraConfig(rank=4), trainable="head")


def test_regression_learns_ratings(base: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Question {n}?", "response": text, "helpfulness": good, "verbosity": 4 - good, "correctness": good,
         "coherence": 4, "complexity": 1}
        for n in range(2) for text, good in (("Red.", 4), ("Sorry, no.", 0))
    ]  # fmt: skip
    data = tmp_path / "rated.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    head = HeadConfig("regression", attributes=("helpfulness", "verbosity"), weights=(1.0, 0.0))
    run_training(config_for(base, data, tmp_path / "run", head=head, fit={"epochs": 25.0, "learning_rate": 1e-2}))
    model = PreferenceModel.from_pretrained(tmp_path / "run" / "final")
    oracle = open_oracle(f"model:{tmp_path / 'run' / 'final'}", device="cpu")
    (p,) = oracle.matrix([Prompt.from_text("Question 1?")], [("Red.", "Sorry, no.")])
    assert p[0, 1] > 0.9
    assert model.head == head


def test_scores_against_the_labels_leave_the_temperature_alone(base: Path, cycles: Path, tmp_path: Path) -> None:
    turned = [{"prompt": "Name a colour.", "chosen": CYCLE[0][j], "rejected": CYCLE[0][i]} for i, j in CYCLE[1]]
    valid = tmp_path / "turned.jsonl"
    valid.write_text("".join(json.dumps(r) + "\n" for r in turned))
    result = run_training(config_for(base, cycles, tmp_path / "run", valid_data=str(valid), head=HeadConfig(tau=0.3)))
    assert result["metrics"]["accuracy"] == 0.0
    assert result["tau"] == 0.3


@pytest.mark.parametrize("trainable", ["head", "full"])
def test_bf16_training_saves_the_exact_weights(base: Path, cycles: Path, tmp_path: Path, trainable: str) -> None:
    fit = {"precision": "bf16", "epochs": 60.0, "learning_rate": 0.05 if trainable == "head" else 3e-3}
    result = run_training(config_for(base, cycles, tmp_path / "run", trainable=trainable, fit=fit))
    assert result["metrics"]["accuracy"] == 1.0
    weight = PreferenceModel.from_pretrained(tmp_path / "run" / "final").classifier.score.weight
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, weight.bfloat16().float())  # the masters, not their rounded copies


def paired(*pairs: PairLabel, count: int = 3) -> PreferenceRecord:
    return PreferenceRecord("r", Prompt.from_text("q"), tuple(f"answer {n}" for n in range(count)), pairs)


def test_items_encode_each_response_once_and_keep_every_pair() -> None:
    model = PreferenceModel.from_base(make_tiny_model(), make_tiny_tokenizer(), HeadConfig())
    star = paired(*[PairLabel(n, 0, 0.7, margin=2.0) for n in range(1, 9)], count=9)
    (one,) = make_items([star], model.encoder, model.head, 9)
    assert (len(one.ids), one.units, model.encoder.encoded) == (9, 8.0, 9)
    cut = make_items([star], model.encoder, model.head, 4)
    assert model.encoder.encoded == 18  # again once each, although the hub of the star is in every item
    assert all(len(item.ids) <= 4 for item in cut)
    texts = model.encode(star.prompt, star.responses)
    labels = {(item.ids[p.i], item.ids[p.j], p.p, p.margin) for item in cut for p in item.pairs}
    assert labels == {(texts[n], texts[0], 0.7, 2.0) for n in range(1, 9)}
    assert make_items([paired()], model.encoder, model.head, 4) == []


def test_item_loss_sums_every_labelled_pair() -> None:
    head = HeadConfig("hybrid", tau=0.5)
    outputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    items = [
        Item(((1,), (2,), (3,)), (PairLabel(0, 1), PairLabel(2, 0, 0.3))),
        Item(((4,), (5,)), (PairLabel(1, 0, 1.0, margin=2.0),)),
    ]
    edges = [(0, 1, 1.0, 1.0), (2, 0, 0.3, 1.0), (4, 3, 1.0, 2.0)]

    def expected(scaled: bool) -> float:
        total = 0.0
        for i, j, p, m in edges:
            d = float(pair_logits(outputs[i], outputs[j], head))
            total += (m if scaled else 1.0) * (p * math.log1p(math.exp(-d)) + (1 - p) * math.log1p(math.exp(d)))
        return total

    plain = item_loss(outputs, items, head, LossConfig())
    assert (float(plain.loss_sum), plain.weight) == (pytest.approx(expected(False)), 3.0)
    assert float(item_loss(outputs, items, head, LossConfig("scaled")).loss_sum) == pytest.approx(expected(True))
    centred = item_loss(outputs, items, head, LossConfig(centring=0.1))
    sums = sum(float(outputs[i, 0] + outputs[j, 0]) ** 2 for i, j, _, _ in edges)
    assert float(centred.loss_sum) == pytest.approx(expected(False) + 0.1 * sums)


def test_unusable_data_and_settings(base: Path, cycles: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no training data"):
        train(TrainConfig(out=str(tmp_path / "a")), RunDir(tmp_path / "a", {"x": 1}))
    head = HeadConfig("regression", attributes=("helpfulness",))
    with pytest.raises(DataError, match="no ratings of helpfulness"):
        run_training(config_for(base, cycles, tmp_path / "b", head=head))
    with pytest.raises(ConfigError, match="valid_fraction"):
        TrainConfig(valid_fraction=1.0)
    assert not (tmp_path / "b" / "final").exists()
