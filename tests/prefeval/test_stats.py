"""Statistics against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as reference

from prefeval.stats import (
    Estimate,
    bootstrap_mean,
    bootstrap_statistic,
    holm,
    minimum_detectable_difference,
    paired_difference,
    percentile_interval,
    resample_counts,
    sign_flip_test,
    wilson,
)


def test_bootstrap_interval_matches_the_normal_one() -> None:
    x = np.random.default_rng(1).normal(3.0, 2.0, 900)
    estimate = bootstrap_mean(x, resamples=4000)
    half = 1.959964 * x.std() / math.sqrt(len(x))
    assert estimate.point == pytest.approx(x.mean(), rel=1e-12)
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.06)  # sd of a quantile range at 4000 draws: 2%
    assert (estimate.high + estimate.low) / 2 == pytest.approx(x.mean(), abs=0.1 * half)
    narrow = bootstrap_mean(x, resamples=4000, level=0.5)
    assert (narrow.high - narrow.low) / (estimate.high - estimate.low) == pytest.approx(0.67449 / 1.959964, rel=0.08)


def test_clusters_not_rows_are_resampled() -> None:
    """Ten copies of each row inside its cluster carry no information: the same interval, not one 3.2 times narrower."""
    x = np.random.default_rng(2).normal(size=80)
    plain = bootstrap_mean(x, seed=5)
    copies = bootstrap_mean(np.repeat(x, 10), np.repeat(np.arange(80), 10).tolist(), seed=5)
    assert (copies.low, copies.high) == (pytest.approx(plain.low), pytest.approx(plain.high))
    assert copies.n == 800
    pretended = bootstrap_mean(np.repeat(x, 10), seed=5)
    ratio = (copies.high - copies.low) / (pretended.high - pretended.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.2)


def test_weights_and_missing_values() -> None:
    estimate = bootstrap_mean([1.0, math.nan, 4.0, 2.0], weights=[1.0, 100.0, 2.0, 1.0])
    assert estimate.point == pytest.approx((1 + 8 + 2) / 4)
    assert (estimate.n, estimate.n_failed) == (3, 1)
    empty = bootstrap_mean([math.nan, math.nan])
    assert math.isnan(empty.point)
    assert (empty.n, empty.n_failed) == (0, 2)


def test_a_weight_of_n_is_n_rows_of_one_cluster() -> None:
    rng = np.random.default_rng(6)
    x, weights = rng.normal(size=50), rng.integers(1, 4, 50)
    weighted = bootstrap_mean(x, weights=weights, seed=2)
    repeated = bootstrap_mean(np.repeat(x, weights), np.repeat(np.arange(50), weights).tolist(), seed=2)
    assert weighted.point == pytest.approx(repeated.point)
    assert (weighted.low, weighted.high) == (pytest.approx(repeated.low), pytest.approx(repeated.high))


def test_constant_values_have_no_width() -> None:
    estimate = bootstrap_mean([0.25] * 12)
    assert (estimate.point, estimate.low, estimate.high) == (0.25, 0.25, 0.25)


def test_bootstrap_is_reproducible_and_seeded() -> None:
    x = list(range(30))
    assert bootstrap_mean(x, seed=1) == bootstrap_mean(x, seed=1)
    assert bootstrap_mean(x, seed=1) != bootstrap_mean(x, seed=2)


def test_resample_counts() -> None:
    counts = resample_counts(7, 500, seed=0)
    assert counts.shape == (500, 7)
    assert np.all(counts.sum(axis=1) == 7)
    # each count is binomial(7, 1/7): variance 6/7
    assert counts.var() == pytest.approx(6 / 7, rel=0.1)


def test_bootstrap_statistic() -> None:
    x = np.arange(40.0)
    point, low, high, draws = bootstrap_statistic(lambda c: float(c @ x / c.sum()), 40, seed=3)
    mean = bootstrap_mean(x, seed=3)
    assert (point, low, high) == (pytest.approx(mean.point), pytest.approx(mean.low), pytest.approx(mean.high))
    assert draws.shape == (1000,)
    _, low, _, _ = bootstrap_statistic(lambda c: math.nan if c[0] == 0 else 1.0, 5)
    assert low == 1.0  # draws in which the statistic does not exist are left out of the interval


def test_percentile_interval() -> None:
    assert percentile_interval(np.arange(101.0), 0.9) == (pytest.approx(5.0), pytest.approx(95.0))
    assert all(math.isnan(v) for v in percentile_interval(np.array([])))


def test_sign_flip_test_matches_its_exact_value() -> None:
    """Five differences of +1: only all-plus and all-minus reach the sum, p = 2 / 2^5."""
    estimate, p = paired_difference([1.0] * 5, [0.0] * 5, resamples=20000)
    assert estimate.point == 1.0
    assert p == pytest.approx(2 / 32, abs=4 * math.sqrt(0.0625 * 0.9375 / 20000) + 1e-4)


def test_sign_flip_test_agrees_with_scipy() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.35, 1, 40), rng.normal(0, 1, 40)
    _, p = paired_difference(a, b, resamples=20000)
    other = reference.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20000,
    )
    assert p == pytest.approx(float(other.pvalue), abs=0.02)


def test_sign_flips_are_by_cluster() -> None:
    """Twenty rows in two clusters: four sign patterns, two of which reach the sum, so p cannot be below 1/2."""
    _, p = paired_difference([1.0] * 20, [0.0] * 20, [0] * 10 + [1] * 10, resamples=8000)
    assert p == pytest.approx(0.5, abs=0.03)
    _, nothing = paired_difference([math.nan], [1.0])
    assert math.isnan(nothing)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 17), (805, 1000), (1, 2)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_is_scipys(k: int, n: int, level: float) -> None:
    expected = reference.binomtest(k, n).proportion_ci(confidence_level=level, method="wilson")
    assert wilson(k, n, level) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))


def test_wilson_of_nothing() -> None:
    assert all(math.isnan(v) for v in wilson(0, 0))


def test_holm_by_hand() -> None:
    """Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, made monotone."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_minimum_detectable_difference_has_the_power_it_claims() -> None:
    """z(0.975) + z(0.8) = 2.80159; at that difference a z test rejects with probability 0.8."""
    delta = minimum_detectable_difference(2.0, 400)
    assert delta == pytest.approx(2.80159 * 2.0 / 20, rel=1e-5)
    z = delta / (2.0 / 20)
    assert 1 - reference.norm.cdf(1.959964 - z) == pytest.approx(0.8, abs=1e-4)


def test_estimate_prints_interval_n_and_dropped() -> None:
    estimate = Estimate(0.5, 0.25, 0.75, 80, 3)
    assert str(estimate) == "0.500 [0.250, 0.750] (n=80, 3 dropped)"
    assert str(estimate.scaled(100)) == "50.000 [25.000, 75.000] (n=80, 3 dropped)"
    assert estimate.as_dict() == {"point": 0.5, "low": 0.25, "high": 0.75, "n": 80, "n_failed": 3}


def test_sign_flips_of_many_comparisons_reach_small_p() -> None:
    """60 differences of mean one deviation: far below 1 / flips, where the exact p of the normal model takes over."""
    rng = np.random.default_rng(8)
    d = rng.normal([0.0, 0.4, 1.0], 1.0, (60, 3))
    p = sign_flip_test(d, flips=4000, seed=1)
    for column, found in zip(d.T, p, strict=True):
        z = abs(column.sum()) / math.sqrt((column**2).sum())
        assert found == pytest.approx(2 * float(reference.norm.sf(z)), rel=0.2)
    assert p[2] < 1e-6
    assert sign_flip_test(np.zeros((5, 1)))[0] == 1.0
