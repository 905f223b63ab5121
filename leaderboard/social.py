"""Social choice between models: who is best by which rule, from one matrix of win rates, and whether the rules differ.

W (k, k): W[i, j] = share of questions on which i beats j, ties half, diagonal 1/2, NaN where they never met. Section
5.4 of the preference-models reference. A pairwise majority may run in a circle; then no order is the right one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from leaderboard.ratings import bradley_terry
from prefeval.games import curl_ratio, nash_lp
from prefeval.types import FloatArray

_RIDGE = 1e-6  # keeps Bradley-Terry finite for a model that always wins
_EDGE = 1e-9  # of a probability: what is above counts as support


@dataclass(frozen=True)
class Cycle:
    """models[0] beats models[1] beats models[2] beats models[0]; `strength` is the smallest of the three win rates."""

    models: tuple[int, int, int]
    strength: float


def clipped_logit(W: FloatArray, n: FloatArray) -> FloatArray:
    """Skew log-odds (k, k) with W clipped to [1/(2n), 1 - 1/(2n)] by the n (k, k) comparisons behind each entry."""
    edge = 1.0 / (2.0 * np.maximum(n, 1.0))
    p = np.clip(W, edge, 1.0 - edge)
    s = np.log(p) - np.log1p(-p)
    np.fill_diagonal(s, 0.0)
    return np.asarray(s, dtype=np.float64)


def strongest_cycles(W: FloatArray, limit: int = 5) -> list[Cycle]:
    """The 3-cycles, strongest first; every longer cycle of a complete majority relation contains one of them."""
    beats = np.asarray(W > 0.5)
    found = []
    for i, j, k in combinations(range(len(W)), 3):
        for a, b, c in ((i, j, k), (i, k, j)):
            if beats[a, b] and beats[b, c] and beats[c, a]:
                found.append(Cycle((a, b, c), float(min(W[a, b], W[b, c], W[c, a]))))
    return sorted(found, key=lambda cycle: (-cycle.strength, cycle.models))[:limit]


def curl_test(W: FloatArray, n: FloatArray, *, draws: int = 200, seed: int = 0) -> tuple[float, float, float]:
    """(curl ratio, its noise floor, p): how cyclic the log-odds are, against what Bradley-Terry with binomial noise
    gives. The floor is the 95th percentile of a parametric bootstrap from the fitted Bradley-Terry model; p is the
    share of its draws that are at least as cyclic. NaN for fewer than three models."""
    if len(W) < 3:
        return math.nan, math.nan, math.nan
    observed = curl_ratio(clipped_logit(W, n))
    counts = np.where(np.isfinite(W), np.round(n), 0).astype(np.int64)
    rating = bradley_terry(_wins(W, n), penalty=_RIDGE)
    fitted = 1.0 / (1.0 + np.exp(-(rating[:, None] - rating[None, :])))
    rng, upper = np.random.default_rng(seed), np.triu(np.ones(W.shape, dtype=bool), 1)
    noise = np.empty(draws)
    for t in range(draws):
        won = rng.binomial(counts, fitted) / np.maximum(counts, 1)
        drawn = np.where(upper, won, 1.0 - won.T)
        np.fill_diagonal(drawn, 0.5)
        noise[t] = curl_ratio(clipped_logit(np.where(counts > 0, drawn, np.nan), n))
    p = (1 + int((noise >= observed - 1e-12).sum())) / (1 + draws)
    return observed, float(np.quantile(noise, 0.95)), p


def borda(W: FloatArray) -> FloatArray:
    """Mean win rate against the others (k,)."""
    table = np.array(W, dtype=np.float64)
    np.fill_diagonal(table, np.nan)
    known = np.isfinite(table)
    return np.asarray(np.where(known, table, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1), dtype=np.float64)


def copeland(W: FloatArray) -> FloatArray:
    """Number of models beaten by majority, ties half (k,)."""
    return np.asarray((W > 0.5).sum(axis=1) + 0.5 * ((W == 0.5).sum(axis=1) - 1), dtype=np.float64)


def maximal_lottery(W: FloatArray) -> FloatArray:
    """The lottery over models that no model beats in expectation (Fishburn 1984): (k,), of maximal entropy where there
    are several. All weight on one model when it beats every other."""
    return max_entropy_nash(np.asarray(2.0 * W - 1.0, dtype=np.float64))


def nash_averaging(S: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(p, skill) of Nash averaging (1806.02643, definition 3): p the maximum-entropy Nash equilibrium of the skew game
    S (log-odds), skill = S p <= 0, and 0 for the models that matter. Copies of a model change nobody's skill."""
    p = max_entropy_nash(S)
    return p, np.asarray(S @ p, dtype=np.float64)


