"""The report's part on the contest of finished models before an independent judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.report_matrix import matrix_plot
from leaderboard.report_read import RunRecord
from leaderboard.report_svg import SLOTS, bars
from leaderboard.report_text import (
    Block,
    Cell,
    Column,
    Figure,
    Grid,
    Samples,
    Section,
    Tone,
    cell,
    clean,
    cut,
    estimate,
    known,
    plain,
    real,
)
from prefeval.stats import Estimate

# A policy's text is flagged when it is worse than the base's by more than this; the methods section says so.
MORE_BROKEN, MORE_DUPLICATES, LESS_LIKELY = 0.05, 0.10, 1.0  # shares, shares, nats a token
_REPLY, _PROMPT = 1500, 700  # characters shown


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
    blocks: list[Block] = [intro, _contest_bars(rows, base), _contest_table(rows, base)]
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
