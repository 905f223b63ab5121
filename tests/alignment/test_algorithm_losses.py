"""Losses against explicit sums, numbers worked out by hand, failed verdicts and the identities of section 13.9."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from toys import ABSOLUTE, EXACT, GAME, STEP, TAU, group_of, make, random_table

from alignment.algorithm import State, algorithm_class, get_algorithm, list_algorithms
from alignment.regression import anchored_regression
from prefeval.games import log_normalise, open_game


def test_k_numbers_equal_the_explicit_sum_over_pairs() -> None:
    for n in (2, 3, 7):
        table, draw = random_table(n, n), np.random.default_rng(n)
        h, a = draw.normal(size=n) * 5, 3.0
        group = group_of(h, {"policy": np.zeros(n)}, table)
        p = table.mean(axis=1)
        pairs = list(itertools.combinations(range(n), 2))
        explicit = sum((h[i] - h[j] - a * (p[i] - p[j])) ** 2 for i, j in pairs)
        assert explicit == pytest.approx(n * np.sum((h - h.mean() - a * (p - p.mean())) ** 2), rel=1e-12)
        labels = np.mean([(h[i] - h[j] - a * (table[i, j] - 0.5)) ** 2 for i, j in pairs])
        loss = anchored_regression(group, {"policy": 1.0}, a)
        assert loss.item() == pytest.approx(labels, rel=1e-12)
        loss.backward()
        gradient = 2 * n * (h - h.mean() - a * (p - p.mean())) / len(pairs)
        np.testing.assert_allclose(group.logp.grad, gradient, atol=1e-12)


def test_failed_pairs_are_left_out() -> None:
    table, h, a = random_table(4, 1), np.array([1.0, -2.0, 0.5, 0.0]), 2.0
    table[0, 2] = np.nan  # one side is enough
    pairs = [(0, 1), (0, 3), (1, 2), (1, 3), (2, 3)]
    group = group_of(h, {"policy": np.zeros(4)}, table)
    expected = np.mean([(h[i] - h[j] - a * (table[i, j] - 0.5)) ** 2 for i, j in pairs])
    loss = anchored_regression(group, {"policy": 1.0}, a)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert np.all(np.isfinite(group.logp.grad.numpy()))


ALL_LOSSES = [
    *((n, o) for n, o in EXACT.values()),
    *(("sppo", {"normaliser": z, "step": 2.0}) for z in ("half", "quantile", "sampled")),
    ("sppo", {"step": 2.0, "pairs": "best_worst", "self_comparison": True}),
    ("inpo", {"step": STEP, "tau": TAU, "labels": "bernoulli"}),
    ("inpo", {"step": STEP, "tau": TAU, "labels": "hard", "pairs": "tournament"}),
    ("dpo", {"pairs": "best_worst", "labels": "hard"}),
    ("dpo", {"form": "hinge"}),
    ("robust_dpo", {}),
    ("gpo", {"step": 2.0}),
    ("gpo", {"step": 2.0, "pairs": "best_worst", "self_comparison": True}),
    ("dno", {}),
    ("exo", {"form": "pairs"}),
    ("ipo", {"length_average": True}),
    # offline methods (test_offline_methods)
    ("dpo", {"form": "adaptive"}),
    ("dpo", {"pairs": "first_round"}),
    ("dpo", {"pairs": "knockout"}),
    ("rpo", {"length_average": True}),
    ("slic", {"labels": "hard", "pairs": "best_worst"}),
    ("minor_dpo", {}),
    ("slic", {}),
    ("rso", {}),
    ("rso", {"form": "hinge", "pairs": "first_round"}),
    ("kto", {}),
]


@pytest.mark.parametrize(("name", "options"), ALL_LOSSES)
def test_failed_verdicts_leave_no_trace(name: str, options: dict[str, Any]) -> None:
    """No usable pair: exactly 0 with a zero gradient. One failed response: no gradient on it, none of it NaN."""
    algorithm = get_algorithm(name, **options)
    phase = algorithm.phases(1)[0]
    anchors = {s: np.zeros(3) for s in phase.anchors}
    nothing = np.where(np.eye(3, dtype=bool), 0.5, np.nan)
    group = group_of([-1.0, -2.0, -4.0], anchors, nothing)
    loss = algorithm.loss(group, phase)
    loss.backward()
    assert loss.item() == 0.0
    assert group.logp.grad.tolist() == [0.0, 0.0, 0.0]
    one_lost = nothing.copy()
    one_lost[0, 1], one_lost[1, 0] = 0.8, 0.2
    both = group_of([-1.0, -2.0, -4.0], anchors, one_lost)
    algorithm.loss(both, phase).backward()
    pair = group_of([-1.0, -2.0], {s: np.zeros(2) for s in anchors}, one_lost[:2, :2])
    algorithm.loss(pair, phase).backward()
    assert both.logp.grad[2].item() == 0.0
    # Drawn labels depend on the group's size, and a tournament cannot be held without its verdicts.
    if options.get("labels") != "bernoulli" and options.get("pairs") != "tournament":
        np.testing.assert_allclose(both.logp.grad[:2], pair.logp.grad, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), ALL_LOSSES)
def test_a_single_response_has_no_loss(name: str, options: dict[str, Any]) -> None:
    algorithm = get_algorithm(name, **options)
    phase = algorithm.phases(1)[0]
    loss = algorithm.loss(group_of([-1.0], {s: [0.0] for s in phase.anchors}, [[0.5]]), phase)
    assert loss.item() == 0.0


LIKELIHOODS = {"expert_iteration", "return_conditioned"}  # fits to kept replies: what is not kept is left alone


@pytest.mark.parametrize("info", list_algorithms(), ids=lambda i: i.name)
def test_gradient_signs_and_frozen_anchors(info: Any) -> None:
    """From the anchors the winner goes up and the loser down; nothing flows into anchors."""
    options = {"inpo": {"tau": 0.0}, "nash_mp": {"tau": 0.5}, "mpo_max": {"beta": 0.0}}.get(
        algorithm_class(info.name).name, {}
    )
    algorithm = get_algorithm(info.name, step=1.0, **options)
    for phase in algorithm.phases(1):
        if phase.demonstrations:  # signs in test_demonstrated
            continue
        n = 4 if phase.opponent else 2
        skill = np.array([0.2, -0.2, 0.0, 0.0])[:n]  # the opponents stand between the two
        table = 0.5 + skill[:, None] - skill[None, :]
        group = group_of([-3.0] * n, {s: [-3.0] * n for s in phase.anchors}, table, opponents=n - 2)
        for value in group.anchors.values():
            value.requires_grad_(True)
        algorithm.loss(group, phase).backward()
        if info.name != "spac":  # which lowers all of its own replies; signs in test_selfplay
            assert group.logp.grad[0] < 0
            assert group.logp.grad[1] == 0 if info.name in LIKELIHOODS else group.logp.grad[1] > 0
        if not phase.opponent_logp:
            assert torch.all(group.logp.grad[2:] == 0)
        assert all(value.grad is None for value in group.anchors.values())


@pytest.mark.parametrize("name", [n for n in EXACT if n not in ABSOLUTE and not n.startswith("rspo")])
def test_pair_losses_ignore_a_shift_of_all_log_probs(name: str) -> None:
    algorithm, table = make(name), random_table(4, 3)
    logp, anchor = np.array([-3.0, -5.0, -4.0, -9.0]), np.array([-4.0, -4.5, -6.0, -7.0])
    for phase in algorithm.phases(1):
        plain = algorithm.loss(group_of(logp, dict.fromkeys(phase.anchors, anchor), table), phase)
        moved = algorithm.loss(group_of(logp + 7, dict.fromkeys(phase.anchors, anchor - 11), table), phase)
        assert moved.item() == pytest.approx(plain.item(), rel=1e-10)


def test_per_response_sppo_does_see_a_shift() -> None:
    sppo = get_algorithm("sppo", step=2.0)
    phase, table = sppo.phases(1)[0], random_table(3, 3)
    plain = sppo.loss(group_of([-1.0, -2.0, -3.0], {"policy": np.zeros(3)}, table), phase)
    moved = sppo.loss(group_of([0.0, -1.0, -2.0], {"policy": np.zeros(3)}, table), phase)
    assert abs(moved.item() - plain.item()) > 0.1


def test_equivalences_of_13_9() -> None:
    """At t = 1 INPO is IPO with tau_ipo = eta; INPO(tau = 0) is ONPO's aux step."""
    eta, table = 0.25, np.array([[0.5, 1.0], [0.0, 0.5]])
    start, logp = np.array([-2.0, -3.0]), np.array([-1.0, -5.0])
    u = (logp[0] - start[0]) - (logp[1] - start[1])
    inpo = get_algorithm("inpo", step=1 / eta, tau=eta / 3)
    loss = inpo.loss(group_of(logp, {"policy": start, "start": start}, table), inpo.phases(1)[0])
    assert loss.item() == pytest.approx((u - 1 / (2 * eta)) ** 2)
    full, sampled = random_table(5, 9), np.random.default_rng(1).normal(size=(2, 5))
    omd, onpo = get_algorithm("inpo", step=4.0, tau=0.0), get_algorithm("onpo", step=4.0)
    left = omd.loss(group_of(sampled[0], {"policy": sampled[1]}, full), omd.phases(1)[0])
    right = onpo.loss(group_of(sampled[0], {"aux": sampled[1]}, full), onpo.phases(1)[0])
    assert left.item() == pytest.approx(right.item(), rel=1e-14)


