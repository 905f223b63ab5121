"""What is wrong with a judge: order, length and style, its own family, chance. Pure functions with intervals.

Section 3.4, 3.6 and 6 of the benchmarks reference. Outcomes are shares of the win in [0, 1], 1/2 a tie, NaN a failed
verdict, which is counted and never scored. Every interval resamples questions (clusters), never single verdicts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefeval.stats import Estimate, bootstrap_mean, percentile_interval, resample_counts
from prefeval.types import FloatArray

Clusters = Sequence[Any]
RIDGE = 1e-3  # keeps slopes finite where one side always wins
_FAMILIES = {
    "openai": ("gpt", "chatgpt", "openai", "davinci", "o1", "o3", "o4"),
    "anthropic": ("claude", "anthropic"),
    "google": ("gemini", "gemma", "palm", "bard"),
    "meta": ("llama", "meta"),
    "mistral": ("mistral", "mixtral", "ministral"),
    "qwen": ("qwen", "qwq"),
    "lg": ("exaone",),
    "microsoft": ("phi",),
    "deepseek": ("deepseek",),
    "cohere": ("command", "cohere", "aya"),
    "01": ("yi",),
    "lmsys": ("vicuna", "fastchat"),
}


def first_wins(p_first: ArrayLike, questions: Clusters, *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """P(first shown wins): share of valid verdicts that go to the answer shown first (ties are no win): 1/2 and a bit
    less than that, by the share of ties, is unbiased when both orders are asked. `p_first` (n,)."""
    p = np.asarray(p_first, dtype=np.float64)
    won = np.where(np.isnan(p), np.nan, (p > 0.5).astype(np.float64))
    return bootstrap_mean(won, questions, resamples=resamples, seed=seed)


def order_effect(forward: ArrayLike, backward: ArrayLike, questions: Clusters, *, seed: int = 0) -> Estimate:
    """Mean over pairs asked in both orders of (p_first of order 1 + p_first of order 2) / 2 - 1/2: 0 is unbiased.

    `forward`, `backward` (n,): share of the win of the same answer a, shown first and shown second.
    """
    a, b = np.asarray(forward, dtype=np.float64), np.asarray(backward, dtype=np.float64)
    return bootstrap_mean((a - b) / 2.0, questions, seed=seed)


def order_effect_apart(p_first: ArrayLike, cells: Clusters, questions: Clusters, *, seed: int = 0) -> Estimate:
    """The same where each pair is asked in one order only, which the question decides: mean of p_first - 1/2 in which
    both orders of two models weigh the same, so that a better model cancels out.

    `cells` (n,) are (model shown first, model shown second); a cell without its reverse says nothing and is left out.
    """
    p = np.asarray(p_first, dtype=np.float64)
    known = {c for c, value in zip(cells, p, strict=True) if not math.isnan(value)}
    used = np.array([(a, b) in known and (b, a) in known for a, b in cells], dtype=bool)
    kept = [c for c, u in zip(cells, used, strict=True) if u]
    size: dict[Any, int] = {}
    for c, value in zip(kept, p[used], strict=True):
        size[c] = size.get(c, 0) + (not math.isnan(value))
    weight = [(size[a, b] + size[b, a]) / size[a, b] for a, b in kept]
    return bootstrap_mean(p[used] - 0.5, [q for q, u in zip(questions, used, strict=True) if u], weight, seed=seed)


def swap_consistency(forward: ArrayLike, backward: ArrayLike, questions: Clusters, *, seed: int = 0) -> Estimate:
    """Share of pairs whose verdict (a, tie, b) is the same in both orders; pairs with a failure are dropped. (n,)"""
    a, b = _signs(forward), _signs(backward)
    same = np.where(np.isnan(a + b), np.nan, (a == b).astype(np.float64))
    return bootstrap_mean(same, questions, seed=seed)


def swap_kappa(forward: ArrayLike, backward: ArrayLike, questions: Clusters, *, seed: int = 0) -> Estimate:
    """Cohen's kappa between the two orders. Which answer is called a is arbitrary, so both namings are counted."""
    a, b = _signs(forward), _signs(backward)
    found = cohen_kappa(np.concatenate([a, -a]), np.concatenate([b, -b]), [*questions, *questions], seed=seed)
    return Estimate(found.point, found.low, found.high, found.n // 2, found.n_failed // 2)


def agreement(judge: ArrayLike, human: ArrayLike, questions: Clusters, *, ties: bool = True, seed: int = 0) -> Estimate:
    """Share of equal verdicts (first, tie, second) of two raters; `ties=False` leaves out what either calls a tie
    (setup S2 of 2306.05685). Outcomes of the same pairs, (n,) each."""
    a, b = _signs(judge), _signs(human)
    drop = np.isnan(a + b)
    kept = np.ones(len(a), dtype=bool) if ties else drop | ((a != 0) & (b != 0))
    same = np.where(drop, np.nan, (a == b).astype(np.float64))
    return bootstrap_mean(same[kept], [q for q, k in zip(questions, kept, strict=True) if k], seed=seed)


def cohen_kappa(
    first: ArrayLike, second: ArrayLike, clusters: Clusters, *, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Cohen's kappa (1960) of two raters' labels, (n,) each, NaN = none; interval from a bootstrap over clusters."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    keep = ~np.isnan(a + b)
    failed = int((~keep).sum())
    if not keep.any():
        return Estimate(math.nan, math.nan, math.nan, 0, failed)
    labels, codes = np.unique(np.concatenate([a[keep], b[keep]]), return_inverse=True)
    k, n = len(labels), int(keep.sum())
    cluster = _codes([c for c, used in zip(clusters, keep, strict=True) if used])
    size = int(cluster.max()) + 1
    table = np.bincount(cluster * k * k + codes[:n] * k + codes[n:], minlength=size * k * k).reshape(size, k * k)

    def kappa(counts: FloatArray) -> FloatArray:
        cells = (counts @ table).reshape(-1, k, k)
        share = cells / cells.sum(axis=(1, 2), keepdims=True)
        observed = np.trace(share, axis1=1, axis2=2)
        chance = (share.sum(axis=2) * share.sum(axis=1)).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(chance < 1, (observed - chance) / (1 - chance), np.nan), dtype=np.float64)

    draws = kappa(resample_counts(size, resamples, seed))
    low, high = percentile_interval(draws[~np.isnan(draws)])
    return Estimate(float(kappa(np.ones((1, size)))[0]), low, high, n, failed)


def more_wins(outcome: ArrayLike, gap: ArrayLike, questions: Clusters, *, seed: int = 0) -> Estimate:
    """Share of decided verdicts that go to the answer with more of a feature (the longer one, the one with more lists).

    `outcome` (n,) is the win share of answer 1, `gap` (n,) its feature minus that of answer 2; equal ones are left out.
    """
    y, d = _signs(outcome), np.sign(np.asarray(gap, dtype=np.float64))
    used = ~np.isnan(d) & (d != 0) & (y != 0)
    won = np.where(np.isnan(y), np.nan, (y == d).astype(np.float64))[used]
    return bootstrap_mean(won, [q for q, u in zip(questions, used, strict=True) if u], seed=seed)


def bias_slope(
    outcome: ArrayLike, gap: ArrayLike, pairs: Clusters, questions: Clusters, *, resamples: int = 300, seed: int = 0
) -> Estimate:
    """Slope b of logit P(1 wins) = a_pair + b tanh(gap / sd(gap)), AlpacaEval's length term (2404.04475, eq. 2).

    A constant for each pair of models takes out that better models may also write longer; what is left compares answers
    of the same two models. Soft outcomes are allowed. `pairs` names the two models of each of the n verdicts in the
    direction of `outcome`. Penalty RIDGE/2 (sum a^2 + b^2). 0 = the judge's verdicts do not move with the feature.
    """
    y, d = np.asarray(outcome, dtype=np.float64), np.asarray(gap, dtype=np.float64)
    keep = ~np.isnan(y + d)
    failed = int((~keep).sum())
    y, d = y[keep], d[keep]
    spread = float(d.std()) if len(d) else 0.0
    if spread == 0.0:
        return Estimate(math.nan, math.nan, math.nan, len(y), failed)
    x = np.tanh(d / spread)
    group = _codes([p for p, used in zip(pairs, keep, strict=True) if used])
    cluster = _codes([q for q, used in zip(questions, keep, strict=True) if used])
    start, point = _fit_slope(y, x, group, np.ones(len(y)), np.zeros(int(group.max()) + 1), 0.0)
    counts = resample_counts(int(cluster.max()) + 1, resamples, seed)
    draws = np.array([_fit_slope(y, x, group, row[cluster], start, point, 1e-4)[1] for row in counts])
    return Estimate(point, *percentile_interval(draws), len(y), failed)


def self_preference(own: ArrayLike, others: ArrayLike, questions: Clusters, *, seed: int = 0) -> Estimate:
    """Mean of (own judge's outcome for the model of its family) - (mean outcome of the other judges) on the same items.

    Above 0: it favours its family more than the other judges do. (n,) each; items without both are dropped.
    """
    difference = np.asarray(own, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    return bootstrap_mean(difference, questions, seed=seed)


def repeatability(values: ArrayLike, items: Clusters, questions: Clusters, *, seed: int = 0) -> Estimate:
    """Share of equal pairs among repeated verdicts on the very same task; tasks asked once say nothing. n counts tasks.

    `values` (n,) are the verdicts (labels or grades), `items` names the task of each, `questions` its cluster.
    """
    found: dict[Any, list[float]] = {}
    cluster = dict(zip(items, questions, strict=True))
    for item, value in zip(items, np.asarray(values, dtype=np.float64), strict=True):
        if not math.isnan(value):
            found.setdefault(item, []).append(float(value))
    repeated = {item: group for item, group in found.items() if len(group) > 1}
    shares = [_equal_pairs(group) for group in repeated.values()]
    return bootstrap_mean(shares, [cluster[item] for item in repeated], seed=seed)


@lru_cache(maxsize=4096)
def family(name: str) -> str:
    """Who made a model or judge, by the words of its name ('' if unknown): 'openai/gpt-4o-mini' -> 'openai'."""
    words = [w for w in re.split(r"[^a-z0-9]+", name.lower()) if w]
    for word in words:
        for maker, starts in _FAMILIES.items():
            if any(word == s or re.fullmatch(rf"{s}\d[a-z0-9]*", word) for s in starts):
                return maker
    return ""


def _fit_slope(
    y: FloatArray,
    x: FloatArray,
    group: NDArray[np.int64],
    weight: FloatArray,
    a: FloatArray,
    b: float,
    tolerance: float = 1e-9,
) -> tuple[FloatArray, float]:
    """Newton's method; the constants are eliminated, so that a step costs O(n) for any number of pairs."""
    k = len(a)
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(a[group] + b * x, -500, 500)))
        residual, v = weight * (y - p), weight * p * (1 - p)
        ga = np.bincount(group, residual, k) - RIDGE * a
        haa = np.bincount(group, v, k) + RIDGE
        hab = np.bincount(group, v * x, k)
        slope = float(residual @ x) - RIDGE * b - float((hab * ga / haa).sum())
        step_b = slope / (float((v * x) @ x) + RIDGE - float((hab**2 / haa).sum()))
        step_a = (ga - hab * step_b) / haa
        largest = max(abs(step_b), float(np.abs(step_a).max()))
        share = min(1.0, 2.0 / max(largest, 1e-300))
        a, b = a + share * step_a, b + share * step_b
        if largest < tolerance:
            break
    return a, b


def _equal_pairs(group: Sequence[float]) -> float:
    _, counts = np.unique(group, return_counts=True)
    return float((counts * (counts - 1)).sum() / (len(group) * (len(group) - 1)))


def _signs(outcome: ArrayLike) -> FloatArray:
    """1 first, 0 tie, -1 second, NaN failed."""
    return np.sign(np.asarray(outcome, dtype=np.float64) - 0.5)


def _codes(values: Clusters) -> NDArray[np.int64]:
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(v, len(seen)) for v in values], dtype=np.int64)
