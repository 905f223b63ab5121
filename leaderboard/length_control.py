"""Length-controlled win rates (AlpacaEval 2, arXiv 2404.04475; reference/benchmarks.md 1.5-1.8) in numpy.

One model against one baseline, rows i in file order:

    P(model wins)_i = sig(w1 tanh(delta_i / std(delta)) + w2 difficulty_i + w3)

fitted by   min_w ||w||_1 + C [ sum_i CE(y_i, p_i) + (lambda / 2) sum_j CE(y_j, q_j) ],   lambda = 0.2,

where j runs over the gamed rows (the baseline told to be verbose and to be concise, judged against the plain baseline;
they have no w3 term) and tie w1 to the baseline's own taste for length. The length-controlled win rate sets the length
term to zero: 100 mean_i sig(w2 difficulty_i + w3). Its interval refits the model on resampled instructions
(`lc_bootstrap`); the spread of the predictions across instructions, upstream's `lc_standard_error`, is no uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prefeval.types import FloatArray

C_GRID: tuple[float, ...] = tuple(float(c) for c in np.logspace(-4, 4, 10))
FALLBACK_C = C_GRID[6]  # 21.54: the grid value that is never far off (0.1 points at most on the published models)
GAMED_WEIGHT = 0.1  # lambda / 2: there are two gamed runs


@dataclass(frozen=True)
class GamedRows:
    """The prior: tanh(standardised length gap) (m,), difficulty (m,) and soft label in [0, 1] (m,)."""

    tanh_gap: FloatArray = field(default_factory=lambda: np.zeros(0))
    difficulty: FloatArray = field(default_factory=lambda: np.zeros(0))
    label: FloatArray = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Problem:
    """A weighted L1 logistic regression with soft labels: features (n, 3), labels (n,), weights (n,)."""

    x: FloatArray
    y: FloatArray
    s: FloatArray


def length_feature(length_gap: FloatArray) -> FloatArray:
    """tanh(delta / std(delta, ddof=1)) with delta = baseline - model length in characters: (n,); 0 if constant."""
    spread = float(np.std(length_gap, ddof=1)) if len(length_gap) > 1 else 0.0
    return np.tanh(length_gap / spread) if spread > 0 else np.zeros(len(length_gap))


def build_problem(y: FloatArray, length_gap: FloatArray, difficulty: FloatArray, gamed: GamedRows) -> Problem:
    """Gamed rows first, then the model's own. `y` in [0, 1] (n,), `length_gap` in characters, `difficulty`: (n,)."""
    own = np.column_stack([length_feature(length_gap), difficulty, np.ones(len(y))])
    prior = np.column_stack([gamed.tanh_gap, gamed.difficulty, np.zeros(len(gamed))])
    weights = np.concatenate([np.full(len(gamed), GAMED_WEIGHT), np.ones(len(y))])
    return Problem(np.vstack([prior, own]), np.concatenate([gamed.label, y]), weights)


def fit(problem: Problem, c: float, start: FloatArray | None = None, *, tolerance: float = 1e-9) -> FloatArray:
    """argmin_w ||w||_1 + C sum_i s_i CE(y_i, sig(x_i w)) by proximal Newton with backtracking: (3,)."""
    x, y, s = problem.x, problem.y, problem.s * c
    w = np.zeros(x.shape[1]) if start is None else start.copy()
    linear = x.T @ (s * y)
    z = x @ w
    value = _objective(w, z, s, linear)
    for _ in range(200):
        p = _sigmoid(z)
        gradient = x.T @ (s * p) - linear
        hessian = (x.T * (s * p * (1 - p))) @ x + 1e-10 * np.eye(len(w))
        step = _lasso_newton_step(w, gradient, hessian)
        size = 1.0
        decrease = float(gradient @ step + np.abs(w + step).sum() - np.abs(w).sum())
        if float(np.abs(step).max()) < tolerance:
            break
        move = x @ step
        while size > 1e-10:
            new_value = _objective(w + size * step, z + size * move, s, linear)
            if new_value <= value + 0.1 * size * decrease + 1e-13 * abs(value):
                break
            size *= 0.5
        w, z = w + size * step, z + size * move
        value = new_value
    return w


