"""The chain of a report: one box a run, from data to leaderboard, with its key number and how long it took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.report_alignment import ORACLES, algorithm_of, oracle_name, oracles_of, probed, probes
from leaderboard.report_boards import score_of, score_unit
from leaderboard.report_diagram import Box
from leaderboard.report_read import Evidence, RunRecord
from leaderboard.report_scores import contest_rows
from leaderboard.report_text import clean, cut, estimate, known, plain, real, show, show_interval
from leaderboard.report_training import head_of, quality
from prefeval.log import format_seconds
from prefeval.stats import Estimate

_COLUMNS = (("Data", ("data",)), ("Preference models", ("train",)), ("Alignment", ("align",)),
            ("Contest and leaderboards", ("contest", "bench")))  # fmt: skip


def oracle_names(evidence: Evidence) -> dict[str, str]:
    """Oracle spec -> what the report calls it: a preference model of this report goes by its run's name."""
    names = {}
    for run in evidence.of_kind("align", "contest", "bench"):
        probe, held = run.config.get("probe"), run.files.get("contest.json")
        specs = [run.config.get("oracle"), run.config.get("judge"), _get(probe, "oracle"), _get(held, "oracle")]
        for spec in (s for s in specs if isinstance(s, str)):
            for model in evidence.of_kind("train"):
                if f"/{model.path.name}/" in f"{spec.replace(':', '/')}/" and spec.startswith("model:"):
                    names[spec] = f"the preference model {model.name}"
    return names


def chain_boxes(evidence: Evidence, names: dict[str, str]) -> tuple[list[Box], list[str]]:
    """(boxes, column headings); columns without a run are left out."""
    groups = [(head, evidence.of_kind(*kinds)) for head, kinds in _COLUMNS]
    outside = [] if groups[0][1] else _outside_data(evidence.of_kind("train"))
    heads = [head for head, runs in groups if runs or (head == "Data" and outside)]
    boxes = [Box(0, cut(clean(spec).rstrip("/").split("/")[-1], 40), "preference data", key, "", "finished")
             for spec, key in outside]  # fmt: skip
    runs = [run for _, members in groups for run in members]
    place = {run.path: i + len(boxes) for i, run in enumerate(runs)}
    specs = {spec: i for i, (spec, _) in enumerate(outside)}
    direct: dict[int, list[int]] = {}
    for run in runs:
        before = [place[p] for p in run.uses if p in place]
        before += [specs[s] for s in [str(run.config.get("data"))] if run.kind == "train" and s in specs]
        direct[place[run.path]] = before
    for head, members in groups:
        for run in members:
            about, key = _told(run, names)
            after = tuple(_nearest(place[run.path], direct))
            boxes.append(Box(heads.index(head), run.name, about, key, time_of(run), run.state, after))
    return [_forward(box, boxes) for box in boxes], heads


def time_of(run: RunRecord) -> str:
    if run.state != "finished":
        return run.state
    return format_seconds(run.seconds) if math.isfinite(run.seconds) else ""


def last_win_rate(run: RunRecord) -> tuple[str, Estimate] | None:
    """(which oracle, win rate against the start) in the last round: the independent judge's where there is one."""
    rows = [row for row in probes(run) if row.round]
    kinds = oracles_of(rows)
    return (kinds[-1], probed(rows[-1], kinds[-1], "win_rate")) if kinds else None


def best_policy(run: RunRecord) -> tuple[str, Estimate] | None:
    """The policy of a contest with the highest win rate against the base, which takes no part."""
    found = [(str(row["policy"]), estimate(row, "win_rate")) for row in contest_rows(run)[1:]]
    found = [item for item in found if known(item[1])]
    return max(found, key=lambda item: item[1].point) if found else None


def _told(run: RunRecord, names: dict[str, str]) -> tuple[str, str]:
    tell = {"data": _data, "train": _train, "align": _align, "contest": _contest, "bench": _bench}
    about, key = tell[run.kind](run, names)
    return about, key or ("" if run.state == "not started" else "no number yet")


