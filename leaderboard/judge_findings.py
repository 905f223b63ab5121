"""What a table's verdicts say about the judges that gave them: `judges` in leaderboard.json, shown by the report.

One entry a judge, with everything that its verdicts allow to measure; what they do not allow is said in words and is
never a zero. The measures themselves are the pure functions of leaderboard.diagnostics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from leaderboard import diagnostics
from leaderboard.answers import count_lists
from leaderboard.human import Vote
from leaderboard.human_agreement import agreement_measures
from leaderboard.measures import Measure, measured, not_measured
from leaderboard.paired_rulings import Pairs, pairs_of
from leaderboard.rulings import MOST, Material, Ruling
from leaderboard.table import Table
from prefeval.types import FloatArray

_ONE_ANSWER = "one answer is graded at a time, so there is no order"
_ONE_ORDER = "every pair was asked in one order only"


def with_judges(
    table: Table,
    material: Material,
    *,
    votes: Sequence[Vote] | None = None,
    spent: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
) -> Table:
    """The table with an entry a judge. `votes` are human labels; `spent` the `calls`, `failed` (by reason) and `cost`
    that a bench run has written down, which annotation files do not hold; they are used where one judge ruled."""
    by_judge: dict[str, list[Ruling]] = {}
    for ruling in material.rulings:
        by_judge.setdefault(ruling.judge, []).append(ruling)
    pairs = {judge: pairs_of(rulings) for judge, rulings in by_judge.items()}
    features = _Features(material)
    found = []
    for judge, rulings in by_judge.items():
        own = spent if len(by_judge) == 1 else ()
        measures = [
            *_order(rulings, pairs[judge], seed),
            *_style(pairs[judge], features, seed),
            _self_preference(judge, pairs, seed),
            _repeatability(rulings, seed),
            *agreement_measures(rulings, pairs[judge], votes, seed),
        ]
        found.append({"judge": judge, **_counts(rulings, own), "cost": _cost(rulings, own), "measures": measures})
    notes = []
    if material.left_out:
        notes.append(
            f"The first {MOST:,} verdicts, by whole files, are looked at; {material.left_out} files are left out."
        )
    if material.texts_left_out:
        notes.append("The answers are too large to be kept: only those of the first models are looked at.")
    return replace(table, judges={"judges": found, "notes": notes}) if found else table


@dataclass
class _Features:
    """Characters and list items of the answers, counted once a text."""

    material: Material

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, str, int], tuple[float, float]] = {}

    def gaps(self, pairs: Pairs) -> FloatArray:
        """Feature of a minus that of b: (2, n), NaN where a text is not known."""
        both = [(self._of(a, q, t), self._of(b, q, t)) for q, t, a, b in pairs.keys]
        return np.array([[x[i] - y[i] for x, y in both] for i in (0, 1)], dtype=np.float64).reshape(2, len(both))

    def _of(self, model: str, question: str, turn: int) -> tuple[float, float]:
        key = model, question, turn
        if key not in self._known:
            text = self.material.texts.get(key)
            self._known[key] = (math.nan, math.nan) if text is None else (float(len(text)), float(count_lists(text)))
        return self._known[key]


def _order(rulings: Sequence[Ruling], pairs: Pairs, seed: int) -> list[Measure]:
    names = ("first_wins", "order_effect", "swap_consistency", "swap_kappa")
    shown = [r for r in rulings if r.second]
    if not shown:
        return [not_measured(name, _ONE_ANSWER) for name in names]
    p, questions = [r.value for r in shown], [r.question for r in shown]
    found = [measured("first_wins", "verdicts", diagnostics.first_wins(p, questions, seed=seed))]
    if not pairs.swapped.any():
        cells = [(r.first, r.second) for r in shown]
        effect = diagnostics.order_effect_apart(p, cells, questions, seed=seed)
        found.append(measured("order_effect", "verdicts", effect, "the same side is always shown first"))
        return found + [not_measured(name, _ONE_ORDER) for name in names[2:]]
    both = pairs.part(pairs.swapped)
    for name in names[1:]:
        function = getattr(diagnostics, name)
        found.append(measured(name, "pairs", function(both.forward, both.backward, both.questions, seed=seed)))
    return found


def _style(pairs: Pairs, features: _Features, seed: int) -> list[Measure]:
    """Length and lists: the share of decided verdicts for the side with more, and the slope within pairs of models."""
    names = (("longer_wins", "length_slope", "is longer"), ("more_lists_wins", "list_slope", "has more list items"))
    if not len(pairs.keys):
        why = "fewer than two models were graded on common questions"
        return [not_measured(name, why) for both in names for name in both[:2]]
    gaps, outcome = features.gaps(pairs), pairs.outcome
    if np.isnan(gaps).all():
        return [not_measured(name, "the answers are not among the files") for both in names for name in both[:2]]
    found = []
    for gap, (share, slope, word) in zip(gaps, names, strict=True):
        why = f"no decided verdict on a pair in which one answer {word}"
        known = ~np.isnan(gap)
        part, y, d = pairs.part(known), outcome[known], gap[known]
        found.append(measured(share, "decided pairs", diagnostics.more_wins(y, d, part.questions, seed=seed), why))
        fitted = diagnostics.bias_slope(y, d, part.models, part.questions, seed=seed)
        found.append(measured(slope, "pairs", fitted, "the two answers differ by the same everywhere"))
    return found


def _self_preference(judge: str, pairs: Mapping[str, Pairs], seed: int) -> Measure:
    """The judge's outcome for a model of its family minus the mean of judges of other families, on common pairs."""
    name, maker = "self_preference", diagnostics.family(judge)
    if not maker:
        return not_measured(name, "the judge's name tells no family of models")
    own = pairs[judge]
    side = np.array([(diagnostics.family(a) == maker) - (diagnostics.family(b) == maker)
                     for _, _, a, b in own.keys], dtype=np.float64)  # fmt: skip
    if not side.any():
        return not_measured(name, "no model of the judge's family meets one of another family")
    tables = [dict(zip(p.keys, p.outcome, strict=True)) for other, p in pairs.items()
              if diagnostics.family(other) != maker]  # fmt: skip
    if not tables:
        return not_measured(name, "no judge of another family ruled on the same answers")
    rest = np.array([_mean([t.get(key, math.nan) for t in tables]) for key in own.keys])
    used = (side != 0) & ~np.isnan(rest)
    part, sign = own.part(used), side[used]
    mine, others = 0.5 + sign * (part.outcome - 0.5), 0.5 + sign * (rest[used] - 0.5)
    found = diagnostics.self_preference(mine, others, part.questions, seed=seed)
    return measured(name, "pairs", found, "no pair was ruled by a judge of another family too")


