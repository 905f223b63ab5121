"""Reward models from demonstrations (2405.17888): inverse RL's gradient, SPIN as a limit, the whole recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import save_tiny

from prefeval.data import load_records, read_demonstrations
from prefeval.errors import ConfigError, DataError
from prefeval.generate import SamplingParams
from prefeval.pipeline import load_recipe, run_recipe
from prefeval.types import PairLabel, PreferenceRecord, Prompt, Response
from reward_models import losses
from reward_models.demonstrations import DemonstrationConfig, demonstration_records, demonstrations_command
from reward_models.items import winner_ranks

BETA = 0.7


def demonstration_loss(rewards: torch.Tensor) -> torch.Tensor:
    """The loss of one demonstration (first) beside the policy's own answers, as `top_1` computes it at tau = BETA."""
    ranks = torch.tensor([0] + [1] * (len(rewards) - 1))
    return losses.ranked(rewards / BETA, ranks, top_only=True)


def test_the_gradient_is_that_of_inverse_reinforcement_learning() -> None:
    """Over many own answers: (policy - demonstrations) / beta, the policy ref exp(r / beta) summed up exactly here."""
    rng = np.random.default_rng(0)
    ref, shown = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    r = torch.tensor(rng.normal(size=5), requires_grad=True)
    policy = ref * np.exp(r.detach().numpy() / BETA)
    policy /= policy.sum()
    own = torch.tensor(np.repeat(np.arange(5), np.round(500 * ref).astype(int)))  # as often as the reference says
    total = sum(float(q) * demonstration_loss(r[torch.cat([torch.tensor([y]), own])]) for y, q in enumerate(shown))
    (gradient,) = torch.autograd.grad(total, r)
    np.testing.assert_allclose(gradient.numpy(), (policy - shown) / BETA, atol=0.015)
    assert np.abs(policy - shown).max() > 0.2  # there was something to find


def test_it_vanishes_where_the_policy_is_the_demonstrator() -> None:
    """r = beta log(demonstrator / ref) is stationary: the optimum of the IRL problem, in closed form."""
    rng = np.random.default_rng(1)
    ref, shown = rng.dirichlet(np.full(4, 3.0)), rng.dirichlet(np.full(4, 3.0))
    r = torch.tensor(BETA * np.log(shown / ref), requires_grad=True)
    own = torch.tensor(np.repeat(np.arange(4), np.round(500 * ref).astype(int)))
    total = sum(float(q) * demonstration_loss(r[torch.cat([torch.tensor([y]), own])]) for y, q in enumerate(shown))
    (gradient,) = torch.autograd.grad(total, r)
    assert float(gradient.abs().max()) < 0.015


def test_signs_and_the_limit_of_one_own_answer() -> None:
    r = torch.tensor([0.3, 1.1, -0.4], requires_grad=True)
    (gradient,) = torch.autograd.grad(demonstration_loss(r), r)
    assert gradient[0] < 0 < gradient[2] < gradient[1]  # demonstration up; the better an own answer, the more it falls
    assert float(gradient.sum()) == pytest.approx(0.0, abs=1e-6)
    # n = 1 with the implicit reward beta log(policy / ref) is SPIN's -log sigmoid of the difference of log-ratios
    ratios = torch.tensor([0.4, -0.9])  # log policy - log ref of demonstration and own answer
    spin = -torch.nn.functional.logsigmoid(BETA * (ratios[0] - ratios[1]) / BETA)
    torch.testing.assert_close(demonstration_loss(BETA * ratios), spin)
    torch.testing.assert_close(demonstration_loss(r[:2]), losses.soft_bce((r[:1] - r[1:2]) / BETA)[0])


def test_the_winner_needs_no_order_among_the_others() -> None:
    def record(*pairs: PairLabel) -> PreferenceRecord:
        return PreferenceRecord("1", Prompt.from_text("q"), ("a", "b", "c"), pairs)

    assert winner_ranks(record(PairLabel(1, 0), PairLabel(2, 1, 0.0))) == (1, 0, 1)
    assert winner_ranks(record(PairLabel(1, 0))) is None  # nobody compared b with c
    assert winner_ranks(record(PairLabel(1, 0), PairLabel(1, 2, 0.9))) is None


