"""XPO, APO, RSPO, QRPO, SAIL and SPAC: by hand, the limits in which they are others, what they converge to."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from test_algorithms import closed_form, through_the_loss
from toys import GAME, SLOTS, STEP, group_of, random_table

from alignment.algorithm import Algorithm, Group, State, get_algorithm
from alignment.tabular import Sampling, play, play_sampled
from prefeval.games import duality_gap, log_normalise, open_game, regularised_nash
from prefeval.types import FloatArray

DRAW = np.random.default_rng(5)
LOGP, START, POLICY = (DRAW.normal(size=6) - 4.0 for _ in range(3))
TABLE = random_table(6, 11)


def loss_of(name: str, options: dict[str, Any], *, opponents: int = 3, table: Any = TABLE, **changes: Any) -> Any:
    """(loss, gradient) of the first phase on six responses, the last of which are the opponent's."""
    algorithm = get_algorithm(name, **options)
    phase = algorithm.phases(1)[0]
    anchors = {s: {"start": START, "policy": POLICY, "previous": START}[s] for s in phase.anchors}
    group = group_of(changes.get("logp", LOGP), anchors, table, opponents=opponents)
    loss = algorithm.loss(group, phase)
    loss.backward()
    return loss.item(), group.logp.grad.numpy()


def ls(z: FloatArray) -> FloatArray:
    return np.asarray(-np.logaddexp(0.0, -z))


def after(name: str, options: dict[str, Any], rounds: int, game: str = "cyc3") -> FloatArray:
    *_, last = play(get_algorithm(name, **options), open_game(game), rounds)
    return last.policy


# ---- xpo


def test_xpo_by_hand() -> None:
    """(1) of the paper: -log s(beta u) of policy against reference pairs, + alpha log pi of the reference's replies."""
    loss, _ = loss_of("xpo", {"step": 2.0, "alpha": 0.25})
    h = (LOGP - START) / 2.0
    pairs = [(i, j) for i in range(3) for j in range(3, 6)]
    fit = np.mean([-TABLE[i, j] * ls(h[i] - h[j]) - TABLE[j, i] * ls(h[j] - h[i]) for i, j in pairs])
    assert loss == pytest.approx(fit + 0.25 * LOGP[3:].mean(), rel=1e-12)
    failed = TABLE.copy()
    failed[0, 3:], failed[1:3, 4] = np.nan, np.nan  # one side is enough
    left = [(i, j) for i, j in pairs if np.isfinite(failed[i, j])]
    fit = np.mean([-TABLE[i, j] * ls(h[i] - h[j]) - TABLE[j, i] * ls(h[j] - h[i]) for i, j in left])
    assert loss_of("xpo", {"step": 2.0, "alpha": 0.25}, table=failed)[0] == pytest.approx(fit + 0.25 * LOGP[3:].mean())
    failed[:3, 3:] = np.nan
    assert loss_of("xpo", {"step": 2.0}, table=failed)[0] == 0.0


def test_xpo_without_optimism_is_online_dpo_on_its_pair() -> None:
    """On one reply of each, to the last digit; with TRL's numbers of tests/parity (sigmoid, beta 0.1) as well."""
    table = TABLE[np.ix_([0, 3], [0, 3])]
    for labels in ("soft", "hard"):
        values = []
        for name, options, opponents in (("xpo", {"alpha": 0.0}, 1), ("dpo", {}, 0)):
            algorithm = get_algorithm(name, step=3.0, labels=labels, **options)
            group = group_of(LOGP[[0, 3]], {"start": START[[0, 3]]}, table, opponents=opponents)
            loss = algorithm.loss(group, algorithm.phases(1)[0])
            loss.backward()
            values.append((loss.item(), *group.logp.grad.tolist()))
        np.testing.assert_allclose(values[0], values[1], rtol=1e-12)
    won = [[0.5, 1.0], [0.0, 0.5]]
    xpo = get_algorithm("xpo", step=10.0, alpha=0.0, labels="hard")
    group = group_of([-3.875, -8.25], {"start": [-5.0, -6.5]}, won, opponents=1)
    assert xpo.loss(group, xpo.phases(1)[0]).item() == pytest.approx(0.559693823045451, rel=1e-12)


