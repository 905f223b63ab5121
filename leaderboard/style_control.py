"""Arena-Hard's scores at equal style, in the published forms of v0.1 and v2.0 (reference/benchmarks.md 2.5).

All models of a pool were judged against one baseline on the same questions. One logistic regression holds for all:

    logit P(model m beats the baseline) = theta_m - theta_baseline + sum_k g_k z_k,    z = (d - mean d) / std d

where d are gaps of style between the model's answer and the baseline's, and a strong verdict counts three times. The
published score is that of z = 0, which is the average gap of whoever else is in the pool, so that it moves when
models come or go. `at_zero` is the same fit read at d = 0, no gap at all: it depends on the pool through the shared
slopes only. Intervals refit the regression on resampled questions, all resamples at once, and read it at the average
gap of each resample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from leaderboard.annotations import GameRow
from leaderboard.ratings import outcomes
from prefeval.types import FloatArray

IntArray = NDArray[np.int64]
Style = Sequence[float]  # token_len, headers, lists, bolds
STYLE_FEATURES = ("token_len", "header", "list", "bold")
CONTROLS: Mapping[str, tuple[int, ...]] = {
    "length_controlled": (0,),
    "markdown_controlled": (1, 2, 3),
    "style_controlled": (0, 1, 2, 3),
}
_CHUNK = 256  # resamples at a time
_ROUNDS = 60
_POINT, _DRAW = 1e-9, 1e-3  # Newton stops after a step of this size; the error left is of the order of its square


@dataclass(frozen=True)
class StyleForm:
    """One published form: its gaps from the counts of model and baseline ((n, 4) each -> (n, 4)), the degrees of
    freedom of std d, the L2 penalties on ratings (nats) and slopes, and how often the code counts each game."""

    name: str
    gaps: Callable[[FloatArray, FloatArray], FloatArray]
    ddof: int
    rating_penalty: float
    slope_penalty: float
    copies: float


@dataclass(frozen=True)
class StylePool:
    """n questions of K models, model by model: `gaps` (n, 4) in units of std d, `shift` (4,) = mean d / std d."""

    names: tuple[str, ...]
    model: IntArray
    question: IntArray
    outcome: FloatArray
    weight: FloatArray
    gaps: FloatArray
    shift: FloatArray
    questions: int


@dataclass(frozen=True)
class Controlled:
    """Scores in percent of the K models, at the pool's average style gap and at no gap, with draws (R, K)."""

    points: FloatArray
    draws: FloatArray
    zero_points: FloatArray
    zero_draws: FloatArray


def ratio_gaps(model: FloatArray, baseline: FloatArray) -> FloatArray:
    """v0.1: (m - b) / (m + b + 1) of all four counts: (n, 4)."""
    return (model - baseline) / (model + baseline + 1.0)


def density_gaps(model: FloatArray, baseline: FloatArray) -> FloatArray:
    """v2.0: length (m - b) / (m + b); marks as densities g = count / (token_len + 1), (g_m - g_b) / (g_m + g_b + 1)."""
    total = model[:, :1] + baseline[:, :1]
    length = (model[:, :1] - baseline[:, :1]) / np.where(total > 0, total, 1.0)
    marks = ratio_gaps(model[:, 1:] / (model[:, :1] + 1.0), baseline[:, 1:] / (baseline[:, :1] + 1.0))
    return np.hstack([length, marks])


# v0.1: scikit-learn's default L2 penalty, in which ratings are in units of log(10), and every game twice (ties as one
# win and one loss). v2.0: no penalty; the tiny one only fixes the common shift of all ratings, which no score sees.
V01 = StyleForm("v0.1", ratio_gaps, 0, 1.0 / math.log(10.0) ** 2, 1.0, 2.0)
V2 = StyleForm("v2.0", density_gaps, 1, 1e-6, 1e-6, 1.0)


def style_pool(rows: Sequence[GameRow], style: Mapping[tuple[str, str], Style], form: StyleForm) -> StylePool:
    """The scored questions of models that share one baseline; `style` maps (model, uid) to the four counts.

    The two games of a question have the same answers, so they enter as one row with their summed weight.
    """
    played = [(r, games) for r in rows if (games := outcomes(r))]
    code = {name: i for i, name in enumerate(dict.fromkeys(r.model for r, _ in played))}
    uids = {uid: i for i, uid in enumerate(dict.fromkeys(r.uid for r, _ in played))}
    scored = sorted(((code[r.model], uids[r.uid], r, games) for r, games in played), key=lambda item: item[:2])
    weight = np.array([sum(w for _, w in games) for *_, games in scored])
    outcome = np.array([sum(s * w for s, w in games) for *_, games in scored]) / weight
    own = np.array([style[r.model, r.uid] for _, _, r, _ in scored], dtype=np.float64)
    base = np.array([style[r.baseline, r.uid] for _, _, r, _ in scored], dtype=np.float64)
    d = form.gaps(own, base)
    total = weight.sum()
    mean = weight @ d / total
    spread = np.sqrt(weight @ (d - mean) ** 2 / max(total - form.ddof, 1.0))
    spread = np.where(spread > 0, spread, 1.0)
    places = np.array([item[:2] for item in scored], dtype=np.int64).reshape(-1, 2)
    return StylePool(tuple(code), places[:, 0], places[:, 1], outcome, weight, d / spread, mean / spread, len(uids))