class Fixed:
    """Answers that are given beforehand."""

    name = "fixed"

    def __init__(self, *answers: str) -> None:
        self.answers = answers

    def sample(self, prompts: Any, k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        return [[Response(text) for text in self.answers[:k]] for _ in prompts]


def test_records_set_the_demonstration_above_each_own_answer() -> None:
    shown = [(Prompt.from_text("q", id="7"), "mine"), (Prompt.from_text("r", id="8"), "yours")]
    records, dropped = demonstration_records(shown, Fixed("yours", " ", "mine ", "yours"), 4, SamplingParams(4), 0)
    assert [r.responses for r in records] == [("mine", "yours"), ("yours", "mine ")]
    assert [[(p.i, p.j, p.p) for p in r.pairs] for r in records] == [[(0, 1, 1.0)], [(0, 1, 1.0)]]
    assert dropped == {"empty": 2, "repeated": 4}
    with pytest.raises(DataError, match="no answer of its own"):
        demonstration_records(shown[:1], Fixed("mine"), 1, SamplingParams(4), 0)
    with pytest.raises(ConfigError, match="at least 1"):
        DemonstrationConfig(samples=0)


def test_demonstrations_are_read_in_three_layouts(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"instruction": "q", "input": "of this", "output": "a"},
        {"prompt": "q", "completion": "a"},
    ]
    for row, text in zip(rows, ("q", "q\n\nof this", "q"), strict=True):
        path = tmp_path / "shown.jsonl"
        path.write_text(json.dumps(row) + "\n")
        ((prompt, answer),) = read_demonstrations(str(path))
        assert (prompt.text, answer) == (text, "a")
    path.write_text(json.dumps({"messages": rows[0]["messages"][:1]}) + "\n")
    with pytest.raises(DataError, match="assistant's turn"):
        read_demonstrations(str(path))
    path.write_text(json.dumps({"prompt": "q", "completion": " "}) + "\n")
    with pytest.raises(DataError, match="the demonstration is empty"):
        read_demonstrations(str(path))


def write_shown(folder: Path, count: int) -> Path:
    path = folder / "shown.jsonl"
    rows = [{"prompt": f"Name colour {n}.", "response": f"Red, green and blue, {n}."} for n in range(count)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.slow
def test_the_command_writes_what_train_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--data", str(write_shown(tmp_path, 3)), "--policy", str(save_tiny(tmp_path / "base")), "--samples", "2",
            "--max-new-tokens", "6", "--out", str(tmp_path / "run"), "--json"]  # fmt: skip
    assert demonstrations_command(argv) == 0
    result = json.loads(capsys.readouterr().out)
    records = load_records(result["path"]).records
    assert len(records) == result["records"] == 3
    assert all(r.responses[0].startswith("Red") for r in records)
    assert sum(len(r.pairs) for r in records) == result["pairs"] == 6 - sum(result["dropped"].values())
    assert demonstrations_command(argv) == 0  # done before: the same answer
    assert json.loads(capsys.readouterr().out) == result


@pytest.mark.slow
def test_the_recipe_learns_what_was_shown(tmp_path: Path) -> None:
    base, data = save_tiny(tmp_path / "base"), write_shown(tmp_path, 48)
    fit = "{epochs: 4, learning_rate: 2.0e-3, batch_size: 4, precision: fp32, log_every: 10}"
    args = ["--out", str(tmp_path / "run")]
    for n in (1, 2):
        args += [f"--samples-{n}.data", str(data), f"--samples-{n}.samples", "3", f"--samples-{n}.max_new_tokens", "12"]
        args += [f"--reward-{n}.fit", fit, f"--reward-{n}.trainable", "full", f"--reward-{n}.layers", "0"]
        args += [
            f"--reward-{n}.max_length",
            "96",
            f"--reward-{n}.valid_fraction",
            "0.25",
            f"--reward-{n}.resamples",
            "50",
        ]
        args += [f"--policy-{n}.policy", str(base), f"--policy-{n}.prompts_per_round", "8"]
        args += [f"--policy-{n}.responses", "3", f"--policy-{n}.max_new_tokens", "12"]
        args += [f"--policy-{n}.probe", "{limit: 4, responses: 1}", f"--policy-{n}.fit.precision", "fp32"]
    args += ["--samples-1.policy", str(base), "--reward-1.model", str(base)]
    results = run_recipe(load_recipe("rft", args))
    for n in (1, 2):
        assert results[f"samples-{n}"]["pairs"] > 100
        assert results[f"reward-{n}"]["metrics"]["accuracy_low"] > 0.5  # on prompts that were held out
    assert (tmp_path / "run" / "policy-2" / "final" / "model.safetensors").is_file()
