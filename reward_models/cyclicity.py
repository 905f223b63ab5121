"""How much of a preference matrix no ranking can explain, and how much of that is noise of the votes behind it.

S (k, k) are skew log-odds in nats; P = sigmoid(S).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefeval.games import curl_ratio, cycle_rate
from prefeval.oracle import logit, symmetrise
from prefeval.seeds import derive_seed
from prefeval.stats import bootstrap_mean
from prefeval.types import FloatArray, PreferenceRecord
from reward_models.calibrate import expit

_DRAWS = 100  # simulated tables a record


@dataclass(frozen=True)
class NoiseFloor:
    """Curl ratio of votes, beside what the same number of votes on the fitted Bradley-Terry model gives.

    `p_value` is the share of simulated ratios at least as large, with the observed one counted in: small means more
    cyclic than noise.
    """

    observed: float
    floor: float
    floor_high: float
    p_value: float


def noise_floor(P: FloatArray, votes: FloatArray, *, draws: int = 200, seed: int = 0) -> NoiseFloor:
    """Parametric bootstrap from the Bradley-Terry fit of one matrix of vote shares.

    `votes` (k, k), symmetric, is how many votes each entry of P averages (> 0 off the diagonal). Observed and simulated
    shares are clipped to [1 / (2n), 1 - 1 / (2n)] alike (n = 1 as n = 2) before their log-odds are taken. `floor` is
    the mean, `floor_high` the 95th percentile of the simulated ratios.
    """
    potential = _fit(_clipped(P, votes), np.where(np.eye(len(P), dtype=bool), 0.0, votes))
    fitted = expit(potential[:, None] - potential[None, :])
    observed = curl_ratio(logit(_clipped(P, votes)))
    generator = np.random.default_rng(seed)
    counts = np.maximum(np.rint(votes), 1).astype(int)
    simulated = []
    for _ in range(draws):
        upper = np.triu(generator.binomial(counts, fitted) / counts, 1)
        share = upper + np.tril(1.0 - upper.T, -1) + 0.5 * np.eye(len(P))
        simulated.append(curl_ratio(logit(_clipped(share, votes))))
    values = np.array(simulated)
    p_value = (1 + int((values >= observed - 1e-12).sum())) / (1 + draws)
    return NoiseFloor(observed, float(values.mean()), float(np.quantile(values, 0.95)), p_value)


@dataclass(frozen=True)
class Spectrum:
    """Singular values of S, which come in equal pairs: one of each, largest first.

    `effective_rank` is exp of the entropy of all normalised squares (2 for one skew block), `first_pair` the share of
    ||S||^2 in the first pair. NaN for S = 0.
    """

    values: FloatArray
    effective_rank: float
    first_pair: float


def spectrum(S: FloatArray) -> Spectrum:
    """The spectrum of one skew matrix without NaN."""
    all_values = np.linalg.svd(np.asarray(S, dtype=np.float64), compute_uv=False)
    total = float((all_values**2).sum())
    if total == 0.0:
        return Spectrum(all_values[: len(S) // 2 * 2 : 2], math.nan, math.nan)
    share = all_values**2 / total
    positive = share[share > 0]
    rank = float(np.exp(-(positive * np.log(positive)).sum()))
    return Spectrum(all_values[: len(S) // 2 * 2 : 2], rank, float(share[:2].sum()))


def gold_matrix(record: PreferenceRecord) -> FloatArray:
    """P of the record's labels, those on the same pair averaged: (k, k), 0.5 on the diagonal, NaN where unlabelled."""
    total, count = _label_sums(record)
    out = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    np.fill_diagonal(out, 0.5)
    return np.asarray(out, dtype=np.float64)


def _label_sums(record: PreferenceRecord) -> tuple[FloatArray, FloatArray]:
    """(sum of P(i beats j) over the labels, number of labels): (k, k) each."""
    k = len(record.responses)
    total, count = np.zeros((k, k)), np.zeros((k, k))
    for pair in record.pairs:
        total[pair.i, pair.j] += pair.p * pair.votes
        total[pair.j, pair.i] += (1.0 - pair.p) * pair.votes
        count[pair.i, pair.j] += pair.votes
        count[pair.j, pair.i] += pair.votes
    return total, count


