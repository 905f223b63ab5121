"""MT-Bench scores: means of single ratings, and pair win rates (reference/benchmarks.md 3.2 and 3.3).

A rating that could not be read is dropped and counted; the table published in June 2023 counted it as -1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from leaderboard.annotations import GradeRow, MatchRow
from leaderboard.table import MT_CATEGORIES
from prefeval.stats import Estimate, bootstrap_mean


@dataclass(frozen=True)
class GradeSummary:
    """Means of the ratings of one model. Failures are dropped, except in `minus_one` (the published rule)."""

    average: Estimate
    turns: tuple[float, float]
    minus_one: Estimate
    categories: Mapping[str, float]
    by_category: Mapping[str, Estimate]  # the categories that occur
    questions: Mapping[str, float]


def summarise_grades(
    rows: Sequence[GradeRow], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> GradeSummary:
    """Mean over all turns of all questions; the interval resamples questions; n counts the ratings that were scored."""
    grades = np.array([row.grade for row in rows], dtype=np.float64)
    questions = [r.question_id for r in rows]
    average = bootstrap_mean(grades, questions, resamples=resamples, level=level, seed=seed)
    counted = np.where(np.isnan(grades), -1.0, grades)
    published = bootstrap_mean(counted, questions, resamples=resamples, level=level, seed=seed)
    present = list(dict.fromkeys(r.category for r in rows if r.category))
    names = [*MT_CATEGORIES, *(c for c in present if c not in MT_CATEGORIES)]
    return GradeSummary(
        average=average,
        turns=(_mean([r for r in rows if r.turn == 1]), _mean([r for r in rows if r.turn == 2])),
        minus_one=replace(published, n_failed=average.n_failed),
        categories={name: _mean([r for r in rows if r.category == name]) for name in names},
        by_category={
            name: bootstrap_mean(*_of_category(rows, name), resamples=resamples, level=level, seed=seed)
            for name in sorted(present, key=names.index)
        },
        questions=_mean_by([(r.question_id, r.grade) for r in rows]),
    )


def _of_category(rows: Sequence[GradeRow], name: str) -> tuple[list[float], list[str]]:
    """The grades of a category and their questions."""
    part = [row for row in rows if row.category == name]
    return [row.grade for row in part], [row.question_id for row in part]


@dataclass(frozen=True)
class PairSummary:
    """Wins, losses and ties of one model; a win needs both orders, rows with an error are dropped.

    `adjusted` is (win + tie / 2) / total with an interval over questions; `questions` the mean result of each.
    """

    win: int
    loss: int
    tie: int
    adjusted: Estimate
    questions: Mapping[str, float]


def summarise_matches(
    rows: Sequence[MatchRow], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[tuple[str, str], PairSummary]:
    """Pair results of each (model, judge)."""
    points: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for row in rows:
        first = match_outcome(row)
        points.setdefault((row.model_1, row.judge), []).append((row.question_id, first))
        points.setdefault((row.model_2, row.judge), []).append((row.question_id, 1.0 - first))
    found = {}
    for key, games in points.items():
        values = np.array([p for _, p in games])
        adjusted = bootstrap_mean(values, [q for q, _ in games], resamples=resamples, level=level, seed=seed)
        win, loss, tie = (int((values == v).sum()) for v in (1.0, 0.0, 0.5))
        found[key] = PairSummary(win, loss, tie, adjusted, _mean_by(games))
    return found


@dataclass(frozen=True)
class SwapSummary:
    """How a judge's two orders agree: `agreement` over pairs with both verdicts (interval over questions); of the
    disagreements, those that favour the answer shown `first` both times, `second` both times, and `other` (a tie)."""

    agreement: Estimate
    first: int
    second: int
    other: int


def summarise_swaps(
    rows: Sequence[MatchRow], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> SwapSummary:
    """Swap consistency of one judge: game 1 shows model_1 first, game 2 model_2. Rows with an error are dropped."""
    same = [math.nan if "error" in r.winners else float(r.winners[0] == r.winners[1]) for r in rows]
    agreement = bootstrap_mean(same, [r.question_id for r in rows], resamples=resamples, level=level, seed=seed)
    first, second = (sum(r.winners == w for r in rows) for w in (("model_1", "model_2"), ("model_2", "model_1")))
    return SwapSummary(agreement, first, second, same.count(0.0) - first - second)


def match_outcome(row: MatchRow) -> float:
    """1 if model_1 wins both orders, 0 if model_2 does, 0.5 for everything else, NaN with an error in either."""
    if "error" in row.winners:
        return math.nan
    if row.winners[0] == row.winners[1] != "tie":
        return 1.0 if row.winners[0] == "model_1" else 0.0
    return 0.5


def _mean(rows: Sequence[GradeRow]) -> float:
    """Mean of the ratings that are there, NaN if there is none."""
    return _mean_of([row.grade for row in rows])


def _mean_of(values: Sequence[float]) -> float:
    there = [v for v in values if not math.isnan(v)]
    return sum(there) / len(there) if there else math.nan


def _mean_by(results: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Mean result of each question."""
    found: dict[str, list[float]] = {}
    for question, result in results:
        found.setdefault(question, []).append(result)
    return {question: _mean_of(values) for question, values in found.items()}