def choose_c(problem: Problem, *, folds: int = 5, grid: Sequence[float] = C_GRID) -> float:
    """The C with the smallest held-out weighted log loss, as upstream picks it; folds are dealt by row from the last
    one (as GroupKFold).

    Neighbouring C often tie to the fifth digit, and which one wins hangs on how far liblinear gets before its tolerance
    stops it. So this, and only this, is left to scikit-learn with upstream's settings, in its order of random numbers.
    """
    from sklearn.linear_model import LogisticRegression

    fold = np.arange(len(problem.y))[::-1] % folds
    losses = np.zeros((folds, len(grid)))
    for f in range(folds):
        train, test = fold != f, fold == f
        x, y, s = (np.concatenate([v[train], v[train]]) for v in (problem.x, problem.y, problem.s))
        label = np.repeat([1, 0], int(train.sum()))
        weight = np.where(label == 1, y, 1 - y) * s
        state = np.random.RandomState(123)
        for i, c in enumerate(grid):
            model = LogisticRegression(C=c, solver="liblinear", fit_intercept=False, random_state=state, **_l1())
            z = problem.x[test] @ model.fit(x, label, sample_weight=weight).coef_[0]
            loss = np.logaddexp(0.0, z) - problem.y[test] * z
            losses[f, i] = float(np.mean(problem.s[test] * loss))
    return float(grid[int(np.argmin(losses.mean(axis=0)))])


def _l1() -> dict[str, Any]:
    """How this version of scikit-learn is told the L1 penalty."""
    import sklearn

    version = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
    return {"l1_ratio": 1.0} if version >= (1, 8) else {"penalty": "l1"}


def nearest_c(problem: Problem, weights: FloatArray, *, grid: Sequence[float] = C_GRID) -> float:
    """The grid value whose fit lies nearest to published `weights` (3,): how a published model's C is read back."""
    distances = []
    w: FloatArray | None = None
    for c in grid:
        w = fit(problem, c, w)
        distances.append(float(np.linalg.norm(w - weights)))
    return float(grid[int(np.argmin(distances))])


def rate_from_weights(weights: FloatArray, difficulty: FloatArray) -> float:
    """100 mean_i sig(w2 difficulty_i + w3), in percent, from (w1, w2, w3) and difficulty (n,)."""
    return float(100 * _sigmoid(weights[1] * difficulty + weights[2]).mean())


def violation(problem: Problem, w: FloatArray, c: float) -> float:
    """How far `w` (3,) is from the optimum: the largest component of the smallest subgradient of the objective.

    0 at the optimum, in units of the L1 penalty's own slope (1).
    """
    gradient = c * (problem.x.T @ (problem.s * (_sigmoid(problem.x @ w) - problem.y)))
    at_zero = np.maximum(np.abs(gradient) - 1.0, 0.0)
    return float(np.where(w != 0, np.abs(gradient + np.sign(w)), at_zero).max())


def _lasso_newton_step(w: FloatArray, gradient: FloatArray, hessian: FloatArray) -> FloatArray:
    """argmin_d g.d + d.H.d / 2 + ||w + d||_1 by coordinate descent (three coordinates, so a few cheap sweeps)."""
    h = [[float(v) for v in row] for row in hessian]
    g, base = [float(v) for v in gradient], [float(v) for v in w]
    d = [0.0] * len(base)
    for _ in range(500):
        change = 0.0
        for j, h_j in enumerate(h):
            slope = g[j] + sum(a * b for a, b in zip(h_j, d, strict=True)) - h_j[j] * d[j]
            target = base[j] - slope / h_j[j]
            shrunk = math.copysign(max(abs(target) - 1.0 / h_j[j], 0.0), target)
            change = max(change, abs(shrunk - base[j] - d[j]))
            d[j] = shrunk - base[j]
        if change < 1e-12:
            break
    return np.array(d)


def _objective(w: FloatArray, z: FloatArray, s: FloatArray, linear: FloatArray) -> float:
    """||w||_1 + sum_i s_i [log(1 + exp z_i)] - w . (x^T s y), with C inside `s`."""
    softplus = np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))
    return float(np.abs(w).sum() + s @ softplus - w @ linear)


def _sigmoid(z: FloatArray) -> FloatArray:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -500.0, 500.0))), dtype=np.float64)
