"""The report's last part: what is needed to get its numbers again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leaderboard.report_boards import tables_of
from leaderboard.report_chain import time_of
from leaderboard.report_read import Evidence, RunRecord
from leaderboard.report_text import MISSING, Cell, Column, Grid, Section, clean, real, redact, show
from prefeval.config import to_yaml


def reproducibility(evidence: Evidence) -> Section:
    """A row a run: command, seed, time, versions, machine, commit, and digests of the files that were read."""
    columns = (
        "Run",
        "kind",
        "state",
        "time",
        "command",
        "seed",
        "started",
        "commit",
        "machine",
        "files read (SHA-256)",
    )
    body = tuple(_row(run) for run in evidence.runs)
    versions = tuple(_versions(run) for run in evidence.runs)
    packages = list(dict.fromkeys(name for found in versions for name in found))
    other = Grid(
        "Versions",
        (Column("Run"), *(Column(p) for p in packages)),
        tuple(
            (Cell(run.name), *(Cell(found.get(p, MISSING)) for p in packages))
            for run, found in zip(evidence.runs, versions, strict=True)
        ),
    )
    notes = ("Time is wall-clock; of a step that was interrupted, that of the session that finished it.",)
    runs = Grid("Runs behind this report", tuple(Column(c) for c in columns), body, notes)
    scores = _scores(evidence)
    blocks = (runs, *((scores,) if scores.rows else ()), other)
    return Section("reproducibility", "Reproducibility", blocks)


def _scores(evidence: Evidence) -> Grid:
    """What each benchmark's scores rest on: judge, wording, prompts, baseline, level, seed and the files' digests."""
    titles = ("Benchmark", "run", "judge", "template hash", "data revision", "baseline", "intervals", "seed",
              "verdict and answer files (SHA-256)")  # fmt: skip
    found = [(run, table, rows) for run in evidence.of_kind("bench") for _, table, rows in tables_of(run)]
    body = tuple(_rests_on(run, table, rows) for run, table, rows in found)
    return Grid("What the scores rest on", tuple(Column(t) for t in titles), body)


def _rests_on(run: RunRecord, table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[Cell, ...]:
    inputs = table.get("inputs")
    known = inputs if isinstance(inputs, Mapping) else {}
    bases = [b for row in rows for b in _listed(_within(row, "breakdown", "baselines"))]
    level = real(table.get("level"))
    texts = (
        run.name,
        *(_all(row.get(key) for row in rows) for key in ("judge", "template_hash", "data_revision")),
        _all(bases or [run.config.get("baseline")]),
        f"{show(level, 'percent')}" if math.isfinite(level) else "",
        known.get("seed", run.config.get("seed")),
        _files(known),
    )
    name = Cell(str(table.get("benchmark") or "benchmark"))
    return (name, *(Cell(redact(t) if t not in (None, "") else MISSING) for t in texts))


def _files(inputs: Mapping[str, Any]) -> str:
    named = [
        f"{pair[0]}:{pair[1]}" for pair in _listed(inputs.get("files")) if isinstance(pair, list) and len(pair) == 2
    ]
    human = inputs.get("human")
    named += [f"human labels {human[0]}:{human[1]}"] if isinstance(human, list) and len(human) == 2 else []
    if not named:
        return ""
    count = real(inputs.get("count"))
    more = f" and {count - len(_listed(inputs.get('files'))):,.0f} more" if count > len(named) else ""
    return f"{' '.join(named)}{more}; together {inputs.get('together')}"


def _all(values: Iterable[Any]) -> str:
    """The different texts among the values."""
    return ", ".join(dict.fromkeys(str(v) for v in values if v))


def _within(value: Mapping[str, Any], *keys: str) -> Any:
    found: Any = value
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def configs(evidence: Evidence) -> list[tuple[str, str]]:
    """(run, its configuration as YAML), without what looks like a credential."""
    return [(run.name, redact(to_yaml(run.config))) for run in evidence.runs if run.config]


def _row(run: RunRecord) -> tuple[Cell, ...]:
    m = run.manifest
    digests = " ".join(
        f"{name.split('/')[-1]}:{digest}" for name, digest in run.digests.items() if name != "manifest.json"
    )
    machine = f"{m.get('platform', '')}, {m['cores']} cores" if m.get("cores") else str(m.get("platform") or "")
    texts = (
        run.kind,
        run.state,
        time_of(run) if run.state == "finished" else "",
        m.get("command"),
        run.config.get("seed"),
        m.get("started"),
        str(m.get("git") or "")[:12],
        machine,
        digests,
    )
    return (Cell(run.name), *(Cell(redact(t) if t not in (None, "") else MISSING) for t in texts))


def _versions(run: RunRecord) -> dict[str, str]:
    found = run.manifest.get("versions")
    known = {"python": run.manifest.get("python"), **(found if isinstance(found, Mapping) else {})}
    return {str(k): clean(v) for k, v in known.items() if v}


def total_time(evidence: Evidence) -> str:
    """Wall-clock time of the finished runs together; empty where it is not known."""
    from prefeval.log import format_seconds

    spent = [run.seconds for run in evidence.runs if run.seconds == run.seconds]
    return format_seconds(sum(spent)) if spent else ""
