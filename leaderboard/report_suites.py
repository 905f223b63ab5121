"""The report's part on reward-model suites: RewardBench-style tables from the files that `prefeval evaluate` leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.report_read import RunRecord
from leaderboard.report_text import MISSING, Cell, Column, Grid, Section, cell, clean, cut, estimate, redact

METRICS = "metrics.json"
_MODELS = 12  # columns of the table of subsets, at most
Suite = Mapping[str, Any]


def is_suite(value: Any) -> bool:
    """Whether the content of a metrics.json is a suite's (one of labelled pairs has no such table)."""
    suite = value.get("suite") if isinstance(value, Mapping) else None
    return isinstance(suite, Mapping) and isinstance(suite.get("rows"), list) and isinstance(suite.get("suite"), str)


def suites_section(runs: Sequence[RunRecord]) -> Section | None:
    """One part a suite, a row a model; None without any."""
    by_suite: dict[str, list[tuple[str, Suite]]] = {}
    for run in runs:
        suite = run.files[METRICS]["suite"]
        by_suite.setdefault(clean(suite["suite"]), []).append((run.name, run.files[METRICS]))
    if not by_suite:
        return None
    parts = tuple(_part(suite, found) for suite, found in by_suite.items())
    lead = "How often a preference model prefers the right answer, scored by each suite's own published rule."
    return Section("suites", "Reward-model suites", (lead,), parts)


def _part(suite: str, found: Sequence[tuple[str, Suite]]) -> Section:
    ordered = sorted(found, key=lambda one: -_overall(one[1]))
    notes = list(dict.fromkeys(clean(n) for _, metrics in ordered for n in metrics["suite"].get("notes") or ()))
    blocks = [_sections(suite, ordered, notes)]
    if any(_rows(metrics, "subset") for _, metrics in ordered):
        blocks.append(_subsets(suite, ordered[:_MODELS], len(ordered)))
    return Section(f"suite-{suite}", suite, tuple(blocks))


def _sections(suite: str, found: Sequence[tuple[str, Suite]], notes: Sequence[str]) -> Grid:
    """The published table: the overall score, then the sections."""
    names = _names(found, lambda level: level not in ("subset", "overall"))
    columns = (Column("Model"), Column("score", "overall"), *(Column(n, group="sections") for n in names))
    body = tuple(
        (_model(name, metrics), _cell(_rows(metrics, "overall")), *(_cell(_rows(metrics, "", n)) for n in names))
        for name, metrics in found
    )
    told = [*notes, "Intervals are 95%, from a bootstrap over the suite's items; dropped items had no answer."]
    return Grid(f"{suite}: scores by section", columns, body, tuple(told))


def _subsets(suite: str, found: Sequence[tuple[str, Suite]], total: int) -> Grid:
    names = _names(found, lambda level: level == "subset")
    columns = (Column("Subset"), *(Column(_oracle(metrics), about=clean(name)) for name, metrics in found))
    body = tuple((Cell(n), *(_cell(_rows(metrics, "subset", n)) for _, metrics in found)) for n in names)
    notes = (f"The first {_MODELS} of {total} models.",) if total > len(found) else ()
    return Grid(f"{suite}: scores by subset", columns, body, notes)


def _names(found: Sequence[tuple[str, Suite]], wanted: Any) -> list[str]:
    """The parts' names in order of appearance."""
    return list(dict.fromkeys(clean(row.get("name")) for _, metrics in found
                              for row in _rows(metrics, "") if wanted(row.get("level"))))  # fmt: skip


def _rows(metrics: Suite, level: str, name: str = "") -> list[Mapping[str, Any]]:
    """The suite's parts of a level (of all levels for '') and, where given, of a name."""
    rows = [row for row in metrics["suite"]["rows"] if isinstance(row, Mapping)]
    return [r for r in rows if (not level or r.get("level") == level) and (not name or clean(r.get("name")) == name)]


def _cell(rows: Sequence[Mapping[str, Any]]) -> Cell:
    if not rows:
        return Cell(MISSING, tone="quiet")
    return cell(estimate(rows[-1], "score", rows[-1].get("n"), rows[-1].get("n_dropped")), "percent", unit="items")


def _model(name: str, metrics: Suite) -> Cell:
    return Cell(_oracle(metrics), note=clean(name))


def _oracle(metrics: Suite) -> str:
    return cut(redact(metrics.get("oracle") or "the model"), 60)


def _overall(metrics: Suite) -> float:
    found = estimate((_rows(metrics, "overall") or [{}])[-1], "score")
    return found.point if found.point == found.point else -1.0
