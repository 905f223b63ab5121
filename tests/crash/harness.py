"""Commands that are killed in the middle of their writes: `run_killed` forks, and the child kills itself with SIGKILL.

A process changes the disk at few kinds of moments: an fsync, a rename, a line added to a log. The child counts them and
dies at the one it was told: before it, or, with `torn`, half-way through what is being written. Fork and
not a new process: the libraries are loaded already, so that an attempt costs what it computes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefeval.cli import main
from prefeval.runs import MetricsLog


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (-9 when it was killed), what it said, and how many moments it lived through."""

    code: int
    text: str
    moments: int


def run_killed(argv: Sequence[str], folder: Path, at: int = 0, *, torn: bool = False, number: int = 9) -> Ended:
    """Run a command in a child that sends itself the signal `number` at its moment `at` (0: never)."""
    said, count = folder / "child.log", folder / "child.count"
    count.write_text("0")
    child = os.fork()
    if child == 0:
        os._exit(_child(list(argv), said, count, at, torn, number))
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), said.read_text(errors="replace"), int(count.read_text() or 0))


def _child(argv: list[str], said: Path, count: Path, at: int, torn: bool, number: int) -> int:
    handle = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 - to the end
    from prefeval.log import logger

    logger.handlers = []  # pytest's, or those of a stream that is gone
    try:
        _Moments(count, at, torn, number).watch()
        code = main(argv)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    return code


class _Moments:
    """Counts what changes the disk and dies at one of them."""

    def __init__(self, count: Path, at: int, torn: bool, number: int) -> None:
        self.count, self.at, self.torn, self.number, self.seen = count, at, torn, number, 0

    def watch(self) -> None:
        replace, sync, add = os.replace, os.fsync, MetricsLog.add

        def replaced(source: Any, target: Any) -> None:
            self.moment()
            replace(source, target)

        def synced(handle: int) -> None:
            if self.is_next and self.torn and os.path.isfile(f"/proc/self/fd/{handle}"):
                os.truncate(f"/proc/self/fd/{handle}", os.fstat(handle).st_size // 2)
            self.moment()
            # the machine goes on: what the kernel has is not lost, and a real fsync would only take time

        def added(log: MetricsLog, row: Any) -> None:
            if self.is_next and self.torn:
                add(log, row)
                os.truncate(log.path, log.path.stat().st_size - 7)
            self.moment()
            add(log, row)

        os.replace, os.fsync, MetricsLog.add = replaced, synced, added  # type: ignore[assignment, method-assign]
        del sync

    @property
    def is_next(self) -> bool:
        return self.seen + 1 == self.at

    def moment(self) -> None:
        self.seen += 1
        with open(self.count, "w") as out:
            out.write(str(self.seen))
        if self.seen == self.at:
            os.kill(os.getpid(), self.number)


def compare(make: Callable[[Path], list[str]], folder: Path, kills: int, seed: int) -> tuple[int, list[str]]:
    """(kills, differences) of a command that is killed `kills` times and one that is not.

    `make` gives the command for a run directory. The kills are drawn over the moments that an attempt has left;
    where the run ends before the kills are used up, another one is begun.
    """
    draw, done, found = random.Random(seed), 0, list[str]()
    whole = folder / "whole"
    first = run_killed(make(whole), folder)
    if first.code != 0:
        return 0, [first.text]
    turn = 0
    while done < kills and not found:
        out = folder / f"killed-{turn}"
        killed, ended, left = 0, first, first.moments
        while True:
            at = draw.randint(1, max(1, left)) if done < kills and killed < 5 else 0
            ended = run_killed(make(out), folder, at, torn=draw.random() < 0.5)
            if ended.code == 0:
                break
            if ended.code != -signal.SIGKILL:
                found.append(f"after {killed} kills: {ended.text}")
                break
            killed, done, left = killed + 1, done + 1, max(1, left - ended.moments)
        if not found:
            found += differences(whole, out)
        turn += 1
    return done, found


def differences(whole: Path, killed: Path) -> list[str]:
    """What is not the same in two run directories: weights bit for bit, tables, answers, metric values."""
    first, second = results(whole), results(killed)
    names = sorted(first.keys() | second.keys())

    return [f"{n} differs" for n in names if first.get(n) != second.get(n)]


def results(out: Path) -> dict[str, Any]:
    """What must not depend on interruptions, by file."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and ".tmp" not in str(p.relative_to(out))):
        name = str(path.relative_to(out))
        if path.suffix == ".safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name in ("leaderboard.csv", "contest.json", "samples.jsonl", "probe.json"):
            found[name] = path.read_text().replace(str(out), "OUT")
        elif path.name == "metrics.jsonl":
            found[name] = sorted(_metric(json.loads(line), out) for line in path.read_text().splitlines())
    return found


def _metric(row: dict[str, Any], out: Path) -> str:
    """A row without what is time."""
    values = {k: v for k, v in row["values"].items() if not any(w in k for w in ("second", "minute", "memory"))}
    return json.dumps([row["kind"], row["stage"], row["step"], row["round"], values]).replace(str(out), "OUT")
