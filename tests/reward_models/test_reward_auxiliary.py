"""Learned tie parameters against simulated truth, and the degree loss against its formula and its limits."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import save_tiny

from prefeval.errors import ConfigError
from prefeval.fit import FitConfig
from prefeval.runs import RunDir
from prefeval.types import PairLabel
from reward_models import losses
from reward_models.auxiliary import TieParameter
from reward_models.config import HeadConfig, LossConfig, LossKind, TrainConfig
from reward_models.degrees import degraded, rarity
from reward_models.items import Item, item_loss
from reward_models.modeling import PreferenceModel
from reward_models.train import train

TRUE = {"rao_kupper": 1.6, "davidson": 0.7}


def simulated(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-odds d, labels 1, 0.5, 0) of 4,000 comparisons, outcomes drawn by the rule's own definition."""
    rng = np.random.default_rng(7)
    d = rng.normal(size=4000)
    if kind == "rao_kupper":
        win, loss = 1 / (1 + 1.6 * np.exp(-d)), 1 / (1 + 1.6 * np.exp(d))
    else:
        total = np.exp(d / 2) + np.exp(-d / 2) + 0.7
        win, loss = np.exp(d / 2) / total, np.exp(-d / 2) / total
    u = rng.random(4000)
    label = np.where(u < win, 1.0, np.where(u < win + loss, 0.0, 0.5))
    return torch.tensor(d), torch.tensor(label)


@pytest.mark.parametrize("kind", ["rao_kupper", "davidson"])
def test_a_learned_tie_parameter_is_the_truth_within_its_standard_error(kind: str) -> None:
    """At a learning rate of 1e-5, that of a backbone, from a start far away; error from the observed information."""
    d, label = simulated(kind)
    rule = losses.rao_kupper if kind == "rao_kupper" else losses.davidson
    tie = TieParameter(kind, 3.0, learning_rate=1e-5)
    adam = torch.optim.AdamW(tie.parameters(), lr=1e-5, weight_decay=0.0)
    for step in range(600):
        adam.param_groups[0]["lr"] = 1e-5 * min(1.0, (600 - step) / 200)
        adam.zero_grad()
        rule(d, label, tie.value().double()).mean().backward()
        adam.step()
    found = float(tie.value().detach())
    curvature = torch.autograd.functional.hessian(
        lambda value: rule(d, label, value).sum(), torch.tensor(found, dtype=torch.float64)
    )
    error = float(curvature) ** -0.5
    print(f"{kind}: {found:.4f} with standard error {error:.4f}, truth {TRUE[kind]}")
    assert error < 0.05
    assert abs(found - TRUE[kind]) < 2 * error
    slope = torch.autograd.functional.jacobian(
        lambda value: rule(d, label, value).sum(), torch.tensor(found, dtype=torch.float64)
    )
    assert abs(float(slope)) * error < 0.2  # it is the maximum of the likelihood, to a fifth of the error


def run(tmp_path: Path, rows: list[dict[str, object]], loss: LossConfig, **fit: float) -> tuple[dict, Path]:  # type: ignore[type-arg]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    settings = {"epochs": 60.0, "learning_rate": 1e-3, **fit}
    config = TrainConfig(
        data=str(data), valid_data=str(data), model=str(save_tiny(tmp_path / "base")), head=HeadConfig("bt"), loss=loss,
        fit=FitConfig(precision="fp32", warmup_ratio=0.0, **settings), resamples=2, out=str(tmp_path / "run"),
    )  # type: ignore[arg-type]  # fmt: skip
    return train(config, RunDir(config.out, {})), tmp_path / "run" / "final"


