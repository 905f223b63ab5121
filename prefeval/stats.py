"""Uncertainty for everyone: cluster bootstrap, paired differences, intervals of proportions, adjusted p-values.

Resampling is by cluster (the question or prompt), never by row: the two games of one prompt are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prefeval.types import FloatArray

_KEPT_SIZE = 3_000_000  # numbers in one kept table of counts: 24 MB


@dataclass(frozen=True)
class Estimate:
    """A number as it is printed: with its interval, the n behind it and what was dropped."""

    point: float
    low: float
    high: float
    n: int
    n_failed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def named(self, name: str) -> dict[str, float | None]:
        """{name, name_low, name_high} for JSON: None where there is no number."""
        values = zip((name, f"{name}_low", f"{name}_high"), (self.point, self.low, self.high), strict=True)
        return {key: finite(value) for key, value in values}

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.point * factor, self.low * factor, self.high * factor, self.n, self.n_failed)

    def __str__(self) -> str:
        dropped = f", {self.n_failed} dropped" if self.n_failed else ""
        return f"{self.point:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n}{dropped})"


def finite(value: float) -> float | None:
    """The number, None for NaN and infinity: JSON has neither."""
    return float(value) if math.isfinite(value) else None


def bootstrap_mean(
    values: ArrayLike,
    clusters: Sequence[Any] | None = None,
    weights: ArrayLike | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Weighted mean with a percentile interval from a bootstrap over clusters; NaN values are counted and dropped."""
    x = np.asarray(values, dtype=np.float64)
    keep = ~np.isnan(x)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    labels = np.arange(len(x)) if clusters is None else _codes(clusters)
    x, w, labels = x[keep], w[keep], labels[keep]
    failed = int((~keep).sum())
    if not len(x):
        return Estimate(math.nan, math.nan, math.nan, 0, failed)
    _, codes = np.unique(labels, return_inverse=True)
    top = np.bincount(codes, weights=w * x)
    bottom = np.bincount(codes, weights=w)
    counts = resample_counts(len(top), resamples, seed)
    draws = (counts @ top) / np.maximum(counts @ bottom, 1e-300)
    low, high = percentile_interval(draws, level)
    return Estimate(float((w * x).sum() / w.sum()), low, high, len(x), failed)


def bootstrap_statistic(
    statistic: Callable[[FloatArray], float],
    clusters: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float, FloatArray]:
    """(point, low, high, draws) of a statistic of cluster multiplicities: `statistic(counts (clusters,)) -> float`."""
    counts = resample_counts(clusters, resamples, seed)
    draws = np.array([statistic(row) for row in counts], dtype=np.float64)
    low, high = percentile_interval(draws[~np.isnan(draws)], level)
    return float(statistic(np.ones(clusters))), low, high, draws


def resample_counts(clusters: int, resamples: int, seed: int) -> FloatArray:
    """How often each cluster is drawn in each resample: (resamples, clusters), read-only.

    The last few small ones are kept, because drawing them takes longer than most of what is done with them, and models
    that are compared must be resampled alike.
    """
    small = clusters * resamples <= _KEPT_SIZE
    return _kept_counts(clusters, resamples, seed) if small else _draw_counts(clusters, resamples, seed)


def _draw_counts(clusters: int, resamples: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=resamples).astype(np.float64)
    counts.setflags(write=False)
    return counts


_kept_counts = lru_cache(maxsize=8)(_draw_counts)


def percentile_interval(draws: FloatArray, level: float = 0.95) -> tuple[float, float]:
    if not len(draws):
        return math.nan, math.nan
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    a: ArrayLike, b: ArrayLike, clusters: Sequence[Any] | None = None, *, resamples: int = 1000, seed: int = 0
) -> tuple[Estimate, float]:
    """Mean of a - b over the same items with its interval, and the two-sided p of a sign-flip test over clusters."""
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    estimate = bootstrap_mean(d, clusters, resamples=resamples, seed=seed)
    labels = np.arange(len(d)) if clusters is None else _codes(clusters)
    keep = ~np.isnan(d)
    if not keep.any():
        return estimate, math.nan
    _, codes = np.unique(labels[keep], return_inverse=True)
    sums = np.asarray(np.bincount(codes, weights=d[keep]), dtype=np.float64)
    return estimate, float(sign_flip_test(sums[:, None], flips=max(resamples, 2000), seed=seed)[0])


def sign_flip_test(sums: FloatArray, *, flips: int = 2000, seed: int = 0) -> FloatArray:
    """Two-sided p (m,) of the sums (clusters, m) of m comparisons, the same random sign flips for all of them.

    Flips alone cannot tell p below 1 / flips, and a table of many pairs needs smaller ones for Holm's adjustment. Where
    fewer than ten flips reach the sum, the normal tail of the same flips takes over: their variance is sum_c d_c^2.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(flips, len(sums)))
    total = np.abs(sums.sum(axis=0))
    reached = (np.abs(signs @ sums) >= total - 1e-12).sum(axis=0)
    counted = (1.0 + reached) / (1.0 + flips)
    spread = np.sqrt((sums**2).sum(axis=0))
    tail = normal_p(total / np.where(spread > 0, spread, 1.0))
    return np.asarray(np.where(reached >= 10, counted, np.minimum(counted, tail)), dtype=np.float64)


def normal_p(z: ArrayLike) -> FloatArray:
    """Two-sided p of a standard normal z."""
    from scipy.special import erfc

    return np.asarray(erfc(np.abs(np.asarray(z, dtype=np.float64)) / math.sqrt(2.0)), dtype=np.float64)


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); (nan, nan) for n = 0."""
    from scipy.stats import norm

    if n == 0:
        return math.nan, math.nan
    z = float(norm.ppf((1 + level) / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, running)
    return [float(p) for p in adjusted]


def minimum_detectable_difference(sd: float, n: int, *, power: float = 0.8, level: float = 0.95) -> float:
    """The paired mean difference that a two-sided z test on n clusters with deviation `sd` finds with `power`."""
    from scipy.stats import norm

    return float((norm.ppf((1 + level) / 2) + norm.ppf(power)) * sd / math.sqrt(max(n, 1)))


def _codes(clusters: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(c, len(seen)) for c in clusters], dtype=np.int64)
