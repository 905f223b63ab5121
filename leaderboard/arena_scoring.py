"""Arena-Hard's table: the uncontrolled score, and the controlled ones where the style of the answers is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.annotations import GameRow
from leaderboard.answers import Answers, style_metadata, style_vector
from leaderboard.ratings import (
    CONTROLS,
    Style,
    battles,
    controlled_scores,
    mean_outcome,
    outcomes,
    question_outcomes,
    style_features,
)
from leaderboard.scoring import ScoreOptions, groups
from leaderboard.table import Table, TableRow, make_table
from prefeval.log import logger
from prefeval.stats import Estimate

StyleTable = Mapping[tuple[str, str], Style]


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
    """Score = 100 sum(w s) / sum(w) with an interval over questions; controlled scores by v0.1's joint regression."""
    baseline = options.baseline or _baseline_of(rows, style)
    named = [r if r.baseline else _with_baseline(r, baseline) for r in rows]
    controlled: dict[str, dict[tuple[str, str], tuple[float, float, float]]] = {name: {} for name in CONTROLS}
    by_model = groups(named, lambda r: (r.model, r.judge))
    notes = []
    for judge in dict.fromkeys(judge for _, judge in by_model):
        pool = [r for r in named if r.judge == judge and r.model != r.baseline and outcomes(r)]
        usable = [r for r in pool if (r.model, r.uid) in style and (r.baseline, r.uid) in style]
        if not usable:
            continue
        if len(usable) < len(pool):
            logger.warning(
                "style control leaves out %d of %d questions without answers", len(pool) - len(usable), len(pool)
            )
        for name, scores in _control(usable, style, options).items():
            controlled[name] |= {(model, judge): value for model, value in scores.items()}
        notes.append("Controlled scores use v0.1's regression; they depend on which models are in the pool.")
    table_rows = [_row(key, group, style, controlled, options) for key, group in by_model.items()]
    return make_table(benchmark, "arena_hard", table_rows, list(dict.fromkeys(notes)))


def _control(
    rows: Sequence[GameRow], style: StyleTable, options: ScoreOptions
) -> dict[str, dict[str, tuple[float, float, float]]]:
    table, z = battles(rows), style_features(rows, style)
    return {
        name: controlled_scores(
            table, z[:, list(columns)], resamples=options.resamples, level=options.level, seed=options.seed
        )
        for name, columns in CONTROLS.items()
    }


def _row(
    key: tuple[str, str],
    rows: Sequence[GameRow],
    style: StyleTable,
    controlled: Mapping[str, Mapping[tuple[str, str], tuple[float, float, float]]],
    options: ScoreOptions,
) -> TableRow:
    score = mean_outcome(rows, resamples=options.resamples, level=options.level, seed=options.seed)
    extra: dict[str, float | None] = {name: found[key][0] for name, found in controlled.items() if key in found}
    if all(r.model == r.baseline for r in rows):  # the baseline against itself: 50 by definition
        score = Estimate(50.0, 50.0, 50.0, score.n, score.n_failed)
        extra = {name: 50.0 for name, found in controlled.items() if found}
    lengths = [style[key[0], r.uid][0] for r in rows if (key[0], r.uid) in style]
    breakdown: dict[str, Any] = {
        "controlled": {name: found[key] for name, found in controlled.items() if key in found},
        "categories": _categories(rows, options),
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
    )


def _categories(rows: Sequence[GameRow], options: ScoreOptions) -> dict[str, Any]:
    names = [c for c in dict.fromkeys(r.category for r in rows) if c]
    found = {}
    for name in names if len(names) > 1 else ():
        part = [r for r in rows if r.category == name]
        found[name] = mean_outcome(part, resamples=options.resamples, level=options.level, seed=options.seed).as_dict()
    return found


def _baseline_of(rows: Sequence[GameRow], style: StyleTable) -> str:
    """For files that do not name it: the one model whose answers are given and that was not judged, else v0.1's own."""
    judged = {r.model for r in rows}
    spare = {model for model, _ in style} - judged
    return spare.pop() if len(spare) == 1 else "gpt-4-0314"


def _with_baseline(row: GameRow, baseline: str) -> GameRow:
    return GameRow(row.uid, row.model, baseline, row.judge, row.category, row.labels, row.separate)
