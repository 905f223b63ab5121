"""MT-Bench scores: means of single ratings, and pair win rates (reference/benchmarks.md 3.2 and 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leaderboard.annotations import GradeRow, MatchRow
from leaderboard.table import MT_CATEGORIES
from prefeval.stats import Estimate, bootstrap_mean


@dataclass(frozen=True)
class GradeSummary:
    """Means of the ratings of one model. Failures are dropped, except in `failures_minus_one` (the published rule)."""

    average: Estimate
    turns: tuple[float, float]
    failures_minus_one: float
    categories: Mapping[str, float]
    questions: Mapping[str, float]


def summarise_grades(
    rows: Sequence[GradeRow], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> GradeSummary:
    """Mean over all turns of all questions; the interval resamples questions; n counts the ratings that were scored."""
    grades = np.array([row.grade for row in rows], dtype=np.float64)
    average = bootstrap_mean(grades, [r.question_id for r in rows], resamples=resamples, level=level, seed=seed)
    names = [*MT_CATEGORIES, *(c for c in dict.fromkeys(r.category for r in rows) if c and c not in MT_CATEGORIES)]
    return GradeSummary(
        average=average,
        turns=(_mean([r for r in rows if r.turn == 1]), _mean([r for r in rows if r.turn == 2])),
        failures_minus_one=float(np.where(np.isnan(grades), -1.0, grades).mean()) if len(grades) else math.nan,
        categories={name: _mean([r for r in rows if r.category == name]) for name in names},
        questions=_by_question(rows),
    )


@dataclass(frozen=True)
class PairSummary:
    """Wins, losses and ties of one model; a win needs both orders, rows with an error are dropped."""

    win: int
    loss: int
    tie: int
    adjusted: Estimate  # (win + tie / 2) / total, interval over questions


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
        found[key] = PairSummary(win, loss, tie, adjusted)
    return found


def match_outcome(row: MatchRow) -> float:
    """1 if model_1 wins both orders, 0 if model_2 does, 0.5 for everything else, NaN with an error in either."""
    if "error" in row.winners:
        return math.nan
    if row.winners[0] == row.winners[1] != "tie":
        return 1.0 if row.winners[0] == "model_1" else 0.0
    return 0.5


def _mean(rows: Sequence[GradeRow]) -> float:
    """Mean of the ratings that are there, NaN if there is none."""
    values = [row.grade for row in rows if not math.isnan(row.grade)]
    return sum(values) / len(values) if values else math.nan


def _by_question(rows: Sequence[GradeRow]) -> dict[str, float]:
    groups: dict[str, list[GradeRow]] = {}
    for row in rows:
        groups.setdefault(row.question_id, []).append(row)
    return {question: _mean(group) for question, group in groups.items()}
