"""The resume engine: what is done is skipped, what changed is redone, another configuration or process is refused."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from prefeval.errors import ConfigError, DataError, RunError
from prefeval.runs import MetricRow, MetricsLog, RunDir, read_run


class Counter:
    """A stage function that counts its calls."""

    def __init__(self, result: object = None) -> None:
        self.calls, self.result = 0, result

    def __call__(self) -> object:
        self.calls += 1
        return self.result


def test_stage_runs_once_for_the_same_inputs(tmp_path: Path) -> None:
    fn = Counter({"score": 1.5, "pair": (1, 2), "bad": math.nan})
    first = RunDir(tmp_path / "run", {"a": 1}).stage("fit", {"seed": 0}, fn)
    again = RunDir(tmp_path / "run", {"a": 1}).stage("fit", {"seed": 0}, fn)
    assert fn.calls == 1
    assert first == again == {"score": 1.5, "pair": [1, 2], "bad": None}


def test_stage_runs_again_when_its_inputs_change(tmp_path: Path) -> None:
    run, fn = RunDir(tmp_path / "run", {}), Counter()
    run.stage("fit", {"seed": 0, "data": "abc"}, fn)
    run.stage("fit", {"seed": 1, "data": "abc"}, fn)
    run.stage("fit", {"data": "abc", "seed": 1}, fn)  # the order of keys is no change
    run.stage("probe", {"seed": 1, "data": "abc"}, fn)  # another stage with the same inputs is another stage
    assert fn.calls == 3
    assert set(run.seconds()) == {"fit", "probe"}
    assert all(s >= 0 for s in run.seconds().values())


def test_failed_stage_is_not_done(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", {})

    def fail() -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run.stage("rounds/001", 1, fail)
    assert not run.is_done("rounds/001")
    # a changed input removes the old marker before the stage runs, so that a crash in it leaves nothing that looks done
    run.stage("rounds/001", 1, Counter())
    assert run.is_done("rounds/001")
    with pytest.raises(RuntimeError):
        run.stage("rounds/001", 2, fail)
    assert not run.is_done("rounds/001")


def test_changed_config_is_refused_with_a_diff(tmp_path: Path) -> None:
    config = {"seed": 0, "fit": {"epochs": 1, "step_size": 0.1}}
    RunDir(tmp_path / "run", config)
    RunDir(tmp_path / "run", config)
    with pytest.raises(ConfigError) as caught:
        RunDir(tmp_path / "run", {"seed": 0, "fit": {"epochs": 2, "step_size": 0.1}})
    message = str(caught.value)
    assert "-  epochs: 1" in message
    assert "+  epochs: 2" in message
    assert "step_size" not in message
    assert "--out" in message
    assert read_run(tmp_path / "run")[0] == config


def test_directories_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        RunDir(tmp_path, {})
    with pytest.raises(ConfigError, match="not a directory"):
        RunDir(tmp_path / "notes.txt", {})
    with pytest.raises(ConfigError, match="not a run directory"):
        read_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_manifest_tells_versions(tmp_path: Path) -> None:
    RunDir(tmp_path / "run", {}, command="prefeval train x")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["command"] == "prefeval train x"
    assert manifest["versions"]["numpy"]
    assert manifest["python"] == sys.version.split()[0]


def test_lock_refuses_a_second_process(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", {})
    code = (
        "import sys\n"
        "from prefeval.runs import RunDir\n"
        "from prefeval.errors import RunError\n"
        "try:\n"
        "    with RunDir(sys.argv[1], {}).lock():\n"
        "        print('in')\n"
        "except RunError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    folder = Path(__file__).resolve().parents[2]
    with run.lock():
        refused = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout
        with pytest.raises(RunError), run.lock():
            pass
    assert f"in use by process {os.getpid()} on {socket.gethostname()}" in refused
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.strip() == "in"
    assert not (run.path / ".lock").exists()


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", {})
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (run.path / ".lock").write_text(json.dumps({"pid": dead.pid, "host": socket.gethostname()}))
    with run.lock():
        assert json.loads((run.path / ".lock").read_text())["pid"] == os.getpid()


def test_lock_of_another_host_is_respected(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", {})
    (run.path / ".lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(RunError, match="process 1 on elsewhere"), run.lock():
        pass
    assert (run.path / ".lock").exists()


def test_lock_is_given_back_after_a_failure(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", {})
    with pytest.raises(ValueError), run.lock():
        raise ValueError
    with run.lock():
        pass


def test_lock_that_is_just_being_written_is_not_taken_for_a_stale_one(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", {})
    lock = run.path / ".lock"
    lock.touch()
    holder = json.dumps({"pid": 1, "host": "elsewhere"})
    writer = threading.Timer(0.05, lock.write_text, [holder])
    writer.start()
    with pytest.raises(RunError, match="elsewhere"), run.lock():
        pass
    writer.join()
    lock.write_text("")  # a holder that died before it wrote its name
    with run.lock():
        assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_metrics_are_appended_cut_and_read_back(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.rows() == []
    log.cut("fit")
    for step in range(4):
        log.add(MetricRow("fit", "fit", {"loss": 1.0 / (step + 1)}, step=step))
    log.add(MetricRow("probe", "probe", {"gap": math.nan}, round=1))
    with open(log.path, "a") as out:
        out.write('{"kind": "fit", "sta')  # a crash in the middle of a line
    log.cut("fit", after_step=1)
    assert [(r.stage, r.step) for r in log.rows()] == [("fit", 0), ("fit", 1), ("probe", None)]
    assert log.rows()[2].values == {"gap": None}
    log.cut("fit")
    assert [r.stage for r in log.rows()] == ["probe"]
    assert log.path.read_text().endswith("\n")


def test_bad_input_in_a_new_run_leaves_nothing_behind(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "new", {"a": 1})
    with pytest.raises(DataError), run.lock():
        run.stage("read", 0, lambda: _refuse())
    assert not (tmp_path / "new").exists()


def test_bad_input_after_a_finished_stage_keeps_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "new", {"a": 1})
    run.stage("first", 0, lambda: 1)
    with pytest.raises(DataError), run.lock():
        run.stage("read", 0, lambda: _refuse())
    again = RunDir(tmp_path / "new", {"a": 1})
    assert again.stage("first", 0, lambda: 2) == 1


def _refuse() -> None:
    raise DataError("the response is empty", file="x.jsonl", row=2, field="chosen")
