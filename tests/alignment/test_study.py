"""A study of runs whose replies are moves of rock, paper, scissors, so that every table is known beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alignment.probes import gap_draws
from alignment.samples import SampledGroup, write_samples
from alignment.study import StudyConfig, compare_runs, judge_pool, read_runs
from prefeval.config import to_dict
from prefeval.errors import ConfigError
from prefeval.files import write_json
from prefeval.oracle import PairwiseRule
from prefeval.runs import MetricRow, RunDir
from prefeval.types import Prompt, Response

RULE = """
def beats(prompt, a, b):
    return 0.5 if a == b else float((a, b) in {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")})
"""
TEXT = {"kl": 0.5, "length": 3.0, "start_logp": -2.0, "broken": 0.0, "duplicates": 0.25}


def make_run(path: Path, moves: list[str], prompts: int = 8) -> str:
    """A finished alignment run whose policy of round t always plays moves[t]."""
    run = RunDir(path, {"algorithm": "toy"})
    for number, move in enumerate(moves):
        groups = [
            SampledGroup(Prompt.from_text(f"question {i}"), (Response(move), Response(move))) for i in range(prompts)
        ]
        write_samples(path / "probes" / f"policy{number:03d}.jsonl", groups)
        run.metrics.add(MetricRow("probe", f"round{number}/probe", TEXT, round=number))
    records = {
        "round1/fit/sample": (60.0, {"replies": 16, "length": 50.0}),
        "round1/fit/compare": (30.0, {"comparisons": 8}),
        "round1/fit/fit": (120.0, {"steps": 4, "seconds": 100.0, "tokens_per_second": 20.0}),
        "round1/probe": (600.0, {}),
    }
    for name, (seconds, result) in records.items():
        marker = {"stage": name, "inputs": "x", "seconds": seconds, "result": result}
        write_json(path / ".stages" / f"{name.replace('/', '.')}.json", marker)
    return str(path)


@pytest.fixture
def rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "rps_rule.py").write_text(RULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "py:rps_rule:beats"


@pytest.fixture
def config(tmp_path: Path, rule: str) -> StudyConfig:
    return StudyConfig(
        out=str(tmp_path / "study"),
        runs={
            "fixed": [make_run(tmp_path / "a", ["rock", "paper", "paper", "paper"])],
            "turning": [make_run(tmp_path / "b", ["rock", "paper", "scissors", "rock"])],
        },
        baseline="fixed",
        oracles={"rps": rule},
        resamples=50,
    )


def test_known_game(config: StudyConfig) -> None:
    result = compare_runs(config, RunDir(config.out, to_dict(config)))
    fixed, turning = result["methods"]["rps"]["fixed"], result["methods"]["rps"]["turning"]
    assert fixed["win_rate"]["point"] == 1.0  # paper beats rock, on every prompt
    assert turning["win_rate"]["point"] == 0.5
    assert turning["difference"]["point"] == -0.5
    assert turning["over_baseline"]["point"] == 0.0  # rock against paper
    # Every pure policy is beaten by one in the pool; the mixture of the three moves by none.
    assert fixed["gap"]["point"] == 1.0
    assert [g["point"] for g in turning["gap_rounds"]] == [1.0, 1.0, 1.0, 1.0]
    assert turning["gap_average"]["point"] == pytest.approx(0.0, abs=1e-12)
    assert turning["average_change"]["point"] == pytest.approx(-1.0)
    assert turning["gap_change"] == {"point": 0.0, "low": 0.0, "high": 0.0}
    assert fixed["gap_average"]["point"] == pytest.approx(1.0)
    # Nothing but `turning` to average over: rock loses to paper everywhere, and a circle of three equal parts is all.
    together = result["hypotheses"]["rps"]
    assert together["methods"] == 1
    assert together["margin"]["point"] == -0.5
    assert together["margin"]["p"] < 0.01  # 8 prompts all on one side: 2 / 2^8, and the draws of a flip test
    assert together["margin"]["detectable"] == 0.0
    assert together["average_change"]["point"] == pytest.approx(-1.0)
    assert result["policies"] == 7
    assert result["cost"]["fixed"] == {
        "replies": 16.0,
        "sampled_tokens": 16 * 50 / 1e6,
        "comparisons": 8.0,
        "trained_tokens": 2000 / 1e6,
        "steps": 4.0,
        "minutes": 3.5,  # without the probe
        "dollars": 0.0,
    }
    text = (Path(config.out) / "study.md").read_text()
    assert "| turning | 50.0 [50.0, 50.0] | 50.0 | -50.0 [-50.0, -50.0]" in text
    assert json.loads((Path(config.out) / "study.json").read_text()) == result


def test_cyclic_part_is_the_hodge_residual(config: StudyConfig, rule: str) -> None:
    runs = read_runs(config.runs)
    beats: dict[tuple[str, str], float] = {}
    moves = ("rock", "paper", "scissors")
    for i, a in enumerate(moves):
        for j, b in enumerate(moves):
            # A ranking rock < paper < scissors of step 0.1, and a circle of 0.3 on top.
            circle = 0.3 if (i - j) % 3 == 1 else -0.3
            beats[a, b] = 0.5 if i == j else 0.5 + 0.1 * (i - j) + circle
    oracle = PairwiseRule("toy", lambda prompt, a, b: beats[a, b])
    pool = judge_pool(oracle, runs)
    # The pool's replies: rock 2 policies, paper 4, scissors 1, two replies each; least squares with these weights.
    weights = {"rock": 2 / 7, "paper": 4 / 7, "scissors": 1 / 7}
    potential = {a: sum(w * (beats[a, b] - 0.5) for b, w in weights.items()) for a in moves}
    start, paper = 0, pool.place[0, 1]
    expected = beats["paper", "rock"] - 0.5 - (potential["paper"] - potential["rock"])
    assert np.allclose(pool.cyclic[:, paper, start], expected)
    assert np.allclose(pool.wins[:, paper, start], beats["paper", "rock"])
    ranking = PairwiseRule("ranking", lambda prompt, a, b: 0.5 + 0.1 * (moves.index(a) - moves.index(b)))
    assert np.allclose(judge_pool(ranking, runs).cyclic, 0.0)


def test_seeds_are_averaged(tmp_path: Path, rule: str) -> None:
    runs = {
        "two": [make_run(tmp_path / "c", ["rock", "paper"]), make_run(tmp_path / "d", ["rock", "rock"])],
        "one": [make_run(tmp_path / "e", ["rock", "scissors"])],
    }
    config = StudyConfig(out=str(tmp_path / "out"), runs=runs, baseline="one", oracles={"rps": rule}, resamples=20)
    rows = compare_runs(config, RunDir(config.out, to_dict(config)))["methods"]["rps"]
    assert rows["two"]["win_rate_by_run"] == [1.0, 0.5]
    assert rows["two"]["win_rate"]["point"] == 0.75
    assert rows["two"]["over_baseline"]["point"] == 0.5  # paper loses to scissors, rock wins


def test_methods_together_count_once_each(tmp_path: Path, rule: str) -> None:
    """Over scissors: rock + 1/2, paper - 1/2; two runs of the one method weigh no more than one of the other."""
    runs = {
        "scissors": [make_run(tmp_path / "c", ["rock", "paper", "scissors"])],
        "rock": [make_run(tmp_path / n, ["rock", "scissors", "rock"]) for n in "de"],
        "paper": [make_run(tmp_path / "f", ["rock", "scissors", "paper"])],
    }
    config = StudyConfig(out=str(tmp_path / "out"), runs=runs, baseline="scissors", oracles={"r": rule}, resamples=20)
    found = compare_runs(config, RunDir(config.out, to_dict(config)))["hypotheses"]["r"]
    assert found["methods"] == 2
    assert found["margin"]["point"] == pytest.approx(0.0)
    assert found["gap_change"]["point"] == pytest.approx(
        0.0
    )  # every move is beaten by one, in the first round and last
    # Scissors and rock in equal shares lose to rock by 1/4, scissors and paper to scissors: a gap of 1/2, not 1.
    assert found["average_change"]["point"] == pytest.approx(-0.5)


def test_bad_studies_are_refused(tmp_path: Path, rule: str) -> None:
    good = make_run(tmp_path / "a", ["rock", "paper"])
    with pytest.raises(ConfigError, match="baseline 'dpo' is none of the methods"):
        StudyConfig(runs={"inpo": [good]})
    with pytest.raises(ConfigError, match="at least one run"):
        StudyConfig(runs={"dpo": []})
    with pytest.raises(ConfigError, match="not a run directory"):
        read_runs({"dpo": [str(tmp_path / "nothing")]})
    with pytest.raises(ConfigError, match="other probe prompts"):
        read_runs({"dpo": [good], "inpo": [make_run(tmp_path / "b", ["rock", "paper"], prompts=6)]})
    unfinished = Path(make_run(tmp_path / "c", ["rock", "paper"]))
    (unfinished / "probes" / "policy001.jsonl").unlink()
    with pytest.raises(ConfigError, match="not a finished alignment run with probes"):
        read_runs({"dpo": [str(unfinished)]})


def test_gap_draws_use_the_same_prompts() -> None:
    against = np.random.default_rng(0).uniform(size=(30, 4))
    point, draws = gap_draws(against, seed=3, resamples=40)
    again, same = gap_draws(against + 0.1, seed=3, resamples=40)
    assert again - point == pytest.approx(0.2)  # 2 max - 1 of what moved by 0.1
    assert np.allclose(same - draws, 0.2)
