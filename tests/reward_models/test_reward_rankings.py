"""Rankings, ties, scales and joint labels: losses against brute force and scipy, and trained end to end."""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from tiny import save_tiny

from prefeval.config import to_dict
from prefeval.errors import ConfigError
from prefeval.fit import FitConfig
from prefeval.runs import RunDir
from prefeval.types import PairLabel, PreferenceRecord, Prompt
from reward_models import losses
from reward_models.config import HeadConfig, LossConfig, TrainConfig
from reward_models.items import Item, item_loss, pair_loss, ranks_of
from reward_models.oracles import open_oracle
from reward_models.ties import tie_parameter
from reward_models.train import train

D = torch.tensor([-2.0, -0.3, 0.0, 0.7, 3.0], dtype=torch.float64)
ONE, HALF = torch.ones(5, dtype=torch.float64), torch.full((5,), 0.5, dtype=torch.float64)


def choose(rewards: list[float], order: list[int]) -> float:
    """-log of the probability that Plackett and Luce's urn draws `order`, as a product of ratios."""
    left, probability = set(order), 1.0
    for k in order:
        probability *= math.exp(rewards[k]) / sum(math.exp(rewards[j]) for j in left)
        left.remove(k)
    return -math.log(probability)


def test_a_full_ranking_is_plackett_luce_and_its_probabilities_add_up_to_one() -> None:
    rewards = [0.3, -1.2, 2.0, 0.4]
    r = torch.tensor(rewards, dtype=torch.float64)
    total = 0.0
    for order in permutations(range(4)):
        ranks = torch.tensor([order.index(k) for k in range(4)])
        value = float(losses.ranked(r, ranks))
        assert value == pytest.approx(choose(rewards, list(order)), abs=1e-12)
        assert value == pytest.approx(float(losses.plackett_luce(r[list(order)])), abs=1e-12)
        total += math.exp(-value)
    assert total == pytest.approx(1.0, abs=1e-12)


def test_ties_top_one_and_two_responses() -> None:
    r = torch.tensor([0.3, -1.2, 2.0, 0.4], dtype=torch.float64)
    e = r.exp()
    tied = losses.ranked(r, torch.tensor([0, 1, 0, 2]))  # 0 and 2 share the top, then 1, then 3
    expected = sum(-torch.log(e[k] / (e[k] + e[1] + e[3])) for k in (0, 2)) - torch.log(e[1] / (e[1] + e[3]))
    assert float(tied) == pytest.approx(float(expected), abs=1e-12)
    top = losses.ranked(r, torch.tensor([1, 2, 0, 3]), top_only=True)
    assert float(top) == pytest.approx(float(-torch.log(e[2] / e.sum())), abs=1e-12)
    assert float(losses.ranked(r[:2], torch.tensor([0, 1]))) == pytest.approx(float(losses.soft_bce(r[0] - r[1])))


