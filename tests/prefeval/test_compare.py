"""Two runs side by side: every change of config, every common metric, intervals of differences by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from prefeval.compare import compare
from prefeval.errors import ConfigError
from prefeval.runs import MetricRow, RunDir


def make(path: Path, config: dict[str, Any], rows: list[tuple[str, dict[str, Any]]]) -> Path:
    run = RunDir(path, config)
    for stage, values in rows:
        run.metrics.add(MetricRow("evaluation", stage, values))
    return path


def told(capsys: pytest.CaptureFixture[str], *runs: Path) -> dict[str, Any]:
    assert compare([*map(str, runs), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_configs_and_metrics_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = make(
        tmp_path / "a",
        {"out": "a", "fit": {"lr": 0.1, "epochs": 1}, "head": "bt"},
        [("train", {"loss": 0.9}), ("train", {"loss": 0.5}), ("test", {"acc": 0.6, "acc_low": 0.5, "acc_high": 0.64})],
    )
    b = make(
        tmp_path / "b",
        {"out": "b", "fit": {"lr": 0.2, "epochs": 1}, "head": "bt", "new": 3},
        [("train", {"loss": 0.25, "note": "x"}), ("test", {"acc": 0.8, "acc_low": 0.77, "acc_high": 0.86})],
    )
    found = told(capsys, a, b)
    assert [(c["key"], c["first"], c["second"]) for c in found["config"]] == [("fit.lr", 0.1, 0.2), ("new", None, 3)]
    loss, acc = found["metrics"]
    assert (loss["metric"], loss["first"], loss["second"], loss["low"]) == ("train/loss", 0.5, 0.25, None)
    assert acc["difference"] == pytest.approx(0.2)
    assert acc["low"] == pytest.approx(0.2 - math.hypot(0.03, 0.04))
    assert acc["high"] == pytest.approx(0.2 + math.hypot(0.06, 0.1))
    assert compare([str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert "fit.lr: 0.1 -> 0.2" in text
    assert "[0.15, 0.3166] *" in text
    same = told(capsys, a, a)
    assert same["config"] == []
    assert [d["difference"] for d in same["metrics"]] == [0.0, 0.0]


def test_the_steps_of_pipelines_are_compared_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rate in (("a", 1), ("b", 2)):
        RunDir(tmp_path / name, {"name": name, "steps": [{"lr": rate}]})
        make(tmp_path / name / "train", {"lr": rate}, [("fit", {"loss": float(rate)})])
    make(tmp_path / "b" / "bench", {}, [])
    found = told(capsys, tmp_path / "a", tmp_path / "b")
    assert [(c["step"], c["key"], c["first"], c["second"]) for c in found["config"]] == [
        ("train", "lr", 1, 2),
        ("bench", "", None, "there"),
    ]
    assert [(d["step"], d["metric"], d["difference"]) for d in found["metrics"]] == [("train", "fit/loss", 1.0)]


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run directory"):
        compare([str(tmp_path), str(tmp_path)])
    RunDir(tmp_path / "empty", {})
    with pytest.raises(ConfigError, match="has measured nothing yet"):
        compare([str(tmp_path / "empty"), str(tmp_path / "empty")])
