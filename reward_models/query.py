"""Which pairs are worth a label: where an ensemble disagrees, or where a linear model learns most (`--suggest`).

Disagreement follows Sim-OPRL (arXiv 2406.18450): ask where plausible reward models contradict one another. The design
rule follows reward-agnostic preference learning (arXiv 2305.18505): ask for the feature differences that a design
matrix covers worst, before anybody has labelled anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from prefeval.errors import ConfigError
from prefeval.oracle import Ensemble, Group, Oracle
from prefeval.types import FloatArray, Prompt, all_pairs

Reason = Literal["disagreement", "design"]


@dataclass(frozen=True)
class Query:
    """Responses `first` and `second` of prompt number `prompt`. `gain`: the members' standard deviation of P, or the
    nats that log det of the design matrix grows by."""

    prompt: int
    first: int
    second: int
    gain: float
    reason: Reason


def suggest(oracle: Oracle, prompts: Sequence[Prompt], groups: Sequence[Group], count: int) -> list[Query]:
    """The `count` pairs most worth a label, best first (fewer when there are fewer pairs).

    An ensemble is asked where its members disagree; a preference model for the hidden states whose differences make
    the design matrix. Raises ConfigError for any other oracle, which shows neither.
    """
    from reward_models.oracles import ModelOracle

    if count < 1:
        raise ConfigError(f"--suggest must be at least 1, not {count}")
    if isinstance(oracle, Ensemble):
        return by_disagreement(oracle.members_matrix(prompts, groups), count)
    if isinstance(oracle, ModelOracle) and oracle.model.is_causal:
        return by_design(oracle.states(prompts, groups), count)
    raise ConfigError(
        f"--suggest: {oracle.name} shows neither members that could disagree nor hidden states; give an ensemble "
        "(ensemble:model:A+model:B) or a causal preference model (model:PATH)"
    )


def by_disagreement(stacks: Sequence[FloatArray], count: int) -> list[Query]:
    """Pairs by the standard deviation of P over the members of an ensemble: stacks of (members, k, k) a prompt.

    A pair that fewer than two members could answer is never suggested.
    """
    found = []
    for n, stack in enumerate(stacks):
        for i, j in all_pairs(stack.shape[1]):
            answers = stack[:, i, j][~np.isnan(stack[:, i, j])]
            if len(answers) >= 2:
                found.append(Query(n, i, j, float(answers.std(ddof=1)), "disagreement"))
    return sorted(found, key=lambda q: -q.gain)[:count]


def by_design(states: Sequence[FloatArray], count: int, *, ridge: float = 1.0) -> list[Query]:
    """Greedy D-optimal choice of feature differences, one (k, d) array of features a prompt.

    Starting from A = ridge * I, each step takes the pair with the largest x' A^-1 x, whose log det gain is
    log(1 + x' A^-1 x), and adds x x' to A. Features are scaled to unit mean square first, so that `ridge` means the
    same for every model. Greedy choice is within 1 - 1/e of the best one (the gain is submodular).
    """
    pairs = [(n, i, j) for n, group in enumerate(states) for i, j in all_pairs(len(group))]
    if not pairs:
        return []
    x = np.array([states[n][i] - states[n][j] for n, i, j in pairs], dtype=np.float64)
    scale = float(np.sqrt((x**2).mean()))
    if scale > 0:
        x /= scale
    taken: list[Query] = []
    projected = x / np.sqrt(ridge)  # rows whose squared norms are x' A^-1 x
    gains = (projected**2).sum(axis=1)
    free = np.ones(len(pairs), dtype=bool)
    directions = np.zeros((0, x.shape[1]))
    for _ in range(min(count, len(pairs))):
        best = int(np.argmax(np.where(free, gains, -np.inf)))
        taken.append(Query(*pairs[best], float(np.log1p(gains[best])), "design"))
        free[best] = False
        # Sherman-Morrison: A^-1 loses v v' with v = A^-1 x / sqrt(1 + x' A^-1 x)
        v = x[best] / ridge - directions.T @ (directions @ x[best])
        v /= np.sqrt(1.0 + gains[best])
        directions = np.vstack([directions, v])
        gains = np.maximum(gains - (x @ v) ** 2, 0.0)
    return taken


def query_rows(
    queries: Sequence[Query], ids: Sequence[str], prompts: Sequence[Prompt], groups: Sequence[Group]
) -> list[dict[str, Any]]:
    """Rows for a person or a labelling tool: the two texts with their indices, why, and how much."""
    return [
        {
            "id": ids[q.prompt],
            "prompt": prompts[q.prompt].as_dicts(),
            "i": q.first,
            "j": q.second,
            "first": groups[q.prompt][q.first],
            "second": groups[q.prompt][q.second],
            "reason": q.reason,
            "gain": q.gain,
        }
        for q in queries
    ]
