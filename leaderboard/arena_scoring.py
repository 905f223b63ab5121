"""Arena-Hard's table: the uncontrolled score, and the controlled ones where the style of the answers is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from leaderboard.annotations import GameRow
from leaderboard.answers import Answers, style_metadata, style_vector
from leaderboard.ratings import mean_outcome, outcomes, question_outcomes
from leaderboard.scoring import ScoreOptions, groups
from leaderboard.style_control import CONTROLS, V01, V2, Style, StyleForm, controlled_scores, style_pool
from leaderboard.table import ARENA_CATEGORIES, Table, TableRow, make_table
from prefeval.log import logger
from prefeval.stats import Estimate, percentile_interval, resample_counts
from prefeval.types import FloatArray

StyleTable = Mapping[tuple[str, str], Style]
AT_ZERO = "style_at_zero"
Key = tuple[str, str]  # model, judge
NOTES = (
    "Controlled scores use {forms}'s regression, read at the average style gap of the pool: they depend on which "
    "models are in it. style_at_zero is the style-controlled score read at no style gap at all: comparable across "
    "pools up to the shared slopes.",
    "Arena-Hard v2.0 has no official combined score: score and controlled columns weigh the categories by their games.",
)


@dataclass(frozen=True)
class _Share:
    """One model's controlled score in one pool, in percent, with its draws (R,) and the weight of its games there."""

    category: str
    point: float
    draws: FloatArray
    weight: float


@dataclass(frozen=True)
class _Shares:
    """Column -> (model, judge) -> its pools."""

    by_column: dict[str, dict[Key, list[_Share]]] = field(default_factory=dict)

    def add(self, column: str, key: Key, share: _Share) -> None:
        self.by_column.setdefault(column, {}).setdefault(key, []).append(share)

    def of(self, column: str, key: Key, category: str | None = None) -> tuple[float, FloatArray, float] | None:
        """(point, draws, weight): the mean over the model's pools, by the weight of their games."""
        shares = self.by_column.get(column, {}).get(key, [])
        shares = [s for s in shares if category is None or s.category == category]
        total = sum(s.weight for s in shares)
        if not total:
            return None
        draws = np.sum([s.weight / total * s.draws for s in shares], axis=0)
        return sum(s.weight / total * s.point for s in shares), draws, total


def style_table(answers: Sequence[Answers]) -> dict[tuple[str, str], Style]:
    """(model, uid) -> style counts, from the answers' metadata or, where that is missing, counted from the text."""
    return {
        (one.model, key): style_vector(answer.metadata or style_metadata(answer.turns[0]), file=one.model)
        for one in answers
        for key, answer in one.items.items()
    }


def score_games(
    rows: Sequence[GameRow], style: StyleTable, options: ScoreOptions, *, benchmark: str = "arena_hard"
) -> Table:
    """Score = 100 sum(w s) / sum(w) with an interval over questions; controlled scores by the version's regression.

    Models are controlled in pools that share a judge, a baseline and (v2.0) a category, as the originals do.
    """
    baseline = options.baseline or _baseline_of(rows, style)
    named = [r if r.baseline else replace(r, baseline=baseline) for r in rows]
    by_model = groups(named, lambda r: (r.model, r.judge))
    shares, notes = _Shares(), list[str]()
    pools = _pools([r for r in named if r.model != r.baseline and outcomes(r)], benchmark)
    forms = []
    for i, ((judge, _, category, form), pool) in enumerate(pools.items()):
        usable = [r for r in pool if (r.model, r.uid) in style and (r.baseline, r.uid) in style]
        if not usable:
            continue
        if len(usable) < len(pool):
            left = len(pool) - len(usable)
            logger.warning("style control leaves out %d of %d questions without answers", left, len(pool))
        _control(usable, style, form, replace(options, seed=options.seed + i), judge, category, shares)
        forms.append(form.name)
    if forms:
        notes.append(NOTES[0].format(forms=" and ".join(dict.fromkeys(forms))))
    if len({(r.category, r.baseline) for r in named}) > 1 and V2.name in {f.name for *_, f in pools}:
        notes.append(NOTES[1])
    table_rows = [_row(key, group, style, shares, options) for key, group in by_model.items()]
    return make_table(benchmark, "arena_hard", table_rows, notes, level=options.level)


def form_of(row: GameRow, benchmark: str) -> StyleForm:
    """The published form of a row's version: as the benchmark's name says, else by the file's format and category."""
    if "v0.1" in benchmark or "v2" in benchmark:
        return V01 if "v0.1" in benchmark else V2
    return V01 if row.separate or row.category in ("", "arena-hard-v0.1") else V2