def test_xpo_explores_away_from_the_reference() -> None:
    """Gradient: exactly alpha more on what the reference said. Exact play: the more alpha, the less E_ref log pi."""
    plain, bold = (loss_of("xpo", {"step": 2.0, "alpha": a})[1] for a in (0.0, 0.3))
    np.testing.assert_allclose(bold - plain, [0, 0, 0, 0.1, 0.1, 0.1], atol=1e-12)
    game = open_game("bt10")
    said = [game.start @ np.log(after("xpo", {"step": 0.5, "alpha": a}, 1, "bt10")) for a in (0.0, 0.01, 0.03)]
    assert said[0] > said[1] > said[2]
    c = np.random.default_rng(7).normal(size=10)  # alpha 0: DPO's optimum, whoever samples
    np.testing.assert_allclose(
        np.log(after("xpo", {"step": 0.5, "alpha": 0.0}, 3, "bt10")),
        log_normalise(game.log_start + 0.5 * c),
        atol=1e-9,
    )


# ---- apo


@pytest.mark.parametrize(("base", "other"), [("dpo", ("dpo", {"reference": "previous"})), ("regression", ("omd", {}))])
def test_apo_without_momentum_is_its_base(base: str, other: tuple[str, dict[str, Any]]) -> None:
    for labels in ("soft", "hard"):
        options = {"step": 2.0, "labels": labels}
        plain = loss_of("apo", {**options, "alpha": 0.0, "base": base}, opponents=0)
        method = loss_of(other[0], {**options, **other[1]}, opponents=0)
        assert plain[0] == pytest.approx(method[0], rel=1e-12)
        np.testing.assert_allclose(plain[1], method[1], rtol=1e-12)
    np.testing.assert_allclose(
        after("apo", {"step": 0.5, "alpha": 0.0, "base": base}, 20),
        after(other[0], {"step": 0.5, **other[1]}, 20),
        atol=1e-12,
    )


def test_apo_keeps_the_last_two_fits() -> None:
    """Fits by hand: the anchor of round t is fit_{t-1}^{1 + alpha} fit_{t-2}^{-alpha}, and it samples."""
    apo = get_algorithm("apo", step=0.7, alpha=0.4, base="regression")
    fits = [GAME.log_start, GAME.log_start]
    for row in play(apo, GAME, 6):
        base = log_normalise(1.4 * fits[-1] - 0.4 * fits[-2])
        fits.append(log_normalise(base + 0.7 * GAME.P @ np.exp(base)))
        np.testing.assert_allclose(row.policy, np.exp(fits[-1]), atol=1e-13)
    (phase,) = apo.phases(1)
    assert (phase.mix, phase.keeps) == (("previous", -0.4), (("previous", "policy"),))
    drawn = list(play_sampled(apo, GAME, 4, Sampling(10_000, seed=3)))
    for a, b in zip(drawn, play(apo, GAME, 4), strict=True):
        np.testing.assert_allclose(a.policy, b.policy, atol=0.02)


def test_apo_accelerates_on_bradley_terry() -> None:
    """Scores there do not depend on the sampler: after T rounds the drift is step sum_t (1 - a^t) / (1 - a) scores."""
    game, scores = open_game("bt10"), np.random.default_rng(7).normal(size=10)
    drift = sum((1 - 0.5**t) / 0.5 for t in range(1, 31))
    fast = after("apo", {"step": 0.2, "alpha": 0.5}, 30, "bt10")
    np.testing.assert_allclose(np.log(fast), log_normalise(game.log_start + 0.2 * drift * scores), atol=1e-8)
    gaps = [
        duality_gap(after("apo", {"step": 0.2, "alpha": a, "base": b}, 30, "bt10"), game.P)
        for b in ("dpo", "regression")
        for a in (0.0, 0.5)
    ]
    assert gaps[1] < gaps[0] / 10
    assert gaps[3] < gaps[2] / 1.5


# ---- rspo


@pytest.mark.parametrize("base", ["sppo", "gpo"])
def test_rspo_without_divergences_is_its_base(base: str) -> None:
    for normaliser, pairs in (("published", "all"), ("published", "best_worst"), ("pairwise", "all")):
        shared = {"step": 2.0, "pairs": pairs} | ({"normaliser": "pairwise"} if normaliser == "pairwise" else {})
        plain = loss_of(base, shared, opponents=0)
        ours = {"base": base, "forward": 0.0, "reverse": 0.0, **shared, "normaliser": normaliser}
        given = loss_of("rspo", ours, opponents=0)
        assert given[0] == pytest.approx(plain[0], rel=1e-12)
        np.testing.assert_allclose(given[1], plain[1], rtol=1e-12)
    options = {"step": 0.3, "base": base, "forward": 0.0, "reverse": 0.0, "normaliser": "pairwise"}
    np.testing.assert_allclose(after("rspo", options, 20), after(base, {"step": 0.3}, 20), atol=1e-12)


