"""The length-controlled fit and its resamples, against scikit-learn and against one careful fit a resample."""

from __future__ import annotations

import math

import numpy as np
import pytest

from leaderboard.compare import refitted_comparisons
from leaderboard.lc_bootstrap import lc_draws, length_controlled
from leaderboard.length_control import C_GRID, GamedRows, build_problem, choose_c, fit, rate_from_weights, violation
from leaderboard.table import TableRow, make_table
from prefeval.stats import Estimate, resample_counts

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, GamedRows]


def simulated(n: int = 150, seed: int = 0, shift: float = -0.5) -> Rows:
    """Soft verdicts that depend on length and difficulty, and gamed rows of the same taste."""
    rng = np.random.default_rng(seed)
    gap, hard = rng.normal(100, 600, n), rng.normal(0, 1, n)
    eta = -1.2 * np.tanh(gap / gap.std(ddof=1)) + 0.6 * hard + shift + rng.normal(0, 1, n)
    gamed = GamedRows(np.tanh(rng.normal(size=60)), rng.normal(size=60), rng.uniform(size=60))
    return 1 / (1 + np.exp(-eta)), gap, hard, gamed


def brute_force(rows: Rows, counts: np.ndarray, c: float) -> np.ndarray:
    """Rows repeated as drawn, features computed anew, one fit a resample from zero."""
    y, gap, hard, gamed = rows
    found = []
    for k in counts.astype(int):
        i = np.repeat(np.arange(len(y)), k)
        found.append(rate_from_weights(fit(build_problem(y[i], gap[i], hard[i], gamed), c), hard[i]))
    return np.array(found)


@pytest.mark.parametrize("c", [0.01, 0.046, 0.359, 2.783, 21.54, 1e4])
def test_draws_are_the_refits_of_each_resample(c: float) -> None:
    """Small C puts some weights at exactly zero in some resamples: the penalty's corners are met too."""
    rows = simulated(seed=3)
    y, gap, hard, gamed = rows
    counts = resample_counts(len(y), 80, 2)
    weights = fit(build_problem(y, gap, hard, gamed), c)
    assert lc_draws(*rows, counts, weights, c) == pytest.approx(brute_force(rows, counts, c), abs=1e-4)


def test_a_hopeless_start_still_arrives() -> None:
    """Twenty rows, one model that nearly always wins, and a start far off: the careful solver takes over."""
    rows = simulated(20, seed=5, shift=6.0)
    counts = resample_counts(20, 60, 1)
    assert lc_draws(*rows, counts, np.array([9.0, -7.0, -20.0]), 21.54) == pytest.approx(
        brute_force(rows, counts, 21.54), abs=1e-3
    )


def test_resamples_without_rows_and_constant_lengths() -> None:
    y, _, hard, gamed = simulated(12)
    counts = np.ones((3, 12))
    counts[1] = 0
    draws = lc_draws(y, np.full(12, 7.0), hard, gamed, counts, np.zeros(3), 21.54)
    assert np.isnan(draws).tolist() == [False, True, False]
    same = rate_from_weights(fit(build_problem(y, np.full(12, 7.0), hard, gamed), 21.54), hard)
    assert draws[[0, 2]] == pytest.approx([same, same], abs=1e-4)
    even = length_controlled(np.full(4, 0.5), np.zeros(4), None, GamedRows(), np.ones((2, 4)), c=1.0)
    assert (even.rate, even.low, even.high) == (50.0, 50.0, 50.0)