def _pools(rows: Sequence[GameRow], benchmark: str) -> dict[tuple[str, str, str, StyleForm], list[GameRow]]:
    found: dict[tuple[str, str, str, StyleForm], list[GameRow]] = {}
    for row in rows:
        form = form_of(row, benchmark)
        key = row.judge, row.baseline, row.category if form is V2 else "", form
        found.setdefault(key, []).append(row)
    return found


def _control(
    rows: Sequence[GameRow],
    style: StyleTable,
    form: StyleForm,
    options: ScoreOptions,
    judge: str,
    category: str,
    shares: _Shares,
) -> None:
    """Add every controlled column of one pool to `shares`."""
    pool = style_pool(rows, style, form)
    counts = resample_counts(pool.questions, options.resamples, options.seed)
    weight = np.bincount(pool.model, pool.weight, len(pool.names))
    for column, features in CONTROLS.items():
        found = controlled_scores(pool, form, features, counts)
        for i, model in enumerate(pool.names):
            share = _Share(category, float(found.points[i]), found.draws[:, i], float(weight[i]))
            shares.add(column, (model, judge), share)
            if column == "style_controlled":
                zero = replace(share, point=float(found.zero_points[i]), draws=found.zero_draws[:, i])
                shares.add(AT_ZERO, (model, judge), zero)


def _row(key: Key, rows: Sequence[GameRow], style: StyleTable, shares: _Shares, options: ScoreOptions) -> TableRow:
    score = mean_outcome(rows, resamples=options.resamples, level=options.level, seed=options.seed)
    played = sum(w for r in rows for _, w in outcomes(r))
    found = {c: v for c in (*CONTROLS, AT_ZERO) if (v := shares.of(c, key)) is not None and v[2] == played}
    categories = _categories(key, rows, shares, options)
    extra: dict[str, float | None] = {name: point for name, (point, _, _) in found.items()}
    for column, low, high in (("style_controlled", "style_low", "style_high"),
                              (AT_ZERO, f"{AT_ZERO}_low", f"{AT_ZERO}_high")):  # fmt: skip
        if column in found:
            extra[low], extra[high] = _interval(found[column][1], options.level)
    for name in ARENA_CATEGORIES:
        if name in categories:
            extra[name] = categories[name]["point"]
            extra[f"{name}_style"] = (categories[name].get("style_controlled") or [None])[0]
    if all(r.model == r.baseline for r in rows):  # the baseline against itself: 50 by definition
        score = Estimate(50.0, 50.0, 50.0, score.n, score.n_failed)
        extra = {name: 50.0 for name in (*CONTROLS, AT_ZERO) if shares.by_column}
    lengths = [style[key[0], r.uid][0] for r in rows if (key[0], r.uid) in style]
    breakdown: dict[str, Any] = {
        "controlled": {name: [p, *_interval(d, options.level)] for name, (p, d, _) in found.items()},
        "categories": categories,
        "baselines": sorted({r.baseline for r in rows}),
    }
    return TableRow(
        name=key[0],
        score=score,
        judge=key[1],
        avg_length=sum(lengths) / len(lengths) if lengths else None,
        template_hash=options.template_hash,
        data_revision=options.data_revision,
        extra=extra,
        outcomes=question_outcomes(rows),
        breakdown=breakdown,
        draws={name: draws for name, (_, draws, _) in found.items()},
    )


def _categories(key: Key, rows: Sequence[GameRow], shares: _Shares, options: ScoreOptions) -> dict[str, Any]:
    """The uncontrolled score of each category and subcategory, and the controlled ones of each category."""
    found: dict[str, Any] = {}
    levels: tuple[Callable[[GameRow], str], ...] = (lambda r: r.category, lambda r: r.subcategory)
    for level in levels:
        names = [c for c in dict.fromkeys(level(r) for r in rows) if c and c not in found]
        for name in names if len(names) > 1 else ():
            part = [r for r in rows if level(r) == name]
            estimate = mean_outcome(part, resamples=options.resamples, level=options.level, seed=options.seed)
            found[name] = estimate.as_dict()
            for column in (*CONTROLS, AT_ZERO):
                share = shares.of(column, key, name)
                if share is not None:
                    found[name][column] = [share[0], *_interval(share[1], options.level)]
    return found


def _interval(draws: FloatArray, level: float) -> tuple[float, float]:
    return percentile_interval(draws[~np.isnan(draws)], level)


def _baseline_of(rows: Sequence[GameRow], style: StyleTable) -> str:
    """For files that do not name it: the one model whose answers are given and that was not judged, else v0.1's own."""
    judged = {r.model for r in rows}
    spare = {model for model, _ in style} - judged
    return spare.pop() if len(spare) == 1 else "gpt-4-0314"
