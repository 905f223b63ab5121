"""Methods that the literature trains on given pairs: values by hand, limits, minimisers by another solver.

Rows of `rpo`, `chi2_po`, `hypo` and `mpo_max` in toys.EXACT hold their losses against their updates as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from toys import ABSOLUTE, GAME, SLOTS, group_of, make, random_table

from alignment.algorithm import Algorithm, Group, State, algorithm_class, get_algorithm
from alignment.labels import knockout, mean_log_odds, select_pairs
from alignment.selection import part_of, rejection_sample
from alignment.tabular import Sampling, play, play_sampled
from prefeval.errors import ConfigError
from prefeval.games import bradley_terry, log_normalise, open_game
from prefeval.seeds import rng

PAIR = [[0.5, 0.7], [0.3, 0.5]]
BT10 = open_game("bt10")
SCORES = np.random.default_rng(7).normal(size=10)  # those that bt10 is made of (13.5)


def loss_of(name: str, logp: Any, reference: Any, table: Any = PAIR, **options: Any) -> float:
    """With hard labels."""
    algorithm = get_algorithm(name, **{"labels": "hard", **options})
    phase = algorithm.phases(1)[0]
    return algorithm.loss(group_of(logp, dict.fromkeys(phase.anchors, reference), table), phase).item()


def gradient(algorithm: Algorithm, group: Group) -> np.ndarray:
    group.logp.grad = None
    algorithm.loss(group, algorithm.phases(1)[0]).backward()
    return np.asarray(group.logp.grad)


def softplus(x: Any) -> Any:
    return np.logaddexp(0.0, x)


@pytest.mark.parametrize("labels", ["soft", "hard"])
@pytest.mark.parametrize(
    ("name", "none"), [("rpo", {"eta": 0.0}), ("chi2_po", {"gamma": 0.0}), ("hypo", {"kl": 0.0}), ("rso", {})]
)
def test_dpo_is_their_limit(name: str, none: dict[str, Any], labels: str) -> None:
    """Losses, gradients and, where pairs come from the same policy, updates; any other value of the option differs."""
    draw, table = np.random.default_rng(5), random_table(5, 6)
    logp, start, policy = draw.normal(size=(3, 5)) * 3
    dpo = get_algorithm("dpo", step=3.0, labels=labels)
    wanted = gradient(dpo, group_of(logp, {"start": start}, table))
    limit = get_algorithm(name, step=3.0, labels=labels, **none)
    both = {"start": start, "policy": policy}
    np.testing.assert_allclose(gradient(limit, group_of(logp, both, table)), wanted, atol=1e-12)
    if name == "rso":
        return
    state = State(SLOTS["policy"], SLOTS["start"])
    update, other = limit.population(GAME.P, state).log_policy, dpo.population(GAME.P, state).log_policy
    np.testing.assert_allclose(update, other, atol=1e-8)
    unlike = get_algorithm(name, step=3.0, labels=labels, **dict.fromkeys(none, 0.5))
    assert np.max(np.abs(gradient(unlike, group_of(logp, both, table)) - wanted)) > 1e-3
    assert np.max(np.abs(unlike.population(GAME.P, state).log_policy - other)) > 1e-2


# ---- MinorDPO


def test_minor_dpo_by_hand() -> None:
    # The loser has lost 1 nat and counts as 0: -log sigmoid(0.1 * 1); with DPO it would be sigmoid(0.1 * 2).
    assert loss_of("minor_dpo", [-1.0, -3.0], [-2.0, -2.0]) == pytest.approx(softplus(-0.1), rel=1e-12)
    assert loss_of("minor_dpo", [-1.0, -1.5], [-2.0, -2.0]) == pytest.approx(softplus(-0.1 * 0.5), rel=1e-12)
    soft = 0.7 * softplus(-0.1) + 0.3 * softplus(-0.1 * (-1 - 1))
    assert loss_of("minor_dpo", [-1.0, -3.0], [-2.0, -2.0], labels="soft") == pytest.approx(soft, rel=1e-12)


def test_minor_dpo_spares_losers_below_the_reference() -> None:
    """Above it, and at it, its gradient is DPO's."""
    minor, dpo = (get_algorithm(name, labels="hard", step=2.0) for name in ("minor_dpo", "dpo"))
    below = gradient(minor, group_of([-1.0, -2.5], {"start": [-2.0, -2.0]}, PAIR))
    assert below[0] < 0 == below[1]
    for lost in (-1.0, -2.0):
        group = group_of([-1.0, lost], {"start": [-2.0, -2.0]}, PAIR)
        np.testing.assert_allclose(gradient(minor, group), gradient(dpo, group), atol=1e-14)


