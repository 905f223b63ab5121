"""Which models differ: paired comparisons on the same questions, and the matrix of win rates between models.

Pairing matters because all models share the baseline: intervals of single scores overlap too often. Outcomes are
compared question by question; refitted scores (length and style control) draw by draw, both models having been refitted
on the same resamples. p-values are Holm-adjusted over the pairs of one measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leaderboard.scoring import ScoreOptions
from leaderboard.table import Table, TableRow
from prefeval.files import write_json
from prefeval.stats import (
    Estimate,
    holm,
    minimum_detectable_difference,
    normal_p,
    percentile_interval,
    resample_counts,
    sign_flip_test,
)
from prefeval.types import FloatArray

_BLOCK = 256  # pairs at a time
OUTCOME = "outcome"


@dataclass(frozen=True)
class Comparison:
    """`first` minus `second`: the mean outcome over their common questions, or the refitted column named by `measure`.

    `p` is Holm-adjusted over the table; `detectable` is the difference that this many questions find with 80% power.
    """

    first: str
    second: str
    difference: Estimate
    p: float
    detectable: float
    measure: str = OUTCOME
    judge: str = ""  # of both: verdicts of two judges do not compare


def paired_comparisons(table: Table, *, resamples: int = 1000, seed: int = 0) -> list[Comparison]:
    """Outcomes of each pair of models (in the table's order) that shares a judge and at least two questions: difference
    with a bootstrap over questions, p of a sign-flip test. Outcomes are shares of wins, or ratings."""
    values = _outcome_matrix(table.rows)
    found, raw = [], []
    for first, second in _pair_blocks(table.rows):
        d = values[:, first] - values[:, second]
        shared = ~np.isnan(d)
        d = np.where(shared, d, 0.0)
        n = shared.sum(axis=0)
        counts = resample_counts(len(d), resamples, seed) if len(d) else np.zeros((0, 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = d.sum(axis=0) / n
            deviation = np.sqrt(((d**2).sum(axis=0) - n * mean**2).clip(0) / (n - 1))
            draws = (counts @ d) / (counts @ shared.astype(np.float64))
        p = sign_flip_test(d, flips=max(resamples, 2000), seed=seed)
        for j in np.flatnonzero(n > 1):
            a, b = table.rows[first[j]], table.rows[second[j]]
            low, high = percentile_interval(draws[~np.isnan(draws[:, j]), j], table.level)
            asked = sum(1 for q in a.outcomes if q in b.outcomes)
            estimate = Estimate(float(mean[j]), low, high, int(n[j]), asked - int(n[j]))
            detectable = minimum_detectable_difference(float(deviation[j]), int(n[j]))
            found.append((a, b, estimate, detectable))
            raw.append(float(p[j]))
    return [_comparison(*one, p) for one, p in zip(found, holm(raw), strict=True)]


def refitted_comparisons(table: Table, column: str) -> list[Comparison]:
    """The same of a refitted column, such as lc_win_rate, for models that have its draws (percent).

    The draws of a pair come from the same resamples; their deviation gives a normal p and the detectable difference.
    """
    rows = [r for r in table.rows if column in r.draws and r.extra.get(column) is not None]
    found, raw = [], []
    for a, b in combinations(rows, 2):
        if a.judge != b.judge:
            continue
        draws = a.draws[column] - b.draws[column]
        draws = draws[~np.isnan(draws)]
        first, second = a.extra[column], b.extra[column]
        if len(draws) < 2 or first is None or second is None:
            continue
        spread = float(draws.std(ddof=1))
        low, high = percentile_interval(draws, table.level)
        n, failed = min(a.score.n, b.score.n), max(a.score.n_failed, b.score.n_failed)
        raw.append(float(normal_p((first - second) / spread)) if spread > 0 else float(first == second))
        detectable = minimum_detectable_difference(spread, 1)
        found.append((a, b, Estimate(first - second, low, high, n, failed), detectable))
    return [_comparison(*one, p, column) for one, p in zip(found, holm(raw), strict=True)]


def write_comparisons(table: Table, folder: str | Path, best: int, options: ScoreOptions) -> list[Path]:
    """Write `comparisons.json` (outcomes) and, where there are refitted columns, `comparisons_refitted.json`, of the
    `best` first models of the table; nothing for 0."""
    if best < 1:
        return []
    part = replace(table, rows=table.rows[:best])
    found = paired_comparisons(part, resamples=options.resamples, seed=options.seed)
    columns = list(dict.fromkeys(c for row in part.rows for c in row.draws))
    refitted = [c for column in columns for c in refitted_comparisons(part, column)]
    written = [write_json(Path(folder) / "comparisons.json", [asdict(c) for c in found])]
    if refitted:
        written.append(write_json(Path(folder) / "comparisons_refitted.json", [asdict(c) for c in refitted]))
    return written


def win_rate_matrix(table: Table) -> tuple[list[str], FloatArray]:
    """(names, W) with W[i, j] = share of common questions on which i did better than j, ties half; NaN without any."""
    values = _outcome_matrix(table.rows)
    k = len(table.rows)
    w = np.full((k, k), math.nan)
    for i in range(k):
        d = values[:, [i]] - values
        shared = (~np.isnan(d)).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            w[i] = ((d > 0).sum(axis=0) + 0.5 * (d == 0).sum(axis=0)) / shared
        w[i, i] = 0.5
    return [row.name for row in table.rows], w


def shared_questions(table: Table) -> FloatArray:
    """How many questions each two models have in common (k, k), in the order of the rows."""
    known = (~np.isnan(_outcome_matrix(table.rows))).astype(np.float64)
    return np.asarray(known.T @ known, dtype=np.float64)


def _comparison(
    first: TableRow, second: TableRow, difference: Estimate, detectable: float, p: float, measure: str = OUTCOME
) -> Comparison:
    return Comparison(first.name, second.name, difference, p, detectable, measure, first.judge)


def _outcome_matrix(rows: Sequence[TableRow]) -> FloatArray:
    """Outcomes by question and model, NaN where there is none: (Q, K)."""
    place = {q: i for i, q in enumerate(dict.fromkeys(q for row in rows for q in row.outcomes))}
    values = np.full((len(place), len(rows)), math.nan)
    for k, row in enumerate(rows):
        values[[place[q] for q in row.outcomes], k] = list(row.outcomes.values())
    return values


def _pair_blocks(rows: Sequence[TableRow]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs i < j of rows with the same judge, in order, a block at a time."""
    judge = np.unique([row.judge for row in rows], return_inverse=True)[1]
    first, second = np.triu_indices(len(rows), 1)
    alike = judge[first] == judge[second]
    first, second = first[alike], second[alike]
    for i in range(0, len(first), _BLOCK):
        yield first[i : i + _BLOCK], second[i : i + _BLOCK]