def test_rspo_by_hand() -> None:
    loss, _ = loss_of("rspo", {"step": 2.0, "forward": 0.3, "reverse": 0.2})
    own = TABLE[:3, :3]
    rates = (own.sum(axis=1) - 0.5) / 2
    fit = np.mean((LOGP - POLICY)[:3] - 2.0 * rates + 1.0) ** 2 + np.var((LOGP - POLICY)[:3] - 2.0 * rates)
    weight = np.exp(LOGP - POLICY)[:3]
    reverse = np.mean(weight * (LOGP - START)[:3] - weight + 1.0)
    forward = np.mean(np.exp(LOGP - START)[3:] - 1.0 - (LOGP - START)[3:])
    assert loss == pytest.approx(fit + 0.3 * forward + 0.2 * reverse, rel=1e-12)


def test_rspo_update_against_an_independent_solve() -> None:
    """The regularised objective of the paper, minimised over the simplex by SLSQP from several places."""
    rspo = get_algorithm("rspo", step=STEP, normaliser="pairwise", forward=0.3, reverse=0.2)
    found = np.exp(rspo.population(GAME.P, State(SLOTS["policy"], SLOTS["start"])).log_policy)
    p, ref = np.exp(SLOTS["policy"]), np.exp(SLOTS["start"])
    rates = GAME.P @ p

    def objective(q: FloatArray) -> float:
        error = np.log(q / p) - STEP * rates
        pairs = sum(p[i] * p[j] * (error[i] - error[j]) ** 2 for i, j in itertools.product(range(3), repeat=2))
        return float(pairs + 0.3 * ref @ np.log(ref / q) + 0.2 * q @ np.log(q / ref))

    whole = {"type": "eq", "fun": lambda q: q.sum() - 1.0}
    solved = [
        minimize(objective, x0, bounds=[(1e-6, 1.0)] * 3, constraints=[whole], options={"ftol": 1e-14, "maxiter": 500})
        for x0 in (np.full(3, 1 / 3), np.array([0.8, 0.1, 0.1]), np.array([0.1, 0.1, 0.8]))
    ]
    for solution in solved:
        np.testing.assert_allclose(solution.x, found, atol=1e-5)
    assert objective(found) <= min(s.fun for s in solved) + 1e-12


@pytest.mark.slow
def test_rspo_loss_with_forward_kl_has_that_minimiser() -> None:
    """With replies of the reference in the groups; reverse KL alone is a row of test_algorithms."""
    rspo = get_algorithm("rspo", step=STEP, normaliser="pairwise", forward=0.3, reverse=0.2)
    np.testing.assert_allclose(through_the_loss(rspo, 2), closed_form(rspo), atol=1e-6)


def test_rspo_stays_at_the_regularised_equilibrium() -> None:
    """Reverse KL: tau = reverse / (4 step). Forward KL: pi = ref forward / (forward - 4 step (P(y > pi) - 1/2))."""
    game = open_game("cyc3")
    forward = game.start
    for _ in range(300):  # rests at its own fixed point
        forward = forward + 0.5 * (2.0 * game.start / (2.0 - 2.0 * (game.P @ forward - 0.5)) - forward)
    for weights, rest in (
        ({"forward": 0.0, "reverse": 0.4}, regularised_nash(game.P, 0.2, game.start)),
        ({"forward": 2.0, "reverse": 0.0}, forward),
    ):
        rspo = get_algorithm("rspo", step=0.5, normaliser="pairwise", **weights)
        stayed = rspo.population(game.P, State(np.log(rest), game.log_start))
        np.testing.assert_allclose(np.exp(stayed.log_policy), rest, atol=1e-9)
        distances = [float(rest @ np.log(rest / row.policy)) for row in play(rspo, game, 12)]
        assert distances[-1] < distances[0] / 2


# ---- qrpo


def test_qrpo_by_hand() -> None:
    """Rewards are win rates against the reference's replies; quantiles among theirs, each against the two others."""
    table = TABLE.copy()
    table[4, 5] = table[5, 4] = 0.5  # so that replies 5 and 6 of the reference tie nobody by accident
    loss, gradient = loss_of("qrpo", {"step": 2.0}, table=table)
    rewards = table[:3, 3:].mean(axis=1)
    among = np.array([table[3, [4, 5]].mean(), table[4, [3, 5]].mean(), table[5, [3, 4]].mean()])
    ranks = np.array([(r > among).mean() for r in rewards])
    log_z = math.log(0.5 * (math.exp(2.0) - 1.0))  # beta (e^{1 / beta} - 1)
    expected = np.mean((ranks - 0.5 * log_z - 0.5 * (LOGP - START)[:3]) ** 2)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert np.all(gradient[3:] == 0)
    tied = np.full((6, 6), 0.5)
    loss, _ = loss_of("qrpo", {"step": 2.0}, table=tied)
    assert loss == pytest.approx(np.mean((0.5 - 0.5 * log_z - 0.5 * (LOGP - START)[:3]) ** 2), rel=1e-12)