def convex_minor(P: np.ndarray, mu: np.ndarray, ref: np.ndarray, step: float) -> np.ndarray:
    """log pi of the convex programme: v_j >= h_j and >= 0 stand for max(0, h_j), sum ref exp(h) <= 1 binds."""
    n, weight = len(P), np.outer(mu, mu) * P

    def value(x: np.ndarray) -> float:
        return float((weight * softplus((x[None, n:] - x[:n, None]) / step)).sum())

    def slope(x: np.ndarray) -> np.ndarray:
        pull = weight / (1 + np.exp((x[:n, None] - x[None, n:]) / step)) / step
        return np.concatenate([-pull.sum(1), pull.sum(0)])

    mass = {
        "type": "ineq",
        "fun": lambda x: 1 - ref @ np.exp(x[:n]),
        "jac": lambda x: np.concatenate([-ref * np.exp(x[:n]), np.zeros(n)]),
    }
    above = {
        "type": "ineq",
        "fun": lambda x: x[n:] - x[:n],
        "jac": lambda x: np.hstack([-np.eye(n), np.eye(n)]),
    }
    bounds = [(None, None)] * n + [(0, None)] * n
    found = minimize(
        value, np.zeros(2 * n), jac=slope, bounds=bounds, constraints=[mass, above], method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    return log_normalise(np.log(ref) + found.x[:n])


@pytest.mark.parametrize(("game", "step"), [("bt10", 0.8), ("rand10:1", 2.0), ("rps", 1.0)])
def test_minor_dpo_solves_its_convex_programme(game: str, step: float) -> None:
    table, minor = open_game(game), get_algorithm("minor_dpo", step=step)
    mu, ref = table.start, np.roll(table.start, 1)
    found = minor.population(table.P, State(np.log(mu), np.log(ref))).log_policy
    np.testing.assert_allclose(found, convex_minor(table.P, mu, ref, step), atol=2e-4)
    assert np.max(np.abs(found - np.log(ref))) > 0.02


def test_minor_dpo_has_a_dead_zone() -> None:
    """The start stays where no 2 p - 1 exceeds the smallest p, p the win rates against it; elsewhere it moves."""
    minor = get_algorithm("minor_dpo", step=1.0)
    steep = 1 / (1 + np.exp(-2.0 * np.subtract.outer(np.arange(3), np.arange(3))))
    for P, still in ((GAME.P, True), (steep, False)):
        rates = P @ GAME.start
        assert (np.max(2 * rates - 1) <= np.min(rates)) == still
        state = minor.population(P, State(GAME.log_start, GAME.log_start))
        assert (np.max(np.abs(state.log_policy - GAME.log_start)) < 1e-4) == still


# ---- SLiC


def test_slic_by_hand() -> None:
    """max(0, delta - lw + ll) - lambda lw, and no reference anywhere."""
    for reference in ([-2.0, -2.0], [5.0, -9.0]):
        assert loss_of("slic", [-3.0, -3.5], reference) == pytest.approx(0.5 + 0.1 * 3, rel=1e-12)
        assert loss_of("slic", [-3.0, -4.5], reference) == pytest.approx(0.1 * 3, rel=1e-12)
        assert loss_of("slic", [-3.0, -4.5], reference, step=2.0, regulariser=0.5) == pytest.approx(0.5 + 1.5)
    soft = 0.7 * (0.5 + 0.3) + 0.3 * (1.5 + 0.35)
    assert loss_of("slic", [-3.0, -3.5], [0.0, 0.0], labels="soft") == pytest.approx(soft, rel=1e-12)
    calm = get_algorithm("slic", labels="hard", regulariser=0.0)
    assert gradient(calm, group_of([-3.0, -4.5], {"start": [0.0, 0.0]}, PAIR)).tolist() == [0.0, 0.0]
    assert not calm.has_minimiser


@pytest.mark.parametrize("regulariser", [0.1, 0.6])
def test_slic_solves_its_convex_programme(regulariser: float) -> None:
    """The dual: pi = c + q / lambda with c the share of wins and q the net of s_ij in [0, w_ij], at the largest
    delta sum s + lambda entropy(pi)."""
    P, mu, delta = GAME.P, GAME.start, 0.8
    weight = 2 * np.outer(mu, mu) * P
    share = weight.sum(1)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]

    def policy(s: np.ndarray) -> np.ndarray:
        q = np.zeros(3)
        for (i, j), value in zip(pairs, s, strict=True):
            q[i] += value
            q[j] -= value
        return np.maximum(share + q / regulariser, 1e-12)

    found = minimize(
        lambda s: -delta * s.sum() + regulariser * policy(s) @ np.log(policy(s)),
        np.zeros(len(pairs)), bounds=[(0, weight[p]) for p in pairs], method="SLSQP",
        constraints=[{"type": "ineq", "fun": lambda s: policy(s) - 1e-9}],
        options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    slic = get_algorithm("slic", step=delta, regulariser=regulariser)
    reached = slic.population(P, State(GAME.log_start, GAME.log_start)).log_policy
    np.testing.assert_allclose(np.exp(reached), policy(found.x), atol=2e-4)


# ---- kinked losses and all others


def mean_loss(algorithm: Algorithm, log_policy: np.ndarray) -> float:
    """The expected loss over pairs drawn as the method draws them, from SLOTS, on cyc3."""
    phase = algorithm.phases(1)[0]
    mu, total = np.exp(SLOTS[phase.sample_from]), 0.0
    for i, j in itertools.product(range(3), repeat=2):
        at = [i, j]
        group = group_of(log_policy[at], {s: SLOTS[s][at] for s in phase.anchors}, GAME.P[np.ix_(at, at)])
        total += mu[i] * mu[j] * algorithm.loss(group, phase).item()
    return total


KINKED: Mapping[str, Algorithm] = {
    "minor_dpo": get_algorithm("minor_dpo", step=0.2, labels="hard"),
    "slic": get_algorithm("slic", step=0.7, regulariser=0.4),
    "rso hinge": get_algorithm("rso", step=0.7, form="hinge"),
}


@pytest.mark.parametrize("name", ["minor_dpo", "slic"])
def test_the_updates_of_kinked_losses_are_minima_of_theirs_alone(name: str) -> None:
    """No small move betters the method's own loss, and some move betters the loss of each other method."""
    found = KINKED[name].population(GAME.P, State(SLOTS["policy"], SLOTS["start"])).log_policy
    moves = [d * 1e-3 for d in (*np.eye(3), *-np.eye(3), *np.random.default_rng(0).normal(size=(6, 3)))]

    def is_minimum(algorithm: Algorithm) -> bool:
        here = mean_loss(algorithm, found)
        return all(mean_loss(algorithm, log_normalise(found + d)) > here - 1e-10 for d in moves)

    assert is_minimum(KINKED[name])
    others = {n: a for n, a in KINKED.items() if n != name}
    others |= {n: make(n) for n in (*ABSOLUTE, "dpo", "ipo", "inpo", "sppo", "gpo")}
    assert not [n for n, algorithm in others.items() if is_minimum(algorithm)]


# ---- RPO, chi2-PO, HyPO, MPO


def test_rpo_by_hand() -> None:
    # u = 2, beta = 0.1: DPO's 0.598138869381592 and eta beta = 0.05 times the winner's 1 nat.
    assert loss_of("rpo", [-1.0, -3.0], [-2.0, -2.0], step=10.0) == pytest.approx(0.648138869381592, rel=1e-12)
    soft = 0.7 * 0.648138869381592 + 0.3 * (0.798138869381592 + 0.15)
    got = loss_of("rpo", [-1.0, -3.0], [-2.0, -2.0], step=10.0, labels="soft")
    assert got == pytest.approx(soft, rel=1e-12)
    paper = get_algorithm("rpo")
    assert (1 / paper.step, paper.eta / paper.step) == (0.01, 0.005)


def test_chi2_po_by_hand() -> None:
    # log rho 1 and -1: phi is e + 1 and 1 / e - 1.
    wanted = softplus(-0.1 * (math.e + 1 - math.exp(-1) + 1))
    assert loss_of("chi2_po", [-1.0, -3.0], [-2.0, -2.0]) == pytest.approx(wanted, rel=1e-12)
    half = softplus(-0.1 * (0.5 * math.e + 1 - 0.5 * math.exp(-1) + 1))
    assert loss_of("chi2_po", [-1.0, -3.0], [-2.0, -2.0], gamma=0.5) == pytest.approx(half, rel=1e-12)
    assert loss_of("chi2_po", [-1.0, -3.0], [-2.0, -2.0], clip=0.3) == pytest.approx(softplus(-0.3), rel=1e-12)
    far = group_of([40.0, -3.0], {"start": [-2.0, -2.0]}, PAIR, dtype=torch.float32)
    assert gradient(get_algorithm("chi2_po"), far).tolist() == [0.0, 0.0]  # beyond the clip, and finite


def test_chi2_po_maximises_reward_less_kl_and_chi_squared() -> None:
    """On Bradley-Terry scores c: max pi c - beta (KL + gamma sum pi^2 / (2 ref)), by a solver that knows no phi."""
    ref, step, gamma = BT10.start, 1.5, 0.7

    def objective(z: np.ndarray) -> float:
        p = np.exp(log_normalise(z))
        return float(-p @ SCORES + (p @ np.log(p / ref) + gamma * (p**2 / ref).sum() / 2) / step)

    found = minimize(objective, np.log(ref), options={"gtol": 1e-9, "maxiter": 5000})
    chi2, dpo = get_algorithm("chi2_po", step=step, gamma=gamma), get_algorithm("dpo", step=step)
    state = State(BT10.log_start, BT10.log_start)
    reached = chi2.population(BT10.P, state).log_policy
    np.testing.assert_allclose(np.exp(reached), np.exp(log_normalise(found.x)), atol=1e-5)
    ratio = reached - BT10.log_start
    assert ratio.max() < 0.7 * (dpo.population(BT10.P, state).log_policy - BT10.log_start).max()  # the pessimism


def test_hypo_follows_the_gradient_of_the_kl() -> None:
    """In expectation over pairs from pi_t, wherever the policy is by now; at pi_t also without the weights."""
    hypo = get_algorithm("hypo", kl=1.0)
    logits = torch.tensor([0.3, -0.4, 0.5], dtype=torch.float64, requires_grad=True)
    start, before = torch.tensor(SLOTS["start"]), torch.tensor(SLOTS["policy"])
    for point in (logits, before.clone().requires_grad_()):
        logp = torch.log_softmax(point, 0)
        wanted = torch.autograd.grad((logp.exp() * (logp - start)).sum(), point, retain_graph=True)[0]
        value = torch.zeros((), dtype=torch.float64)
        for i, j in itertools.product(range(3), repeat=2):
            at = [i, j]
            anchors = {"start": start[at], "policy": before[at]}
            group = group_of(logp[at], anchors, GAME.P[np.ix_(at, at)])
            value = value + before[at].sum().exp() * hypo.divergence(group)
        found = torch.autograd.grad(value, point)[0]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
        kl = (logp.exp() * (logp - start)).sum().item()
        assert value.item() == pytest.approx(kl, abs=1e-12)


def test_hypo_by_hand() -> None:
    """At pi_t: each response's log-ratio less the mean of the others', over N; the cap bounds a weight."""
    start, logp = np.array([-1.0, -2.5, -3.0]), np.array([-2.0, -2.0, -1.0])
    hypo, dpo = get_algorithm("hypo", kl=0.3), get_algorithm("dpo")
    anchors, table = {"start": start, "policy": logp}, random_table(3, 1)
    extra = gradient(hypo, group_of(logp, anchors, table)) - gradient(dpo, group_of(logp, anchors, table))
    h = logp - start  # -1, 0.5, 2
    others = np.array([1.25, 0.5, -0.25])
    np.testing.assert_allclose(extra, 0.3 * (h - others) / 3, atol=1e-14)
    wild = group_of(logp, {"start": start, "policy": logp - [0.0, 5.0, 0.0]}, table)
    value = get_algorithm("hypo", cap=4.0).divergence(wild).item()
    assert value == pytest.approx((-1 + 4 * 0.5 - (1 + others[1]) * 3 + 2) / 3)


def test_mpo_max_by_hand() -> None:
    """-s(lw - ll) - beta mean log pi, whatever the reference; its pull fades on pairs that are ranked clearly wrong."""
    s = 1 / (1 + math.exp(-2.0))
    for reference in ([-2.0, -2.0], [0.0, -7.0]):
        assert loss_of("mpo_max", [-1.0, -3.0], reference) == pytest.approx(-s + 0.1 * 2, rel=1e-12)
    assert loss_of("mpo_max", [-1.0, -3.0], [0.0, 0.0], step=2.0, beta=0.0) == pytest.approx(-1 / (1 + math.exp(-1)))
    bare = get_algorithm("mpo_max", beta=0.0, labels="hard")
    wrong, even = (gradient(bare, group_of([x, 0.0], {"start": [0.0, 0.0]}, PAIR)) for x in (-9.0, 0.0))
    assert even.tolist() == [-0.25, 0.25]
    assert -1e-3 < wrong[0] < 0
    assert bare.phases(1)[0].sample_from == "start"
    # Without a preference the likelihood alone is left, whose best policy is the reference.
    tie = get_algorithm("mpo_max", beta=0.5).population(np.full((3, 3), 0.5), State(SLOTS["policy"], SLOTS["start"]))
    np.testing.assert_allclose(tie.log_policy, SLOTS["start"], atol=1e-8)


# ---- KTO


def test_kto_by_hand() -> None:
    """Ratios 1, -1, 0.6 with mean 0.2 = z0; win rates 0.8, 0.25, 0.45 make one desirable response of three."""
    table = [[0.5, 0.9, 0.7], [0.1, 0.5, 0.4], [0.3, 0.6, 0.5]]
    logp, start = [-1.0, -3.0, -1.4], [-2.0, -2.0, -2.0]

    def s(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    options: dict[str, Any] = {"step": 2.0, "desirable": 1.5, "undesirable": 0.5, "labels": "soft"}
    wanted = (1.5 * (1 - s(0.4)) + 0.5 * (1 - s(0.6)) + 0.5 * (1 - s(-0.2))) / 3
    assert loss_of("kto", logp, start, table, **options) == pytest.approx(wanted, rel=1e-12)
    lower = [-3.0, -2.5, -2.5]  # ratios with a negative mean: z0 is 0
    wanted = (1.5 * (1 - s(-0.5)) + 0.5 * (1 - s(0.25)) + 0.5 * (1 - s(0.25))) / 3
    assert loss_of("kto", lower, start, table, **options) == pytest.approx(wanted, rel=1e-12)
    even = [[0.5, 0.5], [0.5, 0.5]]  # half of each: the same loss of either
    assert loss_of("kto", [0.0, 0.0], [0.0, 0.0], even, **options) == pytest.approx(0.5)


def test_kto_moves_each_response_by_itself() -> None:
    """No gradient through z0: a response's slope is its own term's, and a group may be all of one kind."""
    kto = get_algorithm("kto", step=2.0)
    table = np.full((3, 3), np.nan)
    np.fill_diagonal(table, 0.5)
    table[0, 2], table[2, 0], table[1, 2], table[2, 1] = 0.9, 0.1, 0.8, 0.2
    group = group_of([-1.0, -3.0, -1.4], {"start": [-2.0, -2.0, -2.0]}, table)
    lead = (np.array([1.0, -1.0, 0.6]) - 0.2) / 2
    slope = 1 / (2 + 2 * np.cosh(lead)) / 2 / 3
    np.testing.assert_allclose(gradient(kto, group), [-slope[0], -slope[1], slope[2]], atol=1e-14)
    with pytest.raises(ConfigError, match="kto has no pairs"):
        get_algorithm("kto", pairs="best_worst")


def test_kto_in_games() -> None:
    """Sampled rounds of large groups follow the exact ones; what wins less than half fades, for ever."""
    kto = get_algorithm("kto", step=1.0)
    exact = list(play(kto, GAME, 3))
    drawn = list(play_sampled(kto, GAME, 3, Sampling(60_000, group_size=100, seed=1)))
    for a, b in zip(exact, drawn, strict=True):
        np.testing.assert_allclose(b.policy, a.policy, atol=0.04)
    assert np.max(np.abs(exact[-1].policy - GAME.start)) > 0.05
    rows = list(play(kto, BT10, 3000, shown=lambda n: n in (300, 3000)))
    worst = np.argmin(SCORES)
    assert rows[1].policy[worst] < 0.5 * rows[0].policy[worst] < 0.05 * BT10.start[worst]


# ---- RSO


def by_enumeration(rewards: np.ndarray, count: int, beta: float) -> dict[tuple[int, ...], float]:
    """Chances of every accepted sequence: all orders of every pass and all outcomes of its draws."""

    def go(left: tuple[int, ...], wanted: int) -> dict[tuple[int, ...], float]:
        if wanted == 0 or not left:
            return {(): 1.0}
        chance = {k: math.exp((rewards[k] - max(rewards[list(left)])) / beta) for k in left}
        out: dict[tuple[int, ...], float] = {}
        for taken in itertools.product((True, False), repeat=len(left)):
            passed = tuple(k for k, t in zip(left, taken, strict=True) if t)[:wanted]
            p = math.prod(chance[k] if t else 1 - chance[k] for k, t in zip(left, taken, strict=True))
            rest = tuple(k for k, t in zip(left, taken, strict=True) if not t)
            for tail, q in go(rest, wanted - len(passed)).items() if p > 0 else ():
                out[passed + tail] = out.get(passed + tail, 0.0) + p * q
        return out

    total: dict[tuple[int, ...], float] = {}
    orders = list(itertools.permutations(range(len(rewards))))
    for order in orders:
        for sequence, p in go(order, count).items():
            total[sequence] = total.get(sequence, 0.0) + p / len(orders)
    return total


def test_rejection_sampling_by_enumeration() -> None:
    rewards, generator = np.array([0.3, -0.5, 1.0, 0.9]), rng("rso", 0)
    exact = by_enumeration(rewards, 2, 0.7)
    assert sum(exact.values()) == pytest.approx(1.0)
    assert len(exact) == 12
    counts = dict.fromkeys(exact, 0)
    draws = 8000
    for _ in range(draws):
        counts[tuple(rejection_sample(rewards, 2, 0.7, generator))] += 1
    for sequence, p in exact.items():
        assert counts[sequence] / draws == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / draws))


