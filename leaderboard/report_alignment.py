"""The report's part on alignment: what each round's policy is like, under the oracle it learned from and another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from markupsafe import Markup

from leaderboard.report_matrix import matrix_plot
from leaderboard.report_read import RunRecord
from leaderboard.report_svg import Axes, Point, Series, line_panel, y_range
from leaderboard.report_text import (
    Cell,
    Column,
    Figure,
    Grid,
    Legend,
    Section,
    Style,
    cell,
    clean,
    cut,
    estimate,
    known,
    plain,
    real,
)
from leaderboard.report_training import learning_curves
from prefeval.runs import MetricRow
from prefeval.stats import Estimate

ORACLES = {"oracle": "training oracle", "judge": "independent judge"}
_PANELS: tuple[tuple[str, str, Style], ...] = (
    ("win_rate", "win rate against the start", "percent"),
    ("gap", "restricted duality gap", "two"),
    ("kl", "KL from the start, nats a reply", "score"),
    ("length", "length of replies, tokens", "count"),
    ("start_logp", "log-prob under the start, nats a token", "two"),
    ("flaws", "broken and duplicate replies", "percent"),
)


def probes(run: RunRecord) -> list[MetricRow]:
    """The probe rows of a run by round; the last one where a round was measured twice.

    Their gaps are those in the last round's pool, where it has them: a gap in a smaller pool is another number.
    """
    latest = {row.round: row for row in run.of_kind("probe") if row.round is not None}
    rows = [latest[number] for number in sorted(latest)]
    return [replace(row, values={**row.values, **_pool_gaps(rows, n)}) for n, row in enumerate(rows)]


def _pool_gaps(rows: Sequence[MetricRow], index: int) -> dict[str, Any]:
    found = {}
    for oracle in ORACLES:
        for end in ("", "_low", "_high", "_control"):
            values = rows[-1].values.get(f"{oracle}/pool_gap{end}")
            if isinstance(values, list) and len(values) == len(rows):
                found[f"{oracle}/gap{end}"] = values[index]
    return found


def probed(row: MetricRow, oracle: str, name: str) -> Estimate:
    """A value of one oracle in a probe row, with the prompts behind it as n."""
    values = row.values
    return estimate(values, f"{oracle}/{name}", values.get(f"{oracle}/n"), values.get(f"{oracle}/n_failed"))


def oracles_of(rows: Sequence[MetricRow]) -> list[str]:
    return [name for name in ORACLES if any(known(probed(row, name, "win_rate")) for row in rows)]


def algorithm_of(run: RunRecord) -> str:
    return str(run.config.get("algorithm", "alignment")).upper()


def alignment_section(runs: list[RunRecord], names: dict[str, str]) -> Section | None:
    """One subsection a run; `names` maps oracle specs to what the reader calls them. None without any run."""
    if not runs:
        return None
    ranges = _shared_ranges(runs)
    parts = tuple(_run_section(run, names, ranges) for run in runs)
    curves = learning_curves(runs)
    intro = (
        "A policy plays against itself in rounds: it samples several replies to each prompt, the oracle says who beats "
        "whom, and the policy moves towards what wins. After every round it is probed on held-out prompts that are "
        "never trained on. A rise under the oracle that trained it says little by itself; what counts is whether a "
        "judge that took no part agrees, and at what cost in KL and length. Panels of the same kind share their "
        "vertical axis."
    )
    return Section("alignment", "Alignment, round by round", (intro, *([curves] if curves else [])), parts)


def oracle_name(run: RunRecord, which: str, names: dict[str, str]) -> str:
    """What a run's training oracle or independent judge is called."""
    probe = run.config.get("probe")
    spec = run.config.get("oracle") if which == "oracle" else probe.get("oracle") if isinstance(probe, dict) else ""
    spec = str(spec or "")
    return names.get(spec, cut(clean(spec), 60)) or ORACLES[which]


def _run_section(run: RunRecord, names: dict[str, str], ranges: dict[str, tuple[float, float]]) -> Section:
    rows, planned = probes(run), real(run.config.get("rounds"))
    done = max([row.round or 0 for row in rows], default=0)
    lead = f"{algorithm_of(run)} against {oracle_name(run, 'oracle', names)}"
    lead += f"; {done} of {planned:.0f} rounds measured." if planned == planned else "."
    if not rows:
        return Section(f"align-{_slug(run.name)}", run.name, (lead, "No round has been probed yet."))
    kinds = oracles_of(rows)
    told = " ".join(f"{ORACLES[k].capitalize()}: {oracle_name(run, k, names)}." for k in kinds)
    plots = [_panel(rows, kinds, panel, ranges) for panel in _PANELS]
    legend = tuple(Legend(i, ORACLES[k]) for i, k in enumerate(ORACLES) if k in kinds)
    legend += (
        Legend(5, "control: the gap's estimate for identical policies", "dash"),
        Legend(2, "the policy's text"),
        Legend(3, "broken"),
        Legend(4, "duplicates"),
    )
    caption = (
        f"{told} Bands and whiskers: 95% intervals over prompts. Round 0 is the start, whose win rate against itself "
        "is 50% by definition. The gaps of all rounds are those of the game between all of them. Length, log-prob, "
        "broken and duplicate shares come without intervals."
    )
    blocks: list[str | Grid | Figure] = [lead, Figure(tuple(p for p in plots if p), caption, legend)]
    blocks.append(_table(run, rows, kinds))
    maps = tuple(m for k in kinds for m in [_matrix(rows[-1].values.get(f"{k}/matrix"), ORACLES[k])] if m)
    if maps:
        n = probed(rows[-1], kinds[0], "win_rate").n
        note = f"Mean win rate of the row's policy against the column's, over {n:,} prompts; entries carry no interval."
        blocks.append(Figure(maps, note, layout="natural"))
    return Section(f"align-{_slug(run.name)}", run.name, tuple(blocks))


