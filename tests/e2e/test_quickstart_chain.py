"""`prefeval quickstart --fast` whole, through the command line, with a tiny model in place of the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny import save_tiny

from prefeval import models
from prefeval.cli import main

SMALL = [
    *("data.train_prompts=4", "data.valid_prompts=2", "data.test_prompts=3", "contest.limit=2", "bench.limit=1"),
    *(f"train-{head}.{option}" for head in ("bt", "gpm") for option in ("layers=2", "trainable=top:1", "resamples=20")),
    *("contest.max_new_tokens=4", "bench.max_new_tokens=4", "bench.resamples=20"),
    *(
        f"align-{method}.{option}"
        for method in ("dpo", "onpo")
        for option in ("prompts_per_round=2", "responses=2", "max_new_tokens=4", "probe.limit=2")
    ),
]


def test_the_whole_chain_runs_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = save_tiny(tmp_path / "tiny")
    monkeypatch.setattr(models, "quickstart_model", lambda: tiny)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    command = ["quickstart", "--fast", "--out", str(tmp_path / "run"), *(f"--{option}" for option in SMALL)]
    assert main(command) == 0
    report = Path(capsys.readouterr().out.strip())
    page = report.read_text(encoding="utf-8")
    for name in ("dpo-bt", "onpo-gpm", "mini-alpaca", "mini-arena", "mini-mt"):
        assert name in page
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file() and p.name != ".lock"}
    assert main(command) == 0
    assert done == {p: p.stat().st_mtime_ns for p in done}
