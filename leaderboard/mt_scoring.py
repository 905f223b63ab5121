"""MT-Bench's table: average ratings and, for models judged in pairs, adjusted win rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from leaderboard.annotations import GradeRow, MatchRow
from leaderboard.grades import GradeSummary, PairSummary, summarise_grades, summarise_matches, summarise_swaps
from leaderboard.scoring import ScoreOptions, groups
from leaderboard.table import Table, TableRow, make_table
from prefeval.errors import DataError, nearest
from prefeval.stats import Estimate


def score_grades(
    grades: Sequence[GradeRow], matches: Sequence[MatchRow], options: ScoreOptions, *, benchmark: str = "mt_bench"
) -> Table:
    """MT-Bench: the average rating; models that only have pair judgments are scored by adjusted win rate in percent.

    With a baseline among the options only the pairs against it count, and it has no row for them: FastChat's
    `show_result --mode pairwise-baseline`.
    """
    notes = []
    if options.baseline and matches:
        names = {name for m in matches for name in (m.model_1, m.model_2)}
        if options.baseline not in names:
            hint = nearest(options.baseline, names) or f"; judged were {', '.join(sorted(names))}"
            raise DataError(f"no pair was judged against the baseline '{options.baseline}'{hint}")
        matches = [m for m in matches if options.baseline in (m.model_1, m.model_2)]
    pairs = summarise_matches(matches, resamples=options.resamples, level=options.level, seed=options.seed)
    pairs = {key: summary for key, summary in pairs.items() if key[0] != options.baseline}
    singles = {
        key: summarise_grades(rows, resamples=options.resamples, level=options.level, seed=options.seed)
        for key, rows in groups(grades, lambda r: (r.model, r.judge)).items()
    }
    keys = list(dict.fromkeys([*singles, *pairs]))
    rows = [_row(key, singles.get(key), pairs.get(key), not singles, options) for key in keys]
    if pairs and not singles:
        against = f" against {options.baseline}" if options.baseline else ""
        notes.append(f"Pair judgments only: the score is (wins + ties / 2) / pairs{against} in percent.")
    elif any(key not in singles for key in pairs):
        notes.append(
            "Models that were judged in pairs only have no score; their pair results are in columns of their own."
        )
    for judge, games in groups(matches, lambda r: ("", r.judge)).items():
        swaps = summarise_swaps(games, resamples=options.resamples, level=options.level, seed=options.seed)
        notes.append(f"{judge[1] or 'The judge'}: share of pairs on which its two orders agree {swaps.agreement}.")
    if singles and options.failures == "minus_one":
        notes.append("Ratings that could not be read count as -1 in the score, as in the table published in June 2023.")
    return make_table(benchmark, "mt_bench", rows, notes, level=options.level)


def _row(
    key: tuple[str, str],
    single: GradeSummary | None,
    pair: PairSummary | None,
    pairs_only: bool,
    options: ScoreOptions,
) -> TableRow:
    score = Estimate(math.nan, math.nan, math.nan, 0)
    extra: dict[str, float | None] = {}
    breakdown: dict[str, Any] = {}
    outcomes: dict[str, float] = {}
    if pair is not None:
        adjusted = pair.adjusted.scaled(100.0)
        breakdown["pairs"] = {"win": pair.win, "loss": pair.loss, "tie": pair.tie, **pair.adjusted.as_dict()}
        extra = {"pair_wins": pair.win, "pair_losses": pair.loss, "pair_ties": pair.tie}
        extra |= {"win_rate_adjusted": adjusted.point, "win_rate_low": adjusted.low, "win_rate_high": adjusted.high}
        if pairs_only:
            score, outcomes = adjusted, dict(pair.questions)
    if single is not None:
        score = single.minus_one if options.failures == "minus_one" else single.average
        outcomes = dict(single.questions)
        extra |= {"turn_1": single.turns[0], "turn_2": single.turns[1], "average": single.average.point}
        extra |= {"average_failures_minus_one": single.minus_one.point, **single.categories}
        breakdown["categories"] = {name: found.as_dict() for name, found in single.by_category.items()}
    return TableRow(
        name=key[0],
        score=score,
        judge=key[1],
        template_hash=options.template_hash,
        data_revision=options.data_revision,
        extra=extra,
        outcomes=outcomes,
        breakdown=breakdown,
    )
