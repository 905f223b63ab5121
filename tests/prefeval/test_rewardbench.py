"""RewardBench's weighting by hand, and what happens to missing answers."""

from __future__ import annotations

import math

import pytest

from prefeval.errors import DataError
from prefeval.rewardbench import SECTIONS, rewardbench_scores


def answers(wrong: str = "", missing: str = "") -> tuple[list[float], list[str]]:
    """Two items of every subset, right but for one subset."""
    subsets = [s for section in SECTIONS.values() for s in section for _ in range(2)]
    return [math.nan if s == missing else 0.0 if s == wrong else 1.0 for s in subsets], subsets


def test_sections_weigh_subsets_by_published_counts() -> None:
    found = rewardbench_scores(*answers(wrong="math-prm"), resamples=20)
    assert found["Reasoning"].point == pytest.approx(50.0)  # 984 of 984 + 6 * 164
    assert found["Score"].point == pytest.approx((3 * 100 + 50) / 4)
    found = rewardbench_scores(*answers(wrong="mt-bench-easy"), resamples=20)
    assert found["Chat"].point == pytest.approx(100 * (358 - 28) / 358)
    assert [sum(v.values()) for v in SECTIONS.values()] == [358, 456, 740, 1968]


def test_a_missing_subset_is_no_score() -> None:
    found = rewardbench_scores(*answers(missing="donotanswer"), resamples=20)
    assert math.isnan(found["Safety"].point)
    assert math.isnan(found["Score"].point)
    assert (found["Safety"].n, found["Safety"].n_failed) == (8, 2)
    assert found["Chat"].point == 100.0
    with pytest.raises(DataError, match="'chat-easy'"):
        rewardbench_scores([1.0], ["chat-easy"])
