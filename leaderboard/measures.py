"""One measure of a judge as leaderboard.json holds it: an estimate, or in words why it could not be measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefeval.stats import Estimate

Measure = dict[str, Any]


@dataclass(frozen=True)
class Meaning:
    """What a measure is called and means; `fair` is the value of a judge without this bias, where there is one."""

    title: str
    about: str
    style: Literal["percent", "two"]
    fair: float | None = None


MEANINGS: Mapping[str, Meaning] = {
    "first_wins": Meaning("first shown wins", "share of verdicts; half less half the ties is fair", "percent"),
    "order_effect": Meaning("order effect", "win share gained by being shown first", "percent", 0.0),
    "swap_consistency": Meaning("swap consistency", "same verdict in both orders", "percent"),
    "swap_kappa": Meaning("swap kappa", "the same beyond chance; 1 is full", "two"),
    "longer_wins": Meaning("longer wins", "of the decided verdicts", "percent"),
    "length_slope": Meaning("length slope", "log-odds, within pairs of models", "two", 0.0),
    "more_lists_wins": Meaning("more list items win", "of the decided verdicts", "percent"),
    "list_slope": Meaning("list slope", "log-odds, within pairs of models", "two", 0.0),
    "self_preference": Meaning("self-preference", "for its own family, against other judges", "percent", 0.0),
    "repeatability": Meaning("repeatability", "same verdict when asked again", "percent"),
    "human_agreement": Meaning("agrees with people", "ties counted as a verdict", "percent"),
    "human_agreement_decided": Meaning("the same without ties", "neither side calls a tie", "percent"),
    "human_kappa": Meaning("kappa with people", "agreement beyond chance", "two"),
    "human_human": Meaning("people among themselves", "ties counted as a verdict", "percent"),
    "human_human_decided": Meaning("the same without ties", "neither side calls a tie", "percent"),
}


def measured(name: str, unit: str, found: Estimate, why: str = "no verdict can be used") -> Measure:
    """An estimate with the unit of its n, or why there is none."""
    if math.isnan(found.point):
        return not_measured(name, why)
    shown = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in found.as_dict().items()}
    return {"name": name, "unit": unit, **shown}


def not_measured(name: str, why: str) -> Measure:
    """What the verdicts do not allow is never a zero."""
    return {"name": name, "why": why}


def judge_markdown(judges: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown list a judge: what its verdicts show, and what they do not allow to measure."""
    lines: list[str] = []
    for judge in judges:
        failed = "; ".join(f"{reason} {count}" for reason, count in judge["reasons"].items())
        cost = judge["cost"]
        paid = (
            f"{cost['dollars']:.2f} dollars for {cost['verdicts']}"
            if "dollars" in cost
            else f"not known ({cost['why']})"
        )
        lines += ["", f"## Judge {_one_line(str(judge['judge'])) or 'without a name'}", ""]
        lines.append(
            f"- {judge['verdicts']} verdicts, {judge['failed']} failed{f' ({failed})' if failed else ''}; cost {paid}"
        )
        for one in judge["measures"]:
            meaning = MEANINGS[one["name"]]
            lines.append(f"- {meaning.title} ({meaning.about}): {_shown(one, meaning)}")
    return lines


def _shown(one: Mapping[str, Any], meaning: Meaning) -> str:
    if "why" in one:
        return f"not measurable: {one['why']}"
    factor, sign = (100.0, "%") if meaning.style == "percent" else (1.0, "")
    low, high = (math.nan if one[k] is None else factor * one[k] for k in ("low", "high"))
    digits = 1 if sign else 2
    dropped = f", {one['n_failed']} dropped" if one["n_failed"] else ""
    interval = f"[{low:.{digits}f}, {high:.{digits}f}]"
    return f"{factor * one['point']:.{digits}f}{sign} {interval} (n = {one['n']} {one['unit']}{dropped})"


def _one_line(text: str) -> str:
    return " ".join(text.split())
