"""Losses against closed forms and numbers worked out by hand (reference 1.2 and section 9, items 1 and 2)."""

from __future__ import annotations

import math

import pytest
import torch

from reward_models import losses
from reward_models.config import LossConfig
from reward_models.items import pair_loss

D = torch.tensor([-2.0, -0.3, 0.0, 0.7, 3.0], dtype=torch.float64)


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def test_plain_loss_starts_at_log_two_and_matches_the_definition() -> None:
    assert float(losses.soft_bce(torch.zeros(1))) == pytest.approx(0.693147, abs=1e-6)
    expected = [-log_sigmoid(float(d)) for d in D]
    torch.testing.assert_close(losses.soft_bce(D), torch.tensor(expected, dtype=torch.float64))


def test_soft_label_is_a_mixture_and_least_at_the_log_odds() -> None:
    p = 0.8
    expected = [-(p * log_sigmoid(float(d)) + (1 - p) * log_sigmoid(-float(d))) for d in D]
    torch.testing.assert_close(losses.soft_bce(D, p), torch.tensor(expected, dtype=torch.float64))
    best = torch.tensor([math.log(p / (1 - p))], requires_grad=True)
    losses.soft_bce(best, p).sum().backward()
    assert float(best.grad) == pytest.approx(0.0, abs=1e-6)


def test_extreme_scores_do_not_overflow() -> None:
    assert float(losses.soft_bce(torch.tensor(-1e4))) == 1e4
    assert float(losses.soft_bce(torch.tensor(1e4))) == 0.0


def test_margin_at_d_equal_to_m_is_log_two_and_follows_the_winner() -> None:
    m = torch.tensor([1.5])
    assert float(losses.margin_bce(m, m)) == pytest.approx(math.log(2))
    # the same pair written the other way round
    assert float(losses.margin_bce(-torch.tensor([0.4]), m, 0.0)) == pytest.approx(-log_sigmoid(0.4 - 1.5))


def test_scaled_gradient_is_m_times_plain_gradient() -> None:
    plain, scaled = D.clone().requires_grad_(), D.clone().requires_grad_()
    m = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    losses.soft_bce(plain).sum().backward()
    losses.scaled_bce(scaled, m).sum().backward()
    torch.testing.assert_close(scaled.grad, m * plain.grad)


def test_label_smoothing_optimum() -> None:
    e = 0.1
    best = torch.tensor([math.log((1 - e) / e)], requires_grad=True)
    pair_loss(best, torch.ones(1), torch.ones(1), LossConfig(smoothing=e)).sum().backward()
    assert float(best.grad) == pytest.approx(0.0, abs=1e-7)


def test_robust_loss_is_unbiased_under_flipped_labels() -> None:
    e = 0.2
    kept, flipped = losses.robust_bce(D, 1.0, e), losses.robust_bce(D, 0.0, e)
    torch.testing.assert_close((1 - e) * kept + e * flipped, losses.soft_bce(D))
    one = [(-(1 - e) * log_sigmoid(float(d)) + e * log_sigmoid(-float(d))) / (1 - 2 * e) for d in D]
    torch.testing.assert_close(kept, torch.tensor(one, dtype=torch.float64))
    assert float(losses.robust_bce(torch.tensor(5.0), 1.0, e)) < 0


def test_hinge_and_log_odds_regression() -> None:
    torch.testing.assert_close(losses.hinge(torch.tensor([0.25, 2.0, -1.0])), torch.tensor([0.75, 0.0, 2.0]))
    target = torch.tensor([0.8])
    assert float(losses.log_odds_mse(torch.tensor([math.log(4.0) + 0.5]), target)) == pytest.approx(0.25, abs=1e-5)


def test_centring_squares_the_sum() -> None:
    r, s, a = torch.tensor([0.4, -1.0]), torch.tensor([0.2, 0.5]), 0.3
    torch.testing.assert_close(losses.centring(r, s), torch.tensor([0.36, 0.25]))
    # adding a to all rewards raises it by 4 a (r + s) / ... = 4a * (mean of the pair sums) + 4 a^2
    rise = (losses.centring(r + a, s + a) - losses.centring(r, s)).mean()
    assert float(rise) == pytest.approx(4 * a * float((r + s).mean()) + 4 * a * a, abs=1e-6)


def test_attribute_mse_skips_missing_labels() -> None:
    nan = math.nan
    predicted = torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    total, known = losses.attribute_mse(predicted, torch.tensor([[0.0, nan], [1.0, 3.0]]))
    assert (total.item(), known.item()) == (1.0 + 4.0 + 9.0, 3)
    total.backward()
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, torch.tensor([[2.0, 0.0], [4.0, -6.0]]))


def test_plackett_luce() -> None:
    r = torch.tensor([[0.5, -0.2, 1.0, 0.1]], dtype=torch.float64)
    weights = [math.exp(x) for x in r[0].tolist()]
    chain = -sum(math.log(weights[k] / sum(weights[k:])) for k in range(3))
    assert float(losses.plackett_luce(r)) == pytest.approx(chain)
    torch.testing.assert_close(losses.plackett_luce(r[:, :2]), losses.soft_bce(r[:, 0] - r[:, 1]))
    # equal rewards: every one of K! orders is equally likely
    assert float(losses.plackett_luce(torch.zeros(5, dtype=torch.float64))) == pytest.approx(math.log(120))
    torch.testing.assert_close(losses.plackett_luce(r + 9.0), losses.plackett_luce(r))


@pytest.mark.parametrize("options", [{"smoothing": 0.5}, {"smoothing": -0.1}, {"centring": -1.0}])
def test_unusable_loss_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        LossConfig(**options)