def test_inpo_by_hand() -> None:
    # h = (-1 + 5) - 1/3 (-2 + 3) - 2/3 (-3 + 3.5) = 10/3, target 1 / (2 eta) = 100, and the label is hard.
    inpo = get_algorithm("inpo", labels="hard")
    group = group_of([-1.0, -5.0], {"start": [-2.0, -3.0], "policy": [-3.0, -3.5]}, [[0.5, 0.8], [0.2, 0.5]])
    assert inpo.loss(group, inpo.phases(1)[0]).item() == pytest.approx((10 / 3 - 100) ** 2, rel=1e-12)


def test_dpo_by_hand() -> None:
    # u = (-1 + 2) - (-3 + 2) = 2, beta = 0.1: -log sigmoid(0.2) = 0.598138869381592.
    anchors, logp = {"start": [-2.0, -2.0]}, [-1.0, -3.0]
    hard = get_algorithm("dpo", labels="hard")
    phase = hard.phases(1)[0]
    group = group_of(logp, anchors, [[0.5, 0.7], [0.3, 0.5]])
    assert hard.loss(group, phase).item() == pytest.approx(0.598138869381592, rel=1e-12)
    # Soft at 0.7: 0.7 * 0.598138869381592 + 0.3 * (0.598138869381592 + 0.2).
    assert get_algorithm("dpo").loss(group, phase).item() == pytest.approx(0.658138869381592, rel=1e-12)
    smoothed = get_algorithm("dpo", labels="hard", smoothing=0.3)
    assert smoothed.loss(group, phase).item() == pytest.approx(0.658138869381592, rel=1e-12)
    # A tie is a label of 1/2, not a dropped pair.
    tie = group_of(logp, anchors, [[0.5, 0.5], [0.5, 0.5]])
    assert hard.loss(tie, phase).item() == pytest.approx(0.698138869381592, rel=1e-12)
    previous = get_algorithm("dpo", reference="previous")
    assert previous.phases(1)[0].anchors == ("policy",)


