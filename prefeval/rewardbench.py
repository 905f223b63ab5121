"""RewardBench's table from right and wrong answers (arXiv 2403.13787; reference/benchmarks.md 4.1).

A section is the mean accuracy of its subsets weighted by their published counts, which are the numbers of their rows
but for math-prm (447 rows, weight 984); the score is the plain mean of the four sections. Generative ties count 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from prefeval.errors import DataError
from prefeval.stats import Estimate, percentile_interval, resample_counts
from prefeval.types import FloatArray

SECTIONS: Mapping[str, Mapping[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {"math-prm": 984, **{f"hep-{code}": 164 for code in ("cpp", "go", "java", "js", "python", "rust")}},
}
SCORE = "Score"


def rewardbench_scores(
    correct: ArrayLike, subsets: Sequence[str], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Estimate]:
    """Each section's score and the overall `Score` in percent, with intervals over items (resampled within subsets).

    `correct` (n,) in {0, 0.5, 1}, NaN where no answer was obtained (dropped and counted); `subsets` (n,) the subset of
    each item. A section without one of its subsets is NaN. Raises DataError for an unknown subset.
    """
    x = np.asarray(correct, dtype=np.float64)
    names = np.asarray(subsets, dtype=object)
    known = {subset for section in SECTIONS.values() for subset in section}
    unknown = sorted(set(subsets) - known)
    if unknown:
        raise DataError(f"'{unknown[0]}' is no subset of RewardBench", field="subset")
    found: dict[str, Estimate] = {}
    points, draws, sizes = [], [], np.zeros(2, dtype=np.int64)
    for section, weights in SECTIONS.items():
        point, drawn, n, failed = 0.0, np.zeros(resamples), 0, 0
        for i, (subset, weight) in enumerate(weights.items()):
            own = x[names == subset]
            share = weight / sum(weights.values())
            mean, means = _accuracy(own[~np.isnan(own)], resamples, seed + i)
            point, drawn = point + share * mean, drawn + share * means
            n, failed = n + int((~np.isnan(own)).sum()), failed + int(np.isnan(own).sum())
        found[section] = _estimate(point, drawn, level, n, failed)
        points.append(point)
        draws.append(drawn)
        sizes += [n, failed]
    found[SCORE] = _estimate(float(np.mean(points)), np.mean(draws, axis=0), level, int(sizes[0]), int(sizes[1]))
    return found


def _accuracy(correct: FloatArray, resamples: int, seed: int) -> tuple[float, FloatArray]:
    if not len(correct):
        return math.nan, np.full(resamples, math.nan)
    draws = resample_counts(len(correct), resamples, seed) @ correct / len(correct)
    return float(correct.mean()), np.asarray(draws, dtype=np.float64)


def _estimate(point: float, draws: FloatArray, level: float, n: int, failed: int) -> Estimate:
    low, high = percentile_interval(draws[~np.isnan(draws)], level)
    return Estimate(100 * point, 100 * low, 100 * high, n, failed)
