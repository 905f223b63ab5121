"""Expert iteration, return conditioning, RLOO and PPO: laws by enumeration, gradients against autograd, limits."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from test_algorithms import expected_minimiser
from toys import EXACT, GAME, SLOTS, group_of, make

from alignment.algorithm import Conditioned, Group, State, get_algorithm
from alignment.algorithms.expert_iteration import winner_law
from alignment.labels import relabel
from alignment.tabular import Sampling, play, play_sampled
from prefeval.errors import ConfigError
from prefeval.games import log_normalise, open_game
from prefeval.oracle import symmetrise, win_rates

PREFERENCES = np.array([[0.5, 0.5, 0.9, 0.2], [0.5, 0.5, 0.9, 0.2], [0.1, 0.1, 0.5, 0.5], [0.8, 0.8, 0.5, 0.5]])
POLICY = np.array([0.4, 0.3, 0.2, 0.1])
PLAYED = State(SLOTS["policy"], SLOTS["start"])


def rewarded(group: Group, rewards: list[float]) -> Group:
    return dataclasses.replace(group, reward=torch.tensor(rewards, dtype=torch.float64))


# ---- expert iteration


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_law_of_the_winner_is_that_of_all_draws(k: int) -> None:
    """Every sequence of k draws, its winners with equal chances; actions 0 and 1 are twins, so there are ties."""
    law = np.zeros(4)
    for drawn in itertools.product(range(4), repeat=k):
        rates = win_rates(PREFERENCES[np.ix_(drawn, drawn)])
        best = [a for a, rate in zip(drawn, rates, strict=True) if rate > rates.max() - 1e-9]
        for action in best:
            law[action] += np.prod(POLICY[list(drawn)]) / len(best)
    np.testing.assert_allclose(winner_law(PREFERENCES, POLICY, k), law, atol=1e-14)
    assert law.sum() == pytest.approx(1.0)


def test_the_law_where_replies_are_ranked_is_that_of_the_maximum() -> None:
    """P(maximum of K) = F^K - (F before)^K, F the distribution function in the order of strength."""
    game = open_game("bt10")
    order = np.argsort(game.P.mean(axis=1))
    above = np.concatenate([[0.0], np.cumsum(game.start[order])])
    law = winner_law(game.P, game.start, 5)
    # within a group the strongest has the highest win rate
    np.testing.assert_allclose(law[order], np.diff(above**5), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "k"),
    [
        ("expert_iteration", {"keep": "winner"}, 2),
        ("expert_iteration", {"keep": "winner", "best_of": 3}, 3),
        ("expert_iteration", {"keep": "wins"}, 3),
        ("expert_iteration", {"keep": "wins", "labels": "hard", "init": "previous"}, 2),
        ("return_conditioned", {}, 2),
        ("return_conditioned", {"best_of": 3, "init": "previous"}, 3),
    ],
)
def test_likelihoods_fit_the_law_of_what_is_kept(name: str, options: dict[str, Any], k: int) -> None:
    algorithm = get_algorithm(name, **options)
    (phase,) = algorithm.phases(1)
    assert algorithm.has_minimiser
    found = expected_minimiser(algorithm, phase, SLOTS, [np.exp(SLOTS["policy"])], k)
    target = algorithm.population(GAME.P, PLAYED).log_policy
    np.testing.assert_allclose(found, target, atol=1e-6)
    for other in EXACT:  # and no other method ends there
        there = make(other).population(GAME.P, State(*(SLOTS[s] for s in ("policy", "start")), 0, SLOTS)).log_policy
        assert np.max(np.abs(there - target)) > 1e-3, other


def test_policies_given_that_they_win() -> None:
    p = np.exp(SLOTS["policy"])
    wins = get_algorithm("expert_iteration", keep="wins").population(GAME.P, PLAYED).log_policy
    np.testing.assert_allclose(np.exp(wins), 2 * p * (GAME.P @ p), atol=1e-14)  # P(win) is 1/2 in self-play
    # with two draws of a game of sure verdicts the winner is whoever wins
    sure = relabel(GAME.P, "hard")
    two = get_algorithm("expert_iteration").population(sure, PLAYED).log_policy
    sure_wins = get_algorithm("expert_iteration", keep="wins").population(sure, PLAYED).log_policy
    np.testing.assert_allclose(two, sure_wins, atol=1e-14)
    # ... and the best of more draws is further up on a ranking
    game, last = open_game("bt10"), 0.0
    for k in (2, 4, 8):
        best = winner_law(game.P, game.start, k)
        assert best @ game.P @ game.start > last
        last = float(best @ game.P @ game.start)


def test_what_expert_iteration_keeps() -> None:
    table = [[0.5, 0.5, 0.9], [0.5, 0.5, 0.9], [0.1, 0.1, 0.5]]
    cases = [
        ({}, [1 / 2, 1 / 2, 0]),  # the winners tie
        ({"keep": "wins"}, [0.7 / 1.5, 0.7 / 1.5, 0.1 / 1.5]),
        ({"keep": "wins", "labels": "hard"}, [0.75 / 1.5, 0.75 / 1.5, 0]),
        ({"keep": "correct"}, [0, 1 / 3, 1 / 3]),
    ]
    for options, weights in cases:
        algorithm = get_algorithm("expert_iteration", **options)
        group = rewarded(group_of([-1.0, -2.0, -4.0], {}, table), [0.0, 1.0, 1.0])
        loss = algorithm.loss(group, algorithm.phases(1)[0])
        loss.backward()
        np.testing.assert_allclose(group.logp.grad, -np.array(weights), atol=1e-14)
        assert loss.item() == pytest.approx(np.dot(weights, [1.0, 2.0, 4.0]))
    # a prompt that nobody solved teaches nothing
    correct = get_algorithm("expert_iteration", keep="correct")
    unsolved = rewarded(group_of([-1.0, -2.0], {}, [[0.5, 0.5], [0.5, 0.5]]), [0.0, 0.0])
    assert correct.loss(unsolved, correct.phases(1)[0]).item() == 0.0
    assert [get_algorithm("expert_iteration", init=i).phases(1)[0].init_from for i in ("start", "previous")] == [
        "start",
        "policy",
    ]


def test_what_replies_are_told() -> None:
    """Good above one half, bad below, nothing at it; by rewards where they are given; all of them are trained on."""
    table = np.array([[0.5, 0.9, 0.2, 0.9], [0.1, 0.5, 0.6, 0.3], [0.8, 0.4, 0.5, np.nan], [0.1, 0.7, np.nan, 0.5]])
    by_rate = get_algorithm("return_conditioned")
    assert isinstance(by_rate, Conditioned)
    assert by_rate.told(table, None, 4) == ("[GOOD]", "[BAD]", "[GOOD]", "[BAD]")
    assert by_rate.told(np.array([[0.5, 0.5], [0.5, 0.5]]), None, 2) == ("", "")
    by_reward = get_algorithm("return_conditioned", reward="given", good="Well.", bad="Badly.")
    assert isinstance(by_reward, Conditioned)
    assert by_reward.told(table, np.array([0.0, 1.0, 0.5, 0.0]), 4) == ("Badly.", "Well.", "Well.", "Badly.")
    group = group_of([-1.0, -2.0, -3.0, -4.0], {}, table)
    phase = by_rate.phases(1)[0]
    every = by_rate.loss(dataclasses.replace(group, told=("[GOOD]", "[BAD]", "", "[BAD]")), phase)
    assert every.item() == pytest.approx((1 + 2 + 4) / 4)
    # in a game the policy is the one that is told 'good'
    assert by_rate.loss(group, phase).item() == pytest.approx((1 + 3) / 4)


# ---- policy gradients


def expected_gradient(algorithm: Any, log_policy: torch.Tensor, k: int, rewards: np.ndarray | None) -> torch.Tensor:
    """The exact mean of the loss over all groups of k draws of the policy itself; differentiable."""
    start, before = torch.tensor(SLOTS["start"]), log_policy.detach()
    total = torch.zeros((), dtype=torch.float64)
    for drawn in itertools.product(range(3), repeat=k):
        row = list(drawn)
        group = group_of(log_policy[row], {"start": start[row], "policy": before[row]}, GAME.P[np.ix_(row, row)])
        if rewards is not None:
            group = rewarded(group, rewards[row].tolist())
        weight = before[row].sum().exp()
        total = total + weight * algorithm.loss(group, algorithm.phases(1)[0])
    return total


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("reward", ["win_rate", "given"])
@pytest.mark.parametrize("name", ["rloo", "ppo"])
def test_the_gradient_is_that_of_the_value(name: str, reward: str, k: int) -> None:
    """Autograd on p'Pq - tau KL with q = p held fixed, or on p'r - tau KL, for groups of any size."""
    algorithm = get_algorithm(name, tau=0.3, reward=reward)
    given = np.array([0.0, 1.0, 0.25]) if reward == "given" else None
    logits = torch.tensor([0.2, -0.5, 0.4], dtype=torch.float64, requires_grad=True)
    log_policy = torch.log_softmax(logits, 0)
    p, start = log_policy.exp(), torch.tensor(SLOTS["start"])
    gain = torch.tensor(GAME.P) @ p.detach() if given is None else torch.tensor(given)
    value = p @ gain - 0.3 * (p * (log_policy - start)).sum()
    (wanted,) = torch.autograd.grad(value, logits, retain_graph=True)
    (found,) = torch.autograd.grad(expected_gradient(algorithm, log_policy, k, given), logits)
    np.testing.assert_allclose(found, -wanted, atol=1e-12)
    if given is None:  # the exact update is a step along it
        state = State(log_policy.detach().numpy(), SLOTS["start"])
        options = {"passes": 1} if name == "ppo" else {}
        moved = dataclasses.replace(algorithm, step=0.7, **options).population(GAME.P, state).log_policy
        np.testing.assert_allclose(moved, log_normalise((log_policy + 0.7 * wanted).detach().numpy()), atol=1e-12)


def test_a_baseline_of_the_others_win_rates_would_stretch_the_gradient() -> None:
    """Why `rloo` does not take the mean of the others' win rates: half of each is against this very reply."""
    rates = win_rates(np.array([[0.5, 0.9, 0.4], [0.1, 0.5, 0.3], [0.6, 0.7, 0.5]]))
    others = (rates.sum() - rates) / 2
    np.testing.assert_allclose(rates - others, 3 / 2 * (rates - 0.5), atol=1e-12)