def test_the_forms_of_trl_by_hand() -> None:
    """TRL 0.2x `loss_type` robust, hinge, exo_pair and ipo, from their formulas, at u = 2 and beta = 0.1."""
    anchors, logp, table = {"start": [-2.0, -2.0]}, [-1.0, -3.0], [[0.5, 0.7], [0.3, 0.5]]
    won, lost = math.log(1 / (1 + math.exp(-0.2))), math.log(1 / (1 + math.exp(0.2)))

    def loss(name: str, **options: Any) -> float:
        algorithm = get_algorithm(name, step=10.0, labels="hard", **options)
        return algorithm.loss(group_of(logp, anchors, table), algorithm.phases(1)[0]).item()

    assert loss("robust_dpo", noise=0.2) == pytest.approx((-won * 0.8 + lost * 0.2) / 0.6, rel=1e-12)
    assert loss("dpo", form="hinge") == pytest.approx(1 - 0.2, rel=1e-12)
    q, e = math.exp(won), 1e-3
    wanted = q * (won - math.log(1 - e)) + (1 - q) * (lost - math.log(e))
    assert loss("exo", form="pairs") == pytest.approx(wanted, rel=1e-12)
    assert loss("ipo") == pytest.approx((2 - 5) ** 2, rel=1e-12)
    ipo = get_algorithm("ipo", step=10.0, labels="hard", length_average=True)
    group = dataclasses.replace(group_of(logp, anchors, table), length=torch.tensor([4.0, 5.0]))
    assert ipo.loss(group, ipo.phases(1)[0]).item() == pytest.approx((1 / 4 + 1 / 5 - 5) ** 2, rel=1e-12)


