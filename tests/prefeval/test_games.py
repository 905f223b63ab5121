"""Matrix games against the reference document (13.1 to 13.5) and closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from prefeval.errors import ConfigError, DataError
from prefeval.games import (
    bradley_terry,
    condorcet_winner,
    curl_ratio,
    cycle_rate,
    cyclic_triples,
    duality_gap,
    hodge_split,
    is_cyclic,
    kl,
    log_normalise,
    nash_lp,
    open_game,
    read_matrix,
    regularised_gap,
    regularised_nash,
)
from prefeval.oracle import check_complementary, logit

NAMES = ["rps", "cyc3", "rand10:0", "rand10:1", "rand10:2", "bt10"]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


@pytest.mark.parametrize("name", NAMES)
def test_games_are_preference_matrices(name: str) -> None:
    game = open_game(name)
    check_complementary(game.P, name)
    assert game.start.shape == (len(game.P),)
    assert game.start.sum() == pytest.approx(1.0, abs=1e-12)


def test_recipes_of_the_games() -> None:
    rps, cyc3 = open_game("rps"), open_game("cyc3")
    assert rps.P.tolist() == [[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]]
    assert rps.start.tolist() == [0.7, 0.2, 0.1]
    assert (cyc3.P[1, 0], cyc3.P[2, 1], cyc3.P[0, 2]) == (0.9, 0.9, 0.8)
    assert cyc3.start.tolist() == [0.2, 0.5, 0.3]
    r = np.random.default_rng(2)
    s = np.triu(r.normal(size=(10, 10)), 1)
    s = s - s.T
    game = open_game("rand10:2")
    np.testing.assert_allclose(game.P, 1 / (1 + np.exp(-2 * s)), rtol=0, atol=1e-15)
    np.testing.assert_array_equal(game.start, r.dirichlet(np.ones(10)))


@pytest.mark.parametrize(("name", "support"), [("rand10:0", 5), ("rand10:1", 7), ("rand10:2", 7), ("bt10", 1)])
def test_nash_support(name: str, support: int) -> None:
    game = open_game(name)
    p = nash_lp(game.P)
    assert int((p > 1e-9).sum()) == support
    assert duality_gap(p, game.P) < 1e-12


def test_nash_of_cyc3_and_rps() -> None:
    np.testing.assert_allclose(nash_lp(open_game("cyc3").P), [4 / 11, 3 / 11, 4 / 11], atol=1e-12)
    np.testing.assert_allclose(nash_lp(open_game("rps").P), np.full(3, 1 / 3), atol=1e-12)
    with pytest.raises(ValueError, match="complete"):
        nash_lp(np.array([[0.5, np.nan], [np.nan, 0.5]]))


@pytest.mark.parametrize(
    ("name", "tau", "gap"),
    [
        ("rps", 0.1, 0.206),
        ("rps", 0.02, 0.037),
        ("rand10:1", 0.1, 0.227),
        ("rand10:1", 0.02, 0.067),
        ("bt10", 0.1, 0.207),
    ],
)
def test_regularised_nash(name: str, tau: float, gap: float) -> None:
    game = open_game(name)
    p = regularised_nash(game.P, tau, game.start)
    assert duality_gap(p, game.P) == pytest.approx(gap, abs=5e-4)
    np.testing.assert_allclose(np.log(p), log_normalise(np.log(game.start) + game.P @ p / tau), atol=1e-11)
    assert regularised_gap(p, game.P, tau, game.start) < 1e-14


@pytest.mark.parametrize("tau", [1e-3, 0.7, 5.0])
def test_regularised_nash_for_extreme_tau(tau: float) -> None:
    game = open_game("cyc3")
    assert regularised_gap(regularised_nash(game.P, tau, game.start), game.P, tau, game.start) < 1e-12


def test_gaps_by_hand_and_by_search() -> None:
    rps = open_game("rps")
    assert duality_gap(np.array([0.7, 0.2, 0.1]), rps.P) == pytest.approx(2 * (0.7 + 0.1 * 0.5) - 1)
    # The regularised gap is 2 max_q J_tau(q, p) - 1: no q of a fine grid does better, and one comes close.
    p, ref, tau = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3]), 0.3
    grid = [(a / 200, b / 200, (200 - a - b) / 200) for a in range(201) for b in range(201 - a)]
    best = max(np.array(q) @ rps.P @ p - tau * kl(np.array(q), ref) for q in grid) + tau * kl(p, ref)
    gap = regularised_gap(p, rps.P, tau, ref)
    assert 0 <= gap - (2 * best - 1) < 1e-4
    with pytest.raises(ValueError, match="tau > 0"):
        regularised_gap(p, rps.P, 0.0, ref)
    with pytest.raises(ValueError, match="tau > 0"):
        regularised_nash(rps.P, 0.0, ref)


def test_cycles_and_winners() -> None:
    assert cyclic_triples(open_game("rps").P) == 1
    assert cycle_rate(open_game("rps").P) == 1.0
    assert is_cyclic(open_game("cyc3").P)
    bt = open_game("bt10").P
    assert not is_cyclic(bt)
    assert cycle_rate(bt) == 0.0
    c = np.random.default_rng(7).normal(size=10)
    assert condorcet_winner(bt) == int(np.argmax(c))
    assert condorcet_winner(open_game("rps").P) is None
    assert math.isnan(cycle_rate(np.array([[0.5, 0.7], [0.3, 0.5]])))


def test_cyclic_triples_follow_kendalls_formula() -> None:
    draw = np.random.default_rng(3)
    for k in (5, 8):
        upper = np.triu(draw.random((k, k)), 1)
        table = upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(k)
        wins = (np.triu(table > 0.5, 1) + np.tril(table > 0.5, -1)).sum(axis=1)
        assert cyclic_triples(table) == math.comb(k, 3) - sum(math.comb(int(w), 2) for w in wins)


def test_failed_entries_are_left_out_of_cycles() -> None:
    table = np.full((4, 4), 0.5)
    for i, j in [(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)]:
        table[i, j], table[j, i] = 0.9, 0.1
    assert cycle_rate(table) == 0.25
    table[0, 3] = table[3, 0] = np.nan  # triples 013 and 023 are unknown now
    assert cycle_rate(table) == 0.5
    assert condorcet_winner(table) is None


def test_hodge_split() -> None:
    draw = np.random.default_rng(0)
    a = draw.normal(size=(6, 6))
    s = a - a.T
    u, gradient, curl = hodge_split(s)
    np.testing.assert_allclose(u, s.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(curl.sum(axis=1), 0, atol=1e-12)
    assert np.sum(s**2) == pytest.approx(np.sum(gradient**2) + np.sum(curl**2))
    triangles = sum(
        (s[i, j] + s[j, k] + s[k, i]) ** 2 for i in range(6) for j in range(i + 1, 6) for k in range(j + 1, 6)
    )
    assert np.sum(curl**2) == pytest.approx(2 / 6 * triangles)
    assert curl_ratio(s) == pytest.approx(2 / 6 * triangles / np.sum(s**2))


def test_curl_ratio_at_its_ends() -> None:
    assert curl_ratio(logit(open_game("bt10").P)) < 1e-20
    assert curl_ratio(logit(open_game("rps").P)) == pytest.approx(1.0)
    assert math.isnan(curl_ratio(np.zeros((2, 2))))
    assert curl_ratio(np.zeros((3, 3))) == 0.0


def test_hodge_split_with_missing_pairs_recovers_bradley_terry_scores() -> None:
    c = np.array([1.0, -0.5, 0.3, 2.0])
    s = c[:, None] - c[None, :]
    s[0, 3] = s[3, 0] = np.nan
    u, _, curl = hodge_split(s)
    np.testing.assert_allclose(u, c - c.mean(), atol=1e-12)
    assert np.isnan(curl[0, 3])
    assert curl_ratio(s) < 1e-20


def test_bradley_terry() -> None:
    c = np.array([2.0, -1.0, 0.5, 0.0])
    table = sigmoid(c[:, None] - c[None, :])
    for weights in (np.full(4, 0.25), np.array([0.97, 0.01, 0.01, 0.01]), np.array([1 - 3e-9, 1e-9, 1e-9, 1e-9])):
        np.testing.assert_allclose(bradley_terry(table, weights), c - c.mean(), atol=1e-9)
    # Misspecified: the stationarity equations hold, and weights matter.
    table, w = open_game("cyc3").P, np.array([0.2, 0.5, 0.3])
    r = bradley_terry(table, w)
    np.testing.assert_allclose((table - sigmoid(r[:, None] - r[None, :])) @ w, 0, atol=1e-12)
    assert np.max(np.abs(r - bradley_terry(table, np.full(3, 1 / 3)))) > 0.1


GOOD = "0.5,0.9\n0.1,0.5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least 2 rows, found 0"),
        ("0.5,0.9\n0.1\n", "row 2: 1 columns, but the file has 2 rows"),
        ("a,b\n0.5,0.9\n0.1,0.5\n", "row 1, field '1': 'a' is not a number (a matrix file has no header)"),
        ("a,b\n0.1,0.5\n", "row 1, field '1': 'a' is not a number (a matrix file has no header)"),
        ("0.5,1.2\n-0.2,0.5\n", "row 1, field '2': 1.2 is not a probability"),
        ("0.5,nan\n0.1,0.5\n", "row 1, field '2': nan is not a probability"),
        ("0.5,\n0.1,0.5\n", "row 1, field '2': '' is not a number"),
        ("0.4,0.9\n0.1,0.5\n", "row 1, field '1': 0.4 on the diagonal must be 0.5"),
        ("0.5,0.9\n\n0.2,0.5\n", "row 1, field '2': 0.9 and 0.2 (row 3, column 1) must sum to 1"),
    ],
)
def test_bad_matrix_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "game.csv"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        read_matrix(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_matrix_files(tmp_path: Path) -> None:
    file = tmp_path / "game.csv"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode() + b"\r\n")
    game = open_game(str(file))
    assert game.P.tolist() == [[0.5, 0.9], [pytest.approx(0.1), 0.5]]
    assert game.start.tolist() == [0.5, 0.5]
    with pytest.raises(DataError, match="no such file"):
        open_game(str(tmp_path / "other.csv"))
    file.write_bytes(b"\xff\xfe0")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_matrix(file)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rsp", "did you mean 'rps'"),
        ("rand10:x", "whole number"),
        ("rand10:-1", "whole number"),
        ("chess", "known: rps"),
    ],
)
def test_unknown_games(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_game(name)
