"""Updates against the minimisers of their losses and the closed forms of section 13.4; the registry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import ALPHA, EXACT, GAME, SLOTS, STEP, TAU, group_of, make

import alignment
from alignment.algorithm import Algorithm, Phase, State, get_algorithm, list_algorithms, register
from alignment.aliases import ALIASES
from alignment.config import AlignConfig
from alignment.regression import anchored_regression
from prefeval.config import load_config
from prefeval.errors import ConfigError
from prefeval.games import log_normalise, open_game


def expected_minimiser(
    algorithm: Algorithm, phase: Phase, slots: Mapping[str, np.ndarray], samplers: list[np.ndarray], k: int
) -> np.ndarray:
    """Minimise the exact expectation of the loss over groups of k i.i.d. actions of each sampler, by LBFGS on logits.

    The second sampler, where there is one, is the opponent.
    """
    logits = torch.tensor(slots[phase.init_from], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=400, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )
    drawers = [mu for mu in samplers for _ in range(k)]
    groups = [
        (math.prod(mu[n] for mu, n in zip(drawers, a, strict=True)), list(a))
        for a in itertools.product(range(len(GAME.P)), repeat=len(drawers))
    ]

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logp = torch.log_softmax(logits, 0)
        anchors = {name: torch.tensor(slots[name]) for name in phase.anchors}
        total = torch.zeros((), dtype=torch.float64)
        for weight, a in groups:
            fixed = {s: v[a] for s, v in anchors.items()}
            sub = group_of(logp[a], fixed, GAME.P[np.ix_(a, a)], opponents=k * (len(samplers) - 1))
            total = total + weight * algorithm.loss(sub, phase)
        total.backward()
        return total

    optimiser.step(closure)
    return log_normalise(logits.detach().numpy())


@cache
def through_the_loss(algorithm: Algorithm, k: int) -> np.ndarray:
    """The deployed log-policy after one round of phases from SLOTS, every fit solved exactly."""
    slots, samplers = dict(SLOTS), []
    for phase in algorithm.phases(1):
        if phase.sample:
            samplers = [slots[phase.sample_from]] + ([slots[phase.opponent]] if phase.opponent else [])
            if phase.mix:
                samplers[-1] = log_normalise((1 - phase.mix[1]) * samplers[-1] + phase.mix[1] * slots[phase.mix[0]])
        slots[phase.output] = expected_minimiser(algorithm, phase, slots, [np.exp(s) for s in samplers], k)
    return slots["policy"]


def closed_form(algorithm: Algorithm) -> np.ndarray:
    state = State(SLOTS["policy"], SLOTS["start"], 0, {k: v for k, v in SLOTS.items() if k not in ("policy", "start")})
    return algorithm.population(GAME.P, state).log_policy


@pytest.mark.parametrize("name", EXACT)
def test_loss_minimiser_is_the_closed_form(name: str) -> None:
    algorithm = make(name)
    assert algorithm.has_minimiser
    np.testing.assert_allclose(through_the_loss(algorithm, 2), closed_form(algorithm), atol=1e-6)


@pytest.mark.parametrize("name", ["inpo", "onpo", "dpo", "gpo", "nash_md"])
def test_groups_of_three_keep_the_minimiser(name: str) -> None:
    """FACT 3: all pairs of K i.i.d. samples, and FACT 4 with them: win rates within the group."""
    np.testing.assert_allclose(through_the_loss(make(name), 3), closed_form(make(name)), atol=1e-6)


def test_no_loss_has_the_closed_form_of_another() -> None:
    """What makes a method one: its loss fails the test of every other."""
    targets = {name: closed_form(make(name)) for name in EXACT}
    for name in EXACT:
        reached = through_the_loss(make(name), 2)
        for other, target in targets.items():
            if other != name:
                assert np.max(np.abs(reached - target)) > 1e-3, (name, other)


def test_every_method_is_shown_one_way() -> None:
    """By its minimiser here, or, without one, by hand, signs and fixed points in test_algorithm_losses."""
    exact = {make(name).name for name in EXACT}
    others = {"sppo", "dno", "exo", "nash_md_pg"}
    others |= {"minor_dpo", "slic", "rso", "kto"}  # test_offline_methods
    others |= {"rspo", "qrpo", "sail", "irft", "sapo"}  # in test_selfplay and test_demonstrated
    others |= {"expert_iteration", "return_conditioned", "rloo", "ppo"}  # test_reinforcement
    assert exact | others == {i.name for i in list_algorithms() if not i.alias_of}
    assert all(i.has_minimiser or i.name in others | {"gpo"} for i in list_algorithms() if not i.alias_of)


def test_every_method_has_a_recipe() -> None:
    """Two names are teaching aids of games: multiplicative weights and mirror prox."""
    folder = Path(alignment.__file__).parent / "recipes"
    configs = [load_config(AlignConfig, str(file), [], command="align") for file in sorted(folder.glob("*.yaml"))]
    assert {c.algorithm for c in configs} | {"omd", "mirror_prox"} == {i.name for i in list_algorithms()}
    assert {c.options.get("form", "rewards") for c in configs if c.algorithm == "exo"} == {"rewards", "pairs"}


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_aliases_are_what_they_say(name: str) -> None:
    method, alias = get_algorithm(name), ALIASES[name]
    assert method == get_algorithm(alias.of, **alias.options)
    assert method != get_algorithm(alias.of)
    option, value = next(iter(alias.options.items()))
    default = getattr(get_algorithm(alias.of), option)
    assert getattr(get_algorithm(name, **{option: default}), option) == default != value


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


def test_closed_forms_of_section_13_4_with_two_steps_and_moving_anchors() -> None:
    names = ("policy", "start", "aux", "magnet", "ema", "past1", "past2")
    policy, start, aux, magnet, ema, past1, past2 = (SLOTS[s] for s in names)

    def r(log: np.ndarray) -> np.ndarray:
        return GAME.P @ np.exp(log)

    def f(log: np.ndarray) -> np.ndarray:
        return log_normalise((policy + 0.5 * (start + r(log) / TAU)) / 1.5)

    base = (1 - STEP * TAU) * policy + STEP * TAU * start
    half = log_normalise(base + STEP * r(policy))
    mixture = log_normalise(base)
    share = 1 / (1 + STEP * ALPHA)
    scores = np.log(GAME.P) - np.log(GAME.P.T)
    moved = log_normalise(share * (aux + STEP * ALPHA * magnet + STEP * r(policy)))
    prox = log_normalise(policy + STEP * r(policy))
    ipo_mixture = log_normalise(0.6 * policy + 0.4 * start)
    expected = {
        "egpo": base + STEP * r(half),
        "mirror prox": policy + STEP * r(prox),
        "nash_mp": f(f(policy)),
        "mpo": share * (policy + STEP * ALPHA * magnet + STEP * r(policy)),
        "onpo_magnet": share * (moved + STEP * ALPHA * magnet + STEP * r(policy)),
        "comal": (1 - STEP * TAU) * policy + STEP * TAU * magnet + STEP * r(policy),
        "nash_md": mixture + STEP * r(mixture),
        "nash_ema": base + STEP * r(ema),
        "ipo_md": start + STEP * r(ipo_mixture),
        "ipo": start + STEP * r(policy),
        "mnpo": (1 - STEP * TAU) * (4 * policy + 2 * past1 + past2) / 7 + STEP * TAU * start + STEP * r(policy),
        "gpo": policy + STEP * scores @ np.exp(policy),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(closed_form(make(name)), log_normalise(value), atol=1e-13, err_msg=name)


def test_where_a_round_leaves_its_slots() -> None:
    """The magnet moves in its round alone, past policies move up by one, averages follow."""
    state = State(SLOTS["policy"], SLOTS["start"], 1, {k: SLOTS[k] for k in ("magnet", "past1", "past2", "ema")})
    for name in ("mpo", "comal", "onpo_magnet"):
        moving = get_algorithm(name, refresh=2).population(GAME.P, state)
        np.testing.assert_array_equal(moving.memory["magnet"], moving.log_policy)
        resting = get_algorithm(name, refresh=3).population(GAME.P, state)
        np.testing.assert_array_equal(resting.memory["magnet"], SLOTS["magnet"])
    mnpo = get_algorithm("mnpo", history=3).population(GAME.P, state)
    np.testing.assert_array_equal(mnpo.memory["past1"], SLOTS["policy"])
    np.testing.assert_array_equal(mnpo.memory["past2"], SLOTS["past1"])
    ema = get_algorithm("nash_ema", decay=0.25).population(GAME.P, state)
    np.testing.assert_allclose(
        ema.memory["ema"], log_normalise(0.25 * SLOTS["ema"] + 0.75 * ema.log_policy), atol=1e-14
    )


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
        ("onpo", {"step": 1.0, "tau": 2.0}, "must not exceed 1"),
        ("sppo", {"normaliser": "none"}, "'normaliser'"),
        ("dpo", {"smoothing": 0.5}, "smoothing must lie in"),
        ("dpo", {"labels": "fuzzy"}, "'labels'"),
        ("dpo", {"noise": 0.1, "smoothing": 0.1}, "excludes smoothing"),
        ("egpo", {"step": 2.0, "tau": 0.6}, "must not exceed 1"),
        ("nash_mp", {"tau": 0.0}, "tau must be a positive number"),
        ("mpo", {"alpha": 0.0}, "alpha must be a positive number"),
        ("comal", {"refresh": 0}, "refresh must be at least 1 round"),
        ("onpo_magnet", {"refresh": 0}, "refresh must be at least 1 round"),
        ("mnpo", {"history": 0}, "history must be at least 1"),
        ("nash_ema", {"decay": 1.0}, "decay must lie in"),
        ("nash_ema", {"pairs": "best_worst"}, "pairs must be 'all'"),
        ("ipo_md", {"mixture": 1.5}, "mixture must lie in"),
        ("nash_md_pg", {"mixture": -0.1}, "mixture must lie in"),
        ("nash_md_pg", {"pairs": "best_worst"}, "pairs must be 'all'"),
        ("gpo", {"clip": 0.0}, "must be positive"),
        ("exo", {"smoothing": 0.0}, "smoothing in"),
        ("exo", {"pairs": "tournament"}, "pairs must be 'all'"),
        ("mirror_prx", {}, "did you mean 'mirror_prox'"),
        ("xpo", {"alpha": -1.0}, "alpha must be a number >= 0"),
        ("xpo", {"pairs": "best_worst"}, "pairs must be 'all'"),
        ("apo", {"alpha": 1.0}, "alpha must lie in"),
        ("rspo", {"reverse": -0.1}, "must be numbers >= 0"),
        ("qrpo", {"pairs": "tournament"}, "pairs must be 'all'"),
        ("sail", {"beta": 0.0}, "beta must be positive"),
        ("sail", {"pairs": "best_worst"}, "pairs must be 'all'"),
        ("spac", {"weight": -1.0}, "weight must be a number >= 0"),
        ("irft", {"refresh": 0}, "refresh must be at least 1 round"),
        ("spin", {"step": 0.0}, "step must be a positive number"),
        ("sapo", {"decay": 1.0}, "decay must lie in"),
        ("sapo", {"segment": 0}, "segment be at least 1"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_algorithm(name, **options)


def test_two_methods_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two algorithms"):
        register(type("Other", (), {"name": "inpo"}))
    with pytest.raises(ValueError, match="two algorithms"):
        register(type("Other", (), {"name": "mirror_prox"}))


def test_groups_check_their_shapes() -> None:
    with pytest.raises(ValueError, match="anchor 'policy'"):
        group_of([0.0, 0.0], {"policy": [0.0]}, [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="shape in: P"):
        group_of([0.0, 0.0], {}, [[0.5]])
    with pytest.raises(ValueError, match="no anchor 'policy'"):
        anchored_regression(group_of([0.0, 0.0], {}, [[0.5, 0.5], [0.5, 0.5]]), {"policy": 1.0}, 1.0)
