"""Social choice between models: textbook matrices, closed forms, invariances, brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from leaderboard.social import (
    borda,
    clipped_logit,
    copeland,
    curl_test,
    disagreements,
    max_entropy_nash,
    maximal_lottery,
    nash_averaging,
    orders,
    places,
    strongest_cycles,
)
from prefeval.games import condorcet_winner


def ballots(profile: dict[str, int]) -> np.ndarray:
    """W of voters' rankings, best first: {'abc': 3} = three voters with a > b > c."""
    names = sorted(next(iter(profile)))
    W = np.full((len(names),) * 2, 0.5)
    total = sum(profile.values())
    for a, b in combinations(range(len(names)), 2):
        W[a, b] = sum(c for order, c in profile.items() if order.index(names[a]) < order.index(names[b])) / total
        W[b, a] = 1 - W[a, b]
    return W


PARADOX = ballots({"abc": 1, "bca": 1, "cab": 1})
# Condorcet's own example (1785): a beats both others, but Borda's count puts b first
CONDORCET = ballots({"abc": 30, "acb": 1, "bac": 29, "bca": 10, "cab": 10, "cba": 1})


def test_condorcet_paradox() -> None:
    assert condorcet_winner(PARADOX) is None
    (cycle,) = strongest_cycles(PARADOX)
    assert cycle.models == (0, 1, 2)
    assert cycle.strength == pytest.approx(2 / 3)
    assert maximal_lottery(PARADOX) == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert disagreements(orders(PARADOX, np.full((3, 3), 3))) == []  # by symmetry all are equal under every rule


def test_condorcets_example_against_borda() -> None:
    assert condorcet_winner(CONDORCET) == 0
    assert maximal_lottery(CONDORCET) == pytest.approx([1, 0, 0])
    points = borda(CONDORCET)
    assert points * 2 * 81 == pytest.approx([101, 109, 33])  # the counts of the literature
    found = disagreements(orders(CONDORCET, np.full((3, 3), 81)))
    assert [(i, j) for i, j, _, _ in found] == [(0, 1)]
    assert "borda" in found[0][3]
    assert "copeland" in found[0][2]


def test_unequal_cycle_has_the_known_lottery() -> None:
    """In a circle of three the weight of each is the margin of the edge that it does not touch, over their sum."""
    W = np.full((3, 3), 0.5)
    for (i, j), m in {(0, 1): 0.1, (1, 2): 0.2, (2, 0): 0.3}.items():
        W[i, j], W[j, i] = 0.5 + m / 2, 0.5 - m / 2
    assert maximal_lottery(W) == pytest.approx(np.array([0.2, 0.3, 0.1]) / 0.6, abs=1e-6)


def test_nash_averaging_ignores_copies() -> None:
    """1806.02643, proposition 1: a redundant agent shares the weight of its twin and moves nobody's skill."""
    s = np.array([[0, 4.6, -4.6], [-4.6, 0, 4.6], [4.6, -4.6, 0]])
    p, skill = nash_averaging(s)
    assert p == pytest.approx([1 / 3] * 3, abs=1e-6)
    twin = [0, 1, 2, 2]
    q, doubled = nash_averaging(s[np.ix_(twin, twin)])
    assert q == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6], abs=1e-6)
    assert doubled == pytest.approx(skill[twin], abs=1e-6)
    # Borda is moved by the very same copies
    W = 1 / (1 + np.exp(-s))
    assert len({round(float(v), 6) for v in borda(W)}) == 1
    assert len({round(float(v), 6) for v in borda(W[np.ix_(twin, twin)])}) > 1


def test_all_equal_models_share_the_weight() -> None:
    assert max_entropy_nash(np.zeros((5, 5))) == pytest.approx([0.2] * 5)