def test_qrpo_partition_is_exact_for_many_replies() -> None:
    """Among 200 equally likely replies of distinct reward the update's own normaliser is Z to 1 in 10,000."""
    n = 200
    skill = np.random.default_rng(3).normal(size=n)
    P = 1 / (1 + np.exp(-(skill[:, None] - skill[None, :])))
    qrpo = get_algorithm("qrpo", step=3.0)
    uniform = np.full(n, -math.log(n))
    found = qrpo.population(P, State(uniform, uniform)).log_policy
    ranks = (np.argsort(np.argsort(skill)) + 0.5) / n
    np.testing.assert_allclose(found, uniform + 3.0 * ranks - math.log((math.exp(3.0) - 1) / 3.0), atol=1e-4)
    # The loss of a large group, at that policy: nothing is left but the error of ranks among 100 drawn replies.
    rows = np.random.default_rng(4).integers(n, size=200)
    group = group_of(found[rows], {"start": uniform[rows]}, P[np.ix_(rows, rows)], opponents=100)
    (phase,) = qrpo.phases(1)
    left = qrpo.loss(group, phase).item()
    assert left < 2 * (1 / 6) / 100  # a rank among m has variance q (1 - q) / m, 1/6 m on average
    assert qrpo.loss(dataclasses.replace(group, logp=torch.tensor(uniform[rows])), phase).item() > 20 * left


def test_qrpo_needs_ranks_only() -> None:
    """A monotone change of all rewards changes nothing: what tells it from regressions on win rates."""
    game = open_game("bt10")
    sharper = 1 / (1 + np.exp(-3 * np.log(game.P / (1 - game.P))))
    state = State(game.log_start, game.log_start)
    policies = [get_algorithm("qrpo", step=2.0).population(P, state).log_policy for P in (game.P, sharper)]
    np.testing.assert_allclose(policies[0], policies[1], atol=1e-12)


# ---- sail

VARIANTS = ("PR", "PP", "DP")


@pytest.mark.parametrize("variant", VARIANTS)
def test_sail_with_coefficient_0_is_dpo(variant: str) -> None:
    opponents = 3 if variant == "PP" else 0
    loss, gradient = loss_of("sail", {"beta": 0.5, "variant": variant, "coefficient": 0.0}, opponents=opponents)
    rows = list(range(3, 6)) if variant == "PP" else list(range(6))
    dpo = get_algorithm("dpo", step=2.0)
    group = group_of(LOGP[rows], {"start": START[rows]}, TABLE[np.ix_(rows, rows)])
    plain = dpo.loss(group, dpo.phases(1)[0])
    plain.backward()
    assert loss == pytest.approx(plain.item(), rel=1e-12)
    np.testing.assert_allclose(gradient[rows], group.logp.grad, atol=1e-14)


def objective(variant: str, logits: FloatArray, game: Any, beta: float) -> tuple[float, float]:
    """(the loss on labelled pairs, what the variant adds), with everything that moves with the policy in `logits`."""
    log_policy = log_normalise(logits)
    p, ref = np.exp(log_policy), np.exp(game.log_start)
    z = beta * ((log_policy - game.log_start)[:, None] - (log_policy - game.log_start)[None, :])
    labelled = -game.P * ls(z) - game.P.T * ls(-z)
    own = 1 / (1 + np.exp(-z))
    entropy = -own * ls(z) - (1 - own) * ls(-z)
    if variant == "PR":
        return float(p @ labelled @ p), 0.0
    return float(ref @ labelled @ ref), float(p @ entropy @ p if variant == "PP" else ref @ entropy @ ref)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sail_steps_along_the_gradient_of_its_objective(variant: str) -> None:
    """By central differences of J, samples and labels moving; and the expected gradient of the loss is that step."""
    game, beta = open_game("cyc3"), 2.0
    sail = get_algorithm("sail", step=0.1, beta=beta, variant=variant)
    at = log_normalise(np.array([0.3, -0.2, 0.6]))
    moved = sail.population(game.P, State(at, game.log_start)).log_policy
    slope = np.zeros(3)
    for n in range(3):
        up, down = (sum(objective(variant, at + d * np.eye(3)[n], game, beta)) for d in (1e-5, -1e-5))
        slope[n] = (up - down) / 2e-5
    np.testing.assert_allclose(moved, log_normalise(at - 0.1 * slope), atol=1e-8)
    (phase,) = sail.phases(1)
    logits = torch.tensor(at, requires_grad=True)
    samplers = [np.exp(game.log_start if phase.sample_from == "start" else at)] * 2
    samplers += [np.exp(game.log_start)] * 2 if phase.opponent else []
    total = torch.zeros((), dtype=torch.float64)
    for actions in itertools.product(range(3), repeat=len(samplers)):
        a = list(actions)
        chance = math.prod(mu[n] for mu, n in zip(samplers, a, strict=True))
        group = group_of(
            torch.log_softmax(logits, 0)[a], {"start": game.log_start[a]}, game.P[np.ix_(a, a)],
            opponents=len(a) - 2,
        )  # fmt: skip
        total = total + chance * sail.loss(group, phase)
    total.backward()
    np.testing.assert_allclose(logits.grad, slope, atol=1e-8)