def test_rejection_sampling_draws_from_the_optimal_policy() -> None:
    """One of 64 samples of mu is a draw of mu exp(r / beta); neither mu nor its best is."""
    mu, rewards, beta = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.0, 0.4, 0.8, 1.0]), 0.5
    target = np.exp(log_normalise(np.log(mu) + rewards / beta))
    generator, found, draws = rng("rso", 1), np.zeros(4), 4000
    for actions in generator.choice(4, size=(draws, 64), p=mu):
        (k,) = rejection_sample(rewards[actions], 1, beta, generator)
        found[actions[k]] += 1 / draws
    np.testing.assert_allclose(found, target, atol=0.03)
    assert np.abs(target - mu).max() > 0.1
    assert target.max() < 0.5


def test_the_limits_of_rejection_sampling() -> None:
    rewards, generator = np.random.default_rng(3).normal(size=20), rng("rso", 2)
    top = set(np.argsort(rewards)[-6:].tolist())
    counts = np.zeros(20)
    for _ in range(800):
        assert set(rejection_sample(rewards, 6, 0.0, generator)) == top
        chosen = rejection_sample(rewards, 6, math.inf, generator)
        assert len(set(chosen)) == 6
        counts[chosen] += 1
    np.testing.assert_allclose(counts / 800, 0.3, atol=0.08)
    assert set(rejection_sample(rewards, 6, 1e-9, generator)) == top
    assert sorted(rejection_sample(rewards, 30, 0.5, generator)) == list(range(20))


