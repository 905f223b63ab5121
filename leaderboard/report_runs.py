"""The report's last part: what is needed to get its numbers again."""

from __future__ import annotations

from collections.abc import Mapping

from leaderboard.report_chain import time_of
from leaderboard.report_read import Evidence, RunRecord
from leaderboard.report_text import MISSING, Cell, Column, Grid, Section, clean, redact
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
    blocks = (Grid("Runs behind this report", tuple(Column(c) for c in columns), body, notes), other)
    return Section("reproducibility", "Reproducibility", blocks)


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
