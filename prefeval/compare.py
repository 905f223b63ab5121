"""`prefeval compare RUN RUN`: what two runs were told differently, and what came out differently."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefeval.errors import ConfigError
from prefeval.files import dumps
from prefeval.runs import MetricRow, read_run

_ENDS = ("_low", "_high")


@dataclass(frozen=True)
class Change:
    """A config value of a step that is not the same; None where a run does not have it."""

    step: str
    key: str
    first: Any
    second: Any


@dataclass(frozen=True)
class Difference:
    """A metric of both runs: second - first, with an interval where both have one.

    The runs are taken as independent: half-widths add in quadrature, on either side. Where both measured the same
    prompts the true interval is narrower.
    """

    step: str
    metric: str
    first: float
    second: float
    difference: float
    low: float | None = None
    high: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def compare(argv: list[str]) -> int:
    """Print the differences between two run directories: configs, then the last value of every metric."""
    parser = argparse.ArgumentParser(prog="prefeval compare", description=compare.__doc__)
    parser.add_argument("runs", nargs=2, metavar="RUN")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(argv)
    first, second = (_steps(Path(run)) for run in options.runs)
    changes = list(config_changes(first, second))
    differences = list(metric_differences(first, second))
    if options.json:
        found = {"config": [asdict(c) for c in changes], "metrics": [asdict(d) for d in differences]}
        sys.stdout.write(dumps(found) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(options.runs, changes, differences)))
    return 0


Steps = Mapping[str, tuple[Mapping[str, Any], list[MetricRow]]]


def config_changes(first: Steps, second: Steps) -> Iterator[Change]:
    """Values that differ, step by step; where the runs lie and what they are called does not count."""
    for step in dict.fromkeys([*first, *second]):
        if step not in first or step not in second:
            yield Change(step, "", "there" if step in first else None, "there" if step in second else None)
            continue
        a, b = (dict(_flat(run[step][0])) for run in (first, second))
        for key in dict.fromkeys([*a, *b]):
            if a.get(key) != b.get(key) and key not in ("out", "name"):
                yield Change(step, key, a.get(key), b.get(key))


def metric_differences(first: Steps, second: Steps) -> Iterator[Difference]:
    """The last value of each metric that both runs have, in the order they were logged."""
    for step in first:
        if step not in second:
            continue
        a, b = (dict(_last_values(run[step][1])) for run in (first, second))
        for name, x in a.items():
            if name in b and not name.endswith(_ENDS):
                yield _difference(step, name, x, b[name], a, b)


def _difference(step: str, name: str, x: float, y: float, a: Mapping[str, float], b: Mapping[str, float]) -> Difference:
    ends = [name + end for end in _ENDS]
    if not all(end in values for end in ends for values in (a, b)):
        return Difference(step, name, x, y, y - x)
    below = math.hypot(y - b[ends[0]], a[ends[1]] - x)
    above = math.hypot(b[ends[1]] - y, x - a[ends[0]])
    return Difference(step, name, x, y, y - x, y - x - below, y - x + above)


def _steps(folder: Path) -> Steps:
    """The run itself under '' and, for a pipeline, its steps by name. Raises ConfigError if it is no run."""
    config, rows = read_run(folder)
    own = {k: v for k, v in config.items() if k != "steps"}  # the steps' own directories tell
    steps = {"": (own, rows)}
    for child in sorted(folder.iterdir()):
        if (child / "config.yaml").is_file():
            steps[child.name] = read_run(child)
    if len(steps) == 1 and not rows:
        raise ConfigError(f"{folder}: this run has measured nothing yet")
    return steps


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _last_values(rows: list[MetricRow]) -> Iterator[tuple[str, float]]:
    """(stage/metric, number): the last row of a stage decides."""
    for row in rows:
        for key, value in row.values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                yield f"{row.stage}/{key}", float(value)


def _lines(runs: list[str], changes: list[Change], differences: list[Difference]) -> Iterator[str]:
    yield f"first   {runs[0]}"
    yield f"second  {runs[1]}"
    yield "" if changes else "\nthe configurations are the same"
    for c in changes:
        yield f"{'.'.join(p for p in (c.step, c.key) if p)}: {c.first} -> {c.second}"
    yield ""
    width = max((len(_name(d)) for d in differences), default=6)
    yield f"{'metric':<{width}} {'first':>11} {'second':>11} {'difference':>11}"
    for d in differences:
        interval = "" if d.low is None else f" [{d.low:.4g}, {d.high:.4g}]{' *' if d.is_clear else ''}"
        yield f"{_name(d):<{width}} {d.first:>11.4g} {d.second:>11.4g} {d.difference:>11.4g}{interval}"
    if any(d.is_clear for d in differences):
        yield "* the interval of the difference excludes 0 (runs taken as independent, each metric by itself)"


def _name(d: Difference) -> str:
    return f"{d.step}:{d.metric}" if d.step else d.metric
