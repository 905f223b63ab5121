"""A judge server with every fault, a client that is killed: each verdict is there or counted, and paid for once.

What may be paid twice is what was in flight at a kill, at most the concurrency each time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefeval.files import read_json
from prefeval.judges.base import CUT, EMPTY, REFUSAL, UNREADABLE

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}  # this checkout's packages
CYCLE, CONCURRENCY = 20, 8
LASTING = {7: UNREADABLE, 8: REFUSAL, 9: CUT, 10: EMPTY}


@pytest.fixture
def paid_log(tmp_path: Path) -> Path:
    path = tmp_path / "paid.log"
    path.touch()
    return path


@pytest.fixture
def url(paid_log: Path) -> Iterator[str]:
    command = [sys.executable, str(HERE / "server.py"), str(paid_log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        server.kill()


def paid(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines()


def judge_with_kills(command: list[str], log: Path, marks: list[int]) -> int:
    """Run the command; kill it when the log has grown to each mark, then let it end. The number of kills."""
    kills = 0
    for mark in marks:
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as client:
            while client.poll() is None and len(paid(log)) < mark:
                time.sleep(0.005)
            kills += client.poll() is None
            client.kill()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=ENVIRONMENT, timeout=300)
    return kills


@pytest.mark.parametrize(
    ("tasks", "marks"), [(80, [20, 50]), pytest.param(2000, list(range(150, 1900, 170)), marks=pytest.mark.slow)]
)
def test_killed_judging_loses_nothing(tasks: int, marks: list[int], tmp_path: Path, paid_log: Path, url: str) -> None:
    command = [sys.executable, str(HERE / "client.py"), url, str(tmp_path), str(tasks), str(CONCURRENCY)]
    kills = judge_with_kills(command, paid_log, marks)
    assert kills == len(marks)
    rows = read_json(tmp_path / "done.json")
    expected = [[str(i), None if i % CYCLE in LASTING else "A", LASTING.get(i % CYCLE)] for i in range(tasks)]
    assert rows == expected
    # an empty reply is asked for once more in the same words
    counts = Counter(paid(paid_log))
    allowed = {line: 2 if int(line.split()[0]) % CYCLE == 10 else 1 for line in counts}
    twice = sum(max(0, n - allowed[line]) for line, n in counts.items())
    missing = Counter(r[2] for r in rows if r[2])
    print(f"{tasks} tasks, {kills} kills: {sum(counts.values())} answers paid, {twice} twice; {dict(missing)}")
    assert {int(line.split()[0]) for line in counts} == set(range(tasks))
    assert twice <= CONCURRENCY * kills