def _data(run: RunRecord, names: dict[str, str]) -> tuple[str, str]:
    result = run.results.get("data")
    splits = {k: v for k, v in result.items() if isinstance(v, Mapping)} if isinstance(result, Mapping) else {}
    sizes = [f"{plain(v.get('prompts'), 'count').text} {k}" for k, v in splits.items()]
    held_out = splits.get("test", {})
    triples, cyclic = real(held_out.get("triples")), real(held_out.get("cyclic"))
    share = [f"{show(cyclic / triples, 'percent')} of test triples cyclic"] if triples > 0 else []
    return "prompts and labelled replies", "; ".join([*([", ".join(sizes)] if sizes else []), *share])


def _train(run: RunRecord, names: dict[str, str]) -> tuple[str, str]:
    found = quality(run)
    parts = [f"accuracy {_short(found.accuracy)}"] if known(found.accuracy) else []
    parts += [f"on cycles {_short(found.on_cycles)}"] if known(found.on_cycles) else []
    return head_of(run), "; ".join(parts)


def _align(run: RunRecord, names: dict[str, str]) -> tuple[str, str]:
    about = f"{algorithm_of(run)} against {oracle_name(run, 'oracle', names).removeprefix('the preference model ')}"
    won = last_win_rate(run)
    return about, f"beats start {_short(won[1])}; {ORACLES[won[0]]}" if won else ""


def _contest(run: RunRecord, names: dict[str, str]) -> tuple[str, str]:
    best = best_policy(run)
    policies = len(contest_rows(run)) or len(run.config.get("policies") or ())
    key = f"{cut(best[0], 24)}; beats base {_short(best[1])}" if best else ""
    judge = str(_get(run.files.get("contest.json"), "oracle") or run.config.get("oracle", "a judge"))
    return f"{policies} policies before {cut(judge, 24)}", key


def _bench(run: RunRecord, names: dict[str, str]) -> tuple[str, str]:
    tables = [
        t for n, t in run.files.items() if n.endswith("leaderboard.json") and isinstance(t, dict) and t.get("rows")
    ]
    if not tables:
        return "benchmarks", ""
    first = tables[0]
    top = first["rows"][0]
    style = score_unit(first)[2]
    found = score_of(top)
    benchmarks = ", ".join(str(t.get("benchmark")) for t in tables)
    count = f"{len(tables)} benchmark{'s' if len(tables) > 1 else ''}: {benchmarks}"
    key = f"{cut(str(top.get('name')), 24)} is first; "
    return count, f"{key}{first.get('benchmark')} {show(found.point, style)} {show_interval(found, style)}"


def _short(found: Estimate) -> str:
    return f"{show(found.point, 'percent')} {show_interval(found, 'percent')}".strip()


def _outside_data(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """(spec, size) of the training data of runs that no data step made."""
    found: dict[str, str] = {}
    for run in runs:
        spec = str(run.config.get("data") or "")
        items = real(_get(run.results.get("train"), "items"))
        if spec:
            found.setdefault(spec, f"{items:,.0f} training items" if items == items else "")
    return list(found.items())


def _nearest(index: int, direct: Mapping[int, Sequence[int]]) -> list[int]:
    """The direct predecessors that are not reached through another one."""

    def above(i: int, seen: frozenset[int]) -> set[int]:
        out: set[int] = set()
        for j in direct.get(i, ()):
            if j not in seen:
                out |= {j} | above(j, seen | {j})
        return out

    before = set(direct.get(index, ())) - {index}
    return sorted(j for j in before if not any(j in above(other, frozenset({other})) for other in before - {j}))


def _forward(box: Box, boxes: Sequence[Box]) -> Box:
    """Without arrows that would run within a column or back."""
    after = tuple(i for i in box.after if boxes[i].column < box.column)
    return Box(box.column, box.title, box.about, box.key, box.time, box.state, after)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None
