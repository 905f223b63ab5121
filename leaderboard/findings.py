"""What a table says about its models among themselves: kept as `social` in leaderboard.json, shown by the report."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from leaderboard.compare import shared_questions, win_rate_matrix
from leaderboard.social import curl_test, disagreements, maximal_lottery, orders, places, strongest_cycles
from leaderboard.table import Table
from prefeval.types import FloatArray

MOST = 70  # models at most, best first: the rules and the bootstrap of the curl take about a second there


def with_social(table: Table, *, seed: int = 0) -> Table:
    """The table with its `social` findings; unchanged when fewer than three of its models answer common questions."""
    scored = tuple(row for row in table.rows if row.outcomes and not math.isnan(row.score.point))
    best = replace(table, rows=scored[:MOST])
    names, W = win_rate_matrix(best)
    n = shared_questions(best)
    if len(names) < 3 or not np.any(np.triu(n, 1)):
        return table
    rules = {"score": np.array([row.score.point for row in best.rows]), **orders(W, n)}
    curl, floor, p = curl_test(W, n, seed=seed)
    winner = _condorcet(W)
    complete = bool(np.all(np.isfinite(W)))
    found = {
        "names": names,
        "left_out": len(table.rows) - len(names),
        "win_rates": _plain(W),
        "shared": n.astype(int).tolist(),
        "condorcet": None if winner is None else names[winner],
        "cycles": [
            {"models": [names[i] for i in cycle.models], "strength": cycle.strength} for cycle in strongest_cycles(W)
        ],
        "curl": {"ratio": _number(curl), "noise_floor": _number(floor), "p": _number(p)},
        "orders": {rule: {"values": _plain(v), "places": places(v.tolist())} for rule, v in rules.items()},
        "lottery": _plain(maximal_lottery(W)) if complete else None,
        "disagreements": [[names[i], names[j], up, down] for i, j, up, down in disagreements(rules)],
    }
    return replace(table, social=found)


def _condorcet(W: FloatArray) -> int | None:
    """The model that wins more than half against every other; None when there is none or a pair never met."""
    others = W + np.eye(len(W))
    won = np.flatnonzero(np.all(others > 0.5, axis=1))
    return int(won[0]) if len(won) else None


def _plain(values: FloatArray) -> Any:
    """Nested lists with None for what is not known."""
    return [_plain(v) for v in values] if values.ndim > 1 else [_number(float(v)) for v in values]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
