"""Losses against numbers that their authors' and TRL's code gave, and what must not change a loss.

TRL 1.16.0 with torch 2.13.0: `DPOTrainer._compute_loss` (trl/trainer/dpo_trainer.py, lines 1285 to 1600) was called
once on a stand-in for the trainer (`loss_types`, `beta`, `label_smoothing`; `precompute_ref_logps`, `f_divergence_type`
'reverse_kl', nothing else) and for the model, which returned the token log-probs below in float64. Kept are the loss of
each pair alone and, for both in one batch, the gradient on the first token of chosen 1 and 2 and of rejected 1 and 2.
TRL keeps its epsilon of exo_pair in float32, hence that row's tolerance.

Authors' forms, float64: `nash_loss` of yale-nlp/COMAL losses.py at fd3c51e (no INPO code of its authors is public, and
this is the loss that COMAL runs), `exact_loss` of haozheji/exact-optimization src/align_stage/loss.py at 1278978
('exo-rw' over N responses, 'exo-pref'), `dpo_loss` of uclaml/SPPO sppo/trainer.py at 2c5eb7f ('sppo', and 'sigmoid'
with label smoothing, which is conservative DPO). TRL has no twin of the others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from alignment.algorithm import Group, Phase, get_algorithm, list_algorithms
from alignment.items import Item, group_loss
from alignment.logprobs import TokenSequence
from prefeval.oracle import symmetrise

pytestmark = pytest.mark.parity

CHOSEN = [[-1.0, -0.5, -2.25, -0.125], [-0.75, -3.0, -0.25, -1.5]]  # token log-probs of two pairs
REJECTED = [[-2.0, -1.5, -0.25, -3.0, -0.5, -1.0], [-0.5, -0.25, -1.0, -0.125, -0.75, -0.375]]
REFERENCE = [(-5.0, -6.5), (-4.5, -4.0)]  # (chosen, rejected), summed
# TRL's loss_type, beta, label_smoothing; losses of the two pairs; gradients
TRL: list[tuple[str, float, float, list[float], list[float]]] = [
    (
        "sigmoid",
        0.1,
        0,
        [0.559693823045451, 0.7981388693815918],
        [-0.021430800916153382, -0.0274916998656239, 0.021430800916153382, 0.0274916998656239],
    ),
    (
        "sigmoid",
        0.5,
        0,
        [0.21311003883067595, 1.3132616875182228],
        [-0.047983196611809206, -0.18276464465750122, 0.047983196611809206, 0.18276464465750122],
    ),
    (
        "ipo",
        0.1,
        0,
        [19.599066840277775, 29.340277777777782],
        [-1.1067708333333333, -1.3541666666666667, 0.7378472222222222, 0.9027777777777778],
    ),
    (
        "exo_pair",
        0.5,
        0.001,
        [0.8376197894243078, 4.468039793015934],
        [-0.21206296323598667, -0.388640590385877, 0.21206296323598667, 0.388640590385877],
    ),
    (
        "exo_pair",
        0.5,
        0.1,
        [0.038066537829195085, 1.1294573065187292],
        [-0.029457294575210458, -0.1571531278729043, 0.029457294575210458, 0.1571531278729043],
    ),
    ("sppo_hard", 0.1, 0, [25.578125, 72.0], [-3.875, -6.0, 3.25, 6.0]),
    (
        "robust",
        0.5,
        0.1,
        [0.033422538830675946, 1.4382616875182226],
        [-0.0792331966118092, -0.21401464465750122, 0.0792331966118092, 0.21401464465750122],
    ),
    ("hinge", 0.5, 0, [0.0, 2.0], [0.0, -0.25, 0.0, 0.25]),
    ("hinge", 0.1, 0, [0.7124999999999999, 1.2], [-0.05, -0.05, 0.05, 0.05]),
]


def twin(loss_type: str, epsilon: float) -> tuple[str, dict[str, Any], float]:
    """Our name and options of a loss of TRL's, and TRL's loss over ours."""
    return {
        "sigmoid": ("dpo", {}, 1.0),
        "ipo": ("ipo", {"length_average": True}, 1.0),
        "exo_pair": ("exo", {"form": "pairs", "smoothing": epsilon or 0.1}, 1.0),
        "sppo_hard": ("sppo", {"normaliser": "half"}, 2.0),  # TRL adds the two responses' errors, the paper averages
        "robust": ("robust_dpo", {"noise": epsilon}, 1.0),
        "hinge": ("dpo", {"form": "hinge"}, 1.0),
    }[loss_type]


def group(
    logp: Any, anchors: dict[str, Any], table: Any, lengths: Any = None, key: str = ""
) -> tuple[Group, torch.Tensor]:
    values = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    fixed = {k: torch.tensor(v, dtype=torch.float64) for k, v in anchors.items()}
    size = torch.ones(len(values)) if lengths is None else torch.tensor(lengths, dtype=torch.float64)
    P = torch.tensor(np.asarray(table), dtype=torch.float64)
    return Group(values, fixed, P, size, ("policy",) * len(values), key=key), values


@pytest.mark.parametrize(("loss_type", "beta", "epsilon", "losses", "gradients"), TRL)
def test_trl(loss_type: str, beta: float, epsilon: float, losses: list[float], gradients: list[float]) -> None:
    name, options, factor = twin(loss_type, epsilon)
    algorithm = get_algorithm(name, step=1.0 / beta, labels="hard", **options)
    phase, tolerance = algorithm.phases(1)[0], 1e-6 if loss_type == "exo_pair" else 1e-12
    for n, (won, lost, reference) in enumerate(zip(CHOSEN, REJECTED, REFERENCE, strict=True)):
        given, logp = group(
            [sum(won), sum(lost)], dict.fromkeys(phase.anchors, reference), [[0.5, 0.8], [0.2, 0.5]], [4, 6]
        )
        loss = factor * algorithm.loss(given, phase)
        assert loss.item() == pytest.approx(losses[n], rel=tolerance)
        loss.backward()
        assert logp.grad is not None
        assert (logp.grad / 2).tolist() == pytest.approx([gradients[n], gradients[2 + n]], rel=tolerance)


@pytest.mark.parametrize(
    ("eta", "ratio", "expected"),
    [(0.005, 1 / 3, [9595.835069444443, 10268.444444444443]), (0.1, 0.5, [7.5625, 42.25])],
)
def test_inpo(eta: float, ratio: float, expected: list[float]) -> None:
    inpo = get_algorithm("inpo", step=1 / eta, tau=ratio * eta, labels="hard")
    phase = inpo.phases(1)[0]
    policy, previous = [(-3.875, -8.25), (-5.5, -3.0)], [(-4.25, -7.0), (-5.0, -3.5)]
    for logp, start, last, loss in zip(policy, REFERENCE, previous, expected, strict=True):
        given, _ = group(logp, {"start": start, "policy": last}, [[0.5, 0.8], [0.2, 0.5]])
        assert inpo.loss(given, phase).item() == pytest.approx(loss, rel=1e-12)


REWARDS, RATIOS = np.array([0.2, -0.4, 1.1, 0.7]), [1.125, -1.75, 0.5, 2.0]


@pytest.mark.parametrize(
    ("beta_r", "beta", "expected"),
    [(0.5, 0.5, 0.3485803405458424), (1.0, 0.3, 0.09357949151940734)],
)
def test_exo_over_k_responses(beta_r: float, beta: float, expected: float) -> None:
    exo = get_algorithm("exo", step=1 / (beta * beta_r), beta=beta)
    table = symmetrise(1 / (1 + np.exp(REWARDS[None] - REWARDS[:, None])))
    given, _ = group(RATIOS, {"start": [0.0] * 4}, table)
    assert exo.loss(given, exo.phases(1)[0]).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("ratios", "expected"), [(RATIOS[:2], 1.430314445123789), (RATIOS[2:], 6.1643000100205745)])
def test_exo_of_pairs_as_released(ratios: list[float], expected: float) -> None:
    """The code's targets (0, -10) are not normalised: its loss is ours at e = s(-10), less log(1 + e^-10)."""
    exo = get_algorithm("exo", form="pairs", step=2.0, labels="hard", smoothing=1 / (1 + math.exp(10.0)))
    given, _ = group(ratios, {"start": [0.0, 0.0]}, [[0.5, 0.8], [0.2, 0.5]])
    loss = exo.loss(given, exo.phases(1)[0]).item() - math.log1p(math.exp(-10.0))
    assert loss == pytest.approx(expected, rel=1e-12)


