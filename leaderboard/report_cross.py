"""All benchmarks side by side: a row a model, and how far the benchmarks put the models in the same order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from leaderboard.quality import agreement_with_confidence
from leaderboard.report_length import rank_correlation
from leaderboard.report_text import MISSING, Cell, Column, Grid, Section, Style, cell, clean, estimate, plain, real
from prefeval.stats import Estimate

_ROWS, _BOARDS = 60, 8  # models listed, and benchmarks, at most
_SECOND: Mapping[str, tuple[tuple[str, str, str], ...]] = {  # protocol -> (key, key of its limits, title)
    "alpaca_eval": (("win_rate", "", "raw"),),
    "arena_hard": (("style_controlled", "style", "style controlled"),),
    "mt_bench": (("turn_1", "", "turn 1"), ("turn_2", "", "turn 2")),
}


@dataclass(frozen=True)
class Board:
    """One benchmark's table under one judge. `label` is its own among all boards."""

    label: str
    protocol: str
    style: Style
    rows: Mapping[str, Mapping[str, Any]]

    def score(self, name: str) -> Estimate:
        row = self.rows.get(name, {})
        return estimate(row, "score", row.get("n"), row.get("n_failed"))


def boards_of(found: Sequence[tuple[str, Mapping[str, Any], Sequence[Mapping[str, Any]], Style]]) -> list[Board]:
    """Boards from (run, leaderboard.json, its rows, style of the score); equal names get their judge, then their run.

    A model that several judges scored in one table counts once, with the first of its rows."""
    names = [clean(table.get("benchmark") or "benchmark") for _, table, _, _ in found]
    judged = [f"{name}, {_judge(rows)}" if names.count(name) > 1 else name
              for name, (_, _, rows, _) in zip(names, found, strict=True)]  # fmt: skip
    labels = [f"{label}, {clean(run)}" if judged.count(label) > 1 else label
              for label, (run, _, _, _) in zip(judged, found, strict=True)]  # fmt: skip
    boards = []
    for label, (_, table, rows, style) in zip(labels, found, strict=True):
        by_name: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            by_name.setdefault(clean(row["name"]), row)
        boards.append(Board(label, str(table.get("protocol") or ""), style, by_name))
    return boards


def cross_section(boards: Sequence[Board]) -> Section | None:
    """The table and the correlations; None unless two benchmarks share a model."""
    shown = list(boards[:_BOARDS])
    if not any(set(a.rows) & set(b.rows) for a, b in combinations(shown, 2)):
        return None
    lead = "The same models on every benchmark of this report. Each column keeps its own scale and its own interval."
    grids = (_table(shown, len(boards)), _orders(shown))
    return Section("across", "Across benchmarks", (lead, *grids))


def _table(boards: Sequence[Board], total: int) -> Grid:
    names = list(dict.fromkeys(name for board in boards for name in board.rows))
    names.sort(key=lambda name: -sum(name in board.rows for board in boards))
    columns = [Column("Model")]
    for board in boards:
        columns += [Column(title, group=board.label) for title in ("score", *(t for *_, t in _own(board)), "failed")]
    body = tuple((Cell(name), *(c for board in boards for c in _cells(board, name))) for name in names[:_ROWS])
    notes = ["A dash: the model is not on that benchmark, or the number was not measured."]
    if len(names) > _ROWS:
        notes.append(f"The first {_ROWS} of {len(names)} models, those on most benchmarks first.")
    if total > len(boards):
        notes.append(f"The first {len(boards)} of {total} benchmarks.")
    return Grid("Scores across benchmarks", tuple(columns), body, tuple(notes))


def _cells(board: Board, name: str) -> list[Cell]:
    if name not in board.rows:
        return [Cell(MISSING, tone="quiet")] * (2 + len(_own(board)))
    row = board.rows[name]
    cells = [cell(board.score(name), board.style, unit="questions" if board.protocol != "mt_bench" else "grades")]
    for key, limits, _ in _own(board):
        values = {"v": row.get(key), "v_low": row.get(f"{limits}_low"), "v_high": row.get(f"{limits}_high")}
        cells.append(cell(estimate(values, "v"), board.style))
    failed = real(row.get("n_failed"))
    return [*cells, plain(failed, "count", "warn" if failed > 0 else "")]


def _own(board: Board) -> list[tuple[str, str, str]]:
    """The protocol's second columns that hold a number here."""
    return [c for c in _SECOND.get(board.protocol, ())
            if any(math.isfinite(real(row.get(c[0]))) for row in board.rows.values())]  # fmt: skip


def _orders(boards: Sequence[Board]) -> Grid:
    columns = (
        Column("First"),
        Column("second"),
        Column("rank correlation", "Spearman, over the common models"),
        Column("agreement with confidence", "+1 same order beyond doubt, −1 opposite"),
    )
    rows = []
    for a, b in combinations(boards, 2):
        common = [name for name in a.rows if name in b.rows]
        first, second = ({n: board.score(n) for n in common} for board in (a, b))
        x, y = (np.array([e.point for e in found.values()], dtype=np.float64) for found in (first, second))
        rows.append((Cell(a.label), Cell(b.label), _correlation(rank_correlation(x, y)),
                     plain(agreement_with_confidence(first, second), "two")))  # fmt: skip
    notes = (
        "The interval of a correlation resamples the models; with fewer than five there is none.",
        "Agreement with confidence: the mean over pairs of models of +1 where both benchmarks separate the pair in the "
        "same order, −1 where in opposite orders, 0 where an interval overlaps on either.",
    )
    return Grid("Do the benchmarks agree on the order?", columns, tuple(rows), notes)


def _correlation(found: Estimate) -> Cell:
    if math.isnan(found.point):
        why = "fewer than three common models" if found.n < 3 else "all scores of one side are equal"
        return Cell("not measurable", note=why, tone="quiet")
    return cell(found, "two", unit="models")


def _judge(rows: Sequence[Mapping[str, Any]]) -> str:
    found = sorted({clean(r.get("judge") or "") for r in rows} - {""})
    return f"{len(found)} judges" if len(found) > 1 else next(iter(found), "no judge named")
