"""What the hand-run scripts share: repeated timings, peak memory of a command, a printed table.

The scripts run from anywhere: `python tests/speed/leaderboard.py`.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:.2f} s [{min(self.seconds):.2f}, {max(self.seconds):.2f}]"


def repeated(work: Callable[[], object], repeats: int = 3) -> Timing:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return Timing(tuple(seconds))


# The peak of a process's own memory image: the kernel's ru_maxrss would count the parent's, which a child starts as.
_COMMAND = """
import sys
from prefeval.cli import main
status = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
sys.stderr.write("\\n" + peak.split()[1])
sys.exit(status)
"""


def run_command(arguments: Sequence[str]) -> tuple[float, float]:
    """(seconds, peak GiB) of `prefeval ARGUMENTS` in a process of its own. Raises RuntimeError if it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - start, int(done.stderr.rsplit("\n", 1)[1]) / 2**20


def machine() -> str:
    """The machine and the libraries behind the figures, without its name."""
    import numpy

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = [line.split(":")[1].strip() for line in lines if "model name" in line]
    model = named[0] if named else platform.machine()
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    return f"{model}, {cores} cores, {threads} threads; Python {platform.python_version()}, numpy {numpy.__version__}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    lines = [[str(c) for c in row] for row in rows]
    widths = [max(len(head[i]), *(len(r[i]) for r in lines)) for i in range(len(head))]
    for row in ([*head], ["-" * w for w in widths], *lines):
        print("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |", flush=True)
