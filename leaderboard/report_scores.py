"""The report's part on finished models: the contest before an independent judge, and the leaderboards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.report_judges import judges_section
from leaderboard.report_length import length_figure
from leaderboard.report_matrix import matrix_plot
from leaderboard.report_read import RunRecord
from leaderboard.report_social import social_section
from leaderboard.report_svg import SLOTS, bars
from leaderboard.report_text import (
    Cell,
    Column,
    Figure,
    Grid,
    Samples,
    Section,
    Style,
    Tone,
    cell,
    clean,
    cut,
    estimate,
    known,
    plain,
    real,
    show,
)
from prefeval.stats import Estimate

# A policy's text is flagged when it is worse than the base's by more than this; the methods section says so.
MORE_BROKEN, MORE_DUPLICATES, LESS_LIKELY = 0.05, 0.10, 1.0  # shares, shares, nats a token
_REPLY, _PROMPT = 1500, 700  # characters shown
_UNIT = {"arena_hard": "tokens, as the protocol counts them", "mt_bench": "characters a turn"}
_BARS, _ROWS = 40, 200  # models drawn, and rows listed, at most


def contest_rows(run: RunRecord) -> list[dict[str, Any]]:
    """The policies of a contest, the base first; empty when it is not held yet."""
    found = run.files.get("contest.json")
    rows = found.get("rows") if isinstance(found, dict) else None
    return [r for r in rows if isinstance(r, dict) and "policy" in r] if isinstance(rows, list) else []


def warnings_of(row: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, str]:
    """Column -> what is worse than in the base's text."""
    found = {}
    if real(row.get("broken")) > real(base.get("broken")) + MORE_BROKEN:
        found["broken"] = "more broken replies"
    if real(row.get("duplicates")) > real(base.get("duplicates")) + MORE_DUPLICATES:
        found["duplicates"] = "more duplicate replies"
    if real(row.get("start_logp")) < real(base.get("start_logp")) - LESS_LIKELY:
        found["start_logp"] = "text that the base model finds much less likely"
    return found


def contest_section(run: RunRecord, names: dict[str, str], title: str) -> Section:
    """Win rates against the base, with length and language beside them, the matrix, and samples."""
    rows = contest_rows(run)
    id_ = f"contest-{run.name}"
    if not rows:
        return Section(id_, title, ("The contest has not been held yet.",))
    found = run.files["contest.json"]
    spec = str(found.get("oracle") or "")
    judge, base = names.get(spec, cut(clean(spec), 60)) or "the judge", str(rows[0]["policy"])
    intro = (
        f"All policies answer the same {plain(found.get('prompts'), 'count').text} held-out prompts; {judge} "
        f"compares every reply with those of the base policy, {base}. A win can be bought with length or with broken "
        "language, so both stand beside it: the length-matched win rate counts only pairs of replies whose token "
        "counts differ by at most a tenth."
    )
    blocks: list[str | Grid | Figure | Samples] = [intro, _contest_bars(rows, base), _contest_table(rows, base)]
    listed = found.get("names")
    policies = [str(n) for n in listed] if isinstance(listed, list) else [str(r["policy"]) for r in rows]
    drawn = matrix_plot(policies, found.get("matrix"), f"Win rates before {judge}")
    if drawn is not None:
        note = "Mean win rate of the row's policy against the column's; intervals against the base are in the table."
        blocks.append(Figure((drawn,), note, layout="natural"))
    shown = _samples(found.get("samples"))
    if shown.items:
        blocks += ["Replies to the first held-out prompts, as sampled and not selected:", shown]
    return Section(id_, title, tuple(blocks))


def bench_sections(run: RunRecord) -> list[Section]:
    """One section a benchmark that has scores."""
    tables = {name: t for name, t in run.files.items() if name.endswith("leaderboard.json") and isinstance(t, dict)}
    sections = []
    for name, table in tables.items():
        rows = [r for r in table.get("rows") or [] if isinstance(r, dict) and r.get("name")]
        if rows:
            compared = run.files.get(name.replace("leaderboard.json", "comparisons.json"))
            sections.append(_benchmark(run, table, rows, compared if isinstance(compared, list) else []))
    return sections


