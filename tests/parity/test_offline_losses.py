"""RPO and KTO against TRL 1.16.0 with torch 2.13.0, in float64.

`DPOTrainer._compute_loss` with `loss_types` sigmoid and sft and weights (1, alpha), which is what `rpo_alpha` became,
and `KTOTrainer._compute_loss` were called once on stand-ins for the trainers (reference log-probs given; KTO's
mismatched pairs stand for the mean log-ratio of the four responses) and for the model, which returned the token
log-probs below. Kept are the losses and the gradients on the first token of each response.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignment.algorithm import Group, get_algorithm

pytestmark = pytest.mark.parity

SUMS = [-3.875, -8.25, -5.5, -3.0]  # chosen and rejected of two pairs, as in test_alignment_losses
LENGTHS = [4.0, 6.0, 4.0, 6.0]
# beta, alpha; (loss, gradients of chosen and rejected) of each pair alone
RPO = [
    (
        0.01,
        0.005,
        [
            (0.6837192473142791, [-0.006178129950355797, 0.0049281299503557965]),
            (0.7100721797266342, [-0.006299998333399998, 0.005049998333399998]),
        ],
    ),
    (
        0.5,
        0.3,
        [
            (0.5037350388306759, [-0.1709663932236184, 0.09596639322361841]),
            (1.7257616875182227, [-0.44052928931500246, 0.36552928931500245]),
        ],
    ),
]
# reference log-probs; beta, desirable and undesirable weight; loss; gradients. z0 is 0.28125, then max(0, -1.03125).
KTO = [
    (
        [-5.0, -6.5, -6.25, -4.0],
        (0.1, 1.0, 1.0),
        0.48363895084906533,
        [-0.0062388895279545204, 0.006185972363839564, -0.006246568029355158, 0.006241935045429456],
    ),
    (
        [-5.0, -6.5, -6.25, -4.0],
        (0.5, 1.0, 1.33),
        0.4936461862706601,
        [-0.02989977174229497, 0.03245001283437073, -0.03082474521647515, 0.04024891260421015],
    ),
    (
        [-3.0, -6.5, -4.5, -2.5],
        (0.1, 1.0, 1.0),
        0.4976760394323131,
        [-0.006238052357981269, 0.00620239162440561, -0.006234401004822299, 0.006246095377027912],
    ),
    (
        [-3.0, -6.5, -4.5, -2.5],
        (0.5, 1.0, 1.33),
        0.5509334169583525,
        [-0.029801080232691738, 0.03452223183538754, -0.029375464025199312, 0.04091979125512573],
    ),
]


def group(logp: list[float], reference: list[float], table: np.ndarray, length: list[float]) -> Group:
    n = len(logp)
    anchors = {"start": torch.tensor(reference, dtype=torch.float64)}
    values = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    return Group(values, anchors, torch.from_numpy(table), torch.tensor(length), ("policy",) * n)


@pytest.mark.parametrize(("beta", "alpha", "expected"), RPO)
def test_rpo(beta: float, alpha: float, expected: list[tuple[float, list[float]]]) -> None:
    rpo = get_algorithm("rpo", step=1 / beta, eta=alpha / beta, length_average=True, labels="hard")
    table = np.array([[0.5, 0.8], [0.2, 0.5]])
    for pair, reference, (loss, gradients) in zip((0, 2), ([-5.0, -6.5], [-4.5, -4.0]), expected, strict=True):
        given = group(SUMS[pair : pair + 2], reference, table, LENGTHS[pair : pair + 2])
        value = rpo.loss(given, rpo.phases(1)[0])
        assert value.item() == pytest.approx(loss, rel=1e-12)
        value.backward()
        assert given.logp.grad is not None
        assert given.logp.grad.tolist() == pytest.approx(gradients, rel=1e-12)


@pytest.mark.parametrize(("reference", "options", "loss", "gradients"), KTO)
def test_kto(reference: list[float], options: tuple[float, float, float], loss: float, gradients: list[float]) -> None:
    """Responses 0 and 2 win against 1 and 3, and tie with each other."""
    beta, desirable, undesirable = options
    kto = get_algorithm("kto", step=1 / beta, desirable=desirable, undesirable=undesirable)
    good = np.array([1.0, 0.0, 1.0, 0.0])
    given = group(SUMS, reference, 0.5 + 0.3 * (good[:, None] - good[None, :]), LENGTHS)
    value = kto.loss(given, kto.phases(1)[0])
    assert value.item() == pytest.approx(loss, rel=1e-12)
    value.backward()
    assert given.logp.grad is not None
    assert given.logp.grad.tolist() == pytest.approx(gradients, rel=1e-12)