def test_the_learned_parameter_is_saved_with_the_model(tmp_path: Path) -> None:
    winners = [0, 0, 2, 0, 0, 1, 0, 2]  # 1: first, 2: second wins, 0: a tie
    rows: list[dict[str, object]] = [
        {"instruction": f"Question {n}?", "output_1": f"Yes, {n}.", "output_2": f"No, {n}.", "generator_1": "a",
         "generator_2": "b", "annotator": "x", "preference": {0: 1.5, 1: 1.0, 2: 2.0}[w]}
        for n, w in enumerate(winners)
    ]  # fmt: skip
    _, final = run(tmp_path, rows, LossConfig("davidson", learn_tie=True, tie=0.5))
    saved = json.loads((final / "config.json").read_text())["preference"]["ties"]
    assert (saved["rule"], saved["tau"]) == ("davidson", 1.0)
    assert saved["value"] > 0.6  # of eight pairs five are ties: far more than nu = 0.5 expects
    model = PreferenceModel.from_pretrained(final)
    assert model.ties == saved
    model.save_pretrained(tmp_path / "again")
    assert PreferenceModel.from_pretrained(tmp_path / "again").ties == saved


@pytest.mark.parametrize("kind", ["soft", "margin"])
def test_losses_without_a_tie_parameter_learn_none(kind: LossKind) -> None:
    with pytest.raises(ValueError, match="learn_tie"):
        LossConfig(kind, learn_tie=True)


def test_the_rarest_words_go_first() -> None:
    weights = rarity(["the sky is blue", "the sea is blue", "the grass is green", "the sky"])
    assert weights["the"] == 0.0
    assert weights["sea"] == pytest.approx(math.log(4))
    text = "The sea, the sea is blue: the grass is not."
    assert degraded(text, 0.01, weights) == "The , the is blue: the grass is not."  # sea: twice log 4
    assert degraded(text, 1 / 3, weights) == "The , the is blue: the is not."  # of six words two: grass is next
    assert degraded(text, 1.0, weights) == ", :"[:1] + " : ."
    assert degraded("", 0.5, weights) == ""


ITEMS = [
    Item(((1,), (2,), (3,), (4,)), (PairLabel(0, 1),), degrees=(1, 1)),
    Item(((5,), (6,), (7,), (8,)), (PairLabel(1, 0, 0.7), PairLabel(0, 1)), degrees=(1, 1)),
]


def test_the_degree_loss_is_its_formula_and_vanishes_with_its_weight() -> None:
    outputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    head = HeadConfig("bt")
    plain = item_loss(outputs[:, :1], ITEMS, head, LossConfig())
    both = item_loss(outputs, ITEMS, head, LossConfig(degree=0.3, degree_ratios=(0.5,)))
    z = outputs.detach().numpy()[:, 1:]
    nll = np.log(np.exp(z).sum(1)) - z[range(8), [0, 0, 1, 1, 0, 0, 1, 1]]
    expected = 1 * nll[:4].mean() + 2 * nll[4:].mean()  # one labelled pair, then two
    assert float(both.loss_sum) == pytest.approx(float(plain.loss_sum) + 0.3 * expected)
    assert (both.weight, both.metrics["degree_nll"]) == (3.0, pytest.approx(expected))
    both.loss_sum.backward()
    assert outputs.grad is not None
    signs = torch.sign(outputs.grad[:, 1:])  # descent raises the logit of the true degree and lowers the other
    assert torch.equal(signs, torch.tensor([[-1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, -1.0]] * 2).double())
    nothing = item_loss(outputs.detach()[:, :1], ITEMS, head, LossConfig(degree=0.0))
    assert float(nothing.loss_sum) == float(plain.loss_sum)
    assert "degree_nll" not in nothing.metrics


@pytest.mark.slow
def test_training_learns_degrees_and_saves_a_plain_model(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": f"Question {n}?", "chosen": f"Yes, the sky is blue today, number {n}.", "rejected": "No, it is red."}
        for n in range(4)
    ]
    result, final = run(tmp_path, rows, LossConfig(degree=1.0, degree_ratios=(0.3, 1.0)), learning_rate=3e-3)
    print(f"NLL of the degrees, per pair: {result['fit']['evaluation']['valid_degree_nll']:.3f}, a guess log 3 = 1.099")
    assert result["fit"]["evaluation"]["valid_degree_nll"] < 0.5
    assert result["metrics"]["accuracy"] == 1.0
    assert PreferenceModel.from_pretrained(final).classifier.score.weight.shape == (1, 32)
    with pytest.raises(ConfigError, match=r"loss\.degree shapes the backbone"):
        TrainConfig(loss=LossConfig(degree=1.0), trainable="head")
