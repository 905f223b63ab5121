"""Variance components of repeated judgments, against simulations whose components are known and against ANOVA."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefeval.errors import DataError
from prefeval.variance import variance_components

QUESTION, ORDER, NOISE, POSITION = 0.09, 0.04, 0.02, 0.15


def simulated(questions: int, repeats: int, seed: int) -> tuple[np.ndarray, list[int], list[str]]:
    """Outcomes, questions and orders of a balanced design with the components above."""
    rng = np.random.default_rng(seed)
    q = rng.normal(0, math.sqrt(QUESTION), questions)[:, None, None]
    o = rng.normal(0, math.sqrt(ORDER), (questions, 2))[:, :, None]
    e = rng.normal(0, math.sqrt(NOISE), (questions, 2, repeats))
    shift = np.array([-POSITION / 2, POSITION / 2])[None, :, None]
    y = 0.4 + q + o + e + shift
    index = np.indices(y.shape)
    return y.ravel(), index[0].ravel().tolist(), ["ab" if i == 0 else "ba" for i in index[1].ravel()]


def test_known_components_are_recovered_without_bias() -> None:
    found = np.array(
        [
            [e.point for e in (c.question, c.order, c.noise, c.position)]
            for c in (variance_components(*simulated(60, 3, seed), resamples=2) for seed in range(300))
        ]
    )
    error = found.std(axis=0, ddof=1) / math.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - [QUESTION, ORDER, NOISE, POSITION]) < 4 * error)
    assert np.all(error < 0.003)


def test_intervals_cover_the_truth() -> None:
    """95% intervals of 200 simulations; 89% to 100% is five standard errors of that share."""
    hits = np.zeros(4)
    for seed in range(200):
        c = variance_components(*simulated(80, 2, 1000 + seed), resamples=300)
        truth = (QUESTION, ORDER, NOISE, POSITION)
        hits += [e.low <= t <= e.high for e, t in zip((c.question, c.order, c.noise, c.position), truth, strict=True)]
    assert np.all(hits / 200 > 0.87)


def test_balanced_estimates_are_those_of_the_analysis_of_variance() -> None:
    """Expected mean squares of the two-way layout, solved by hand."""
    y, q, o = simulated(40, 3, 7)
    found = variance_components(y, q, o, resamples=2)
    cube = y.reshape(40, 2, 3)
    cell = cube.mean(axis=2)
    ms_noise = ((cube - cell[:, :, None]) ** 2).sum() / (40 * 2 * 2)
    interaction = cell - cell.mean(axis=1, keepdims=True) - cell.mean(axis=0, keepdims=True) + cell.mean()
    ms_order = 3 * (interaction**2).sum() / 39
    ms_question = 6 * ((cell.mean(axis=1) - cell.mean()) ** 2).sum() / 39
    assert found.noise.point == pytest.approx(ms_noise)
    assert found.order.point == pytest.approx((ms_order - ms_noise) / 3)
    assert found.question.point == pytest.approx((ms_question - ms_order) / 6)
    assert found.position.point == pytest.approx(float(np.diff(cell.mean(axis=0))[0]))


def test_standard_error_is_the_spread_of_simulated_means() -> None:
    components = variance_components(*simulated(4000, 2, 11), resamples=2)
    means = [simulated(50, 2, 5000 + s)[0].mean() for s in range(600)]
    predicted = components.standard_error(50, orders=2, repeats=2)
    assert predicted == pytest.approx(float(np.std(means, ddof=1)), rel=0.1)
    assert components.standard_error(200, orders=2, repeats=2) == pytest.approx(predicted / 2)


def test_what_the_design_cannot_tell_is_nan() -> None:
    y, q, o = simulated(30, 1, 3)
    no_repeats = variance_components(y, q, o, resamples=20)
    assert math.isnan(no_repeats.noise.point)
    assert math.isnan(no_repeats.order.point)
    assert no_repeats.position.n == 30
    one_order = variance_components(y[::2], q[::2], resamples=20)
    assert one_order.question.point == pytest.approx(float(np.var(y[::2], ddof=1)))
    assert math.isnan(one_order.position.point)
    y[0] = math.nan
    dropped = variance_components(y, q, o, resamples=20)
    assert (dropped.question.n, dropped.question.n_failed) == (29, 1)
    with pytest.raises(DataError, match="two orders"):
        variance_components([1.0, 2.0, 3.0], [0, 1, 2], ["a", "b", "c"])