TABLE = [[0.5, 0.7, 0.9, 0.6], [0.3, 0.5, 0.8, 0.45], [0.1, 0.2, 0.5, 0.35], [0.4, 0.55, 0.65, 0.5]]


@pytest.mark.parametrize(("beta", "expected"), [(0.001, 37494.812500000015), (0.1, 0.8828125000000004)])
def test_sppo(beta: float, expected: float) -> None:
    """Best and worst of four (rows 0 and 2) with win rates that count a response against itself, as released."""
    sppo = get_algorithm("sppo", step=1 / beta, normaliser="half", pairs="best_worst", self_comparison=True)
    given, _ = group([0.75, 9.0, -1.25, 9.0], {"policy": [0.0] * 4}, TABLE)
    assert sppo.loss(given, sppo.phases(1)[0]).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("smoothing", "beta", "expected"), [(0.1, 0.5, 0.3695945081104412), (0.3, 0.1, 0.6492358452825178)]
)
def test_conservative_dpo(smoothing: float, beta: float, expected: float) -> None:
    cdpo = get_algorithm("cdpo", step=1 / beta, smoothing=smoothing)
    given, _ = group([2.625, 0.0], {"start": [0.0, 0.0]}, [[0.5, 0.8], [0.2, 0.5]])
    assert cdpo.loss(given, cdpo.phases(1)[0]).item() == pytest.approx(expected, rel=1e-12)


