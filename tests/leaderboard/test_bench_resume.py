"""Bench runs that stop in the middle: replies and verdicts that were obtained are never asked for again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_toys import Alphabet, Writer, config
from fake_server import FakeServer, refusing
from test_answer_command import Spy
from tiny import save_tiny

from leaderboard import sampling
from leaderboard.answers import read_answers
from leaderboard.benchmarks import open_benchmark
from leaderboard.config import ModelSpec
from leaderboard.run import run_bench
from prefeval.errors import RunError
from prefeval.generate import open_generator


def test_a_killed_bench_goes_on_at_the_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second turn: the replies that were there are kept, and the end says what a whole run says."""
    path = str(save_tiny(tmp_path / "model"))
    model = open_generator(path)
    changes = {"models": (ModelSpec("m", path),), "baseline": "", "benchmarks": ("mini-mt",), "limit": 5}
    changes |= {"max_new_tokens": 6, "seed": 3}
    monkeypatch.setattr(sampling, "TOGETHER", 2)
    whole, first, second = Spy(model), Spy(model, calls=4), Spy(model)
    done = run_bench(config(tmp_path / "whole", **changes), open_model=lambda m: whole, judge=Alphabet())
    with pytest.raises(KeyboardInterrupt):
        run_bench(config(tmp_path / "cut", **changes), open_model=lambda m: first, judge=Alphabet())
    assert not list((tmp_path / "cut/run").glob("answers/*/model_answer/*"))
    again = run_bench(config(tmp_path / "cut", **changes), open_model=lambda m: second, judge=Alphabet())
    assert len(first.asked) >= 6
    assert any(p.id.endswith("/2") for p in first.asked)
    assert sorted(p.id for p in first.asked + second.asked) == sorted(p.id for p in whole.asked)
    said = [read_answers(r.folder / "answers/mini-mt/model_answer/m.jsonl")[0].items for r in (done, again)]
    assert said[0] == said[1]


def test_a_served_model_is_asked_again_only_for_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    bad = open_benchmark("mini-alpaca", None, 5).prompts()[3].turns[0]
    failing = [True]
    with FakeServer(refusing(bad, failing)) as server:
        models = (ModelSpec("served", f"server:x@{server.base_url}"), ModelSpec("mid", "z"))
        setup = config(tmp_path, models=models, benchmarks=("mini-alpaca",), limit=5, judge="rules:longer")
        with pytest.raises(RunError, match="no reply to prompt"):
            run_bench(setup, judge=Alphabet())
        assert len(server.requests) == 5
        failing.clear()
        monkeypatch.setattr("prefeval.generate.open_generator", lambda spec, name="", **_: Writer(name, []))
        result = run_bench(setup, judge=Alphabet())
        assert [r["messages"][-1]["content"] for r in server.requests[5:]] == [bad]
    assert {r.score.n for r in result.tables["mini-alpaca"].rows} == {5}


def test_a_model_trained_anew_answers_anew(tmp_path: Path) -> None:
    """The same path with other weights: the answers of the old ones are not taken for its own."""
    weights = tmp_path / "weights"
    weights.write_text("1")
    changes = {"models": (ModelSpec("m", str(weights)),), "baseline": "", "benchmarks": ("mini-mt",), "limit": 2}
    calls: list[Any] = []
    for text, expected in (("1", 4), ("1", 4), ("22", 8)):
        if weights.read_text() != text:
            weights.write_text(text)
        run_bench(config(tmp_path, **changes), open_model=lambda m: Writer(m.name, calls), judge=Alphabet())
        assert len(calls) == expected