@pytest.mark.parametrize("seed", range(6))
def test_equilibrium_is_one_and_has_the_largest_entropy(seed: int) -> None:
    """Small integer games have many equilibria: none of those found by random objectives has a larger entropy."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    upper = np.triu(rng.integers(-1, 2, size=(5, 5)), 1).astype(float)
    s = upper - upper.T
    p = max_entropy_nash(s)
    assert (s @ p).max() < 1e-6
    assert p.sum() == pytest.approx(1)

    def entropy(q: np.ndarray) -> float:
        return float(-(q[q > 0] * np.log(q[q > 0])).sum())

    corners = [
        linprog(rng.normal(size=5), A_ub=s, b_ub=np.zeros(5), A_eq=np.ones((1, 5)), b_eq=[1.0]).x for _ in range(30)
    ]
    mixtures = [*corners, *(w @ np.array(corners) for w in rng.dirichlet(np.full(30, 0.2), size=300))]
    assert entropy(p) >= max(map(entropy, mixtures)) - 1e-6


def test_transitive_matrix_has_no_curl_and_one_order() -> None:
    r = np.array([1.2, 0.4, -0.3, -1.3])
    W = 1 / (1 + np.exp(-(r[:, None] - r[None, :])))
    n = np.full((4, 4), 1e6)
    ratio, floor, p = curl_test(W, n)
    assert ratio == pytest.approx(0, abs=1e-9)
    assert floor < 1e-4
    assert p == pytest.approx(1)
    rules = orders(W, n)
    assert rules["bradley_terry"] == pytest.approx(r - r.mean(), abs=1e-6)
    assert disagreements(rules) == []
    assert [places(rules[k]) for k in ("bradley_terry", "borda", "copeland", "nash_skill")] == [[1, 2, 3, 4]] * 4
    assert places(rules["lottery_margin"]) == [1, 2, 3, 4]


def test_curl_of_a_cycle_stands_out_of_the_noise_and_noise_does_not() -> None:
    W = np.array([[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]])
    ratio, floor, p = curl_test(W, np.full((3, 3), 100))
    assert ratio == pytest.approx(1)
    assert p < 0.01
    assert floor > 0.5  # equal models have nothing but noise, which is then nearly all curl
    rng = np.random.default_rng(1)
    ps = []
    for seed in range(40):  # under Bradley-Terry p is not often small
        r = rng.normal(size=4)
        won = rng.binomial(50, 1 / (1 + np.exp(-(r[:, None] - r[None, :])))) / 50
        V = np.where(np.triu(np.ones((4, 4)), 1) > 0, won, 1 - won.T)
        np.fill_diagonal(V, 0.5)
        ps.append(curl_test(V, np.full((4, 4), 50), draws=100, seed=seed)[2])
    assert sum(v <= 0.05 for v in ps) <= 6  # binomial(40, 0.05): 6 or fewer with probability 0.996


def test_unknown_pairs_are_not_guessed() -> None:
    W = np.array([[0.5, 0.7, np.nan], [0.3, 0.5, 0.6], [np.nan, 0.4, 0.5]])
    rules = orders(W, np.full((3, 3), 10))
    assert set(rules) == {"bradley_terry", "borda", "copeland"}
    assert borda(W) == pytest.approx([0.7, 0.45, 0.4])
    assert copeland(W) == pytest.approx([1, 1, 0])
    assert places(rules["bradley_terry"]) == [1, 2, 3]
    with pytest.raises(ValueError, match="complete"):
        maximal_lottery(W)


def test_clipping_is_by_the_number_of_comparisons() -> None:
    s = clipped_logit(np.array([[0.5, 1.0], [0.0, 0.5]]), np.full((2, 2), 10))
    assert s[0, 1] == pytest.approx(np.log(19))
    assert s == pytest.approx(-s.T)


def test_cycles_are_those_of_brute_force_strongest_first() -> None:
    rng = np.random.default_rng(5)
    W = np.triu(rng.random((7, 7)), 1)
    W = W + np.tril(1 - W.T, -1)
    np.fill_diagonal(W, 0.5)
    found = strongest_cycles(W, limit=100)
    brute = {
        frozenset((i, j, k))
        for i in range(7)
        for j in range(7)
        for k in range(7)
        if W[i, j] > 0.5 and W[j, k] > 0.5 and W[k, i] > 0.5
    }
    assert {frozenset(c.models) for c in found} == brute
    assert len(found) == len(brute) > 1
    assert [c.strength for c in found] == sorted((c.strength for c in found), reverse=True)