@pytest.mark.parametrize("c", [0.046, 2.783, 21.54, 1291.5])
def test_fit_is_scikit_learns(c: float) -> None:
    """liblinear on duplicated rows, as upstream calls it, run to convergence: weights and rate to 1e-6."""
    from sklearn.linear_model import LogisticRegression

    y, gap, hard, gamed = simulated(400, seed=7)
    problem = build_problem(y, gap, hard, gamed)
    twice = np.concatenate([problem.s * problem.y, problem.s * (1 - problem.y)])
    labels = np.concatenate([np.ones(len(problem.y)), np.zeros(len(problem.y))])
    model = LogisticRegression(
        C=c, l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-13, max_iter=200_000, random_state=123
    )
    model.fit(np.vstack([problem.x, problem.x]), labels, sample_weight=twice)
    w = fit(problem, c)
    assert w == pytest.approx(model.coef_[0], abs=1e-6)
    assert rate_from_weights(w, hard) == pytest.approx(rate_from_weights(model.coef_[0], hard), abs=1e-6)
    assert violation(problem, w, c) < 1e-6 * max(1.0, c)
    early = LogisticRegression(C=c, l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-13, max_iter=2)
    with pytest.warns(UserWarning, match="converge"):
        early.fit(np.vstack([problem.x, problem.x]), labels, sample_weight=twice)
    assert violation(problem, early.coef_[0], c) > 100 * violation(problem, w, c)


def test_cross_validation_is_scikit_learns_group_folds() -> None:
    """Both copies of a row in one fold, the weighted log loss of held-out rows, the grid of ten C."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    for seed in (1, 2, 9):
        y, gap, hard, gamed = simulated(120, seed=seed)
        problem = build_problem(y, gap, hard, gamed)
        n = len(problem.y)
        x, labels = np.vstack([problem.x, problem.x]), np.repeat([1, 0], n)
        share = np.concatenate([problem.y, 1 - problem.y])
        s = np.concatenate([problem.s, problem.s])
        losses = np.zeros(len(C_GRID))
        for train, test in GroupKFold(5).split(x, labels, np.tile(np.arange(n), 2)):
            for i, c in enumerate(C_GRID):
                model = LogisticRegression(C=c, l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-8)
                model.fit(x[train], labels[train], sample_weight=(share * s)[train])
                eta = x[test] @ model.coef_[0]
                loss = np.logaddexp(0, eta) - np.where(labels[test] == 1, share[test], 1 - share[test]) * eta
                losses[i] += np.mean(s[test] * loss)
        assert choose_c(problem) == pytest.approx(C_GRID[int(np.argmin(losses))])


def test_models_are_compared_draw_by_draw() -> None:
    """Two models that share the noise of the questions: the paired interval is narrower than the unpaired one."""
    y, gap, hard, gamed = simulated(400, seed=11)
    rng = np.random.default_rng(1)
    near = np.clip(y + 0.03 + rng.normal(0, 0.02, 400), 0, 1)
    counts = resample_counts(400, 600, 0)
    rows = []
    for name, verdicts in (("one", y), ("near", near), ("same", y)):
        found = length_controlled(verdicts, gap, hard, gamed, counts, c=21.54)
        score = Estimate(found.rate, found.low, found.high, 400)
        rows.append(TableRow(name, score, extra={"lc_win_rate": found.rate}, draws={"lc_win_rate": found.draws}))
    table = make_table("x", "alpaca_eval", rows)
    compared = {(c.first, c.second): c for c in refitted_comparisons(table, "lc_win_rate")}
    assert set(compared) == {("near", "one"), ("near", "same"), ("one", "same")}
    near_one, same = compared["near", "one"], compared["one", "same"]
    pair = {r.name: r for r in table.rows}
    first, second = ((v, gap, hard, gamed) for v in (near, y))
    truth = brute_force(first, counts[:25], 21.54) - brute_force(second, counts[:25], 21.54)
    drawn = pair["near"].draws["lc_win_rate"] - pair["one"].draws["lc_win_rate"]
    assert drawn[:25] == pytest.approx(truth, abs=1e-3)
    assert near_one.difference.point == pytest.approx(pair["near"].score.point - pair["one"].score.point)
    assert near_one.difference.low > 0
    assert near_one.p < 0.001
    alone = pair["near"].score.high - pair["near"].score.low
    assert near_one.difference.high - near_one.difference.low < 0.5 * alone
    spread = float(np.std(drawn, ddof=1))
    assert near_one.detectable == pytest.approx((1.959964 + 0.841621) * spread, rel=1e-5)
    assert (same.difference.point, same.p, same.measure) == (0.0, 1.0, "lc_win_rate")
    assert not math.isnan(same.detectable)