def test_rloo_by_hand() -> None:
    """TRL's form: R = reward - tau log-ratio, A = R - mean of the others' R, loss -mean A log pi."""
    algorithm = get_algorithm("rloo", reward="given", tau=0.5)
    group = rewarded(group_of([-1.0, -2.0, -4.0], {"start": [-2.0, -2.0, -3.0]}, np.full((3, 3), 0.5)), [1.0, 0.0, 2.0])
    loss = algorithm.loss(group, algorithm.phases(1)[0])
    loss.backward()
    total = np.array([1.0 - 0.5, 0.0, 2.0 + 0.5])
    wanted = total - (total.sum() - total) / 2
    np.testing.assert_allclose(group.logp.grad, -wanted / 3, atol=1e-14)
    assert loss.item() == pytest.approx(-np.dot(wanted, [-1.0, -2.0, -4.0]) / 3)
    # rewards of 0 and 1: win rates say half of it
    right = rewarded(
        group_of([-1.0] * 3, {"start": [-1.0] * 3}, [[0.5, 1, 1], [0, 0.5, 0.5], [0, 0.5, 0.5]]), [1, 0, 0]
    )
    halves = []
    for reward in ("given", "win_rate"):
        right.logp.grad = None
        algorithm = get_algorithm("rloo", reward=reward)
        algorithm.loss(right, algorithm.phases(1)[0]).backward()
        halves.append(right.logp.grad.clone())
    np.testing.assert_allclose(halves[1], halves[0] / 2, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "options"),
    [("rloo", {}), ("ppo", {}), ("ppo", {"advantage": "standardised"}), ("expert_iteration", {"keep": "wins"})],
)
def test_failed_verdicts_leave_no_trace(name: str, options: dict[str, Any]) -> None:
    algorithm = get_algorithm(name, **options)
    phase = algorithm.phases(1)[0]
    anchors = {s: np.zeros(3) for s in ("policy", "start")}
    table = np.where(np.eye(3, dtype=bool), 0.5, np.nan)
    nothing = group_of([-1.0, -2.0, -4.0], anchors, table)
    algorithm.loss(nothing, phase).backward()
    assert nothing.logp.grad.tolist() == [0.0, 0.0, 0.0]
    table[0, 1], table[1, 0] = 0.8, 0.2
    both = group_of([-1.0, -2.0, -4.0], anchors, table)
    algorithm.loss(both, phase).backward()
    pair = group_of([-1.0, -2.0], {s: np.zeros(2) for s in anchors}, table[:2, :2])
    algorithm.loss(pair, phase).backward()
    np.testing.assert_allclose(both.logp.grad, [*pair.logp.grad, 0.0], atol=1e-14)
    assert algorithm.loss(group_of([-1.0], {s: [0.0] for s in anchors}, [[0.5]]), phase).item() == 0.0