def test_rso_is_dpo_on_what_it_accepts() -> None:
    """Others for another key; the rest has no gradient, and what failed is no candidate."""
    draw, table = np.random.default_rng(8), random_table(12, 8)
    table[3, :], table[:, 3] = np.nan, np.nan
    logp, start = draw.normal(size=(2, 12)) * 3
    rso = get_algorithm("rso", step=4.0, accept=5, labels="hard")
    group = group_of(logp, {"start": start}, table, key="1/p")
    kept = rso.accepted(group)
    assert kept == rso.accepted(group_of(logp, {"start": start}, table, key="1/p"))
    assert len(set(kept)) == 5
    assert 3 not in kept
    assert len({tuple(rso.accepted(group_of(logp, {"start": start}, table, key=str(n)))) for n in range(9)}) > 5
    for form in ("sigmoid", "hinge"):
        rso = get_algorithm("rso", step=4.0, accept=5, labels="hard", form=form)
        dpo = get_algorithm("dpo", step=4.0, labels="hard", form=form)
        wanted = np.zeros(12)
        wanted[kept] = gradient(dpo, group_of(logp[kept], {"start": start[kept]}, table[np.ix_(kept, kept)]))
        np.testing.assert_allclose(gradient(rso, group), wanted, atol=1e-14)
    greedy = get_algorithm("rso", accept=3, beta=0.0)
    scored = Group(group.logp, group.anchors, group.P, group.length, group.role, reward=torch.arange(12.0))
    assert sorted(greedy.accepted(scored)) == [9, 10, 11]
    part = part_of(group, [4, 0])
    assert (part.P[0, 1].item(), part.key) == (table[4, 0], "1/p")


