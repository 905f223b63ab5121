"""The tables of a study, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(study: Mapping[str, Any]) -> str:
    """Three tables (before each oracle, rounds, text and cost) and what they can and cannot tell apart."""
    parts = [
        f"{study['policies']} policies, {study['prompts']} held-out prompts, {study['replies']} replies a prompt and "
        f"policy; runs a method: {_seeds(study['seeds'])}. Intervals: 95%, bootstrap over prompts, for these runs."
    ]
    for name, spec in study["oracles"].items():
        rows = study["methods"][name]
        parts += [f"**Before {name} (`{spec}`)**", _wins(rows, study["baseline"]), _detectable(rows)]
        parts += [f"Restricted duality gap on the common pool, {name}:", _gaps(rows)]
        if name in study["hypotheses"]:
            found = study["hypotheses"][name]
            title = f"The {found['methods']} methods but {study['baseline']} together, before {name}:"
            parts += [title, _together(found, study["baseline"])]
    parts += ["**Text and cost**", _text(study)]
    return "\n\n".join(parts) + "\n"


def _wins(rows: Mapping[str, Any], baseline: str) -> str:
    head = ("method", "win rate over the start", "by run", f"less {baseline}'s (Holm p)", f"win rate over {baseline}")
    body = []
    for method, row in rows.items():
        runs = ", ".join(f"{100 * v:.1f}" for v in row["win_rate_by_run"])
        cells = [method, percent(row["win_rate"]), runs]
        if "difference" in row:
            cells += [f"{percent(row['difference'], sign=True)} (p = {row['p_holm']:.2f})"]
            cells += [percent(row["over_baseline"]), percent(row["over_baseline_cyclic"], sign=True)]
        body.append([*cells, *["-"] * (6 - len(cells))])
    return table((*head, "its cyclic part"), body)


def _together(found: Mapping[str, Any], baseline: str) -> str:
    body = []
    for key, what in (("margin", ""), ("margin_cyclic", ", its cyclic part")):
        row = found[key]
        size = f"{percent(row, sign=True)} points"
        body.append(
            [f"win rate over {baseline} less 50%{what}", size, f"{row['p']:.3f}", f"{100 * row['detectable']:.1f}"]
        )
    body.append(["gap of the last round less the first's", number(found["gap_change"]), "-", "-"])
    body.append(["gap of the mixture of rounds less the last's", number(found["average_change"]), "-", "-"])
    return table(("mean over methods", "estimate", "p", "detectable with 80% power"), body)


def _gaps(rows: Mapping[str, Any]) -> str:
    rounds = max(len(row["gap_rounds"]) for row in rows.values()) - 1
    head = ["method", *(f"round {t}" if t else "start" for t in range(rounds + 1))]
    head += ["mixture of rounds", "last less first", "mixture less last", "identical policies"]
    body = []
    for method, row in rows.items():
        gaps = [number(g) for g in row["gap_rounds"]]
        gaps += ["-"] * (rounds + 1 - len(gaps))
        changes = [number(row[k]) for k in ("gap_average", "gap_change", "average_change")]
        body.append([method, *gaps, *changes, f"{row['gap_control']:.3f}"])
    return table(head, body)


def _text(study: Mapping[str, Any]) -> str:
    head = ("method", "KL, nats a reply", "tokens a reply", "log-prob a token under the start", "broken", "duplicate")
    costs = ("replies", "comparisons", "trained tokens, M", "steps", "minutes")
    body = [_text_row("start", study["start"], {})]
    body += [_text_row(m, study["text"][m], study["cost"][m]) for m in study["text"]]
    return table((*head, *costs), body)


def _text_row(name: str, text: Mapping[str, float], cost: Mapping[str, float]) -> list[str]:
    cells = [name, f"{text['kl']:.2f}", f"{text['length']:.1f}", f"{text['start_logp']:.2f}"]
    cells += [f"{100 * text['broken']:.1f}%", f"{100 * text['duplicates']:.1f}%"]
    if not cost:
        return [*cells, *["-"] * 5]
    cells += [f"{cost['replies']:.0f}", f"{cost['comparisons']:.0f}", f"{cost['trained_tokens']:.2f}"]
    return [*cells, f"{cost['steps']:.0f}", f"{cost['minutes']:.0f}"]


def _detectable(rows: Mapping[str, Any]) -> str:
    found = [row["detectable"] for row in rows.values() if "detectable" in row]
    if not found:
        return ""
    return (
        f"Minimum detectable difference of two methods' win rates (paired over prompts, 80% power, 5% level): "
        f"{100 * min(found):.1f} to {100 * max(found):.1f} points."
    )


def percent(estimate: Mapping[str, float], *, sign: bool = False) -> str:
    """A share as per cent with its interval."""
    form = "+.1f" if sign else ".1f"
    return "{} [{}, {}]".format(*(format(100 * estimate[k], form) for k in ("point", "low", "high")))


def number(estimate: Mapping[str, float]) -> str:
    return f"{estimate['point']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _seeds(seeds: Mapping[str, int]) -> str:
    counts = set(seeds.values())
    return str(counts.pop()) if len(counts) == 1 else ", ".join(f"{m} {n}" for m, n in seeds.items())
