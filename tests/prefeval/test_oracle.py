"""The contract of oracles, as properties: P + P.T == 1, 0.5 inside, NaN on both sides, nothing made up."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefeval.oracle import (
    Ensemble,
    LengthDebiased,
    MatrixOracle,
    Noisy,
    Oracle,
    PairwiseRule,
    check_complementary,
    logit,
    sigmoid_matrix,
    symmetrise,
    win_rates,
)
from prefeval.types import Comparison, FloatArray, Prompt

PROMPT = Prompt.from_text("q")


def square(cell: st.SearchStrategy[float]) -> st.SearchStrategy[FloatArray]:
    return st.integers(1, 5).flatmap(
        lambda k: st.lists(cell, min_size=k * k, max_size=k * k).map(lambda c: np.array(c).reshape(k, k))
    )


PROBABILITY = st.floats(0.0, 1.0)
WITH_GAPS = PROBABILITY | st.just(math.nan)


class Fixed(MatrixOracle):
    """Answers every group with one table."""

    def __init__(self, table: FloatArray, name: str = "fixed") -> None:
        self.table, self.name = table, name

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[str]]) -> list[FloatArray]:
        return [self.table for _ in prompts]


def ask(oracle: Oracle, k: int) -> FloatArray:
    return oracle.matrix([PROMPT], [["x" * n for n in range(1, k + 1)]])[0]


def holds(p: FloatArray) -> bool:
    """Exactly complementary, exactly 0.5 inside, in [0, 1], missing on both sides."""
    finite = ~np.isnan(p)
    return bool(
        p.dtype == np.float64
        and np.array_equal(finite, finite.T)
        and np.all((p + p.T)[finite] == 1.0)
        and np.all(np.diag(p) == 0.5)
        and np.all((p[finite] >= 0.0) & (p[finite] <= 1.0))
    )


@given(table=square(WITH_GAPS))
def test_symmetrise(table: FloatArray) -> None:
    p = symmetrise(table)
    assert holds(p)
    assert p.shape == table.shape
    np.testing.assert_allclose(symmetrise(p), p, atol=1e-15)  # idempotent: it halves nothing and doubles nothing
    for i in range(len(p)):
        for j in range(len(p)):
            if i != j:
                expected = (table[i, j] + 1 - table[j, i]) / 2  # NaN when either order is missing
                np.testing.assert_allclose(p[i, j], expected, atol=1e-15)


@given(table=square(WITH_GAPS))
def test_symmetrise_commutes_with_reordering(table: FloatArray) -> None:
    order = np.arange(len(table))[::-1]
    np.testing.assert_allclose(
        symmetrise(table[np.ix_(order, order)]), symmetrise(table)[np.ix_(order, order)], atol=1e-15
    )


@given(scores=square(st.floats(-800, 800)))
def test_sigmoid_matrix(scores: FloatArray) -> None:
    s = np.triu(scores, 1) - np.triu(scores, 1).T
    with np.errstate(over="ignore"):
        expected = 1.0 / (1.0 + np.exp(-s))
    p = sigmoid_matrix(s)
    assert holds(p)
    np.testing.assert_allclose(p, expected, atol=1e-14)


@given(scores=square(st.floats(-25, 25)))
def test_logit_undoes_sigmoid(scores: FloatArray) -> None:
    s = np.triu(scores, 1) - np.triu(scores, 1).T
    back = logit(sigmoid_matrix(s))
    np.testing.assert_array_equal(back, -back.T)
    # dP = P (1 - P) dS: an error of 1e-16 in P is one of 1e-16 e^|S| in S
    assert np.all(np.abs(back - s) <= 1e-15 + 4e-16 * np.exp(np.abs(s)))


def test_logit_keeps_missing_and_stays_finite() -> None:
    s = logit(np.array([[0.5, 1.0, math.nan], [0.0, 0.5, 0.75], [math.nan, 0.25, 0.5]]))
    assert s[0, 1] == pytest.approx(-math.log(1e-12), rel=1e-4)
    assert s[1, 2] == pytest.approx(math.log(3))
    assert math.isnan(s[0, 2])
    assert math.isnan(s[2, 0])


@settings(max_examples=50, deadline=None)
@given(
    k=st.integers(1, 4), size=st.integers(1, 4), seed=st.integers(0, 2**32 - 1), gaps=st.sampled_from([0.0, 0.3, 1.0])
)
def test_ensemble(k: int, size: int, seed: int, gaps: float) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.random((size, k, k))
    cells[rng.random((size, k, k)) < gaps] = math.nan
    tables = [symmetrise(table) for table in cells]
    ensemble = Ensemble([Fixed(t, f"m{n}") for n, t in enumerate(tables)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = ask(ensemble, k)
        lower = ensemble.lower([PROMPT], [["x"] * k])[0]
    assert holds(p)
    assert ensemble.name == "ensemble:" + "+".join(f"m{n}" for n in range(size))
    for i in range(k):
        for j in range(k):
            votes = [t[i, j] for t in tables if not math.isnan(t[i, j])]
            if not votes:
                assert math.isnan(p[i, j])
                assert math.isnan(lower[i, j])
            else:
                assert p[i, j] == pytest.approx(np.mean(votes), abs=1e-12)
                assert lower[i, j] == pytest.approx(max(np.mean(votes) - np.std(votes), 0.0), abs=1e-9)


def test_ensemble_needs_members() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])


@given(table=square(WITH_GAPS), flip=st.floats(0.0, 0.49))
def test_noisy(table: FloatArray, flip: float) -> None:
    clean = symmetrise(table)
    p = ask(Noisy(Fixed(clean), flip), len(table))
    assert holds(p)
    np.testing.assert_allclose(p, (1 - flip) * clean + flip * (1 - clean), atol=1e-12)
    if flip == 0.0:
        np.testing.assert_allclose(p, clean, atol=1e-15)


@pytest.mark.parametrize("flip", [-0.1, 0.5, 1.0])
def test_noise_must_leave_a_signal(flip: float) -> None:
    with pytest.raises(ValueError, match="flip"):
        Noisy(Fixed(np.array([[0.5]])), flip)


@given(table=square(st.floats(0.001, 0.999)), slope=st.floats(-1.0, 1.0))
def test_length_debiased(table: FloatArray, slope: float) -> None:
    clean, k = symmetrise(table), len(table)
    oracle = LengthDebiased(Fixed(clean), slope)
    p = ask(oracle, k)
    assert holds(p)
    length = np.arange(1.0, k + 1)
    odds = np.log(clean / (1 - clean)) - slope * (length[:, None] - length[None, :])
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-odds)), atol=1e-9)


@given(scores=st.lists(st.floats(-5, 5), min_size=2, max_size=5), slope=st.floats(0.01, 1.0))
def test_length_debiasing_removes_a_bias_that_was_added(scores: list[float], slope: float) -> None:
    reward = np.array(scores)
    length = np.arange(1.0, len(reward) + 1)
    biased = reward + slope * length
    p = ask(LengthDebiased(Fixed(sigmoid_matrix(biased[:, None] - biased[None, :])), slope), len(reward))
    np.testing.assert_allclose(p, sigmoid_matrix(reward[:, None] - reward[None, :]), atol=1e-9)


def test_wrappers_keep_failures() -> None:
    table = symmetrise(np.array([[0.5, math.nan], [0.3, 0.5]]))
    for oracle in (Noisy(Fixed(table), 0.2), LengthDebiased(Fixed(table), 0.1), Ensemble([Fixed(table)])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            p = ask(oracle, 2)
        assert math.isnan(p[0, 1])
        assert math.isnan(p[1, 0])
        assert math.isnan(oracle.compare([Comparison(PROMPT, "a", "b")])[0])


def test_pairwise_rule_asks_both_orders() -> None:
    """A rule that always likes the first it sees says nothing: 0.5 once both orders are averaged."""
    assert np.all(ask(PairwiseRule("first", lambda prompt, a, b: 0.9), 3) == 0.5)
    longer = PairwiseRule("longer", lambda prompt, a, b: 1.0 if len(a) > len(b) else 0.0 if len(a) < len(b) else 0.5)
    np.testing.assert_array_equal(ask(longer, 3), [[0.5, 0.0, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 0.5]])
    compared = longer.compare([Comparison(PROMPT, "aa", "b"), Comparison(PROMPT, "aa", "b").swap()])
    np.testing.assert_array_equal(compared, [1.0, 0.0])
    assert isinstance(longer, Oracle)


def test_win_rates() -> None:
    p = symmetrise(np.array([[0.5, 0.9, math.nan], [0.1, 0.5, 0.4], [math.nan, 0.6, 0.5]]))
    np.testing.assert_allclose(win_rates(p), [0.9, 0.25, 0.6])
    np.testing.assert_allclose(win_rates(p, include_self=True), [0.7, (0.1 + 0.5 + 0.4) / 3, 0.55])
    full = symmetrise(np.random.default_rng(0).random((6, 6)))
    assert win_rates(full).sum() == pytest.approx(3.0)  # every pair hands out one point: k / 2 on average


@pytest.mark.parametrize(
    "table",
    [[[0.5, 0.7], [0.4, 0.5]], [[0.4]], [[0.5, 1.2], [-0.2, 0.5]], [[0.5, math.nan], [0.3, 0.5]], [[0.5, 0.5]]],
)
def test_check_complementary_refuses(table: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="'bad'"):
        check_complementary(np.array(table), "bad")


@given(table=square(WITH_GAPS))
def test_check_complementary_accepts_every_symmetrised_table(table: FloatArray) -> None:
    check_complementary(symmetrise(table), "good")