def test_rewards_of_rso_are_the_scores() -> None:
    np.testing.assert_allclose(mean_log_odds(BT10.P), SCORES - SCORES.mean(), atol=1e-12)
    part = BT10.P.copy()
    part[0, 1:], part[1:, 0] = np.nan, np.nan
    part[1, 2] = part[2, 1] = np.nan
    odds = np.log(part) - np.log1p(-part)
    found = mean_log_odds(part)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], [np.nanmean(row) for row in odds[1:]], atol=1e-12)


def test_rso_in_games() -> None:
    """On Bradley-Terry it ends where DPO does; on a cycle the accepted responses weigh the fit."""
    state, rso = State(SLOTS["policy"], SLOTS["start"]), get_algorithm("rso", step=1.5, beta=0.8)
    reached = get_algorithm("rso", step=1.5).population(BT10.P, State(BT10.log_start, BT10.log_start)).log_policy
    np.testing.assert_allclose(reached, log_normalise(BT10.log_start + 1.5 * SCORES), atol=1e-7)
    ref = np.exp(SLOTS["start"])
    accepted = np.exp(log_normalise(SLOTS["start"] + (np.log(GAME.P) - np.log(GAME.P.T)) @ ref / 0.8))
    wanted = log_normalise(SLOTS["start"] + 1.5 * bradley_terry(GAME.P, accepted))
    np.testing.assert_allclose(rso.population(GAME.P, state).log_policy, wanted, atol=1e-7)
    whole = get_algorithm("rso", step=1.5, beta=math.inf)
    dpo = get_algorithm("dpo", step=1.5).population(GAME.P, State(SLOTS["start"], SLOTS["start"])).log_policy
    np.testing.assert_allclose(whole.population(GAME.P, state).log_policy, dpo, atol=1e-7)


