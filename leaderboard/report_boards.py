"""The report's part on benchmarks: scores with intervals, paired comparisons, length, the models and the judges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.report_browser import browser
from leaderboard.report_categories import category_figure
from leaderboard.report_cross import boards_of, cross_section
from leaderboard.report_judges import judges_section
from leaderboard.report_length import length_figure
from leaderboard.report_read import RunRecord
from leaderboard.report_social import social_section
from leaderboard.report_svg import bars
from leaderboard.report_text import (
    Block,
    Cell,
    Column,
    Figure,
    Grid,
    Section,
    Style,
    cell,
    clean,
    estimate,
    plain,
    real,
    show,
)
from leaderboard.table import ANSWERS, COMMON
from prefeval.stats import Estimate

_UNIT = {"arena_hard": "tokens, as the protocol counts them", "mt_bench": "characters a turn"}
_BARS, _ROWS = 40, 200  # models drawn, and rows listed, at most
_LIMITS: Mapping[str, tuple[str, str]] = {  # a protocol's column -> the columns of its interval
    "lc_win_rate": ("lc_low", "lc_high"),
    "style_controlled": ("style_low", "style_high"),
    "style_at_zero": ("style_at_zero_low", "style_at_zero_high"),
    "win_rate_adjusted": ("win_rate_low", "win_rate_high"),
}


def board_sections(runs: Sequence[RunRecord]) -> tuple[Section, ...]:
    """What all benchmarks say together, then one section a benchmark that has scores."""
    found = [(run, *one) for run in runs for one in tables_of(run)]
    boards = boards_of([(run.name, table, rows, score_unit(table)[2]) for run, _, table, rows in found])
    across = cross_section(boards)
    return (*((across,) if across else ()), *(_benchmark(*one) for one in found))


def tables_of(run: RunRecord) -> list[tuple[str, Mapping[str, Any], list[dict[str, Any]]]]:
    """(file, its content, its rows) of each leaderboard.json with rows."""
    tables = {name: t for name, t in run.files.items() if name.endswith("leaderboard.json") and isinstance(t, dict)}
    found = list[tuple[str, Mapping[str, Any], list[dict[str, Any]]]]()
    for name, table in tables.items():
        rows = [r for r in table.get("rows") or [] if isinstance(r, dict) and r.get("name")]
        if rows:
            found.append((name, table, rows))
    return found


def score_of(row: Mapping[str, Any]) -> Estimate:
    return estimate(row, "score", row.get("n"), row.get("n_failed"))


def score_unit(table: Mapping[str, Any]) -> tuple[str, tuple[float, float], Style]:
    """(what the score is, its range, its style) of a protocol."""
    if table.get("protocol") == "mt_bench":
        rows = [r for r in table.get("rows") or [] if isinstance(r, dict)]
        graded = any(math.isfinite(real(r.get("average"))) for r in rows)
        if not graded and any(math.isfinite(real(r.get("win_rate_adjusted"))) for r in rows):
            return "(wins + ties / 2) / pairs against the other models, in percent", (0.0, 100.0), "score"
        return "mean grade from 1 to 10", (0.0, 10.0), "two"
    kind = "mean outcome"
    if table.get("protocol") == "alpaca_eval":
        rows = [r for r in table.get("rows") or [] if isinstance(r, dict)]
        fitted = [math.isfinite(real(r.get("lc_win_rate"))) for r in rows]
        raw = "raw win rate (no length control was fitted)"
        kind = "length-controlled win rate" if any(fitted) else raw
        kind += ", raw where none was fitted," if any(fitted) and not all(fitted) else ""
    return f"{kind} against the baseline, in percent", (0.0, 100.0), "score"


def _benchmark(run: RunRecord, file: str, table: Mapping[str, Any], rows: list[dict[str, Any]]) -> Section:
    what, limits, style = score_unit(table)
    name = str(table.get("benchmark") or "benchmark")
    judges = sorted({clean(r.get("judge") or "") for r in rows} - {""})
    several = len(judges) > 1
    top = [(_ranked(r, several), score_of(r), 0) for r in rows[:_BARS]]
    even = "as good as the baseline" if table.get("protocol") != "mt_bench" else "as good as the others"
    levels = [] if limits[1] == 10.0 else [(50.0, even)]
    caption = f"Score: {what}, with 95% intervals. Models whose intervals overlap share a rank."
    caption += f" The first {_BARS} of {len(rows)} models." if len(rows) > _BARS else ""
    judged = f" Judge: {', '.join(judges)}." if judges else ""
    blocks: list[Block] = [f"{len(rows)} models.{judged}"]
    blocks.append(Figure((bars(name, top, style, limits, levels),), caption, layout="wide"))
    blocks.append(_score_table(name, table, rows, style))
    compared = run.files.get(file.replace("leaderboard.json", "comparisons.json"))
    listed = compared if isinstance(compared, list) else []
    pairs = [c for c in listed if isinstance(c, dict) and isinstance(c.get("difference"), dict)]
    if several:
        blocks.append(
            f"Models are not compared with one another here: verdicts of {len(judges)} judges do not compare."
        )
    elif pairs:
        blocks.append(_comparison_table(pairs))
    dots = category_figure(rows, style, limits)
    unit = _UNIT.get(str(table.get("protocol")), "characters")
    scatter = None if several else length_figure(rows, style, unit)
    blocks += [figure for figure in (dots, scatter) if figure]
    between = social_section(f"between-{run.name}-{name}", table.get("social"))
    judges_part = judges_section(f"judges-{run.name}-{name}", table.get("judges"))
    answers = browser(f"answers-{run.name}-{name}", run.files.get(file.replace("leaderboard.json", ANSWERS)))
    parts = tuple(part for part in (between, judges_part, answers) if part is not None)
    return Section(f"bench-{run.name}-{name}", name, tuple(blocks), parts)


def _ranked(row: Mapping[str, Any], several: bool) -> str:
    """The model with its rank, and with its judge where the table has several."""
    name = clean(row["name"]) + (f" ({clean(row.get('judge') or 'no judge named')})" if several else "")
    return name if row.get("rank") is None else f"{row['rank']}. {name}"


def _score_table(name: str, table: Mapping[str, Any], rows: list[dict[str, Any]], style: Style) -> Grid:
    known_elsewhere = {*COMMON, *(limit for limits in _LIMITS.values() for limit in limits)}
    listed = [c for c in table.get("columns") or [] if isinstance(c, str) and c not in known_elsewhere]
    extra = [c for c in listed if any(math.isfinite(real(r.get(c))) for r in rows)]
    fixed = ("Model", "rank", "score", "n", "failed", "length")
    own = (Column(c.replace("_", " "), group="the protocol's own columns") for c in extra)
    columns = (*(Column(c) for c in fixed), *own)
    several = len({r.get("judge") for r in rows}) > 1
    body = tuple(
        (
            Cell(str(r["name"]), note=clean(r.get("judge") or "") if several else ""),
            plain(r.get("rank"), "count"),
            Cell(show(score_of(r).point, style), _interval(score_of(r), style)),
            plain(r.get("n"), "count"),
            plain(r.get("n_failed"), "count", "warn" if real(r.get("n_failed")) > 0 else ""),
            plain(r.get("avg_length"), "count"),
            *(_own_cell(r, c) for c in extra),
        )
        for r in rows[:_ROWS]
    )
    notes = [clean(n) for n in table.get("notes") or [] if isinstance(n, str)]
    notes.append(f"Failed verdicts are counted and left out, never scored. {_length_unit(table)}")
    if len(rows) > _ROWS:
        notes.append(f"The first {_ROWS} of {len(rows)} models; leaderboard.csv has them all.")
    return Grid(f"Leaderboard of {name}", columns, body, tuple(notes))


def _own_cell(row: Mapping[str, Any], column: str) -> Cell:
    """A number of the protocol, with its interval where the table holds one."""
    low, high = _LIMITS.get(column, ("", ""))
    found = estimate({"v": row.get(column), "v_low": row.get(low), "v_high": row.get(high)}, "v")
    return cell(found, "count" if column.startswith("pair_") else "two")


def _length_unit(table: Mapping[str, Any]) -> str:
    return f"Length is the mean number of {_UNIT.get(str(table.get('protocol')), 'characters')}."


def _interval(found: Estimate, style: Style) -> str:
    return cell(found, style).interval


def _comparison_table(pairs: Sequence[Mapping[str, Any]]) -> Grid:
    columns = (
        Column("First"),
        Column("second"),
        Column("difference", "mean outcome of the first minus that of the second, on the same questions"),
        Column("p", "sign-flip test, Holm-adjusted"),
        Column("detectable", "difference found with 80% power at this n"),
    )
    body = []
    for c in pairs[:_BARS]:
        d = c["difference"]
        found = Estimate(real(d.get("point")), real(d.get("low")), real(d.get("high")),
                         *(0 if math.isnan(real(d.get(k))) else int(d[k]) for k in ("n", "n_failed")))  # fmt: skip
        differs = real(c.get("p")) < 0.05
        told = cell(found, "three", "good" if differs else "", "questions")
        p = Cell("< 0.001") if real(c.get("p")) < 0.001 else plain(c.get("p"), "three")
        body.append(
            (Cell(str(c.get("first"))), Cell(str(c.get("second"))), told, p, plain(c.get("detectable"), "three"))
        )
    notes = ["Unmarked differences are compatible with no difference at the 5% level."]
    if len(pairs) > _BARS:
        notes.append(f"The first {_BARS} of {len(pairs)} pairs; comparisons.json has them all.")
    return Grid("Which models differ: paired comparisons of uncontrolled outcomes", columns, tuple(body), tuple(notes))