def max_entropy_nash(S: FloatArray) -> FloatArray:
    """The equilibrium of the symmetric zero-sum game S = -S^T (k, k) with the largest entropy: (k,).

    With T the union of all supports, the equilibria are p >= 0 on T with (S p)_j = 0 on T and <= 0 elsewhere. The dual,
    min over m (free on T, >= 0 elsewhere) of log sum_{i in T} exp(-(m S)_i), is smooth; its p is softmax(-(m S)_T).
    """
    from scipy.optimize import minimize

    s = np.array(S, dtype=np.float64)
    if not np.all(np.isfinite(s)):
        raise ValueError("an equilibrium needs a complete matrix")
    s /= max(float(np.abs(s).max()), 1e-300)
    support = _union_of_supports(s)
    if len(support) == 1:
        return np.asarray(np.eye(len(s))[support[0]], dtype=np.float64)
    rows = s[:, support]  # (S p)_j = rows @ p_T

    def dual(m: FloatArray) -> tuple[float, FloatArray]:
        z = -(m @ rows)
        top = float(z.max())
        weight = np.exp(z - top)
        p = weight / weight.sum()
        return top + math.log(float(weight.sum())), -(rows @ p)

    inside = set(support.tolist())
    bounds = [(None, None) if j in inside else (0.0, None) for j in range(len(s))]
    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10}
    found: Any = minimize(  # type: ignore[call-overload]
        dual, np.zeros(len(s)), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    z = -(found.x @ rows)
    p = np.zeros(len(s))
    p[support] = np.exp(z - z.max())
    return np.asarray(p / p.sum(), dtype=np.float64)


def orders(W: FloatArray, n: FloatArray) -> dict[str, FloatArray]:
    """Rule -> score of each model (k,), higher is better. Rules that need a complete W are left out without one."""
    found = {"bradley_terry": bradley_terry(_wins(W, n), penalty=_RIDGE), "borda": borda(W), "copeland": copeland(W)}
    if np.all(np.isfinite(W)):
        found["nash_skill"] = nash_averaging(clipped_logit(W, n))[1]
        lottery = maximal_lottery(W)
        found["lottery_margin"] = np.asarray(2.0 * (W @ lottery) - 1.0, dtype=np.float64)
    return found


def disagreements(rules: Mapping[str, FloatArray], *, slack: float = 1e-6) -> list[tuple[int, int, str, str]]:
    """(i, j, rule, other): pairs of models that one rule puts strictly the other way round than another. (k,) each."""
    found = []
    names = list(rules)
    for i, j in combinations(range(len(rules[names[0]])), 2):
        up = [r for r in names if rules[r][i] > rules[r][j] + slack]
        down = [r for r in names if rules[r][j] > rules[r][i] + slack]
        if up and down:
            found.append((i, j, ", ".join(up), ", ".join(down)))
    return found


def places(score: Sequence[float] | FloatArray, *, slack: float = 1e-6) -> list[int]:
    """1 + the number of models that a rule puts strictly before (ties share a place)."""
    return [1 + sum(other > own + slack for other in score) for own in score]


def _wins(W: FloatArray, n: FloatArray) -> FloatArray:
    """How often i beat j (k, k), clipped as the log-odds are; 0 where they never met."""
    edge = 1.0 / (2.0 * np.maximum(n, 1.0))
    wins = np.where(np.isfinite(W), n * np.clip(W, edge, 1.0 - edge), 0.0)
    np.fill_diagonal(wins, 0.0)
    return np.asarray(wins, dtype=np.float64)


def _union_of_supports(s: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Models that some equilibrium plays: p_i can be positive in {p : S p <= 0, p on the simplex}."""
    from scipy.optimize import linprog

    k = len(s)
    seen = nash_lp(s / 2.0 + 0.5) > 1e-7
    for i in range(k):
        if not seen[i]:
            cost = -np.eye(k)[i]
            found = linprog(cost, A_ub=s, b_ub=np.full(k, _EDGE), A_eq=np.ones((1, k)), b_eq=[1.0], method="highs")
            if found.success and found.x is not None and found.x[i] > 1e-6:
                seen |= np.asarray(found.x) > 1e-6
    return np.flatnonzero(seen).astype(np.int64)