# ---- the clipped surrogate

TOKENS = [[-1.0, -0.5, -2.25], [-0.75, -3.0, 0.0], [-0.5, -0.25, -1.0]]  # log-probs; the second reply has two tokens
BEFORE = [[-1.25, -0.625, -1.75], [-0.5, -2.75, 0.0], [-0.5, -0.75, -1.125]]
LENGTH = [3.0, 2.0, 3.0]
REWARDS = [1.0, 0.0, 0.5]


def tokens_group(logp: torch.Tensor, rewards: list[float], start: Any = BEFORE) -> Group:
    before, start = torch.tensor(BEFORE, dtype=torch.float64), torch.tensor(start, dtype=torch.float64)
    group = group_of(logp.sum(1), {"policy": before.sum(1), "start": start.sum(1)}, np.full((3, 3), 0.5))
    tokens = {"policy": before, "start": start}
    group = dataclasses.replace(group, token_logp=logp, token_anchors=tokens, length=torch.tensor(LENGTH))
    return rewarded(group, rewards)


def token_gradient(algorithm: Any, values: Any, **changes: Any) -> tuple[float, np.ndarray]:
    logp = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    loss = algorithm.loss(tokens_group(logp, REWARDS, **changes), algorithm.phases(1)[0])
    loss.backward()
    return loss.item(), np.asarray(logp.grad)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_first_step_of_ppo_is_that_of_rloo(ratio: str) -> None:
    """Whatever clips; and with no clip an off-policy step is importance sampling of rloo's."""
    start = np.array(BEFORE) - np.array([[0.25, 0, 0.5], [0.125, 0, 0], [0, 0, 1.0]])
    rloo = get_algorithm("rloo", reward="given", tau=0.2)
    _, wanted = token_gradient(rloo, BEFORE, start=start)
    for clip in (0.2, math.inf):
        ppo = get_algorithm("ppo", reward="given", tau=0.2, clip=clip, ratio=ratio)
        _, found = token_gradient(ppo, BEFORE, start=start)
        real = np.arange(3)[None] < np.array(LENGTH)[:, None]
        np.testing.assert_allclose(found[real], wanted[real], atol=1e-14)
    free = get_algorithm("ppo", reward="given", tau=0.2, clip=math.inf, ratio=ratio)
    moved = np.array(TOKENS) - np.array(BEFORE)
    q = np.exp(moved if ratio == "token" else moved.sum(1, keepdims=True) + 0 * moved)
    np.testing.assert_allclose(token_gradient(free, TOKENS, start=start)[1][real], (q * wanted)[real], atol=1e-14)