def _series(rows: Sequence[MetricRow], kinds: Sequence[str], name: str) -> list[Series]:
    if name == "flaws":
        return [_own(rows, "broken", 3), _own(rows, "duplicates", 4)]
    if name in ("kl", "length", "start_logp"):
        return [_own(rows, name, 2)]
    found = [
        Series(ORACLES[k], list(ORACLES).index(k), tuple(_point(r, probed(r, k, name)) for r in rows)) for k in kinds
    ]
    if name == "gap":
        for k in kinds[-1:]:  # the controls of both oracles nearly coincide
            points = tuple(_point(r, estimate({"c": r.values.get(f"{k}/gap_control")}, "c")) for r in rows)
            found.append(Series(f"control ({ORACLES[k]})", 5, points, "dash"))
    return found


def _own(rows: Sequence[MetricRow], name: str, slot: int) -> Series:
    """What is said of the policy's text, whatever the oracle."""
    return Series(name, slot, tuple(_point(r, estimate(r.values, name)) for r in rows))


def _panel(
    rows: Sequence[MetricRow],
    kinds: Sequence[str],
    panel: tuple[str, str, Style],
    ranges: dict[str, tuple[float, float]],
) -> Markup | None:
    name, title, style = panel
    series = _series(rows, kinds, name)
    if not any(np.isfinite(p.y) for s in series for p in s.points):
        return None
    levels = {"win_rate": ((0.5, "no difference"),), "gap": ((0.0, ""),)}.get(name, ())
    return line_panel(Axes(title, "round", style, levels, ranges[name]), series)


def _shared_ranges(runs: Sequence[RunRecord]) -> dict[str, tuple[float, float]]:
    found = {}
    for name, _, _ in _PANELS:
        series = [s for run in runs for s in _series(probes(run), oracles_of(probes(run)), name)]
        found[name] = y_range(series, {"win_rate": [0.45, 0.55], "gap": [0.0], "flaws": [0.0, 0.1]}.get(name, []))
    return found


def _point(row: MetricRow, found: Estimate) -> Point:
    return Point(float(row.round or 0), found.point, found.low, found.high)


def _table(run: RunRecord, rows: Sequence[MetricRow], kinds: Sequence[str]) -> Grid:
    columns = [Column("Round")]
    columns += [
        Column(ORACLES[k], "share of replies that beat the start's", "win rate against the start") for k in kinds
    ]
    columns += [
        Column(ORACLES[k], "2 max W − 1, cross-fitted; control in brackets below", "duality gap") for k in kinds
    ]
    columns += [
        Column("KL", "nats a reply, from the start", "the text"),
        Column("length", "tokens a reply", "the text"),
        Column("ended", "share that stopped by itself", "the text"),
        Column("log-prob", "nats a token under the start", "the text"),
        Column("entropy", "nats a token", "the text"),
        Column("duplicates", "share equal to another reply", "the text"),
        Column("broken", "empty or mostly repetition", "the text"),
    ]
    body = tuple(_row(row, kinds) for row in rows)
    replies = real(rows[-1].values.get("replies"))
    notes = (f"Columns without intervals are means over {replies:,.0f} replies.",) if replies == replies else ()
    return Grid(f"{run.name}: every round on held-out prompts", tuple(columns), body, notes)


def _row(row: MetricRow, kinds: Sequence[str]) -> tuple[Cell, ...]:
    v, start = row.values, row.round == 0
    cells = [Cell("start" if start else str(row.round))]
    for k in kinds:
        found = probed(row, k, "win_rate")
        cells.append(
            Cell("50.0%", note="by definition", tone="quiet") if start else cell(found, "percent", unit="prompts")
        )
    for k in kinds:
        gap = cell(probed(row, k, "gap"), "three")
        control = plain(v.get(f"{k}/gap_control"), "three").text
        cells.append(Cell(gap.text, gap.interval, f"(control {control})", gap.tone))
    kl = cell(estimate(v, "kl"), "two")
    rest = [plain(v.get(n), s) for n, s in _TEXT_STYLES]
    return (*cells, kl, *rest)


_TEXT_STYLES: tuple[tuple[str, Style], ...] = (
    ("length", "score"), ("ended", "percent"), ("start_logp", "two"), ("entropy", "two"), ("duplicates", "percent"),
    ("broken", "percent"),
)  # fmt: skip


def _matrix(value: Any, who: str) -> Markup | None:
    names = ["start", *(f"round {i}" for i in range(1, len(value)))] if isinstance(value, list) else []
    return matrix_plot(names, value, f"Win rates between rounds, {who}")


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())
