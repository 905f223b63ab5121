"""MT-Bench's table: average ratings and, for models judged in pairs only, adjusted win rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from leaderboard.annotations import GradeRow, MatchRow
from leaderboard.grades import summarise_grades, summarise_matches
from leaderboard.scoring import ScoreOptions, groups
from leaderboard.table import Table, TableRow, make_table
from prefeval.stats import Estimate


def score_grades(
    grades: Sequence[GradeRow], matches: Sequence[MatchRow], options: ScoreOptions, *, benchmark: str = "mt_bench"
) -> Table:
    """MT-Bench: the average rating; models that only have pair judgments are scored by adjusted win rate in percent."""
    table_rows, notes = [], []
    pairs = summarise_matches(matches, resamples=options.resamples, level=options.level, seed=options.seed)
    singles = groups(grades, lambda r: (r.model, r.judge))
    for key in dict.fromkeys([*singles, *pairs]):
        pair = pairs.get(key)
        breakdown: dict[str, Any] = {}
        if pair is not None:
            breakdown["pairs"] = {"win": pair.win, "loss": pair.loss, "tie": pair.tie, **pair.adjusted.as_dict()}
        extra: dict[str, float | None] = {}
        outcomes: dict[str, float] = {}
        score = Estimate(math.nan, math.nan, math.nan, 0)
        if pair is not None and not singles:
            score = pair.adjusted.scaled(100.0)
        if key in singles:
            found = summarise_grades(singles[key], resamples=options.resamples, level=options.level, seed=options.seed)
            score, outcomes = found.average, dict(found.questions)
            extra = {"turn_1": found.turns[0], "turn_2": found.turns[1], "average": found.average.point}
            extra |= {"average_failures_minus_one": found.failures_minus_one, **found.categories}
            breakdown["categories"] = dict(found.categories)
        table_rows.append(
            TableRow(
                name=key[0],
                score=score,
                judge=key[1],
                template_hash=options.template_hash,
                data_revision=options.data_revision,
                extra=extra,
                outcomes=outcomes,
                breakdown=breakdown,
            )
        )
    if pairs and not singles:
        notes.append("Pair judgments only: the score is (wins + ties / 2) / pairs in percent.")
    elif any(key not in singles for key in pairs):
        notes.append("Models that were judged in pairs only have no score; their pair results are in leaderboard.json.")
    return make_table(benchmark, "mt_bench", table_rows, notes)