def test_equal_groups_accept_each_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled play must not merge them: each of 20 groups has its own key, and with it its own draws."""
    keys: set[str] = set()
    method = algorithm_class("rso")
    accepted = method.accepted
    monkeypatch.setattr(method, "accepted", lambda self, group: keys.add(group.key) or accepted(self, group))
    *_, row = play_sampled(get_algorithm("rso", accept=2), GAME, 1, Sampling(60, group_size=3))
    assert len(keys) == 20
    assert row.policy.sum() == pytest.approx(1.0)


def test_the_rankings_of_rso() -> None:
    """Neighbours play; winners play on. A missing verdict makes no pair, and the first goes on."""
    strength = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    table = 1 / (1 + np.exp(strength[None] - strength[:, None]))
    assert knockout(table) == [(0, 1), (2, 3), (0, 3), (3, 4)]
    assert knockout(table, rounds=1) == [(0, 1), (2, 3)]
    table[0, 1] = table[1, 0] = np.nan
    assert knockout(table) == [(2, 3), (0, 3), (3, 4)]
    i, j = select_pairs(table, "first_round")
    assert (i.tolist(), j.tolist()) == ([2], [3])
    assert [x.tolist() for x in select_pairs(np.array([[0.5]]), "knockout")] == [[], []]


def test_first_round_pairs_keep_the_minimiser() -> None:
    """Over all groups of four the closed form has no gradient; the matches of winners move it."""
    closed_form = log_normalise(SLOTS["policy"] + GAME.P @ np.exp(SLOTS["policy"]))

    def slope(pairs: str) -> float:
        method = get_algorithm("omd", step=1.0, pairs=pairs)
        assert method.has_minimiser == (pairs == "first_round")
        point = torch.tensor(closed_form, requires_grad=True)
        logp, before = torch.log_softmax(point, 0), torch.tensor(SLOTS["policy"])
        total = torch.zeros((), dtype=torch.float64)
        for actions in itertools.product(range(3), repeat=4):
            at = list(actions)
            group = group_of(logp[at], {"policy": before[at]}, GAME.P[np.ix_(at, at)])
            total = total + before[at].sum().exp() * method.loss(group, method.phases(1)[0])
        return float(torch.autograd.grad(total, point)[0].abs().max())

    assert slope("first_round") < 1e-12
    assert slope("knockout") > 1e-3


# ---- adaptive preference scaling


@pytest.mark.parametrize(("margin", "rho"), [(2.0, 0.1), (-0.6, 0.3), (0.05, 0.1), (60.0, 0.05)])
def test_adaptive_dpo_takes_the_scale_that_minimises(margin: float, rho: float) -> None:
    """Against a bounded search of the kappa of section 11, for either outcome; kappa is held in the gradient."""

    def objective(kappa: float, d: float) -> float:
        return float(kappa * softplus(-d / kappa) + (rho - math.log(2)) * kappa)

    logp = [10.0 * margin, 0.0]
    found = minimize_scalar(objective, bounds=(0.1, 5.0), args=(margin,), method="bounded", options={"xatol": 1e-10})
    options: dict[str, Any] = {"form": "adaptive", "rho": rho}
    assert loss_of("dpo", logp, [0.0, 0.0], **options) == pytest.approx(found.fun, abs=1e-7)
    upset = minimize_scalar(objective, bounds=(0.1, 5.0), args=(-margin,), method="bounded", options={"xatol": 1e-10})
    soft = 0.7 * found.fun + 0.3 * upset.fun
    assert loss_of("dpo", logp, [0.0, 0.0], labels="soft", **options) == pytest.approx(soft, abs=1e-7)
    group = group_of(logp, {"start": [0.0, 0.0]}, PAIR)
    slope = -0.1 / (1 + math.exp(margin / found.x))
    wanted = [slope, -slope]
    np.testing.assert_allclose(gradient(get_algorithm("dpo", labels="hard", **options), group), wanted, atol=1e-6)


# ---- options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("slic", {"regulariser": -0.1}, "regulariser must be a number >= 0"),
        ("rpo", {"eta": -1.0}, "eta must be a number >= 0"),
        ("chi2_po", {"gamma": -1.0}, "gamma must be a number >= 0"),
        ("chi2_po", {"clip": 0.0}, "clip must be positive"),
        ("hypo", {"kl": -1.0}, "kl must be a number >= 0"),
        ("hypo", {"cap": 0.5}, "cap must be at least 1"),
        ("mpo_max", {"beta": -1.0}, "beta must be a number >= 0"),
        ("kto", {"desirable": -1.0}, "numbers >= 0"),
        ("rso", {"accept": 1}, "accept must be at least 2"),
        ("rso", {"beta": -1.0}, "beta must be a number >= 0"),
        ("dpo", {"rho": 0.7}, "rho must lie in"),
        ("dpo", {"form": "adaptive", "noise": 0.1}, "excludes noise"),
    ],
)
def test_bad_options_of_offline_methods(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_algorithm(name, **options)
