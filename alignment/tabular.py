"""The same Algorithm objects on matrix games: exact play, and play from sampled pairs through the very loss.

Sampled play walks the algorithm's phases as the round loop of language models does; a policy is n logits, a response is
an action, and every fit is minimised to convergence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from alignment.algorithm import Algorithm, Group, Phase
from alignment.anchored import fill_slots, opponent_of, sampler_of, store
from alignment.demonstrated import no_demonstrations
from alignment.labels import Labels, relabel
from prefeval.games import Game, duality_gap, log_normalise, regularised_gap
from prefeval.seeds import rng
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class GameRound:
    """The deployed policy (n,) after `round` updates, with the gaps of it and of the mean of all policies so far."""

    round: int
    gap: float
    gap_average: float
    gap_regularised: float | None  # of the tau-regularised game; None when tau is 0
    policy: FloatArray


@dataclass(frozen=True)
class Sampling:
    """How sampled play draws: `pairs` a round, in groups of `group_size` responses, with verdicts of kind `labels`.

    'soft' verdicts are probabilities, 'bernoulli' one draw a pair, 'hard' thresholded. Log-probs are kept above
    `floor`: an action that is never sampled has no gradient and would otherwise be lost for good (13.8).
    """

    pairs: int
    group_size: int = 2
    labels: Labels = "soft"
    seed: int = 0
    floor: float = -20.0

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.group_size < 2 or self.floor >= 0:
            raise ValueError(f"unusable sampling: {self}")

    @property
    def groups(self) -> int:
        """Groups a round: as many as hold `pairs` pairs, at least one."""
        inside = self.group_size * (self.group_size - 1) // 2
        return max(1, -(-self.pairs // inside))


def every_round(number: int) -> bool:
    return True


def play(
    algorithm: Algorithm,
    game: Game,
    rounds: int,
    *,
    tau: float = 0.0,
    ref: FloatArray | None = None,
    shown: Callable[[int], bool] = every_round,
) -> Iterator[GameRound]:
    """Exact play: `rounds` population updates from the game's start. `ref` (n,) defaults to the start.

    `tau` is that of the regularised gap; the algorithm brings its own. Yields a row after every update that is `shown`.
    """
    reference = game.start if ref is None else ref
    state = algorithm.initial_state(game.log_start, np.log(reference))

    def policies() -> Iterator[FloatArray]:
        nonlocal state
        for _ in range(rounds):
            state = algorithm.population(game.P, state)
            yield np.exp(state.log_policy)

    return _measure(policies(), game, tau, reference, shown)


def play_sampled(
    algorithm: Algorithm,
    game: Game,
    rounds: int,
    sampling: Sampling,
    *,
    tau: float = 0.0,
    ref: FloatArray | None = None,
    shown: Callable[[int], bool] = every_round,
) -> Iterator[GameRound]:
    """Play from samples, by minimising `algorithm.loss`. Yields a row after every round that is `shown`."""
    reference = game.start if ref is None else ref

    def policies() -> Iterator[FloatArray]:
        slots = {"start": log_normalise(np.log(reference)), "policy": log_normalise(game.log_start)}
        for number in range(1, rounds + 1):
            _play_round(algorithm, game, number, sampling, slots)
            yield np.exp(slots["policy"])

    return _measure(policies(), game, tau, reference, shown)


def _measure(
    policies: Iterator[FloatArray], game: Game, tau: float, ref: FloatArray, shown: Callable[[int], bool]
) -> Iterator[GameRound]:
    total = np.zeros(len(game.P))
    for number, policy in enumerate(policies, 1):
        total = total + policy
        if not shown(number):
            continue
        mean = policy if number == 1 else total / total.sum()
        regularised = regularised_gap(policy, game.P, tau, ref) if tau > 0 else None
        average = duality_gap(mean, game.P)
        yield GameRound(number, duality_gap(policy, game.P), average, regularised, policy)


@dataclass(frozen=True, eq=False)
class DrawnGroup:
    """`count` groups of equal content: actions (k,) and their verdicts P (k, k); the last `opponents` are those."""

    actions: tuple[int, ...]
    P: FloatArray
    count: int
    key: str = ""
    opponents: int = 0


def _play_round(
    algorithm: Algorithm, game: Game, number: int, sampling: Sampling, slots: dict[str, FloatArray]
) -> None:
    """One round of phases; `slots` maps a name to a log-policy (n,) and is updated in place."""
    drawn: list[DrawnGroup] = []
    for phase in algorithm.phases(number):
        fill_slots(slots, phase, log_normalise(game.log_start))
        if phase.demonstrations:
            raise no_demonstrations(algorithm.name)
        if phase.sample:
            generator = rng(sampling.seed, number, phase.name)
            other = None if phase.opponent is None else np.exp(opponent_of(slots, phase))
            drawn = draw_groups(np.exp(sampler_of(slots, phase)), game.P, sampling, generator, opponent=other)
            # Labels and accepted responses are drawn in the loss, by the group's key.
            if getattr(algorithm, "labels", "soft") != "bernoulli" and not hasattr(algorithm, "draw_seed"):
                ordered = getattr(algorithm, "pairs", "all") != "all" or phase.opponent is not None
                drawn = merge_groups(drawn, ordered=ordered)
            drawn = [replace(d, key=f"{number}/{i}") for i, d in enumerate(drawn)]
        anchors = {name: slots[name] for name in phase.anchors}
        loss, begun = _phase_loss(algorithm, phase, drawn, anchors), slots[phase.init_from]
        passes = getattr(algorithm, "passes", 1)
        fitted = descend(loss, begun, algorithm.step, passes) if phase.gradient_step else minimise(loss, begun)
        store(slots, phase, fitted, sampling.floor)


def draw_groups(
    policy: FloatArray,
    P: FloatArray,
    sampling: Sampling,
    generator: np.random.Generator,
    *,
    opponent: FloatArray | None = None,
) -> list[DrawnGroup]:
    """Groups of i.i.d. actions of `policy`, and as many of `opponent` if given, with their verdicts, as drawn."""
    size = (sampling.groups, sampling.group_size)
    actions = generator.choice(len(policy), size=size, p=policy / policy.sum())
    if opponent is not None:
        others = generator.choice(len(policy), size=size, p=opponent / opponent.sum())
        actions = np.concatenate([actions, others], axis=1)
    k = actions.shape[1]
    i, j = np.triu_indices(k, 1)
    verdicts = (relabel(P, "hard") if sampling.labels == "hard" else P)[actions[:, i], actions[:, j]]
    if sampling.labels == "bernoulli":
        verdicts = (generator.random(verdicts.shape) < verdicts).astype(np.float64)
    tables = np.full((len(actions), k, k), 0.5)
    tables[:, i, j], tables[:, j, i] = verdicts, 1.0 - verdicts
    opponents = 0 if opponent is None else sampling.group_size
    return [
        DrawnGroup(tuple(row.tolist()), table, 1, opponents=opponents)
        for row, table in zip(actions, tables, strict=True)
    ]


def merge_groups(drawn: Sequence[DrawnGroup], *, ordered: bool) -> list[DrawnGroup]:
    """Equal groups as one with their count. `ordered` keeps the order in a group, on which ties and brackets depend."""
    found = _equal_groups(drawn)
    if ordered:
        return found
    # Most groups are gone by now: only those that differ are put in order, and compared again.
    return _equal_groups([_in_order(group) for group in found])


def _equal_groups(drawn: Sequence[DrawnGroup]) -> list[DrawnGroup]:
    found: dict[tuple[tuple[int, ...], bytes], DrawnGroup] = {}
    counts: dict[tuple[tuple[int, ...], bytes], int] = {}
    for group in drawn:
        content = (group.actions, group.P.tobytes())
        found.setdefault(content, group)
        counts[content] = counts.get(content, 0) + group.count
    return [replace(group, count=counts[content]) for content, group in found.items()]


def _in_order(group: DrawnGroup) -> DrawnGroup:
    order = sorted(range(len(group.actions)), key=group.actions.__getitem__)
    return replace(group, actions=tuple(group.actions[o] for o in order), P=group.P[np.ix_(order, order)])


def _phase_loss(
    algorithm: Algorithm, phase: Phase, drawn: Sequence[DrawnGroup], anchors: Mapping[str, FloatArray]
) -> Callable[[Tensor], Tensor]:
    """logits (n,) -> mean of the algorithm's loss over the drawn groups."""
    import torch

    total = float(sum(d.count for d in drawn))
    rows = [torch.tensor(d.actions) for d in drawn]
    frozen = [{name: torch.from_numpy(v)[row] for name, v in anchors.items()} for row in rows]
    tables = [torch.tensor(d.P) for d in drawn]

    def mean_loss(logits: Tensor) -> Tensor:
        log_policy = torch.log_softmax(logits, 0)
        out = logits.new_zeros(())
        for d, row, kept, table in zip(drawn, rows, frozen, tables, strict=True):
            role = ("policy",) * (len(row) - d.opponents) + ("opponent",) * d.opponents
            group = Group(log_policy[row], kept, table, torch.ones(len(row)), role, key=d.key)
            out = out + d.count / total * algorithm.loss(group, phase)
        return out

    return mean_loss


