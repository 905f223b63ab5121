"""Updates against the minimisers of their losses and the closed forms of section 13.4; the registry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from toys import EXACT, GAME, SLOTS, STEP, TAU, group_of, make

from alignment.algorithm import Algorithm, Phase, State, anchored_regression, get_algorithm, list_algorithms, register
from prefeval.errors import ConfigError
from prefeval.games import log_normalise, open_game


def expected_minimiser(algorithm: Algorithm, phase: Phase, slots: Mapping[str, np.ndarray], mu: np.ndarray, k: int):
    """Minimise the exact expectation of the loss over groups of k i.i.d. actions of `mu`, by LBFGS on logits."""
    logits = torch.tensor(slots[phase.init_from], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=400, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )
    groups = [(math.prod(mu[list(a)]), list(a)) for a in itertools.product(range(len(mu)), repeat=k)]

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logp = torch.log_softmax(logits, 0)
        anchors = {name: torch.tensor(slots[name]) for name in phase.anchors}
        total = torch.zeros((), dtype=torch.float64)
        for weight, a in groups:
            sub = group_of(logp[a], {s: v[a] for s, v in anchors.items()}, GAME.P[np.ix_(a, a)])
            total = total + weight * algorithm.loss(sub, phase)
        total.backward()
        return total

    optimiser.step(closure)
    return log_normalise(logits.detach().numpy())


@cache
def through_the_loss(algorithm: Algorithm, k: int) -> np.ndarray:
    """The deployed log-policy after one round of phases from SLOTS, every fit solved exactly."""
    slots, mu = dict(SLOTS), np.zeros(0)
    for phase in algorithm.phases(1):
        if phase.sample:
            mu = np.exp(slots[phase.sample_from])
        slots[phase.output] = expected_minimiser(algorithm, phase, slots, mu, k)
    return slots["policy"]


def closed_form(algorithm: Algorithm) -> np.ndarray:
    state = State(SLOTS["policy"], SLOTS["start"], 0, {"aux": SLOTS["aux"]})
    return algorithm.population(GAME.P, state).log_policy


@pytest.mark.parametrize("name", EXACT)
def test_loss_minimiser_is_the_closed_form(name: str) -> None:
    algorithm = make(name)
    assert algorithm.has_minimiser
    np.testing.assert_allclose(through_the_loss(algorithm, 2), closed_form(algorithm), atol=1e-6)


@pytest.mark.parametrize("name", ["inpo", "onpo", "dpo"])
def test_groups_of_three_keep_the_minimiser(name: str) -> None:
    """FACT 3: all pairs of K i.i.d. samples, and FACT 4 with them: win rates within the group."""
    np.testing.assert_allclose(through_the_loss(make(name), 3), closed_form(make(name)), atol=1e-6)


def test_no_loss_has_the_closed_form_of_another() -> None:
    targets = {name: closed_form(make(name)) for name in EXACT}
    for name in EXACT:
        reached = through_the_loss(make(name), 2)
        for other, target in targets.items():
            if other != name:
                assert np.max(np.abs(reached - target)) > 1e-3, (name, other)


def test_best_and_worst_do_not_keep_the_minimiser() -> None:
    algorithm = get_algorithm("inpo", step=STEP, tau=TAU, pairs="best_worst")
    assert not algorithm.has_minimiser
    assert np.max(np.abs(through_the_loss(algorithm, 3) - closed_form(algorithm))) > 1e-2


def test_closed_forms_of_section_13_4() -> None:
    policy, start, aux = (SLOTS[s] for s in ("policy", "start", "aux"))
    r = GAME.P @ np.exp(policy)
    inpo = log_normalise((1 - STEP * TAU) * policy + STEP * TAU * start + STEP * r)
    np.testing.assert_allclose(closed_form(make("inpo")), inpo, atol=1e-14)
    np.testing.assert_allclose(closed_form(make("onpo")), log_normalise(aux + 2 * STEP * r), atol=1e-14)
    np.testing.assert_allclose(closed_form(make("sppo")), log_normalise(policy + STEP * r), atol=1e-14)
    thresholded = open_game("rps").P.T @ np.exp(policy)  # cyc3 cycles the other way round
    hard = log_normalise((1 - STEP * TAU) * policy + STEP * TAU * start + STEP * thresholded)
    np.testing.assert_allclose(closed_form(make("inpo hard")), hard, atol=1e-14)
    decaying = get_algorithm("inpo", tau=2.0, schedule="decaying")
    a = 1 / 3.0  # eta_1 = 2 (1 + 2) / 2 = 3
    expected = log_normalise((1 - 2 * a) * policy + 2 * a * start + a * r)
    np.testing.assert_allclose(closed_form(decaying), expected, atol=1e-14)


def test_dpo_on_bradley_terry_tilts_the_reference_by_the_scores() -> None:
    game = open_game("bt10")
    c = np.random.default_rng(7).normal(size=10)
    dpo = get_algorithm("dpo", step=2.0)
    state = dpo.population(game.P, dpo.initial_state(game.log_start, game.log_start))
    np.testing.assert_allclose(state.log_policy, log_normalise(game.log_start + 2 * c), atol=1e-9)


def test_one_fit_equals_two_fits() -> None:
    game = open_game("rand10:1")
    two, one = get_algorithm("onpo", step=0.5), get_algorithm("onpo", step=0.5, one_fit=True)
    a, b = (x.initial_state(game.log_start, game.log_start) for x in (two, one))
    for _ in range(50):
        a, b = two.population(game.P, a), one.population(game.P, b)
    np.testing.assert_allclose(a.log_policy, b.log_policy, atol=1e-13)
    np.testing.assert_allclose(a.memory["aux"], b.memory["aux"], atol=1e-13)


def test_onpo_is_optimistic_multiplicative_weights() -> None:
    game = open_game("cyc3")
    onpo = get_algorithm("onpo", step=0.5)
    state = onpo.initial_state(game.log_start, game.log_start)
    log_policy, last = game.log_start, np.zeros(3)
    for _ in range(30):
        r = game.P @ np.exp(log_policy)
        log_policy, last = log_normalise(log_policy + 0.5 * (2 * r - last)), r
        state = onpo.population(game.P, state)
    np.testing.assert_allclose(state.log_policy, log_policy, atol=1e-13)


def test_onpo_phases() -> None:
    aux, main = get_algorithm("onpo").phases(3)
    assert (aux.sample, aux.sample_from, aux.init_from, aux.anchors, aux.output) == (
        True, "policy", "aux", ("aux",), "aux",
    )  # fmt: skip
    assert (main.sample, main.init_from, main.anchors, main.output) == (False, "aux", ("aux",), "policy")
    assert aux.round == main.round == 3
    (one,) = get_algorithm("onpo", one_fit=True).phases(1)
    assert (one.output, one.output_average, one.average_weight, one.init_from) == ("policy", "aux", 0.5, "policy")
    for info in list_algorithms():
        for phase in get_algorithm(info.name).phases(1):
            assert "start" not in (phase.output, phase.output_average)


# ---- registry and options


def test_the_table_of_methods() -> None:
    rows = {info.name: (info.arxiv, info.has_minimiser) for info in list_algorithms()}
    assert rows["inpo"] == ("2407.00617", True)
    assert rows["onpo"] == ("2502.16852", True)
    assert rows["sppo"] == ("2405.00675", False)  # the published constant log Z
    assert rows["dpo"] == ("2305.18290", True)
    for name in rows:
        assert isinstance(get_algorithm(name), Algorithm)


def test_published_steps() -> None:
    inpo = get_algorithm("inpo")
    assert 1 / inpo.step == pytest.approx(0.005)
    assert inpo.tau == pytest.approx(0.005 / 3)
    assert 1 / get_algorithm("onpo").step == 0.01
    assert get_algorithm("sppo").step == 1e3
    assert 1 / get_algorithm("dpo").step == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("inop", {}, "did you mean 'inpo'"),
        ("inpo", {"stepp": 1.0}, "unknown key 'stepp'; did you mean 'step'"),
        ("inpo", {"step": 0.0}, "step must be a positive number"),
        ("inpo", {"step": 1.0, "tau": 1.5}, "must not exceed 1"),
        ("inpo", {"step": 1.0, "tau": -0.1}, "tau must be a number >= 0"),
        ("inpo", {"tau": 0.0, "schedule": "decaying"}, "needs tau > 0"),
        ("onpo", {"tau": 0.1, "step": 1.0, "one_fit": True}, "one_fit needs tau = 0"),
        ("onpo", {"step": 1.0, "tau": 2.0}, "must lie in"),
        ("sppo", {"normaliser": "none"}, "'normaliser'"),
        ("dpo", {"smoothing": 0.5}, "smoothing must lie in"),
        ("dpo", {"labels": "fuzzy"}, "'labels'"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_algorithm(name, **options)


def test_two_methods_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two algorithms"):
        register(type("Other", (), {"name": "inpo"}))


def test_groups_check_their_shapes() -> None:
    with pytest.raises(ValueError, match="anchor 'policy'"):
        group_of([0.0, 0.0], {"policy": [0.0]}, [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="shape in: P"):
        group_of([0.0, 0.0], {}, [[0.5]])
    with pytest.raises(ValueError, match="no anchor 'policy'"):
        anchored_regression(group_of([0.0, 0.0], {}, [[0.5, 0.5], [0.5, 0.5]]), {"policy": 1.0}, 1.0)