def test_sail_reaches_a_lower_loss_than_dpo() -> None:
    """Online DPO follows a part of the gradient of J: from where it rests, PR goes on down, in every step."""
    game = open_game("cyc3")
    state = State(np.log(after("sail", {"step": 5.0, "beta": 1.0, "coefficient": 0.0}, 200)), game.log_start)
    online = get_algorithm("sail", step=2.0, beta=1.0, coefficient=0.0).population(game.P, state)
    np.testing.assert_allclose(online.log_policy, state.log_policy, atol=1e-6)
    values = [objective("PR", state.log_policy, game, 1.0)[0]]
    for _ in range(20):
        state = get_algorithm("sail", step=2.0, beta=1.0).population(game.P, state)
        values.append(objective("PR", state.log_policy, game, 1.0)[0])
    assert np.all(np.diff(values) < 0)
    assert values[-1] < values[0] - 1e-3


# ---- spac


def test_spac_by_hand() -> None:
    loss, gradient = loss_of("spac", {"step": 2.0, "weight": 0.3})
    h = (LOGP - POLICY) / 2.0
    pairs = [(3, 4), (3, 5), (4, 5)]
    fit = np.mean([-TABLE[i, j] * ls(h[i] - h[j]) - TABLE[j, i] * ls(h[j] - h[i]) for i, j in pairs])
    shown = np.mean([-ls(h[j] - h[i]) for i in range(3) for j in range(3, 6)])
    assert loss == pytest.approx(fit + 0.3 * shown, rel=1e-12)
    assert np.all(gradient[:3] > 0)  # whatever its verdicts, an own reply falls
    to_start = loss_of("spac", {"step": 2.0, "weight": 0.3, "reference": "start"}, logp=LOGP - POLICY + START)[0]
    assert to_start == pytest.approx(loss, rel=1e-12)


def test_spac_without_its_critic_is_dpo_on_the_data() -> None:
    loss, gradient = loss_of("spac", {"step": 2.0, "weight": 0.0})
    dpo = get_algorithm("dpo", step=2.0, reference="previous")
    group = group_of(LOGP[3:], {"policy": POLICY[3:]}, TABLE[3:, 3:])
    plain = dpo.loss(group, dpo.phases(1)[0])
    plain.backward()
    assert loss == pytest.approx(plain.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, [0, 0, 0, *group.logp.grad], atol=1e-14)


def test_spac_is_pessimistic() -> None:
    """The data cover three responses, the policy likes a fourth that labels overrate: the critic takes it back."""
    P = np.full((4, 4), 0.5)
    P[:3, :3] = open_game("cyc3").P
    P[3, :3], P[:3, 3] = 0.9, 0.1
    data = log_normalise(np.log([0.3, 0.3, 0.4, 1e-4]))
    liked = log_normalise(np.log([0.2, 0.2, 0.2, 0.4]))
    mass = []
    for weight in (0.0, 0.1, 1.0):
        spac = get_algorithm("spac", step=0.5, weight=weight)
        mass.append(float(np.exp(spac.population(P, State(liked, data)).log_policy[3])))
    assert mass[0] > 0.4 > mass[1] > mass[2]


def test_groups_are_parted_by_role() -> None:
    group = group_of(LOGP, {"start": START}, TABLE, opponents=2)
    part = group.part(group.rows("opponent"))
    assert isinstance(part, Group)
    np.testing.assert_array_equal(part.table, TABLE[4:, 4:])
    np.testing.assert_array_equal(part.anchors["start"], START[4:])
    assert part.role == ("opponent", "opponent")
    assert isinstance(get_algorithm("spac"), Algorithm)
