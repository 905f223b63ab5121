"""Arena-Hard scores: the weighted mean outcome, Bradley-Terry with covariates (reference/benchmarks.md 2.3-2.5).

Every battle of Arena-Hard involves the baseline, so its Bradley-Terry score is identically the weighted mean outcome
`100 sum(w s) / sum(w)` with s in {0, 0.5, 1} and w = 3 for a strong verdict. Intervals resample questions: the games of
one prompt and the three copies of a strong verdict are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaderboard.annotations import GameRow
from prefeval.stats import Estimate, bootstrap_mean
from prefeval.types import FloatArray

IntArray = NDArray[np.int64]
STRONG_WEIGHT = 3.0
LABELS: Mapping[str, tuple[float, float]] = {  # label -> (outcome for A, weight)
    "A>>B": (1.0, STRONG_WEIGHT),
    "B<<A": (1.0, STRONG_WEIGHT),
    "A>B": (1.0, 1.0),
    "B<A": (1.0, 1.0),
    "A=B": (0.5, 1.0),
    "B=A": (0.5, 1.0),
    "B>A": (0.0, 1.0),
    "A<B": (0.0, 1.0),
    "B>>A": (0.0, STRONG_WEIGHT),
    "A<<B": (0.0, STRONG_WEIGHT),
}


@dataclass(frozen=True)
class Battles:
    """n judged games: `model`, `baseline`, `question` are codes; `outcome` in [0, 1] is the model's; all (n,)."""

    names: tuple[str, ...]
    model: IntArray
    baseline: IntArray
    question: IntArray
    outcome: FloatArray
    weight: FloatArray


def outcomes(row: GameRow) -> list[tuple[float, float]]:
    """(outcome for the model, weight) of each usable game of a question; [] for a dropped question."""
    games: list[tuple[float, float]] = []
    for game, label in enumerate(row.labels):
        if label is not None:
            first, weight = LABELS[label]
            games.append((1.0 - first if game == 0 else first, weight))
        elif not row.separate:
            return []
    return games


def is_failed(row: GameRow) -> bool:
    """Whether a game of the question has no verdict."""
    return None in row.labels


def mean_outcome(rows: Sequence[GameRow], *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Estimate:
    """100 sum(w s) / sum(w) of one model's questions with a bootstrap over uid; n counts questions that were scored."""
    games = [(row.uid, s, w) for row in rows for s, w in outcomes(row)]
    scored = len({uid for uid, _, _ in games})
    failed = sum(is_failed(row) for row in rows)
    if not games:
        return Estimate(math.nan, math.nan, math.nan, 0, failed)
    uids, values, weights = zip(*games, strict=True)
    found = bootstrap_mean(values, uids, weights, resamples=resamples, level=level, seed=seed).scaled(100.0)
    return Estimate(found.point, found.low, found.high, scored, failed)


def question_outcomes(rows: Sequence[GameRow]) -> dict[str, float]:
    """The weighted mean outcome of each question of one model, NaN where it was dropped."""
    out: dict[str, float] = {}
    for row in rows:
        games = outcomes(row)
        total = sum(w for _, w in games)
        out[row.uid] = sum(s * w for s, w in games) / total if games else math.nan
    return out


def battles(rows: Sequence[GameRow]) -> Battles:
    """The joint table of all models' games."""
    games = [(r.model, r.baseline, r.uid, s, w) for r in rows for s, w in outcomes(r)]
    names = tuple(dict.fromkeys([r.model for r in rows] + [r.baseline for r in rows]))
    code = {name: i for i, name in enumerate(names)}
    uids = {uid: i for i, uid in enumerate(dict.fromkeys(g[2] for g in games))}
    return Battles(
        names,
        np.array([code[g[0]] for g in games], dtype=np.int64),
        np.array([code[g[1]] for g in games], dtype=np.int64),
        np.array([uids[g[2]] for g in games], dtype=np.int64),
        np.array([g[3] for g in games], dtype=np.float64),
        np.array([g[4] for g in games], dtype=np.float64),
    )


def fit_ratings(
    table: Battles,
    z: FloatArray,
    counts: FloatArray | None = None,
    start: FloatArray | None = None,
    *,
    penalty: float = 1.0,
    tolerance: float = 1e-8,
) -> FloatArray:
    """Newton's method for the penalised joint regression: model coefficients (K,) followed by style slopes (F,).

    `counts` (n,) multiplies the games' weights. Coefficients are in units of log(10): 400 of them are 400 Elo.
    """
    k, f = len(table.names), z.shape[1]
    w = 2.0 * table.weight * (1.0 if counts is None else counts)
    y = 1.0 - table.outcome  # the baseline's outcome
    beta = np.zeros(k + f) if start is None else start.copy()
    unit = math.log(10.0)
    for _ in range(100):
        eta = unit * (beta[table.baseline] - beta[table.model]) + z @ beta[k:]
        p = 1.0 / (1.0 + np.exp(-np.clip(eta, -500, 500)))
        residual, v = w * (p - y), w * p * (1 - p)
        gradient = penalty * beta
        gradient[:k] += unit * (np.bincount(table.baseline, residual, k) - np.bincount(table.model, residual, k))
        gradient[k:] += z.T @ residual
        step = np.linalg.solve(_hessian(table, z, v, unit) + penalty * np.eye(k + f), gradient)
        largest = float(np.abs(step).max(initial=0.0))
        beta = beta - step * min(1.0, 2.0 / max(largest, 1e-300))
        if largest < tolerance:
            break
    return beta


def bradley_terry(wins: FloatArray, *, penalty: float = 1e-3) -> FloatArray:
    """Ratings (k,) in nats, mean 0, from wins[i, j] = how often i beat j; an L2 penalty keeps them finite."""
    k = len(wins)
    i, j = (a.astype(np.int64) for a in np.nonzero(wins))
    names = tuple(str(n) for n in range(k))
    table = Battles(names, i, j, np.zeros(len(i), np.int64), np.ones(len(i)), np.asarray(wins, float)[i, j] / 2)
    rating = fit_ratings(table, np.zeros((len(i), 0)), penalty=penalty * math.log(10.0) ** 2) * math.log(10.0)
    return np.asarray(rating - rating.mean(), dtype=np.float64)


def _hessian(table: Battles, z: FloatArray, v: FloatArray, unit: float) -> FloatArray:
    k, f = len(table.names), z.shape[1]
    pairs = np.bincount(table.baseline * k + table.model, v, k * k).reshape(k, k)
    h = np.zeros((k + f, k + f))
    h[:k, :k] = unit**2 * (np.diag(pairs.sum(axis=0) + pairs.sum(axis=1)) - pairs - pairs.T)
    for c in range(f):
        vz = v * z[:, c]
        h[:k, k + c] = unit * (np.bincount(table.baseline, vz, k) - np.bincount(table.model, vz, k))
    h[k:, :k] = h[:k, k:].T
    h[k:, k:] = (z.T * v) @ z
    return h