def controlled_scores(pool: StylePool, form: StyleForm, columns: Sequence[int], counts: FloatArray) -> Controlled:
    """Scores with the features `columns` controlled for; `counts` (R, Q) = how often each resample draws a question."""
    chosen = list(columns)
    fit = _Fit(pool, form, pool.gaps[:, chosen] - pool.shift[chosen])
    start = fit.newton(np.ones((pool.questions, 1)), fit.zeros(), _POINT)
    parts = [
        fit.newton(np.ascontiguousarray(counts[i : i + _CHUNK].T), start, _DRAW) for i in range(0, len(counts), _CHUNK)
    ]
    draws = np.hstack([fit.zeros()[:, :0], *parts])
    here, none = np.zeros((len(chosen), 1)), -pool.shift[chosen, None]
    moved = _moved_means(pool, counts)[chosen]
    return Controlled(
        fit.percent(start, here)[0], fit.percent(draws, moved), fit.percent(start, none)[0], fit.percent(draws, none)
    )


def _moved_means(pool: StylePool, counts: FloatArray) -> FloatArray:
    """How far the average gap of each resample lies from that of the pool, in units of std d: (4, R).

    The published score is read at the average gap of the questions at hand, which is one more thing that they decide.
    """
    weighted = np.zeros((pool.questions, pool.gaps.shape[1]))
    np.add.at(weighted, pool.question, pool.weight[:, None] * pool.gaps)
    weight = np.bincount(pool.question, pool.weight, pool.questions)
    drawn = np.maximum(counts @ weight, 1e-300)
    return np.asarray(((counts @ weighted) / drawn[:, None]).T - pool.shift[:, None], dtype=np.float64)


class _Fit:
    """Newton's method for many resamples. The parameters (K + 1 + F, r) are theta of the K models, theta of the
    baseline, and the slopes; the models meet only through the last 1 + F, so those are solved for first."""

    def __init__(self, pool: StylePool, form: StyleForm, z: FloatArray) -> None:
        self.k, self.form = len(pool.names), form
        self.dense = np.hstack([np.full((len(z), 1), -1.0), z])  # what multiplies theta_baseline and the slopes
        f = self.dense.shape[1]
        self.pairs = np.triu_indices(f)
        self.products = self.dense[:, self.pairs[0]] * self.dense[:, self.pairs[1]]
        ends = np.searchsorted(pool.model, np.arange(self.k + 1))
        self.rows = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        self.pool = pool
        self.penalty = np.array([form.rating_penalty] + [form.slope_penalty] * (f - 1))

    def zeros(self) -> FloatArray:
        return np.zeros((self.k + self.dense.shape[1], 1))

    def newton(self, counts: FloatArray, start: FloatArray, tolerance: float) -> FloatArray:
        """Parameters for `counts` (Q, r) from one `start` (K + 1 + F, 1); NaN for a model of which nothing is drawn."""
        k, x = self.k, start
        drawn = np.stack([counts[self.pool.question[r]].sum(axis=0) > 0 for r in self.rows])
        for _ in range(_ROUNDS):
            step = self._step(counts, x)
            largest = np.abs(step).max(axis=0)
            x = x - step * np.minimum(1.0, 2.0 / np.maximum(largest, 1e-300))
            if largest.max() < tolerance:
                break
        return np.vstack([np.where(drawn, x[:k], np.nan), x[k:]])

    def percent(self, x: FloatArray, z: FloatArray) -> FloatArray:
        """100 P(model beats the baseline) at standardised style gaps `z` (F, r or 1): (r, K)."""
        eta = x[: self.k] - x[self.k] + (z * x[self.k + 1 :]).sum(axis=0)
        return np.asarray((100.0 / (1.0 + np.exp(-eta))).T, dtype=np.float64)

    def _step(self, counts: FloatArray, x: FloatArray) -> FloatArray:
        """H^-1 gradient of each resample, by eliminating the models: (K + 1 + F, r)."""
        k, f, r = self.k, self.dense.shape[1], counts.shape[1]
        first, second = np.empty((k, f, r)), np.empty((k, len(self.pairs[0]), r))
        for m, rows in enumerate(self.rows):
            first[m], second[m] = self._sums(counts, x[m] + self.dense[rows] @ x[k:], rows)
        penalty = self.form.rating_penalty
        gradient = -first[:, 0] + penalty * x[:k]
        dense_gradient = first.sum(axis=0) + self.penalty[:, None] * x[k:]
        diagonal = second[:, 0] + penalty  # (-1)^2: the models' own curvature
        cross = -second[:, :f]  # -(-1 f_j): between a model and each dense parameter
        block = np.empty((r, f, f))
        block[:, self.pairs[0], self.pairs[1]] = second.sum(axis=0).T
        block[:, self.pairs[1], self.pairs[0]] = second.sum(axis=0).T
        block[:, np.arange(f), np.arange(f)] += self.penalty
        ratio = cross / diagonal[:, None]
        block -= np.einsum("kar,kbr->rab", ratio, cross)
        right = dense_gradient - np.einsum("kar,kr->ar", ratio, gradient)
        dense_step = np.linalg.solve(block, right.T[:, :, None])[:, :, 0].T
        own_step = gradient / diagonal - np.einsum("kar,ar->kr", ratio, dense_step)
        return np.vstack([own_step, dense_step])

    def _sums(self, counts: FloatArray, eta: FloatArray, rows: slice) -> tuple[FloatArray, FloatArray]:
        """Sums of residuals times the dense features (1 + F, r), and of curvatures times their products.

        At one starting point for all resamples `eta` is (n, 1), and the counts alone differ.
        """
        pool, k = self.pool, counts[self.pool.question[rows]]
        p = 1.0 / (1.0 + np.exp(-eta))
        w = self.form.copies * pool.weight[rows, None]
        residual, v = w * (p - pool.outcome[rows, None]), w * (p * (1.0 - p))
        if eta.shape[1] == 1:
            return (self.dense[rows] * residual).T @ k, (self.products[rows] * v).T @ k
        return self.dense[rows].T @ (k * residual), self.products[rows].T @ (k * v)