def descend(loss: Callable[[Tensor], Tensor], log_start: FloatArray, step: float, times: int = 1) -> FloatArray:
    """The log-policy (n,) `times` gradient steps on logits of size `step` away from `log_start`."""
    import torch

    current = log_start
    for _ in range(times):
        point = torch.tensor(current, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(point), point)
        current = log_normalise(current - step * np.asarray(slope.numpy(), dtype=np.float64))
    return current


def minimise(loss: Callable[[Tensor], Tensor], log_start: FloatArray, *, steps: int = 100) -> FloatArray:
    """The log-policy (n,) that minimises a smooth loss of logits, from `log_start`, in float64.

    Newton steps on the absolute Hessian with halving. Directions without curvature stay where they are, so an action
    that no group holds keeps its logit. Exact after one step for squared log-ratio differences.
    """
    import torch

    current = torch.tensor(log_start, dtype=torch.float64)
    unit = torch.eye(len(current), dtype=torch.float64)
    for _ in range(steps):
        point = current.clone().requires_grad_(True)
        value = loss(point)
        (slope,) = torch.autograd.grad(value, point, create_graph=True)
        gradient, height = slope.detach(), value.item()
        if gradient.abs().max().item() < 1e-13 * max(1.0, abs(height)):
            break
        (hessian,) = torch.autograd.grad(slope, point, unit, is_grads_batched=True)
        curve, axes = torch.linalg.eigh(hessian)
        keep = curve.abs() > 1e-12 * curve.abs().max()
        along = torch.where(keep, (axes.T @ gradient) / torch.where(keep, curve.abs(), 1.0), 0.0)
        move, size = axes @ along, 1.0
        wanted = 1e-4 * torch.dot(gradient, move).item()
        with torch.no_grad():
            while size > 1e-8 and loss(current - size * move).item() > height - size * wanted:
                size *= 0.5
        if size <= 1e-8:
            break
        current = current - size * move
        if move.abs().max().item() < 1e-11:
            break
    return log_normalise(np.asarray(current.numpy(), dtype=np.float64))