def score_of(row: Mapping[str, Any]) -> Estimate:
    return estimate(row, "score", row.get("n"), row.get("n_failed"))


def score_unit(table: Mapping[str, Any]) -> tuple[str, tuple[float, float], Style]:
    """(what the score is, its range, its style) of a protocol."""
    if table.get("protocol") == "mt_bench":
        return "mean grade from 1 to 10", (0.0, 10.0), "two"
    kind = "mean outcome"
    if table.get("protocol") == "alpaca_eval":
        rows = [r for r in table.get("rows") or [] if isinstance(r, dict)]
        fitted = [math.isfinite(real(r.get("lc_win_rate"))) for r in rows]
        raw = "raw win rate (no length control was fitted)"
        kind = "length-controlled win rate" if any(fitted) else raw
        kind += ", raw where none was fitted," if any(fitted) and not all(fitted) else ""
    return f"{kind} against the baseline, in percent", (0.0, 100.0), "score"


def _contest_bars(rows: Sequence[Mapping[str, Any]], base: str) -> Figure:
    def drawn(name: str) -> list[tuple[str, Estimate, int]]:
        return [(str(r["policy"]), estimate(r, name), i % SLOTS) for i, r in enumerate(rows) if i]

    levels = [(0.5, "no difference 50%")]
    plots = [bars(f"Win rate against {base}", drawn("win_rate"), "percent", (0.0, 1.0), levels)]
    if any(known(e) for _, e, _ in drawn("length_matched_win_rate")):
        plots.append(
            bars("The same at matched length", drawn("length_matched_win_rate"), "percent", (0.0, 1.0), levels)
        )
    return Figure(tuple(plots), "95% intervals from a bootstrap over prompts.", layout="wide")


def _contest_table(rows: Sequence[Mapping[str, Any]], base: str) -> Grid:
    text = "is the language intact?"
    columns = (
        Column("Policy"),
        Column("all replies", f"against {base}", "win rate"),
        Column("matched length", "token counts within a tenth", "win rate"),
        Column("length", "tokens a reply", text),
        Column("ended", "share that stopped by itself", text),
        Column("log-prob", "nats a token under the base", text),
        Column("entropy", "nats a token", text),
        Column("duplicates", "share equal to another reply", text),
        Column("broken", "empty or mostly repetition", text),
        Column("KL", "nats a reply, from the base"),
        Column("duality gap", "2 max W − 1 here; 0 is unbeaten"),
    )
    replies = real(rows[0].get("replies"))
    notes = (
        [f"Language columns are means over {replies:,.0f} replies a policy, without intervals."] if replies > 0 else []
    )
    told = {str(r["policy"]): warnings_of(r, rows[0]) for r in rows[1:]}
    flagged = [f"{name}: {', '.join(found.values())}" for name, found in told.items() if found]
    notes.append(
        f"Marked against the base: {'; '.join(flagged)}."
        if flagged
        else "No policy's text crosses the marks for broken, duplicate or unlikely replies (see Methods)."
    )
    body = tuple(_contest_row(row, rows[0], index == 0) for index, row in enumerate(rows))
    return Grid("Policies before the judge", columns, body, tuple(notes))


def _contest_row(row: Mapping[str, Any], base: Mapping[str, Any], is_base: bool) -> tuple[Cell, ...]:
    bad = {} if is_base else warnings_of(row, base)
    own = Cell("50.0%", note="by definition", tone="quiet")

    def mark(name: str) -> Tone:
        return "warn" if name in bad else ""

    return (
        Cell(str(row["policy"]), note="the base" if is_base else ""),
        own if is_base else cell(estimate(row, "win_rate"), "percent", _tone(estimate(row, "win_rate")), "prompts"),
        own if is_base else cell(estimate(row, "length_matched_win_rate"), "percent", unit="pairs"),
        plain(row.get("length"), "score"),
        plain(row.get("ended"), "percent"),
        plain(row.get("start_logp"), "two", mark("start_logp")),
        plain(row.get("entropy"), "two"),
        plain(row.get("duplicates"), "percent", mark("duplicates")),
        plain(row.get("broken"), "percent", mark("broken")),
        cell(estimate(row, "kl"), "two"),
        cell(estimate(row, "gap"), "three"),
    )