def test_gradient_of_a_ranking_is_expected_minus_observed_choices() -> None:
    r = torch.tensor([0.5, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    losses.ranked(r, torch.tensor([1, 0, 2])).backward()
    e = r.detach().exp()
    second = e[[0, 2]] / (e[0] + e[2])
    expected = e / e.sum() + torch.tensor([second[0], 0.0, second[1]]) - torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(r.grad, expected)


@pytest.mark.parametrize("loss", [losses.rao_kupper, losses.davidson])
def test_tie_aware_losses_are_three_probabilities(loss: Any) -> None:
    win, tie, defeat = (torch.exp(-loss(D, p, 1.7)) for p in (ONE, HALF, 0 * ONE))
    torch.testing.assert_close(win + tie + defeat, ONE)
    torch.testing.assert_close(win, defeat.flip(0) * 0 + torch.exp(-loss(-D, 0 * ONE, 1.7)))
    mixed = loss(D, torch.full_like(D, 0.8), 1.7)  # 0.8 = win 0.6 + half of tie 0.4
    torch.testing.assert_close(mixed, -(0.6 * win.log() + 0.4 * tie.log()))


def test_tie_aware_losses_by_their_definitions_and_their_limit() -> None:
    i, j = 1.3, 0.4
    d = torch.tensor([i - j], dtype=torch.float64)
    a, b = math.exp(i), math.exp(j)
    assert float(losses.rao_kupper(d, torch.ones(1), 1.5)) == pytest.approx(-math.log(a / (a + 1.5 * b)), abs=1e-7)
    total = a + b + 0.8 * math.exp((i + j) / 2)
    assert float(losses.davidson(d, torch.full((1,), 0.5), 0.8)) == pytest.approx(
        -math.log(0.8 * math.exp((i + j) / 2) / total), abs=1e-7
    )
    for loss, none in ((losses.rao_kupper, 1.0), (losses.davidson, 0.0)):
        torch.testing.assert_close(loss(D, ONE, none), losses.soft_bce(D))
    for kind, loss in (("rao_kupper", losses.rao_kupper), ("davidson", losses.davidson)):
        tie = float(torch.exp(-loss(torch.zeros(1), torch.full((1,), 0.5), tie_parameter(kind, 0.3))))
        assert tie == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("rho", [0.05, 0.1, 0.5])
def test_adaptive_scale_is_the_minimiser_that_scipy_finds(rho: float) -> None:
    kappa = losses.adaptive_scale(D, rho, 0.1, 5.0)
    values = losses.adaptive_bce(D, ONE, rho)
    for d, k, v in zip(D.tolist(), kappa.tolist(), values.tolist(), strict=True):

        def objective(x: float, d: float = abs(d)) -> float:
            return x * math.log1p(math.exp(-d / x)) + (rho - math.log(2)) * x

        found = minimize_scalar(objective, bounds=(0.1, 5.0), method="bounded", options={"xatol": 1e-10})
        assert k == pytest.approx(found.x, abs=2e-4)
        if d > 0:
            assert v == pytest.approx(found.fun, abs=1e-8)
    lone = D.clone().requires_grad_()
    losses.adaptive_bce(lone, ONE, rho).sum().backward()  # kappa is held: the slope is that of the inner sigmoid
    torch.testing.assert_close(lone.grad, -torch.sigmoid(-D / kappa))


def test_ranks_of_records() -> None:
    prompt = Prompt.from_text("q")

    def record(*pairs: tuple[int, int, float]) -> PreferenceRecord:
        return PreferenceRecord("r", prompt, ("a", "b", "c"), tuple(PairLabel(i, j, p) for i, j, p in pairs))

    assert ranks_of(record((0, 1, 1.0), (0, 2, 1.0), (1, 2, 1.0))) == (0, 1, 2)
    assert ranks_of(record((1, 0, 1.0), (2, 0, 1.0), (1, 2, 0.5))) == (1, 0, 0)
    assert ranks_of(record((0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0))) is None  # a cycle
    assert ranks_of(record((0, 1, 1.0), (1, 2, 1.0))) is None  # a pair is missing
    assert ranks_of(record((0, 1, 0.7), (0, 2, 1.0), (1, 2, 1.0))) is None  # no outright winner
    assert ranks_of(record((0, 1, 0.5), (0, 2, 0.5), (1, 2, 0.5))) is None  # says nothing


def test_joint_loss_adds_pairs_to_ratings() -> None:
    head = HeadConfig("regression", attributes=("help", "style"), weights=(1.0, 0.5))
    outputs = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    item = Item(((1,), (2,)), (PairLabel(0, 1),), ((2.0, math.nan), (0.0, 1.0)))
    out = item_loss(outputs, [item], head, LossConfig(joint=0.3))
    squared = (1 - 2) ** 2 + 0.5**2 + (-1 - 1) ** 2
    utility = (1.0 + 0.5 * 2.0) - (0.5 - 0.5)
    assert float(out.loss_sum) == pytest.approx(squared + 0.3 * math.log1p(math.exp(-utility)))
    assert out.weight == item.units == 4


def rows() -> list[dict[str, Any]]:
    """Ten prompts whose five responses are ranked by the letter that they repeat, two of them tied."""
    out = []
    for n in range(10):
        texts = [f"{letter * 3} {n}" for letter in "ABCDE"]
        level = [0, 1, 1, 2, 3]
        p = [[0.5 if a == b else float(a < b) for b in level] for a in level]
        out.append({"id": str(n), "prompt": f"Question {n}", "responses": texts, "P": p})
    return out


@pytest.mark.parametrize(
    "kind",
    [
        "plackett_luce",
        pytest.param("rao_kupper", marks=pytest.mark.slow),
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("top_1", "davidson", "adaptive")),
    ],
)
def test_training_learns_what_the_labels_say(kind: Any, tmp_path: Path) -> None:
    data = tmp_path / "ranked.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    fit = FitConfig(epochs=15, learning_rate=3e-3, batch_size=2, precision="fp32", warmup_ratio=0.0, log_every=10)
    config = TrainConfig(
        data=str(data),
        valid_data=str(data),
        model=str(save_tiny(tmp_path / "base")),
        head=HeadConfig("bt"),
        loss=LossConfig(kind=kind),
        fit=fit,
        max_length=64,
        resamples=20,
        out=str(tmp_path / "run"),
    )
    result = train(config, RunDir(config.out, to_dict(config)))
    oracle = open_oracle(f"model:{tmp_path / 'run' / 'final'}")
    (p,) = oracle.matrix([Prompt.from_text("Question 3")], [rows()[3]["responses"]])
    assert p[0, 1:].min() > 0.5
    if kind != "top_1":  # which says nothing about the others
        assert result["metrics"]["accuracy"] > 0.95
    if kind in ("plackett_luce", "rao_kupper", "davidson"):  # which know of ties
        assert abs(p[1, 2] - 0.5) < min(p[0, 1] - 0.5, p[1, 3] - 0.5)


def test_losses_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hybrid head"):
        TrainConfig(loss=LossConfig(kind="plackett_luce"))
    with pytest.raises(ConfigError, match="joint"):
        TrainConfig(head=HeadConfig("bt"), loss=LossConfig(joint=1.0))
    for bad in ({"kind": "rao_kupper", "tie": 0.9}, {"rho": 0.8}, {"joint": -1.0}):
        with pytest.raises(ValueError, match="loss"):
            LossConfig(**bad)
    data = tmp_path / "p.jsonl"
    data.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    config = TrainConfig(
        data=str(data),
        valid_data=str(data),
        model=str(save_tiny(tmp_path / "base")),
        loss=LossConfig(kind="davidson"),
        out=str(tmp_path / "run"),
    )
    with pytest.raises(ConfigError, match="0% of the training pairs are ties"):
        train(config, RunDir(config.out, to_dict(config)))


def test_tie_aware_kinds_are_wired_to_their_own_losses() -> None:
    for kind, loss in (("rao_kupper", losses.rao_kupper), ("davidson", losses.davidson)):
        wired = pair_loss(D, HALF, ONE, LossConfig(kind=kind, tie=1.7))  # type: ignore[arg-type]
        torch.testing.assert_close(wired, loss(D, HALF, 1.7))
    assert not np.allclose(losses.rao_kupper(D, HALF, 1.7), losses.davidson(D, HALF, 1.7))
