"""How far a judge agrees with people (2306.05685, section 4): shares of equal votes with and without ties, and kappa.

Each human vote meets the judge's verdict on the same two answers; beside it stands how far people agree among
themselves, which is what a judge can be held to. Intervals resample questions: votes on one are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from leaderboard import diagnostics
from leaderboard.human import Vote
from leaderboard.measures import Measure, measured, not_measured
from leaderboard.paired_rulings import PairKey, Pairs, compare_grades, grades_of
from leaderboard.rulings import Ruling
from prefeval.stats import Estimate

_NAMES = ("human_agreement", "human_agreement_decided", "human_kappa", "human_human", "human_human_decided")


def agreement_measures(
    rulings: Sequence[Ruling], pairs: Pairs, votes: Sequence[Vote] | None, seed: int
) -> list[Measure]:
    """The measures of one judge; `votes` None where no human labels were given."""
    if votes is None:
        return [not_measured("human_agreement", "no human labels were given (--human FILE)")]
    known = dict(zip(pairs.keys, pairs.verdict, strict=True))
    grades = grades_of(rulings)
    judge: list[float] = []
    human: list[float] = []
    questions: list[str] = []
    for vote in votes:
        verdict = _verdict(vote, known, grades)
        if verdict is not None:
            judge.append(verdict)
            human.append(vote.value)
            questions.append(vote.question)
    if not judge:
        return [not_measured("human_agreement", "no human vote is about a pair of answers that the judge ruled on")]
    found = [
        diagnostics.agreement(judge, human, questions, seed=seed),
        diagnostics.agreement(judge, human, questions, ties=False, seed=seed),
        diagnostics.swap_kappa(judge, human, questions, seed=seed),  # which answer comes first is arbitrary here too
        *_among_people([v for v in votes if _verdict(v, known, grades) is not None], seed),
    ]
    units = ("votes", "votes", "votes", "pairs of votes", "pairs of votes")
    why = ("", "no vote and verdict both decide", "", *["no pair of answers has two raters"] * 2)
    return [measured(name, unit, e, w) for name, unit, e, w in zip(_NAMES, units, found, why, strict=True)]


def _verdict(vote: Vote, known: dict[PairKey, float], grades: dict[tuple[str, str, int], float]) -> float | None:
    """The judge's verdict in the vote's direction; NaN where it failed, None where it was not asked."""
    first, second = (grades.get((model, vote.question, vote.turn)) for model in (vote.first, vote.second))
    if first is not None and second is not None:
        return compare_grades(first, second)
    a, b = sorted((vote.first, vote.second))
    found = known.get((vote.question, vote.turn, a, b))
    if found is None:
        return None
    return found if vote.first == a or math.isnan(found) else 1.0 - found


def _among_people(votes: Sequence[Vote], seed: int) -> tuple[Estimate, Estimate]:
    """Agreement of every two different raters on the same pair of answers, with and without ties."""
    by_pair: dict[PairKey, list[tuple[str, float]]] = {}
    for vote in votes:
        a, b = sorted((vote.first, vote.second))
        value = vote.value if vote.first == a else 1.0 - vote.value
        by_pair.setdefault((vote.question, vote.turn, a, b), []).append((vote.rater, value))
    met = [(x[1], y[1], key[0]) for key, found in by_pair.items()
           for x, y in combinations(found, 2) if x[0] != y[0]]  # fmt: skip
    if not met:
        none = Estimate(math.nan, math.nan, math.nan, 0)
        return none, none
    first, second, questions = zip(*met, strict=True)
    return (
        diagnostics.agreement(first, second, questions, seed=seed),
        diagnostics.agreement(first, second, questions, ties=False, seed=seed),
    )