def test_gpo_by_hand() -> None:
    # Log-odds of y_0: 2 over y_1, 1 over y_2; of y_1 over y_2: -0.5.
    odds = np.array([[0.0, 2.0, 1.0], [-2.0, 0.0, -0.5], [-1.0, 0.5, 0.0]])
    group = group_of([1.0, -2.0, 0.5], {"policy": [0.0, 0.0, 0.0]}, 1 / (1 + np.exp(-odds)))

    def loss(**options: Any) -> float:
        gpo = get_algorithm("gpo", step=4.0, **options)
        return gpo.loss(group, gpo.phases(1)[0]).item()

    # Means over the others 1.5, -1.25, -0.25: targets 6, -5, -1.
    assert loss() == pytest.approx((25 + 9 + 2.25) / 3)
    # Best and worst, means with itself 1 and -5/6: targets 4 and -10/3.
    assert loss(pairs="best_worst", self_comparison=True) == pytest.approx((9 + (10 / 3 - 2) ** 2) / 2)
    assert loss(clamp=5.0) == pytest.approx((16 + 9 + 2.25) / 3)
    assert loss(normaliser="pairwise") == pytest.approx(((3 - 8) ** 2 + (0.5 - 4) ** 2 + (-2.5 + 2) ** 2) / 3)
    # A sure verdict counts as `clip` nats.
    sure = group_of([1.0, 0.0], {"policy": [0.0, 0.0]}, [[0.5, 1.0], [0.0, 0.5]])
    gpo = get_algorithm("gpo", step=1.0, clip=3.0)
    assert gpo.loss(sure, gpo.phases(1)[0]).item() == pytest.approx((4 + 9) / 2)


def gradient_at(algorithm: Any, log_policy: np.ndarray, anchors: dict[str, np.ndarray], P: np.ndarray) -> np.ndarray:
    group = group_of(log_policy, anchors, P)
    algorithm.loss(group, algorithm.phases(1)[0]).backward()
    return np.asarray(group.logp.grad)


def test_dno_reaches_its_closed_form_when_the_group_is_the_population() -> None:
    """Every action once and pi_t uniform: win rates in the group are exact, and the closed form has no gradient."""
    uniform, dno = np.full(3, -math.log(3)), get_algorithm("dno", step=2.0)
    target = dno.population(GAME.P, State(uniform, uniform)).log_policy
    np.testing.assert_allclose(target - target.mean(), 2 * (GAME.P.mean(1) - 0.5), atol=1e-12)
    assert np.max(np.abs(gradient_at(dno, target, {"policy": uniform}, GAME.P))) < 1e-12
    assert np.max(np.abs(gradient_at(dno, uniform, {"policy": uniform}, GAME.P))) > 1e-3
    assert np.max(np.abs(gradient_at(get_algorithm("dpo", step=2.0), target, {"start": uniform}, GAME.P))) > 1e-3


