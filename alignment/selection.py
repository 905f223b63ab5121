"""Choosing which responses of a group a loss sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alignment.algorithm import Group
from prefeval.types import FloatArray


def rejection_sample(rewards: FloatArray, count: int, beta: float, generator: np.random.Generator) -> list[int]:
    """Indices of `count` of the candidates, in the order in which they were accepted (2309.06657, algorithm 1).

    Candidates are gone through in a random order; one is accepted with probability exp((r - r_max) / beta), r_max the
    largest reward (N,) among those left when the pass began. Passes go on without the accepted ones until `count` are.
    The first accepted of many samples of mu is a draw of mu exp(r / beta). beta 0 takes the top `count`, beta infinity
    a random choice. All candidates are accepted where there are no more than `count`.
    """
    left = generator.permutation(len(rewards))
    accepted: list[int] = []
    while len(left) and len(accepted) < count:
        behind = rewards[left] - rewards[left].max()
        chance = np.exp(behind / beta) if beta > 0 else (behind == 0).astype(np.float64)
        taken = generator.random(len(left)) < chance
        accepted += left[taken].tolist()
        left = left[~taken]
    return accepted[:count]


def part_of(group: Group, kept: Sequence[int]) -> Group:
    """The group of these responses alone, in this order; its key is the group's."""
    rows = list(kept)
    return replace(
        group,
        logp=group.logp[rows],
        anchors={name: value[rows] for name, value in group.anchors.items()},
        P=group.P[rows][:, rows],
        length=group.length[rows],
        role=tuple(group.role[k] for k in rows),
        token_logp=None if group.token_logp is None else group.token_logp[rows],
        token_anchors=None if group.token_anchors is None else {k: v[rows] for k, v in group.token_anchors.items()},
        score=None if group.score is None else group.score[rows][:, rows],
        reward=None if group.reward is None else group.reward[rows],
    )
