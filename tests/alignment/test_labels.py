"""From P to pairs and labels: the arithmetic by hand, ties, failed verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.labels import (
    best_worst,
    centred_win_rates,
    relabel,
    select_pairs,
    tournament,
    win_rate_against,
)


def table_of(n: int, wins: dict[tuple[int, int], float]) -> np.ndarray:
    table = np.full((n, n), 0.5)
    for (i, j), p in wins.items():
        table[i, j], table[j, i] = p, 1 - p
    return table


def ladder(n: int) -> np.ndarray:
    """Response 0 beats everyone, n - 1 nobody."""
    return table_of(n, {(i, j): 0.9 for i in range(n) for j in range(i + 1, n)})


def random_table(n: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return table_of(n, {(i, j): float(draw.random()) for i in range(n) for j in range(i + 1, n)})


def test_centred_win_rates() -> None:
    table = table_of(3, {(0, 1): 0.9, (0, 2): 0.7, (1, 2): 0.2})
    # Row means with the self-comparison, minus 1/2: (0.5 + 0.9 + 0.7) / 3 - 0.5, ...
    np.testing.assert_allclose(centred_win_rates(table), [0.2, -0.7 / 3, 0.1 / 3], atol=1e-15)
    assert centred_win_rates(random_table(7)).sum() == pytest.approx(0, abs=1e-14)


def test_centred_win_rates_skip_failed_verdicts() -> None:
    table = table_of(3, {(0, 1): 0.9, (0, 2): np.nan, (1, 2): np.nan})
    rates = centred_win_rates(table)
    np.testing.assert_allclose(rates[:2], [0.2, -0.2])
    assert np.isnan(rates[2])


def test_win_rate_against_opponents() -> None:
    table = table_of(3, {(0, 1): 0.9, (0, 2): np.nan, (1, 2): 0.2})
    np.testing.assert_allclose(win_rate_against(table, [0, 1, 2]), [0.9, 0.15, 0.8])
    rates = win_rate_against(table, [2])
    assert np.isnan(rates[0])
    assert rates[1] == 0.2
    assert np.isnan(rates[2])  # not against itself


def test_best_worst_and_ties() -> None:
    assert best_worst(ladder(5)) == (0, 4)
    assert best_worst(ladder(5)[::-1, ::-1]) == (4, 0)
    assert best_worst(np.full((3, 3), 0.5)) is None
    # 1 and 2 tie for the best, 0 and 3 for the worst: the lowest index wins both.
    tied = table_of(4, {(1, 0): 0.8, (2, 0): 0.8, (1, 3): 0.8, (2, 3): 0.8})
    assert best_worst(tied) == (1, 0)


def test_best_worst_with_failed_verdicts() -> None:
    assert best_worst(np.where(np.eye(3, dtype=bool), 0.5, np.nan)) is None
    lost = ladder(3)
    lost[0, 2] = lost[2, 0] = np.nan
    assert best_worst(lost) is None  # the pair itself was not judged
    assert best_worst(np.array([[0.5]])) is None


def test_tournament_needs_eleven_queries_for_eight() -> None:
    assert tournament(ladder(8)) == (0, 7, 11)
    order = np.array([3, 7, 0, 5, 1, 6, 2, 4])
    shuffled = ladder(8)[np.ix_(order, order)]
    best, worst, queries = tournament(shuffled) or (-1, -1, -1)
    assert (order[best], order[worst], queries) == (0, 7, 11)


def test_tournament_keeps_only_pairs_where_the_best_beats_the_worst() -> None:
    # 0 beats 1, 2 beats 3; 0 beats 2 and 1 loses to 3, so the pair is (0, 1) and 0 beats 1 again.
    table = table_of(4, {(0, 1): 0.9, (2, 3): 0.9, (0, 2): 0.9, (3, 1): 0.9})
    assert tournament(table) == (0, 1, 5)
    # Now 1 beats 3, so the worst is 3; and 3 beats 0: the pair is dropped.
    upset = table_of(4, {(0, 1): 0.9, (2, 3): 0.9, (0, 2): 0.9, (1, 3): 0.9, (3, 0): 0.9})
    assert tournament(upset) is None
    failed = ladder(4)
    failed[0, 1] = failed[1, 0] = np.nan
    assert tournament(failed) is None
    assert tournament(np.full((4, 4), 0.5)) == (0, 3, 5)  # ties: the first one wins
    for n in (2, 3, 5, 6, 7):
        found = tournament(ladder(n))
        assert found is not None
        assert found[:2] == (0, n - 1)


def test_select_pairs() -> None:
    table = ladder(3)
    i, j = select_pairs(table, "all")
    assert list(zip(i, j, strict=True)) == [(0, 1), (0, 2), (1, 2)]
    table[0, 2] = table[2, 0] = np.nan
    i, j = select_pairs(table, "all")
    assert list(zip(i, j, strict=True)) == [(0, 1), (1, 2)]
    for rule in ("best_worst", "tournament"):
        i, j = select_pairs(ladder(4), rule)
        assert list(zip(i, j, strict=True)) == [(0, 3)]
        assert len(select_pairs(np.where(np.eye(3, dtype=bool), 0.5, np.nan), rule)[0]) == 0


def test_hard_labels() -> None:
    table = table_of(3, {(0, 1): 0.51, (0, 2): np.nan, (1, 2): 0.5})
    hard = relabel(table, "hard")
    np.testing.assert_array_equal(hard, table_of(3, {(0, 1): 1.0, (0, 2): np.nan, (1, 2): 0.5}))
    assert relabel(table, "soft") is table


def test_bernoulli_labels() -> None:
    table = random_table(6)
    table[1, 4] = table[4, 1] = np.nan
    drawn = relabel(table, "bernoulli", np.random.default_rng(5))
    again = relabel(table, "bernoulli", np.random.default_rng(5))
    np.testing.assert_array_equal(drawn, again)
    off = ~np.eye(6, dtype=bool) & np.isfinite(table)
    assert set(np.unique(drawn[off])) == {0.0, 1.0}
    np.testing.assert_array_equal((drawn + drawn.T)[off], 1.0)
    assert np.isnan(drawn[1, 4])
    assert np.isnan(drawn[4, 1])
    generator = np.random.default_rng(0)
    mean = np.mean([relabel(table, "bernoulli", generator) for _ in range(4000)], axis=0)
    assert np.max(np.abs(mean - table)[off]) < 5 * 0.5 / np.sqrt(4000)
    with pytest.raises(ValueError, match="generator"):
        relabel(table, "bernoulli")