def test_a_clipped_token_has_no_slope() -> None:
    """A = 0.75, -0.75, 0 (leave one out of 1, 0, 1/2). q of reply 1: 1.28 (clipped), 1.13, 0.61; of reply 2: 0.78
    (clipped), 0.78 (clipped)."""
    _, slope = token_gradient(get_algorithm("ppo", reward="given", tau=0.0), TOKENS)
    a = 0.75 / 3
    wanted = [[0.0, -a * math.exp(0.125), -a * math.exp(-0.5)], [0.0, 0.0, 0.0], [0.0] * 3]
    np.testing.assert_allclose(slope, wanted, atol=1e-14)
    _, wide = token_gradient(get_algorithm("ppo", reward="given", tau=0.0, clip=0.5), TOKENS)
    assert wide[0, 0] < 0 < wide[1, 0]


def test_given_rewards_of_a_game_and_of_an_oracle_without_any() -> None:
    for name, options in (("rloo", {"reward": "given"}), ("ppo", {"reward": "given"})):
        algorithm = get_algorithm(name, **options)
        with pytest.raises(ConfigError, match="a matrix game has P and no rewards"):
            algorithm.population(GAME.P, PLAYED)
        group = group_of([-1.0, -2.0], {"start": [0.0, 0.0], "policy": [0.0, 0.0]}, symmetrise(np.full((2, 2), 0.5)))
        with pytest.raises(ConfigError, match="check:number"):
            algorithm.loss(group, algorithm.phases(1)[0])
    with pytest.raises(ConfigError, match="no rewards"):
        get_algorithm("expert_iteration", keep="correct").population(GAME.P, PLAYED)
    with pytest.raises(ConfigError, match="--sampled"):
        winner_law(np.full((40, 40), 0.5), np.full(40, 1 / 40), 12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("expert_iteration", {"best_of": 1}, "best_of must be at least 2"),
        ("expert_iteration", {"pairs": "best_worst"}, "pairs must be 'all'"),
        ("return_conditioned", {"bad": "[GOOD]"}, "two different instructions"),
        ("return_conditioned", {"labels": "bernoulli"}, "labels soft or hard"),
        ("return_conditioned", {"best_of": 1}, "best_of must be at least 2"),
        ("rloo", {"tau": -1.0}, "tau must be a number >= 0"),
        ("rloo", {"pairs": "tournament"}, "pairs must be 'all'"),
        ("ppo", {"clip": 0.0}, "clip must be positive"),
        ("ppo", {"passes": 0}, "passes at least 1"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_algorithm(name, **options)


# ---- games


@pytest.mark.parametrize(
    ("name", "options", "k"),
    [
        ("rloo", {"step": 2.0, "tau": 0.1}, 3),
        ("ppo", {"step": 1.0, "tau": 0.1, "clip": 0.1}, 3),
        ("expert_iteration", {"best_of": 3}, 3),
        pytest.param("expert_iteration", {"keep": "wins"}, 2, marks=pytest.mark.slow),
        pytest.param("return_conditioned", {"best_of": 3}, 3, marks=pytest.mark.slow),
    ],
)
def test_sampled_play_follows_the_exact_iterates(name: str, options: dict[str, Any], k: int) -> None:
    game, algorithm = open_game("cyc3"), get_algorithm(name, **options)
    exact = list(play(algorithm, game, 3))
    drawn = list(play_sampled(algorithm, game, 3, Sampling(12_000, group_size=k, seed=3)))
    for a, b in zip(exact, drawn, strict=True):
        np.testing.assert_allclose(b.policy, a.policy, atol=0.025)
    assert np.max(np.abs(exact[2].policy - game.start)) > 0.04


def test_where_they_end() -> None:
    """rloo and ppo: at the regularised equilibrium, ppo's clip in between or not. Best-of-K: at the best of a ranking,
    and nowhere on a cycle."""
    from prefeval.games import regularised_nash

    game = open_game("cyc3")
    nash = regularised_nash(game.P, 0.2, game.start)
    for name, options in (("rloo", {"step": 1.0}), ("ppo", {"step": 1.0, "clip": 0.1})):
        *_, last = play(get_algorithm(name, tau=0.2, **options), game, 400, tau=0.2)
        np.testing.assert_allclose(last.policy, nash, atol=1e-8)
    ranked, best = open_game("bt10"), int(np.argmax(open_game("bt10").P.mean(axis=1)))
    for options in ({"best_of": 4}, {"keep": "wins"}):
        *_, last = play(get_algorithm("expert_iteration", **options), ranked, 60)
        assert last.policy[best] > 0.99
    *_, last = play(get_algorithm("expert_iteration", keep="wins"), open_game("rps"), 400)
    assert last.gap > 0.9  # it spirals to the boundary, as multiplicative weights do