def _tone(found: Estimate) -> Tone:
    return "good" if found.low > 0.5 else "warn" if found.high < 0.5 else ""


def _samples(value: Any) -> Samples:
    items = []
    for item in value if isinstance(value, list) else []:
        replies = item.get("replies") if isinstance(item, dict) else None
        if isinstance(replies, dict):
            told = tuple((str(n), cut(clean(t).strip(), _REPLY) or "(empty)") for n, t in replies.items())
            items.append((cut(clean(item.get("prompt", "")).strip(), _PROMPT), told))
    return Samples(tuple(items))


def _benchmark(run: RunRecord, table: Mapping[str, Any], rows: list[dict[str, Any]], compared: list[Any]) -> Section:
    what, limits, style = score_unit(table)
    name = str(table.get("benchmark") or "benchmark")
    judges = sorted({clean(r.get("judge") or "") for r in rows} - {""})
    top = [(_ranked(r), score_of(r), 0) for r in rows[:_BARS]]
    levels = [] if limits[1] == 10.0 else [(50.0, "as good as the baseline")]
    caption = f"Score: {what}, with 95% intervals. Models whose intervals overlap share a rank."
    caption += f" The first {_BARS} of {len(rows)} models." if len(rows) > _BARS else ""
    judged = f" Judge: {', '.join(judges)}." if judges else ""
    blocks: list[str | Grid | Figure | Samples] = [f"{len(rows)} models.{judged}"]
    blocks.append(Figure((bars(name, top, style, limits, levels),), caption, layout="wide"))
    blocks.append(_score_table(name, table, rows, style))
    pairs = [c for c in compared if isinstance(c, dict) and isinstance(c.get("difference"), dict)]
    if pairs:
        blocks.append(_comparison_table(pairs))
    scatter = length_figure(rows, style, _UNIT.get(str(table.get("protocol")), "characters"))
    blocks += [scatter] if scatter else []
    between = social_section(f"between-{run.name}-{name}", table.get("social"))
    judges_part = judges_section(f"judges-{run.name}-{name}", table.get("judges"))
    parts = tuple(part for part in (between, judges_part) if part is not None)
    return Section(f"bench-{run.name}-{name}", name, tuple(blocks), parts)


def _ranked(row: Mapping[str, Any]) -> str:
    name = clean(row["name"])
    return name if row.get("rank") is None else f"{row['rank']}. {name}"


def _score_table(name: str, table: Mapping[str, Any], rows: list[dict[str, Any]], style: Style) -> Grid:
    common = ("name", "score", "score_low", "score_high", "n", "n_failed", "avg_length", "judge", "template_hash",
              "data_revision", "lc_low", "lc_high")  # fmt: skip
    listed = [c for c in table.get("columns") or [] if isinstance(c, str) and c not in common]
    extra = [c for c in listed if any(math.isfinite(real(r.get(c))) for r in rows)]
    fixed = ("Model", "rank", "score", "n", "failed", "length")
    own = (Column(c.replace("_", " "), group="the protocol's own columns") for c in extra)
    columns = (*(Column(c) for c in fixed), *own)
    body = tuple(
        (
            Cell(str(r["name"])),
            plain(r.get("rank"), "count"),
            Cell(show(score_of(r).point, style), _interval(score_of(r), style)),
            plain(r.get("n"), "count"),
            plain(r.get("n_failed"), "count", "warn" if real(r.get("n_failed")) > 0 else ""),
            plain(r.get("avg_length"), "count"),
            *(plain(r.get(c), "two") for c in extra),
        )
        for r in rows[:_ROWS]
    )
    notes = [clean(n) for n in table.get("notes") or [] if isinstance(n, str)]
    notes.append(f"Failed verdicts are counted and left out, never scored. {_length_unit(table)}")
    if len(rows) > _ROWS:
        notes.append(f"The first {_ROWS} of {len(rows)} models; leaderboard.csv has them all.")
    return Grid(f"Leaderboard of {name}", columns, body, tuple(notes))


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