def test_exo_reaches_the_tilted_reference_on_bradley_terry() -> None:
    """ref exp(step r) for both forms; DPO agrees there, and on a cycle neither form of EXO does."""
    game = open_game("bt10")
    c = np.random.default_rng(7).normal(size=10)
    start = game.log_start
    wanted = log_normalise(start + 1.5 * c)
    for form in ("rewards", "pairs"):
        exo = get_algorithm("exo", step=1.5, form=form, smoothing=1e-6)
        assert np.max(np.abs(gradient_at(exo, wanted, {"start": start}, game.P))) < 1e-9
        assert np.max(np.abs(gradient_at(exo, start, {"start": start}, game.P))) > 1e-3
        found = exo.population(game.P, State(start, start)).log_policy
        np.testing.assert_allclose(found, wanted, atol=1e-8)


def test_the_policy_gradient_of_nash_md_is_that_of_the_game() -> None:
    """Its expectation over all draws against autograd on the game's own value, opponent held fixed."""
    pg = get_algorithm("nash_md_pg", tau=0.3, mixture=0.4)
    logits = torch.tensor([0.2, -0.5, 0.4], dtype=torch.float64, requires_grad=True)
    start = torch.tensor(np.log([0.3, 0.3, 0.4]))
    log_policy = torch.log_softmax(logits, 0)
    mixture = torch.softmax(0.6 * log_policy.detach() + 0.4 * start, 0)
    P = torch.tensor(GAME.P)
    p = log_policy.exp()
    value = p @ P @ mixture - 0.3 * (p * (log_policy - start)).sum()
    (wanted,) = torch.autograd.grad(value, logits, retain_graph=True)
    expected = torch.zeros((), dtype=torch.float64)
    for y, other in itertools.product(range(3), repeat=2):
        pair = [y, other]
        group = group_of(log_policy[pair], {"start": start[pair]}, GAME.P[np.ix_(pair, pair)], opponents=1)
        weight = (p[y] * mixture[other]).detach()
        expected = expected + weight * pg.loss(group, pg.phases(1)[0])
    (found,) = torch.autograd.grad(expected, logits)
    np.testing.assert_allclose(found, -wanted, atol=1e-12)
    # ... and the exact update is a step along it.
    state = State(log_policy.detach().numpy(), start.numpy())
    moved = dataclasses.replace(pg, step=0.7).population(GAME.P, state).log_policy
    target = log_normalise(log_policy.detach().numpy() + 0.7 * wanted.numpy())
    np.testing.assert_allclose(moved, target, atol=1e-12)


