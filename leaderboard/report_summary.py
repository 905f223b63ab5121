"""The report's summary: what the numbers show, in words made from the numbers, and what they do not show."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard.report_alignment import ORACLES, oracles_of, probed, probes
from leaderboard.report_boards import score_of, score_unit
from leaderboard.report_chain import best_policy
from leaderboard.report_judges import marked_judges
from leaderboard.report_read import Evidence, RunRecord
from leaderboard.report_scores import contest_rows, warnings_of
from leaderboard.report_text import clean, estimate, in_words, known, listed, show
from leaderboard.report_training import SCALAR_HEADS, Quality, quality
from prefeval.stats import Estimate

_COUNT = {2: "Two", 3: "Three", 4: "Four"}


def summary(evidence: Evidence) -> list[str]:
    """One sentence a finding; none says more than the intervals allow."""
    parts = _models([quality(r) for r in evidence.of_kind("train")])
    held = [run for run in evidence.of_kind("contest") if contest_rows(run)]
    parts += [sentence for run in held for sentence in _contest(run)]
    parts += [sentence for run in evidence.of_kind("align") for sentence in _align(run, bool(held))]
    parts += [sentence for run in evidence.of_kind("bench") for sentence in _bench(run)]
    return parts or ["No step has left a number yet, so there is nothing to say about results."]


def status(evidence: Evidence) -> list[str]:
    """What is missing from a report, as sentences; empty for a complete one."""
    open_runs = [f"{run.name} ({run.state})" for run in evidence.runs if run.state != "finished"]
    notes = [f"This report is partial: {listed(open_runs)}. What is there is shown."] if open_runs else []
    notes += [f"{run.name}: {problem}" for run in evidence.runs for problem in run.problems]
    return notes + list(evidence.problems)


def against_half(found: Estimate) -> str:
    """What an interval of a win rate says about one half."""
    if found.low > 0.5:
        return "the interval lies above 50%, so it wins more than it loses"
    if found.high < 0.5:
        return "the interval lies below 50%, so it loses more than it wins"
    return "the interval includes 50%, so no difference has been shown"


def compared(first: Estimate, second: Estimate) -> str:
    """What two separate intervals say about each other."""
    if first.low > second.high or second.low > first.high:
        return "their intervals do not overlap"
    return "their intervals overlap, so these numbers alone do not separate them"


def _models(found: Sequence[Quality]) -> list[str]:
    measured = sorted((q for q in found if known(q.accuracy)), key=lambda q: -q.accuracy.point)
    if not measured:
        return []
    told = [f"{clean(q.run.name)} in {in_words(q.accuracy, 'percent', 'pairs')}" for q in measured]
    splits = listed(sorted({q.split for q in measured}))
    count = len(measured)
    start = "The preference model was" if count == 1 else f"{_COUNT.get(count, count)} preference models were"
    text = f"{start} asked for the preferred reply of held-out {splits} pairs and named it right: {listed(told)}"
    if len(measured) == 2:
        text += f"; {compared(measured[0].accuracy, measured[1].accuracy)}"
    return [f"{text}.", *_cycles([q for q in measured if known(q.on_cycles)])]


def _cycles(found: Sequence[Quality]) -> list[str]:
    if not found:
        return []
    told = []
    for q in found:
        head = q.run.config.get("head")
        kind = head.get("kind") if isinstance(head, dict) else ""
        words = f"{clean(q.run.name)} {in_words(q.on_cycles, 'percent', 'edges')}"
        if kind not in SCALAR_HEADS:
            above = q.on_cycles.low > q.ceiling
            words += ", above that ceiling" if above else ", which is not shown to be above that ceiling"
        told.append(words)
    ceiling = show(found[0].ceiling, "percent")
    return [f"On triples whose labels run in a circle, where no scalar model can exceed {ceiling}: {'; '.join(told)}."]


def _contest(run: RunRecord) -> list[str]:
    rows = contest_rows(run)
    base, sentences = clean(rows[0]["policy"]), []
    for row in rows[1:]:
        won, matched = estimate(row, "win_rate"), estimate(row, "length_matched_win_rate")
        if not known(won):
            continue
        text = f"Before {clean(run.files['contest.json'].get('oracle') or 'the judge')}, {clean(row['policy'])} wins "
        text += f"{in_words(won, 'percent', 'prompts')} against {base}: {against_half(won)}"
        if won.low > 0.5 and known(matched):
            same = "so the win holds there too" if matched.low > 0.5 else "so length may explain the win"
            text += f"; at matched length it wins {in_words(matched, 'percent', 'pairs')}, {same}"
        flags = warnings_of(row, rows[0])
        text += f". It comes with {listed(list(flags.values()))}" if flags else ""
        sentences.append(f"{text}.")
    return sentences


def _align(run: RunRecord, brief: bool) -> list[str]:
    """How a run ended under each oracle; only a disagreement is told where a contest already tells the outcome."""
    rows = [row for row in probes(run) if row.round]
    found = {k: probed(rows[-1], k, "win_rate") for k in oracles_of(rows[-1:])} if rows else {}
    if not found:
        return []
    name, last = clean(run.name), rows[-1].round
    if len(found) == 2 and found["oracle"].low > 0.5 and found["judge"].low <= 0.5:
        trained, judged = (in_words(found[k], "percent", "prompts") for k in ("oracle", "judge"))
        return [
            f"After round {last}, {name} wins {trained} against its start under the oracle that trained it, but "
            f"{judged} under the independent judge: the gain is not confirmed."
        ]
    if brief:
        return []
    told = [f"{in_words(e, 'percent', 'prompts')} under the {ORACLES[k]} ({against_half(e)})" for k, e in found.items()]
    return [f"After round {last}, {name} wins {listed(told)} against its start."]


def _bench(run: RunRecord) -> list[str]:
    sentences = []
    for name, table in run.files.items():
        rows = table.get("rows") if name.endswith("leaderboard.json") and isinstance(table, dict) else None
        rows = [r for r in rows if isinstance(r, dict) and known(score_of(r))] if isinstance(rows, list) else []
        if not rows:
            continue
        style = score_unit(table)[2]
        top = f"{clean(rows[0].get('name'))} is first on {clean(table.get('benchmark'))} with "
        top += in_words(score_of(rows[0]), style)
        if len(rows) > 1:
            top += f", before {clean(rows[1].get('name'))} with {in_words(score_of(rows[1]), style)}; "
            top += compared(score_of(rows[0]), score_of(rows[1]))
        sentences.append(f"{top}.")
        sentences += marked_judges(table)
    return sentences


def headline(evidence: Evidence) -> str:
    """A title where none is given."""
    held = [best for run in evidence.of_kind("contest") if (best := best_policy(run))]
    if evidence.name:
        return f"prefeval report: {evidence.name}"
    return "prefeval report: contest" if held else f"prefeval report: {listed([run.name for run in evidence.runs][:4])}"
