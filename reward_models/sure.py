"""Accuracy where an oracle's lower bound decides a pair, beside accuracy elsewhere: is its doubt worth anything?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from prefeval.oracle import Group
from prefeval.stats import bootstrap_mean
from prefeval.types import FloatArray, PreferenceRecord, Prompt


@runtime_checkable
class Pessimistic(Protocol):
    """An oracle that gives a lower bound beside P: ensembles, and models with their Laplace approximation."""

    def lower(self, prompts: Sequence[Prompt], groups: Sequence[Group], width: float = 1.0) -> list[FloatArray]:
        """A bound on P[i, j] for the side of i: (k, k), not complementary."""
        ...


def sure_pairs(
    oracle: object, records: Sequence[PreferenceRecord], *, width: float = 1.0, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Under `sure`: accuracy on decided pairs that one side wins by its lower bound, and on all others.

    Each with interval (resampling prompts) and n. Empty for oracles without a bound. Where the bound says so, that side
    is the answer; elsewhere the larger of the two bounds, half a hit where they are equal. Pairs without an answer
    are left out and counted.
    """
    if not isinstance(oracle, Pessimistic):
        return {}
    used = [r for r in records if r.pairs]
    tables = oracle.lower([r.prompt for r in used], [r.responses for r in used], width)
    hits, sure, clusters = [], [], []
    for record, low in zip(used, tables, strict=True):
        for pair in record.pairs:
            if pair.p == 0.5:
                continue
            ours, theirs = low[pair.i, pair.j], low[pair.j, pair.i]
            hits.append(0.5 * (1.0 + np.sign(ours - theirs) * np.sign(pair.p - 0.5)))
            sure.append(max(ours, theirs) > 0.5)
            clusters.append(record.prompt.messages)
    answered = np.isfinite(np.array(hits))

    def part(keep: NDArray[np.bool_]) -> dict[str, Any]:
        where = np.flatnonzero(keep)
        e = bootstrap_mean([hits[n] for n in where], [clusters[n] for n in where], resamples=resamples, seed=seed)
        values = {"accuracy": e.point, "accuracy_low": e.low, "accuracy_high": e.high}
        return {**{k: float(v) if np.isfinite(v) else None for k, v in values.items()}, "n": len(where)}

    certain = np.array(sure, dtype=bool)
    return {
        "sure": {
            "width": width,
            "decided_by_the_bound": part(answered & certain),
            "elsewhere": part(answered & ~certain),
            "n_dropped": int((~answered).sum()),
        }
    }


def sure_lines(sure: dict[str, Any]) -> list[str]:
    """Two lines for a person."""
    lines = []
    for name, key in (("lower bound decides", "decided_by_the_bound"), ("elsewhere", "elsewhere")):
        row = sure[key]
        interval = "" if row["accuracy"] is None else f"  [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]"
        point = "-" if row["accuracy"] is None else f"{row['accuracy']:.3f}"
        lines.append(f"{name:<22}{point}{interval}  n = {row['n']}")
    return lines
