"""From P to what losses train on: win rates, the pairs that are used, and the labels those pairs get.

Tables are (k, k) float64 with P + P.T = 1; NaN marks a verdict that could not be obtained and is never read as 1/2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prefeval.oracle import win_rates
from prefeval.types import FloatArray

IntArray = NDArray[np.int64]
Labels = Literal["soft", "bernoulli", "hard"]
PairRule = Literal["all", "best_worst", "tournament", "first_round", "knockout"]
UNBIASED: tuple[PairRule, ...] = ("all", "first_round")  # whose pairs are independent draws where responses are


def is_complete(table: FloatArray) -> bool:
    return bool(np.all(np.isfinite(table)))


def unjudged(count: int) -> FloatArray:
    """A table without any verdict: (count, count)."""
    return np.asarray(np.where(np.eye(count, dtype=bool), 0.5, np.nan), dtype=np.float64)


def centred_win_rates(table: FloatArray) -> FloatArray:
    """p_i - 1/2 with p_i the mean of row i, itself included at 1/2 (FACT 4): (k,); with a complete P they sum to 0.

    A mean over the known entries where some are missing; NaN for a response that has no verdict at all.
    """
    rates = win_rates(table, include_self=True) - 0.5
    return np.asarray(np.where(_has_verdict(table), rates, np.nan), dtype=np.float64)


def win_rate_against(table: FloatArray, opponents: IntArray | list[int]) -> FloatArray:
    """Mean over the columns `opponents` of P(y_i > opponent), without a response against itself: (k,), NaN if none."""
    chosen = np.array(table, dtype=np.float64)
    np.fill_diagonal(chosen, np.nan)
    chosen = chosen[:, np.asarray(opponents, dtype=np.int64)]
    known = np.isfinite(chosen)
    count = known.sum(axis=1)
    total = np.where(known, chosen, 0.0).sum(axis=1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan), dtype=np.float64)


def best_worst(table: FloatArray) -> tuple[int, int] | None:
    """Indices of the highest and the lowest win rate against the others; ties go to the lowest index.

    None where no two responses differ, or where the pair itself has no verdict.
    """
    rates = win_rates(table)
    if len(rates) < 2 or not np.any(np.isfinite(rates)):
        return None
    best, worst = int(np.nanargmax(rates)), int(np.nanargmin(rates))
    return None if best == worst or not np.isfinite(table[best, worst]) else (best, worst)


def tournament(table: FloatArray) -> tuple[int, int, int] | None:
    """INPO's pair (2407.00617): (best, worst, queries), 11 queries for 8 responses; ties go to the first.

    Winners of the first round play winners, losers play losers, and the best must beat the worst at the end. None where
    it does not, or where a verdict on the way is missing.
    """
    queries = 0

    def play(players: list[int]) -> tuple[list[int], list[int]]:
        nonlocal queries
        won, lost = [], []
        for a, b in zip(players[::2], players[1::2], strict=False):
            queries += 1
            if not np.isfinite(table[a, b]):
                raise LookupError
            won.append(a if table[a, b] >= 0.5 else b)
            lost.append(b if table[a, b] >= 0.5 else a)
        bye = players[-1:] if len(players) % 2 else []
        return won + bye, lost + bye

    def final(players: list[int], advance: Callable[[list[int]], list[int]]) -> int:
        while len(players) > 1:
            players = advance(players)
        return players[0]

    try:
        if len(table) < 2:
            return None
        winners, losers = play(list(range(len(table))))
        best, worst = final(winners, lambda p: play(p)[0]), final(losers, lambda p: play(p)[1])
        return (best, worst, queries) if best != worst and play([best, worst])[0] == [best] else None
    except LookupError:
        return None


def knockout(table: FloatArray, *, rounds: int | None = None) -> list[tuple[int, int]]:
    """The matches of neighbours 0-1, 2-3, ... and then of the winners until one is left (RSO, 2309.06657).

    `rounds` 1 is RSO's first-round ranking. Ties go to the first, who also goes on where a verdict is missing; such a
    match is no pair. N responses play N - 1 matches, or N / 2 in the first round.
    """
    players, matches = list(range(len(table))), []
    while len(players) > 1 and rounds != 0:
        won = []
        for a, b in zip(players[::2], players[1::2], strict=False):
            matches += [(a, b)] if np.isfinite(table[a, b]) else []
            won.append(b if table[a, b] < 0.5 else a)
        players = won + (players[-1:] if len(players) % 2 else [])
        rounds = None if rounds is None else rounds - 1
    return matches


def select_pairs(table: FloatArray, rule: PairRule) -> tuple[IntArray, IntArray]:
    """The pairs (i, j) a loss uses, as two index arrays: all known pairs with i < j, matches, or one (better, worse).

    Responses are in the order in which they were drawn, so 'first_round' pairs them at random.
    """
    if rule == "all":
        i, j = np.triu_indices(len(table), 1)
        known = np.isfinite(table[i, j])
        return i[known].astype(np.int64), j[known].astype(np.int64)
    if rule in ("first_round", "knockout"):
        pairs = knockout(table, rounds=1 if rule == "first_round" else None)
    else:
        chosen = best_worst(table) if rule == "best_worst" else tournament(table)
        pairs = [] if chosen is None else [(chosen[0], chosen[1])]
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def relabel(table: FloatArray, labels: Labels, generator: np.random.Generator | None = None) -> FloatArray:
    """The table with the labels a loss sees; complementary, NaN kept.

    'soft' is P itself. 'hard' is 1[P > 1/2] with ties at 1/2: the game of the thresholded matrix (FACT 5). 'bernoulli'
    draws one verdict a pair from P and needs a generator.
    """
    if labels == "soft":
        return table
    if labels == "hard":
        upper = np.where(np.isfinite(table), 0.5 + 0.5 * np.sign(table - 0.5), np.nan)
    else:
        if generator is None:
            raise ValueError("labels 'bernoulli' need a generator")
        draws = generator.random(table.shape)
        upper = np.where(np.isfinite(table), (draws < table).astype(np.float64), np.nan)
    i, j = np.triu_indices(len(table), 1)
    out = np.full(table.shape, 0.5)
    out[i, j], out[j, i] = upper[i, j], 1.0 - upper[i, j]
    return out


def _has_verdict(table: FloatArray) -> NDArray[np.bool_]:
    known = np.isfinite(table)
    np.fill_diagonal(known, False)
    return np.asarray(known.any(axis=1) | (len(table) == 1))


def mean_log_odds(table: FloatArray, clip: float = 20.0) -> FloatArray:
    """Mean log-odds of each response over the known others and itself, at 0: (k,); NaN without any verdict.

    Where P is Bradley-Terry and complete these are its scores less their mean. Log-odds are cut at +-`clip` nats.
    """
    with np.errstate(divide="ignore"):
        odds = np.clip(np.log(table) - np.log1p(-table), -clip, clip)
    known = np.isfinite(odds)
    means = np.where(known, odds, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.asarray(np.where(_has_verdict(table), means, np.nan), dtype=np.float64)