def numbers(phase: Phase, order: list[int], seed: int) -> tuple[Group, torch.Tensor]:
    """Six responses in a given order; of those that meet an opponent the last three stay the opponent's.

    Where a phase has demonstrations, the first is one and stays first.
    """
    draw = np.random.default_rng(seed)
    logp, table = draw.normal(size=6) * 4, symmetrise(draw.random((6, 6)))
    anchors = {slot: (draw.normal(size=6) * 4)[order].tolist() for slot in phase.anchors}
    given, values = group(logp[order], anchors, table[np.ix_(order, order)], np.arange(3.0, 9.0)[order])
    role = ("policy",) * 3 + ("opponent",) * 3 if phase.opponent else given.role
    role = ("data", *role[1:]) if phase.demonstrations else role
    return Group(given.logp, given.anchors, given.P, given.length, role), values


@pytest.mark.parametrize("name", [i.name for i in list_algorithms()])
def test_the_order_of_responses_does_not_matter(name: str) -> None:
    algorithm = get_algorithm(name, step=2.0, **({"tau": 0.3} if name in ("nash_mp", "inpo") else {}))
    for phase in algorithm.phases(1):
        order = [2, 0, 1, 5, 3, 4] if phase.opponent else [4, 2, 5, 0, 3, 1]
        order = [0, 2, 4, 5, 3, 1] if phase.demonstrations else order
        (plain, logp), (mixed, shuffled) = numbers(phase, list(range(6)), 1), numbers(phase, order, 1)
        first, second = algorithm.loss(plain, phase), algorithm.loss(mixed, phase)
        assert second.item() == pytest.approx(first.item(), rel=1e-9)
        first.backward()
        second.backward()
        assert logp.grad is not None
        assert shuffled.grad is not None
        np.testing.assert_allclose(shuffled.grad, logp.grad[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["inpo", "sppo", "dpo", "exo", "gpo"])
def test_splitting_a_batch_changes_neither_loss_nor_gradient(name: str) -> None:
    """Prompts of one micro-batch, one prompt a micro-batch and any order: the sums are those of the step."""
    from tiny import make_tiny_model

    model, draw = make_tiny_model(), np.random.default_rng(0)
    options = {"step": 2.0, **({"tau": 0.3} if name == "inpo" else {})}
    algorithm = get_algorithm(name, **options)
    phase = algorithm.phases(1)[0]
    items = []
    for n in range(4):
        rows = [TokenSequence(tuple(draw.integers(3, 300, size=4 + n + k).tolist()), 3) for k in range(3)]
        anchors = {slot: [-20.0, -24.0, -30.0] for slot in phase.anchors}
        items.append(Item(rows, symmetrise(draw.random((3, 3))), anchors, str(n)))

    def step(batches: list[list[int]]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        total = 0.0
        for batch in batches:
            output = group_loss(model, [items[i] for i in batch], algorithm, phase, 0)
            output.loss_sum.backward()  # type: ignore[no-untyped-call]
            total += output.loss_sum.item()
        return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole, gradient = step([[0, 1, 2, 3]])
    for batches in ([[0], [1], [2], [3]], [[3, 1], [2, 0]], [[1, 2, 3], [0]]):
        value, slope = step(batches)
        assert value == pytest.approx(whole, rel=1e-5)
        assert (slope - gradient).norm() < 1e-5 * gradient.norm()
