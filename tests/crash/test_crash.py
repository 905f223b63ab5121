"""train, align, bench and a whole recipe, killed in the middle of their writes and started again.

    pytest tests/crash                                      # at most 2 kills a command
    PREFEVAL_KILLS=100 pytest -s -m slow tests/crash        # the long mode; prints the table

Every run ends where the uninterrupted one does: equal metrics and tables, equal weights bit for bit. Paid verdicts are
asked for again only where the kill came between the reply and its store: with one call at a time, at most one a kill.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_server import FakeServer
from harness import compare, differences, run_killed
from test_kill import write_recipe
from tiny import save_tiny

KILLS = int(os.environ.get("PREFEVAL_KILLS", "100"))
Maker = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


def steps(folder: Path, model: Path) -> dict[str, dict[str, Any]]:
    """The steps of the recipe that test_kill runs, made shorter, by name."""
    recipe = yaml.safe_load(write_recipe(folder, model).read_text())
    found = {step["name"]: step["config"] for step in recipe["steps"]}
    found["pm"]["fit"]["epochs"] = 1
    found["policy"] |= {"rounds": 1, "max_new_tokens": 6, "oracle": "rules:shorter"}
    found["policy"]["fit"]["epochs"] = 1
    found["bench"] |= {"models": [{"name": "base", "spec": str(model)}], "benchmarks": ["mini-mt"], "max_new_tokens": 6}
    return found


def command(name: str, config: dict[str, Any], folder: Path) -> Maker:
    recipe = folder / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump(config))
    return lambda out: [name, str(recipe), "--out", str(out)]


def maker(name: str, folder: Path, model: Path, url: str) -> Maker:
    """The command of a name: its step alone, or all of them as one recipe (`run`). `url` is the judge's."""
    found = steps(folder, model)
    if name == "train":
        return command(name, found["pm"], folder)
    if name == "align":
        return command(name, found["policy"], folder)
    found["bench"] |= {"baseline": "", "judge": f"judge:m@{url}", "concurrency": 1, "limit": 2}
    if name == "bench":
        return command(name, found["bench"], folder)
    bench = found["bench"] | {"benchmarks": ["mini-alpaca"], "baseline": "base", "judge": "rules:shorter"}
    bench["models"] = [*bench["models"], {"name": "ours", "spec": "${policy}/final"}]
    recipe = [
        {"name": "pm", "command": "train", "config": found["pm"]},
        {"name": "policy", "command": "align", "config": found["policy"] | {"oracle": "model:${pm}/final"}},
        {"name": "bench", "command": "bench", "config": bench},
    ]
    return command("run", {"name": "tiny", "steps": recipe}, folder)


def hold(name: str, kills: int, folder: Path, model: Path) -> None:
    """Assert that so many kills change nothing, and that no verdict was paid for twice."""
    with FakeServer(reply="Rating: [[7]]") as server:
        make = maker(name, folder, model, server.base_url)
        done, found = compare(make, folder, kills, seed=kills)
        runs = 1 + sum(path.is_dir() for path in folder.glob("killed-*"))
        asked = Counter(str(body["messages"]) for body in server.requests)
    assert found == []
    assert done == kills
    twice = sum(count - runs for count in asked.values() if count > runs)
    assert twice <= kills
    paid = f"{sum(asked.values())} paid calls, {twice} of them twice"
    print(f"\n{name}: {done} kills in {runs - 1} runs, each ended as the uninterrupted one; {paid}")


SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", ["train", "bench", pytest.param("align", marks=SLOW), pytest.param("run", marks=SLOW)])
def test_two_kills_change_nothing(name: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    hold(name, 2, tmp_path, model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "align", "bench", "run"])
def test_many_kills_change_nothing(name: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    hold(name, KILLS, tmp_path, model)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [pytest.param(signal.SIGINT, 130, "interrupted", marks=SLOW), (signal.SIGTERM, 143, "terminated")],
)
def test_signals_save_and_say_how_to_go_on(number: int, code: int, word: str, tmp_path: Path, model: Path) -> None:
    make = maker("train", tmp_path, model, "")
    whole = run_killed(make(tmp_path / "whole"), tmp_path)
    assert whole.code == 0, whole.text
    ended = run_killed(make(tmp_path / "out"), tmp_path, whole.moments // 2, number=number)
    assert ended.code == code, ended.text
    assert f"prefeval: {word}; run the same command again to go on from here" in ended.text
    assert not (tmp_path / "out" / ".lock").exists()
    again = run_killed(make(tmp_path / "out"), tmp_path)
    assert again.code == 0, again.text
    assert differences(tmp_path / "whole", tmp_path / "out") == []


def test_a_second_process_is_refused_with_pid_and_host(tmp_path: Path, model: Path) -> None:
    import socket

    make, out = maker("train", tmp_path, model, ""), tmp_path / "out"
    ended = run_killed(make(out), tmp_path, 6)
    assert ended.code == -signal.SIGKILL
    holder = f'{{"pid": {os.getpid()}, "host": "{socket.gethostname()}"}}'
    (out / ".lock").write_text(holder)
    refused = run_killed(make(out), tmp_path)
    assert refused.code == 1
    assert f"is in use by process {os.getpid()} on {socket.gethostname()}" in refused.text
    assert (out / ".lock").read_text() == holder
    (out / ".lock").unlink()
    assert run_killed(make(out), tmp_path).code == 0
