"""Separability and agreement, by hand and from the bootstrap files that Arena-Hard's authors released."""

from __future__ import annotations

import gzip
import json
import math

import pytest
from leaderboard_data import DATA, needs_data

from leaderboard.quality import agreement_with_confidence, separability
from prefeval.stats import Estimate


def scores(**intervals: tuple[float, float]) -> dict[str, Estimate]:
    return {name: Estimate((low + high) / 2, low, high, 10) for name, (low, high) in intervals.items()}


def test_agreement_counts_separated_pairs_only() -> None:
    """a-b: both separate, the same way (+1); a-c and b-c: in opposite ways (-1)."""
    first = scores(a=(8, 9), b=(5, 6), c=(1, 2), only_here=(0, 1))
    second = scores(a=(4, 5), b=(1, 3.5), c=(5.5, 7))
    assert separability(list(first.values())[:3]) == 1.0
    assert agreement_with_confidence(first, second) == pytest.approx((1 - 1 - 1) / 3)
    overlapping = scores(a=(4, 5), b=(1, 3.5), c=(3, 7))
    assert separability(list(overlapping.values())) == pytest.approx(1 / 3)
    assert agreement_with_confidence(first, overlapping) == pytest.approx(1 / 3)
    assert math.isnan(separability(list(first.values())[:1]))
    assert math.isnan(agreement_with_confidence(first, scores(a=(1, 2))))


@needs_data
@pytest.mark.parametrize(("name", "share"), [("arena_hard_bt", 83.6), ("alpaca_LC", 87.9), ("mt_bench", 34.3)])
def test_separability_of_the_released_bootstraps(name: str, share: float) -> None:
    """Reference 2.6, all models of each file."""
    with gzip.open(DATA / "meta_eval" / f"bootstrap_stats_{name}.jsonl.gz", "rt", encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle]
    found = [Estimate(r["score"], r["lower"], r["upper"], len(r["results"])) for r in rows]
    assert round(100 * separability(found), 1) == share
