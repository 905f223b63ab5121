"""Laplace and pessimism against brute force: autograd Hessians, sampled posteriors, scikit-learn, a toy of bad luck."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import expit as sigmoid

from prefeval.errors import DataError
from prefeval.stats import wilson
from prefeval.types import FloatArray
from reward_models.uncertainty import (
    Pessimist,
    bradley_terry_weights,
    covariance,
    last_layer_laplace,
    pessimistic_mle,
    radius_of,
)


def comparisons(n: int = 60, d: int = 4) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(n, d)), rng.uniform(size=n).round(1)


def test_weights_are_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    x, label = comparisons()
    hard = (label > 0.5).astype(float)
    theirs = LogisticRegression(C=1 / 0.7, fit_intercept=False, tol=1e-12, max_iter=1000).fit(x, hard)
    np.testing.assert_allclose(bradley_terry_weights(x, hard, ridge=0.7), theirs.coef_[0], atol=1e-6)


def test_hessian_is_that_of_the_penalised_loss() -> None:
    x, label = comparisons()
    fit = last_layer_laplace(x, label, ridge=0.3)
    rows, target = torch.tensor(x), torch.tensor(label)

    def loss(w: torch.Tensor) -> torch.Tensor:
        fits = torch.nn.functional.binary_cross_entropy_with_logits(rows @ w, target, reduction="sum")
        return fits + 0.15 * (w @ w)

    w = torch.tensor(fit.weights, requires_grad=True)
    hessian = torch.autograd.functional.hessian(loss, w)
    np.testing.assert_allclose(fit.hessian, hessian.numpy(), rtol=1e-10)
    assert float(torch.autograd.grad(loss(w), w)[0].abs().max()) < 1e-9  # and the weights are its minimum
    np.testing.assert_allclose(fit.variance(x), np.einsum("nd,de,ne->n", x, np.linalg.inv(hessian), x), rtol=1e-9)


def test_probability_is_the_posterior_mean() -> None:
    x, label = comparisons(n=12)
    fit = last_layer_laplace(x, label, ridge=0.3)
    draws = np.random.default_rng(0).multivariate_normal(fit.weights, np.linalg.inv(fit.hessian), size=100_000)
    sampled = sigmoid(draws @ x.T).mean(axis=0)
    plain = np.abs(sigmoid(fit.score(x)) - sampled).max()
    assert np.abs(fit.probability(x) - sampled).max() < min(0.01, plain / 2)  # nearer than the plug-in probability
    np.testing.assert_allclose(fit.probability(x) + fit.probability(-x), 1.0, atol=1e-12)
    spread = (draws @ x.T).std(axis=0)
    np.testing.assert_allclose(fit.lower(x, 2.0), fit.score(x) - 2.0 * spread, rtol=0.02, atol=0.02)


def test_variance_shrinks_where_comparisons_are() -> None:
    x = np.array([[1.0, 0.0]] * 50 + [[0.0, 1.0]])
    seen, unseen = last_layer_laplace(x, np.full(51, 0.5), ridge=0.1).variance(np.eye(2))
    assert seen == pytest.approx(1 / (0.1 + 50 / 4))  # p = 1/2: every comparison adds 1/4
    assert unseen == pytest.approx(1 / (0.1 + 1 / 4))


def test_covariance_of_pairs_and_rankings() -> None:
    rng = np.random.default_rng(1)
    groups = [rng.normal(size=(4, 3)) for _ in range(5)]
    brute = sum(
        np.outer(g[i] - g[j], g[i] - g[j]) for g in groups for i in range(4) for j in range(4) if i < j
    )  # 2 / (n K (K - 1)) sum over pairs
    np.testing.assert_allclose(covariance(groups), brute * 2 / (5 * 4 * 3))
    pairs = [g[:2] for g in groups]
    delta = np.array([a - b for a, b in pairs])
    np.testing.assert_allclose(covariance(pairs), delta.T @ delta / 5)


def test_lower_value_is_the_least_in_the_confidence_set() -> None:
    rng = np.random.default_rng(2)
    pessimist = pessimistic_mle([rng.normal(size=(3, 2)) for _ in range(20)], radius=0.4, ridge=0.01)
    features, reference = rng.normal(size=(4, 2)), rng.normal(size=2)
    angle = np.linspace(0, 2 * math.pi, 100_001)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    root = np.linalg.cholesky(pessimist.sigma + 0.01 * np.eye(2))
    edge = pessimist.weights[:, None] + 0.4 * np.linalg.solve(root.T, circle)  # |w - weights| = radius in that norm
    np.testing.assert_allclose(
        pessimist.lower(features, reference), ((features - reference) @ edge).min(axis=1), rtol=1e-6
    )


def one_toy(seed: int) -> Pessimist:
    """Three arms worth (0, 1, -0.5): arm 1 has met arm 0 in 1,000 comparisons, arm 2 has met it in two."""
    rng, arms = np.random.default_rng(seed), np.eye(3)

    def duel(arm: int, value: float) -> FloatArray:
        return arms[[arm, 0]] if rng.uniform() < sigmoid(value) else arms[[0, arm]]

    duels = [duel(1, 1.0) for _ in range(1000)] + [duel(2, -0.5) for _ in range(2)]
    radius = radius_of(1002, 3, norm=1.2, length=math.sqrt(2), ridge=1e-4)
    return pessimistic_mle(duels, radius=radius, ridge=1e-4)


@pytest.mark.slow
def test_pessimism_refuses_the_arm_that_was_lucky_twice() -> None:
    seeds = 200
    reports = [one_toy(seed).report(np.eye(3), np.eye(3)[0]) for seed in range(seeds)]
    plain = sum(r["plain_choice"] == 2 for r in reports)
    pessimistic = sum(r["pessimistic_choice"] == 2 for r in reports)
    right = sum(r["pessimistic_choice"] == 1 for r in reports)
    low, high = wilson(plain, seeds)
    assert low < sigmoid(-0.5) ** 2 < high  # the chance that the bad arm wins both of its comparisons
    assert low > wilson(pessimistic, seeds)[1]
    assert wilson(right, seeds)[0] > 0.95


def test_report_counts_what_is_covered() -> None:
    report = one_toy(0).report(np.eye(3), np.eye(3)[0])
    assert (report["n"], report["dimension"], report["directions"]) == (1002, 3, 2)  # a constant shift is never seen
    s = np.linalg.eigvalsh(one_toy(0).sigma)
    assert report["effective_dimension"] == pytest.approx((s / (s + 1e-4)).sum())
    rows = report["candidates"]
    assert rows[0]["uncovered"] == 0.0
    assert rows[2]["uncovered"] > 5 * rows[1]["uncovered"]
    assert all(r["lower"] == pytest.approx(r["value"] - r["penalty"]) for r in rows)


def test_radius_by_hand() -> None:
    gamma = 1 / (2 + math.exp(-2) + math.exp(2))
    by_hand = math.sqrt((5 + math.log(20)) / (gamma**2 * 100) + 0.01 * 4)
    assert radius_of(100, 5, norm=2.0, length=1.0, ridge=0.01) == pytest.approx(by_hand)


def test_unusable_input_is_one_line() -> None:
    x, label = comparisons()
    for call in (
        lambda: last_layer_laplace(x, label[:3]),
        lambda: last_layer_laplace(x * np.nan, label),
        lambda: last_layer_laplace(x, label + 1),
        lambda: last_layer_laplace(x, label, ridge=0.0),
        lambda: pessimistic_mle([], radius=1.0),
        lambda: pessimistic_mle([np.eye(3)[:1]], radius=1.0),
        lambda: pessimistic_mle([np.eye(3), np.eye(2)], radius=1.0),
        lambda: pessimistic_mle([np.eye(3)], radius=-1.0),
    ):
        with pytest.raises(DataError):
            call()