def _repeatability(rulings: Sequence[Ruling], seed: int) -> Measure:
    values = [float(np.sign(r.value - 0.5)) if r.second else r.value for r in rulings]
    found = diagnostics.repeatability(values, [r.task for r in rulings], [r.question for r in rulings], seed=seed)
    return measured("repeatability", "tasks", found, "no task was judged twice")


def _counts(rulings: Sequence[Ruling], spent: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Verdicts asked for, failed ones, and these by reason, most frequent first."""
    reasons: dict[str, int] = {}
    for found in spent:
        for reason, count in dict(found.get("failed") or {}).items():
            reasons[reason] = reasons.get(reason, 0) + int(count)
    if not spent:
        for ruling in rulings:
            if ruling.reason:
                reasons[ruling.reason] = reasons.get(ruling.reason, 0) + 1
    asked = sum(int(found["calls"]) for found in spent) if spent else len(rulings)
    ordered = dict(sorted(reasons.items(), key=lambda pair: -pair[1]))
    return {"verdicts": asked, "failed": sum(reasons.values()), "reasons": ordered}


def _cost(rulings: Sequence[Ruling], spent: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Dollars and the verdicts behind them, or `why` no price is known: an unknown price is not a free one."""
    if spent:
        dollars = sum(float(found.get("cost") or 0.0) for found in spent)
        if dollars > 0:
            return {"dollars": dollars, "verdicts": sum(int(found["calls"]) for found in spent)}
        return {"why": "no price was given, or the judge is a preference model"}
    prices = [r.price for r in rulings if not math.isnan(r.price)]
    if prices:
        return {"dollars": sum(prices), "verdicts": len(prices)}
    return {"why": "the files hold no prices"}


def _mean(values: Sequence[float]) -> float:
    there = [v for v in values if not math.isnan(v)]
    return sum(there) / len(there) if there else math.nan
