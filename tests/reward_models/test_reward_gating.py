"""The gate of a regression head: slow sums, Spearman by scipy, and preferences that no fixed weights can follow."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny import make_tiny_model, make_tiny_tokenizer

from prefeval.errors import ConfigError
from prefeval.fit import FitConfig
from prefeval.runs import RunDir
from prefeval.types import Prompt
from reward_models.config import GateConfig, HeadConfig, TrainConfig
from reward_models.gating import find_penalties
from reward_models.modeling import PreferenceModel
from reward_models.oracles import ModelOracle, open_oracle
from reward_models.train import train

NAMES = ("helpful", "brief", "wordy")
GATED = HeadConfig(
    "regression", attributes=NAMES, tau=0.5, gate=GateConfig((8, 8, 8), 10.0, "wordy", penalties=(0.3, 0.05, 1.0))
)
TEXTS = ("Red.", "Green, I think.", "Sorry, I cannot help.", "Blue and pink.")
PROMPT = Prompt.from_text("Name a colour.")


def build(head: HeadConfig) -> PreferenceModel:
    model = PreferenceModel.from_base(make_tiny_model(), make_tiny_tokenizer(), head, seed=5, max_length=64)
    with torch.no_grad():
        model.classifier.score.weight.mul_(30)
        if model.gate is not None:
            model.gate.layers[-1].weight.mul_(60)  # weights that differ
            model.gate.scale.fill_(1.7)
    return model


def test_scores_are_those_of_a_slow_computation_and_survive_reloading(tmp_path: Path) -> None:
    model = build(GATED)
    assert model.gate is not None
    oracle = ModelOracle(model, "m")
    (found,) = oracle.scores([PROMPT], [TEXTS])
    with torch.inference_mode():
        *states, asked = (
            model.classifier.model(torch.tensor([ids])).last_hidden_state[0, -1].double().numpy()
            for ids in model.group(PROMPT, TEXTS)
        )
    x = asked
    layers = [(m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in model.gate.layers]
    for weight, bias in layers[:-1]:
        x = np.maximum(weight @ x + bias, 0.0)
    z = np.exp((layers[-1][0] @ x + layers[-1][1]) / 10.0)
    gate = 1.7 * z / z.sum()
    assert np.ptp(gate) > 0.05
    weight = model.classifier.score.weight.detach().double().numpy()
    utility = []
    for h in states:
        helpful, brief, wordy = weight @ h
        utility.append(gate[0] * (helpful - 0.3 * wordy) + gate[1] * (brief - 0.05 * wordy))  # wordy itself is zeroed
    np.testing.assert_allclose(found, np.subtract.outer(utility, utility) / 0.5, atol=2e-5)
    model.save_pretrained(tmp_path / "m")
    again = PreferenceModel.from_pretrained(tmp_path / "m")
    assert again.head == GATED
    assert np.array_equal(ModelOracle(again, "m").scores([PROMPT], [TEXTS])[0], found)
    (tmp_path / "m" / "gate.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"gate\.safetensors cannot be loaded"):
        PreferenceModel.from_pretrained(tmp_path / "m")


def test_penalties_are_the_smallest_that_take_the_correlation_out() -> None:
    rng = np.random.default_rng(0)
    wordy = rng.normal(size=400)
    ratings = np.stack([0.5 * wordy + rng.normal(size=400), -wordy, wordy], axis=1)
    found = find_penalties(ratings, 2)
    assert found[1:] == (0.0, 1.0)  # already falling with verbosity: nothing to take out
    assert float(spearmanr(ratings[:, 0] - found[0] * wordy, wordy)[0]) <= 0.03
    assert float(spearmanr(ratings[:, 0] - (found[0] - 0.01) * wordy, wordy)[0]) > 0.03
    assert find_penalties(np.stack([3 * wordy, wordy], axis=1), 1) == (0.95, 1.0)  # no penalty up to there is enough


def test_only_a_gate_follows_prompts_that_want_opposite_attributes(tmp_path: Path) -> None:
    """Half of the prompts prefer by one attribute, half by the other, as a frozen regression head rates them."""
    first = build(HeadConfig("regression", attributes=("a", "b")))
    first.save_pretrained(tmp_path / "first")
    prompts = [f"{kind} {n}." for kind in ("Name colour", "Why is it so, number") for n in range(4)]
    rated = ModelOracle(first, "m").outputs([Prompt.from_text(p) for p in prompts], [TEXTS] * 8)
    rows, differences = [], []
    for n, (prompt, ratings) in enumerate(zip(prompts, rated, strict=True)):
        for i, j in ((i, j) for i in range(4) for j in range(4) if i < j):
            gap = (ratings[i] - ratings[j]).tolist()
            won = gap[n // 4] > 0
            chosen, rejected = (i, j) if won else (j, i)
            rows.append({"prompt": prompt, "chosen": TEXTS[chosen], "rejected": TEXTS[rejected]})
            differences.append(gap if won else [-g for g in gap])
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    angles = np.linspace(0, math.pi / 2, 500)
    fixed = np.max((np.array(differences) @ np.stack([np.cos(angles), np.sin(angles)]) > 0).mean(axis=0))
    fit = FitConfig(epochs=60.0, learning_rate=1e-2, precision="fp32", schedule="constant", warmup_ratio=0.0)
    config = TrainConfig(
        data=str(data), valid_data=str(data), model=str(tmp_path / "first"), trainable="gate", resamples=5, fit=fit,
        head=HeadConfig("regression", attributes=("a", "b"), gate=GateConfig((32,), temperature=1.0)),
        out=str(tmp_path / "run"), max_length=64,
    )  # fmt: skip
    result = train(config, RunDir(config.out, {}))
    print(f"accuracy with a gate {result['metrics']['accuracy']:.3f}, with the best fixed weights {fixed:.3f}")
    assert result["metrics"]["accuracy"] == 1.0 > fixed
    trained = PreferenceModel.from_pretrained(tmp_path / "run" / "final")
    before, after = first.classifier.state_dict(), trained.classifier.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    oracle = open_oracle(f"model:{tmp_path / 'run' / 'final'}", device="cpu")
    (p,) = oracle.matrix([Prompt.from_text(prompts[0])], [TEXTS])
    assert np.array_equal(p + p.T, np.ones_like(p))


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "bt", "gate": GateConfig((8,))},
        {"attributes": ("a",), "weights": (1.0,), "gate": GateConfig((8,))},
        {"attributes": ("a",), "gate": GateConfig((8,), verbosity="b")},
        {"attributes": ("a",), "gate": GateConfig((8,), temperature=0.0)},
        {"attributes": ("a",), "gate": GateConfig((8,), penalties=(0.1,))},
    ],
)
def test_unusable_gates_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        HeadConfig(**{"kind": "regression", **options})  # type: ignore[arg-type]


def test_a_gate_and_its_training_go_together() -> None:
    head = HeadConfig("regression", attributes=("a",))
    gated = HeadConfig("regression", attributes=("a",), gate=GateConfig((8,), verbosity="a"))
    for options in ({"head": head, "trainable": "gate"}, {"head": gated, "trainable": "head"}, {"head": gated}):
        with pytest.raises(ConfigError, match="gate"):
            TrainConfig(**options)  # type: ignore[arg-type]
