"""What docs/extending.md shows works from outside of the package: its blocks are written to files and run."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny import save_tiny

import prefeval
from alignment.algorithm import get_algorithm
from prefeval import cli
from prefeval.errors import ConfigError
from prefeval.files import write_jsonl
from prefeval.games import open_game

PAGE = (Path(prefeval.__file__).parent / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```\w+\n# (\w+\.\w+)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = {line.split()[1]: line for line in re.findall(r"^prefeval .*", PAGE, re.MULTILINE)[::-1]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with the page's files in it, from which modules are imported."""
    for name, text in BLOCKS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in BLOCKS:
        sys.modules.pop(Path(name).stem, None)


def run(line: str, *more: str) -> int:
    return cli.main([*shlex.split(line)[1:], *more])


def test_each_is_under_60_lines() -> None:
    assert set(BLOCKS) == {"momentum.py", "focal.py", "checklist.py", "checklist.yaml"}
    assert all(text.count("\n") + 1 < 60 for text in BLOCKS.values())


def test_an_algorithm(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exact play is the update as the page writes it; sampled play, through the loss, comes near it."""
    assert run(COMMANDS["game"]) == 0
    printed = capsys.readouterr().out
    assert printed in PAGE
    game = open_game("rps")
    before = now = game.log_start
    for _ in range(3):
        after = 1.3 * now - 0.3 * before + game.P @ np.exp(now)
        before, now = now, after - np.log(np.exp(after).sum())
    last = [float(x) for x in printed.splitlines()[-1].split()[4:]]
    assert last == pytest.approx(np.exp(now), abs=6e-4)
    exact = [*COMMANDS["game"].split(), "--json"]
    sampled = " ".join([*exact, "--sampled", "3000", "--group", "4", "--rows", "last"])
    assert run(sampled) == 0
    drawn = json.loads(capsys.readouterr().out)["policy"]
    assert drawn == pytest.approx(np.exp(now), abs=0.03)


def test_what_is_no_algorithm_is_refused(here: Path) -> None:
    assert get_algorithm("py:momentum:Momentum", alpha=0.5).step == 1.0
    for spec, why in (
        ("py:momentum:Phase", "not a dataclass that has name"),
        ("py:momentum:Absent", "no attribute"),
        ("py:absent_module:X", "No module"),
        ("py:momentum", "write py:module:object"),
    ):
        with pytest.raises(ConfigError, match=why):
            get_algorithm(spec)
    with pytest.raises(ConfigError, match="unknown key 'alhpa'; did you mean 'alpha'"):
        get_algorithm("py:momentum:Momentum", alhpa=0.5)


def test_a_loss(here: Path) -> None:
    """Its value and gradient at log-odds 0 are known; what is no such function is refused."""
    import torch

    from reward_models.config import LossConfig
    from reward_models.pair_loss import pair_loss

    d = torch.zeros(1, requires_grad=True)
    loss = pair_loss(d, torch.ones(1), torch.ones(1), LossConfig(kind="py:focal:focal"))
    assert loss.item() == pytest.approx(math.log(2) / 4)
    loss.sum().backward()
    # q = sigmoid(d): d/dd of (1 - q)^2 (-log q) at 0 = -(1/4) log 2 - 1/8
    assert d.grad.item() == pytest.approx(-math.log(2) / 4 - 1 / 8)
    for kind, why in (("py:torch:dot", "one value a pair"), ("sfot", "did you mean 'soft'")):
        with pytest.raises((ConfigError, ValueError), match=why):
            pair_loss(d, torch.ones(1), torch.ones(1), LossConfig(kind=kind))


@pytest.mark.slow
def test_a_cycle_is_learned_with_the_loss(here: Path) -> None:
    edges = (("Red.", "Green."), ("Green.", "Blue."), ("Blue.", "Red."))
    write_jsonl("pairs.jsonl", [{"prompt": "Name a colour.", "chosen": a, "rejected": b} for a, b in edges])
    save_tiny("base")
    options = "--valid-data pairs.jsonl --model base --trainable head --max-length 64 --resamples 20"
    fit = "--fit.epochs 30 --fit.learning-rate 0.01 --fit.precision fp32 --fit.schedule constant"
    assert run(f"{COMMANDS['train']} {options} {fit}") == 0
    assert json.loads(Path("runs/focal/evaluation.json").read_text())["accuracy"] == 1.0


def test_a_benchmark(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ann names what she must on two of four dishes and Bob, the baseline, on one of the others: 2 wins, 1 loss."""
    must = ["salt", "flour", "milk", "rice"]
    write_jsonl("questions.jsonl", [{"instruction": f"Cook {n}.", "must": m} for n, m in enumerate(must)])
    said = {"ann": ["salt", "flour", "no", "no"], "bob": ["no", "no", "milk", "none"]}
    for name, words in said.items():
        rows = [{"instruction": f"Cook {n}.", "output": w, "generator": name} for n, w in enumerate(words)]
        write_jsonl(f"{name}.jsonl", rows)
    assert run(COMMANDS["bench"], "--resamples", "20") == 0
    assert "| ann |" in capsys.readouterr().out
    table = json.loads(Path("runs/food/scores/food/leaderboard.json").read_text())["rows"][0]
    assert (table["name"], table["win_rate"], table["n"]) == ("ann", pytest.approx(62.5), 4)
    annotation = "runs/food/annotations/food/ann/annotations.json"
    spec = "food=py:checklist:Checklist:questions.jsonl"
    assert run(f"prefeval leaderboard --benchmark {spec} --annotations {annotation} --out board --resamples 20") == 0


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("food=py:checklist:questions.jsonl", "write NAME=py:module:Class:PATH"),
        ("food=py:checklist:names:questions.jsonl", "its protocol must be one of"),
        ("alpaca-eval-x=py:checklist:Checklist:questions.jsonl", "another benchmark's"),
    ],
)
def test_what_is_no_benchmark_is_refused(here: Path, spec: str, why: str) -> None:
    from leaderboard.benchmarks import open_benchmark

    write_jsonl("questions.jsonl", [{"instruction": "Cook.", "must": "salt"}])
    with pytest.raises(ConfigError, match=why):
        open_benchmark(spec)