def intransitivity(
    records: Sequence[PreferenceRecord],
    tables: Sequence[FloatArray],
    *,
    votes: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Cycle rate, curl ratio (with its noise floor where answers are `votes` votes) and spectrum, over full tables.

    Means over the records whose k >= 3 responses were all compared; None without any. `effective_rank` is 2 for one
    skew block and for any Bradley-Terry table.
    """
    chosen = [(r, s) for r, s in zip(records, tables, strict=True) if len(s) >= 3 and not np.isnan(s).any()]
    clusters = [r.prompt.messages for r, _ in chosen]
    triads = [math.comb(len(s), 3) for _, s in chosen]
    spectra = [spectrum(s) for _, s in chosen]
    columns: dict[str, tuple[list[float], list[int] | None]] = {
        "cycle_rate": ([cycle_rate(expit(s)) for _, s in chosen], triads),
        "curl_ratio": ([curl_ratio(s) for _, s in chosen], None),
        "effective_rank": ([x.effective_rank for x in spectra], None),
        "first_pair": ([x.first_pair for x in spectra], None),
    }
    if votes is not None:
        entries = [(expit(s), np.full(s.shape, float(votes))) for _, s in chosen]
        columns["curl_ratio_floor"] = ([f.floor for f in _floors(entries, seed)], None)
    out: dict[str, Any] = {}
    for name, (values, weights) in columns.items():
        e = bootstrap_mean(values, clusters, weights, resamples=resamples, seed=seed)
        out |= e.named(name)
    return {**out, "n_cycle_records": len(chosen)}


def label_cycles(records: Sequence[PreferenceRecord], *, seed: int = 0) -> dict[str, Any]:
    """The same of the labels themselves, over records whose k >= 3 responses are all labelled against each other.

    `curl_ratio_floor` is what as many labels a pair give by chance under the fitted Bradley-Terry model; `share_above`
    is the share of records above the 95th percentile of their own simulated ratios (0.05 by chance).
    """
    entries = []
    for record in records:
        count = _label_sums(record)[1]
        off = ~np.eye(len(count), dtype=bool)
        if len(count) >= 3 and (count[off] > 0).all():
            entries.append((gold_matrix(record), count))
    floors = _floors(entries, seed)
    if not floors:
        return {"cycle_rate": None, "curl_ratio": None, "curl_ratio_floor": None, "share_above": None, "n_records": 0}
    return {
        "cycle_rate": float(np.nanmean([cycle_rate(p) for p, _ in entries])),
        "curl_ratio": float(np.mean([f.observed for f in floors])),
        "curl_ratio_floor": float(np.mean([f.floor for f in floors])),
        "share_above": float(np.mean([f.p_value <= 0.05 for f in floors])),
        "n_records": len(floors),
    }


def _floors(entries: Sequence[tuple[FloatArray, FloatArray]], seed: int) -> list[NoiseFloor]:
    return [
        noise_floor(p, votes, draws=_DRAWS, seed=derive_seed("curl", seed, n) % 2**32)
        for n, (p, votes) in enumerate(entries)
    ]


def _fit(P: FloatArray, votes: FloatArray) -> FloatArray:
    """Maximum-likelihood Bradley-Terry scores (k,), mean 0, of vote shares strictly inside (0, 1): Newton's method."""
    r = np.zeros(len(P))
    for _ in range(100):
        p = expit(r[:, None] - r[None, :])
        slope = votes * p * (1.0 - p)
        system = np.diag(slope.sum(axis=1)) - slope + 1.0  # ones fix the free constant
        move = np.linalg.solve(system, (votes * (P - p)).sum(axis=1))
        r = r + move * min(1.0, 1.0 / max(float(np.abs(move).max()), 1e-300))
        if np.abs(move).max() < 1e-12:
            break
    return np.asarray(r - r.mean(), dtype=np.float64)


def _clipped(P: FloatArray, votes: FloatArray) -> FloatArray:
    edge = 0.5 / np.maximum(votes, 2.0)  # a single vote would be clipped to 1/2 and say nothing
    return symmetrise(np.clip(P, edge, 1.0 - edge))
