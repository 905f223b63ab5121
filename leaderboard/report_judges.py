"""The report's part on judges: order, length, lists, own family, people, failures and cost, a judge a column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from leaderboard.measures import MEANINGS, Meaning
from leaderboard.report_text import (
    Cell,
    Column,
    Grid,
    Section,
    Tone,
    cell,
    clean,
    estimate,
    in_words,
    listed,
    plain,
    real,
    redact,
    show,
)
from prefeval.stats import Estimate

_JUDGES = 8  # columns at most


def judges_section(id_: str, value: Any) -> Section | None:
    """`value` is the `judges` entry of leaderboard.json; None without one."""
    found = value.get("judges") if isinstance(value, Mapping) else None
    judges = [j for j in found if isinstance(j, Mapping)] if isinstance(found, list) else []
    if not judges:
        return None
    shown = judges[:_JUDGES]
    names = list(dict.fromkeys(m["name"] for j in shown for m in _measures(j)))
    columns = (Column("Measure"), *(Column(redact(j.get("judge") or "the judge")) for j in shown))
    rows = [
        (Cell("verdicts"), *(plain(j.get("verdicts"), "count") for j in shown)),
        (Cell("failed", note="left out, never scored"), *(_failed(j) for j in shown)),
        (Cell("cost"), *(_cost(j.get("cost")) for j in shown)),
    ]
    for name in names:
        meaning = MEANINGS[name]
        head = Cell(meaning.title, note=meaning.about)
        rows.append((head, *(_measured(_measures(j), name, meaning) for j in shown)))
    notes = [clean(n) for n in value.get("notes") or [] if isinstance(n, str)]
    notes.append("Marked (▲): the interval excludes what a judge without this bias would give, or verdicts failed.")
    if len(judges) > _JUDGES:
        notes.append(f"The first {_JUDGES} of {len(judges)} judges; leaderboard.json has them all.")
    lead = (
        "What the verdicts show about the judge that gave them. What they do not allow to measure is said, not guessed."
    )
    title = "The judge" if len(judges) == 1 else "The judges"
    return Section(id_, title, (lead, Grid("Judge diagnostics", columns, tuple(rows), tuple(notes))))


def marked_judges(table: Mapping[str, Any]) -> list[str]:
    """A sentence for each judge of a leaderboard.json whose verdicts show a bias beyond doubt."""
    value = table.get("judges")
    found = value.get("judges") if isinstance(value, Mapping) else None
    sentences = []
    for judge in found if isinstance(found, list) else []:
        told = []
        for one in _measures(judge) if isinstance(judge, Mapping) else []:
            meaning = MEANINGS[one["name"]]
            if "why" not in one and _tone(_estimate(one), meaning.fair):
                told.append(f"{meaning.title} {in_words(_estimate(one), meaning.style, clean(one.get('unit') or ''))}")
        if told:
            name = redact(judge.get("judge") or "the judge")
            where = clean(table.get("benchmark"))
            sentences.append(f"On {where}, the verdicts of {name} show signs of bias: {listed(told)}.")
    return sentences


def _estimate(one: Mapping[str, Any]) -> Estimate:
    values = {"v": one.get("point"), "v_low": one.get("low"), "v_high": one.get("high")}
    return estimate(values, "v", one.get("n"), one.get("n_failed"))


def _measures(judge: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = judge.get("measures")
    listed = found if isinstance(found, list) else []
    return [m for m in listed if isinstance(m, Mapping) and m.get("name") in MEANINGS]


def _failed(judge: Mapping[str, Any]) -> Cell:
    reasons = judge.get("reasons")
    told = "; ".join(f"{clean(r)} {n}" for r, n in reasons.items()) if isinstance(reasons, Mapping) else ""
    failed = real(judge.get("failed"))
    share = failed / real(judge.get("verdicts")) if real(judge.get("verdicts")) > 0 else math.nan
    text = show(failed, "count") + (f" ({show(share, 'percent')})" if failed > 0 and math.isfinite(share) else "")
    return Cell(text, note=told, tone="warn" if failed > 0 else "")


def _cost(value: Any) -> Cell:
    found = value if isinstance(value, Mapping) else {}
    if math.isfinite(real(found.get("dollars"))):
        return Cell(f"{show(real(found['dollars']), 'two')} dollars", note=f"{found.get('verdicts'):,} priced verdicts")
    return _unknown(found.get("why"), "not known")


def _measured(measures: list[Mapping[str, Any]], name: str, meaning: Meaning) -> Cell:
    one = next((m for m in measures if m["name"] == name), None)
    if one is None or "why" in one:
        return _unknown(one.get("why") if one else "not among this judge's measures", "not measurable")
    found = _estimate(one)
    return cell(found, meaning.style, _tone(found, meaning.fair), clean(one.get("unit") or ""))


def _tone(found: Estimate, fair: float | None) -> Tone:
    if fair is None or math.isnan(found.low + found.high):
        return ""
    return "warn" if found.low > fair or found.high < fair else ""


def _unknown(why: object, text: str) -> Cell:
    return Cell(text, note=clean(why or ""), tone="quiet")