def test_nash_md_pg_charges_each_token_with_what_follows() -> None:
    pg = get_algorithm("nash_md_pg", tau=0.5, mixture=0.0)
    tokens = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, -1.5, -3.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    tokens.requires_grad_(True)
    frozen = torch.tensor([[-1.5, -2.5, 0.0], [-0.5, -1.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    group = group_of(
        tokens.sum(1), {"start": frozen.sum(1)}, [[0.5, 0.5, 0.9], [0.5, 0.5, 0.2], [0.1, 0.8, 0.5]], opponents=1
    )
    group = dataclasses.replace(group, token_logp=tokens, token_anchors={"start": frozen})
    pg.loss(group, pg.phases(1)[0]).backward()
    # Log-ratios .5 .5 and 0 -.5 -2: to go 1 .5 and -2.5 -2.5 -2; gains .4 and -.3; mean of two responses.
    wanted = -np.array([[0.4 - 0.5, 0.4 - 0.25, 0.4], [-0.3 + 1.25, -0.3 + 1.25, -0.3 + 1.0], [0, 0, 0]]) / 2
    np.testing.assert_allclose(tokens.grad, wanted, atol=1e-12)


def test_exo_is_mode_seeking_and_slow_from_far_away() -> None:
    """The gradient of EXO-pref vanishes as q goes to 0, DPO's does not (section 9)."""
    anchors, table = {"start": np.zeros(2)}, np.array([[0.5, 1.0], [0.0, 0.5]])
    far = np.array([-30.0, 30.0])
    dpo, exo = get_algorithm("dpo", step=2.0), get_algorithm("exo", step=2.0, form="pairs")
    assert abs(gradient_at(exo, far, anchors, table)[0]) < 1e-9
    assert abs(gradient_at(dpo, far, anchors, table)[0]) > 0.4


def test_sppo_by_hand() -> None:
    table = [[0.5, 0.9, 0.7], [0.1, 0.5, 0.4], [0.3, 0.6, 0.5]]
    group = group_of([1.0, -2.0, 0.5], {"policy": [0.0, 0.0, 0.0]}, table)
    sppo = get_algorithm("sppo", step=10.0)
    phase = sppo.phases(1)[0]
    # Win rates against the others 0.8, 0.25, 0.45: targets 3, -2.5, -0.5.
    assert sppo.loss(group, phase).item() == pytest.approx((4 + 0.25 + 1) / 3)
    paper = get_algorithm("sppo", step=10.0, pairs="best_worst")
    assert paper.loss(group, phase).item() == pytest.approx((4 + 0.25) / 2)
    # With itself: 0.7, 1/3, 1.45 / 3: targets 2 and -5/3.
    released = get_algorithm("sppo", step=10.0, pairs="best_worst", self_comparison=True)
    assert released.loss(group, phase).item() == pytest.approx((1 + (1 / 3) ** 2) / 2)
    # 'sppo_hard' with beta = 1 / eta: half of the sum of (1 - eta / 2)^2 and (-2 + eta / 2)^2.
    hard = get_algorithm("sppo", step=10.0, labels="hard")
    pair = group_of([1.0, -2.0], {"policy": [0.0, 0.0]}, [[0.5, 0.9], [0.1, 0.5]])
    assert hard.loss(pair, phase).item() == pytest.approx(((1 - 5) ** 2 + (-2 + 5) ** 2) / 2)


def test_sppo_log_normalisers() -> None:
    """a - log a is 993 at a = 1000 (section 5); the sampled one is exact when the group is the population."""
    rates = np.array([0.2, 0.5, 0.8])
    assert get_algorithm("sppo", normaliser="quantile").log_normaliser(rates) == pytest.approx(993.0922447210179)
    assert get_algorithm("sppo").log_normaliser(rates) == 500.0
    sampled = get_algorithm("sppo", step=2.0, normaliser="sampled")
    assert sampled.log_normaliser(rates) == pytest.approx(math.log(np.mean(np.exp(2 * rates))))
    # Uniform pi_t, every action once, self-comparison: the zero of the loss is the normalised closed form.
    exact = dataclasses.replace(sampled, self_comparison=True)
    uniform = np.full(3, -math.log(3))
    target = exact.population(GAME.P, State(uniform, uniform)).log_policy
    loss = exact.loss(group_of(target, {"policy": uniform}, GAME.P), exact.phases(1)[0])
    assert loss.item() < 1e-28


def test_soft_and_bernoulli_gradients_agree_in_expectation() -> None:
    """FACT 2, by the exact expectation over the two outcomes of one verdict."""
    h, p, a = [0.3, -0.4], 0.8, 1.5

    def gradient(q: float) -> np.ndarray:
        group = group_of(h, {"policy": [0.0, 0.0]}, [[0.5, q], [1 - q, 0.5]])
        anchored_regression(group, {"policy": 1.0}, a).backward()
        return group.logp.grad.numpy()

    np.testing.assert_allclose(p * gradient(1.0) + (1 - p) * gradient(0.0), gradient(p), atol=1e-12)


def test_bernoulli_labels_follow_the_key_and_the_seed() -> None:
    table, h = random_table(8, 4), np.random.default_rng(0).normal(size=8)

    def loss(key: str, seed: int) -> float:
        group = group_of(h, {"policy": np.zeros(8)}, table, key=key)
        return anchored_regression(group, {"policy": 1.0}, 2.0, labels="bernoulli", labels_seed=seed).item()

    assert loss("1/p", 0) == loss("1/p", 0)
    assert len({loss("1/p", 0), loss("2/p", 0), loss("1/p", 1)}) == 3


def test_large_targets_survive_fp32() -> None:
    """Sums of log-probs of hundreds of nats and a 100-nat target: fp32 agrees with float64 to its precision."""
    draw = np.random.default_rng(2)
    logp, anchor, table = -400 * draw.random(8), -400 * draw.random(8), random_table(8, 2)
    values = [
        anchored_regression(group_of(logp, {"p": anchor}, table, dtype=kind), {"p": 1.0}, 200.0).item()
        for kind in (torch.float32, torch.float64)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
