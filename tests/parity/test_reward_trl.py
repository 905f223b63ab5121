"""The loss of TRL's RewardTrainer: plain, with margins, with centring (golden numbers, trl 1.16.0, torch 2.13.0).

RewardTrainer.compute_loss was called on a stand-in trainer (object.__new__, an accelerator that gathers nothing) whose
model returns the float64 logits CHOSEN + REJECTED; the loss and the gradient of the logits are what it gave. It
averages over pairs where ours sums.
"""

from __future__ import annotations

import pytest
import torch

from prefeval.types import PairLabel
from reward_models.config import HeadConfig, LossConfig
from reward_models.items import Item, item_loss

CHOSEN = [0.7, -1.3, 2.2, 0.1, -0.4]
REJECTED = [0.2, 0.9, -0.5, 0.1, -2.0]
MARGIN = [0.0, 1.0, 0.5, 2.0, 0.25]

PLAIN = [0.075508133759629, 0.180049902176063, 0.012594671211399, 0.1, 0.033596322973215]
WITH_MARGIN = [0.075508133759629, 0.192166855440647, 0.019950097823937, 0.176159415595576, 0.041174074360189]
CENTRED = (
    [-0.071908133759629, -0.181649902176063, -0.005794671211399, -0.0992, -0.043196322973215],
    [0.079108133759629, 0.178449902176063, 0.019394671211399, 0.1008, 0.023996322973215],
)
BOTH = (
    [-0.071908133759629, -0.193766855440647, -0.013150097823937, -0.175359415595576, -0.050774074360189],
    [0.079108133759629, 0.190566855440647, 0.026750097823937, 0.176959415595576, 0.031574074360189],
)


@pytest.mark.parametrize(
    ("config", "loss", "gradient"),
    [
        (LossConfig("soft"), 0.7442503574347356, ([-g for g in PLAIN], PLAIN)),
        (LossConfig("margin"), 1.2353100439036162, ([-g for g in WITH_MARGIN], WITH_MARGIN)),
        (LossConfig("soft", centring=0.01), 0.7635703574347356, CENTRED),
        (LossConfig("margin", centring=0.01), 1.2546300439036162, BOTH),
    ],
)
def test_loss_and_gradient(config: LossConfig, loss: float, gradient: tuple[list[float], list[float]]) -> None:
    outputs = torch.tensor(CHOSEN + REJECTED, dtype=torch.float64)[:, None].requires_grad_()
    items = [Item(((n,), (n + 5,)), (PairLabel(0, 1, 1.0, m),)) for n, m in enumerate(MARGIN)]
    order = [k for n in range(5) for k in (n, n + 5)]  # an item's responses lie side by side
    out = item_loss(outputs[order], items, HeadConfig("bt"), config)
    mean = out.loss_sum / out.weight
    mean.backward()
    assert float(mean.detach()) == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(outputs.grad[:, 0], torch.tensor([*gradient[0], *gradient[1]], dtype=torch.float64))
