"""How good an oracle is on labelled pairs: accuracy with its interval, calibration, length bias, intransitivity.

Pairs are put in random orientation (seeded), ties (label 0.5) count for nothing but are reported, an answer that could
not be obtained is dropped and counted, intervals resample prompts. Lengths are in characters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefeval.games import is_cyclic
from prefeval.judges.as_oracle import Consistency
from prefeval.oracle import Oracle, TwoOrders, logit
from prefeval.seeds import rng
from prefeval.stats import Estimate, bootstrap_mean
from prefeval.types import Comparison, FloatArray, PreferenceRecord
from reward_models.bias import by_confidence, by_strength, length_bias
from reward_models.calibrate import brier_terms, ece, expit, fit_temperature, nll_terms
from reward_models.cyclicity import gold_matrix, intransitivity, label_cycles

BT_CEILING = 2.0 / 3.0  # of any scalar model on the three edges of one 3-cycle


@dataclass(frozen=True)
class Judged:
    """Labelled pairs and the oracle's answers, in random orientation; arrays of n pairs.

    `score` are log-odds of first over second (NaN: no answer), `label` = P(first beats second), `longer` the sign of
    len(first) - len(second), `lengths` (n, 2) both, `strength` the margin of the label where the data has margins, else
    |2 label - 1|, `cluster` the prompt and `subset` the subset of each pair.
    """

    score: FloatArray
    label: FloatArray
    lengths: FloatArray
    strength: FloatArray
    cluster: tuple[Any, ...]
    subset: tuple[str, ...]

    @property
    def longer(self) -> FloatArray:
        return np.asarray(np.sign(self.lengths[:, 0] - self.lengths[:, 1]))

    @property
    def decided(self) -> NDArray[np.bool_]:
        return np.asarray(self.label != 0.5)

    @property
    def correct(self) -> FloatArray:
        """1, 0 or, for a score of exactly zero, 0.5; NaN for ties and missing answers."""
        hit = 0.5 * (1.0 + np.sign(self.score) * np.sign(self.label - 0.5))
        return np.where(self.decided, hit, np.nan)


def evaluate(
    oracle: Oracle, records: Sequence[PreferenceRecord], *, seed: int = 0, resamples: int = 1000
) -> dict[str, Any]:
    """The metrics of interface.md (`metrics.json`) of an oracle on labelled records, as a JSON-able mapping.

    `tau` is the temperature that would calibrate the oracle's log-odds here (1 = calibrated, above 1 = overconfident).
    `cycle_rate` and `curl_ratio` are the oracle's own, over the records whose labels cover at least half of the pairs
    of three or more responses (None without any): asking for more would multiply the cost of a judge.
    """
    tables = answer(oracle, records)
    votes = 2 if isinstance(oracle, TwoOrders) else None
    metrics = evaluate_tables(oracle.name, records, tables, votes=votes, seed=seed, resamples=resamples)
    return {**metrics, **position_bias(oracle)}


def evaluate_tables(
    name: str,
    records: Sequence[PreferenceRecord],
    tables: Sequence[FloatArray],
    *,
    votes: int | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """`evaluate` for answers that are already there: log-odds tables as `answer` gives them.

    `votes`: how many votes an entry averages (a judge's two orders), for the noise floor of the curl ratio; None for
    oracles whose answers carry no sampling noise.
    """
    judged = collect(records, tables, seed)
    keep = judged.decided & np.isfinite(judged.score)
    score, label = judged.score[keep], judged.label[keep]
    p = expit(score)

    def mean(values: FloatArray, clusters: Sequence[Any] = judged.cluster) -> Estimate:
        return bootstrap_mean(values, clusters, resamples=resamples, seed=seed)

    accuracy = mean(judged.correct)
    cluster = [c for c, k in zip(judged.cluster, keep, strict=True) if k]
    brier, nll = mean(brier_terms(p, label), cluster), mean(nll_terms(score, label), cluster)
    longer_won = np.sign(judged.label - 0.5) * judged.longer
    metrics: dict[str, Any] = {
        "oracle": name,
        **_named("accuracy", accuracy),
        "n": accuracy.n,
        "n_dropped": int((judged.decided & ~np.isfinite(judged.score)).sum()),
        "n_ties": int((~judged.decided).sum()),
        **_named("brier", brier),
        "ece": _number(ece(p, label)),
        **_named("nll", nll),
        "tau": fit_temperature(score, label, pseudo_pairs=1.0) if len(score) else None,
        "length_only_accuracy": _number(mean(np.where(judged.decided, 0.5 * (1 + longer_won), np.nan)).point),
        **_named("accuracy_longer", mean(np.where(longer_won > 0, judged.correct, np.nan))),
        **_named("accuracy_shorter", mean(np.where(longer_won < 0, judged.correct, np.nan))),
        **_drivers(judged, resamples, seed),
        **intransitivity(records, tables, votes=votes, resamples=resamples, seed=seed),
        "labels": label_cycles(records, seed=seed),
    }
    return {**metrics, "subsets": _subsets(judged, resamples, seed)}


def position_bias(oracle: Oracle) -> dict[str, Any]:
    """How often the order of the two responses decided so far, under `position`; empty for oracles without an order."""
    consistency = getattr(oracle, "consistency", None)
    return {"position": consistency.as_dict()} if isinstance(consistency, Consistency) else {}


def _drivers(judged: Judged, resamples: int, seed: int) -> dict[str, Any]:
    """Length bias, and accuracy by strength of the label and by the oracle's own confidence."""
    correct, clusters = judged.correct, judged.cluster
    bias = length_bias(judged.score, judged.label, correct, judged.lengths, clusters, resamples=resamples, seed=seed)
    strength = by_strength(correct, judged.strength, clusters, resamples=resamples, seed=seed)
    confidence = by_confidence(correct, judged.score, clusters, resamples=resamples, seed=seed)
    return {**bias, "by_strength": strength, "by_confidence": confidence}


def answer(oracle: Oracle, records: Sequence[PreferenceRecord]) -> list[FloatArray]:
    """Log-odds tables (k, k) of the records, NaN where nothing was asked or answered.

    Records whose labels cover half of all pairs are asked whole; of the others only the labelled pairs are asked.
    """
    dense = [_is_dense(r) for r in records]
    whole = [r for r, d in zip(records, dense, strict=True) if d]
    tables = iter(oracle.scores([r.prompt for r in whole], [r.responses for r in whole]) if whole else [])
    sparse = [(n, pair) for n, (r, d) in enumerate(zip(records, dense, strict=True)) if not d for pair in _edges(r)]
    items = [Comparison(records[n].prompt, records[n].responses[i], records[n].responses[j]) for n, (i, j) in sparse]
    answers = oracle.compare(items) if items else np.zeros(0)
    out = [next(tables) if d else np.full((len(r.responses),) * 2, np.nan) for r, d in zip(records, dense, strict=True)]
    for (n, (i, j)), p in zip(sparse, answers, strict=True):
        s = logit(np.array([[0.5, p], [1.0 - p, 0.5]]))[0, 1]
        out[n][i, j], out[n][j, i] = s, -s
    return out


def collect(records: Sequence[PreferenceRecord], tables: Sequence[FloatArray], seed: int) -> Judged:
    """All labelled pairs of the records in random orientation, drawn from (seed, record id)."""
    score, label, lengths, strength, margin = [], [], [], [], []
    cluster: list[Any] = []
    subset: list[str] = []
    for record, table in zip(records, tables, strict=True):
        flips = rng("orientation", seed, record.id).random(len(record.pairs)) < 0.5
        for pair, flip in zip(record.pairs, flips, strict=True):
            i, j, p = (pair.j, pair.i, 1.0 - pair.p) if flip else (pair.i, pair.j, pair.p)
            score.append(float(table[i, j]))
            label.append(p)
            lengths.append((len(record.responses[i]), len(record.responses[j])))
            strength.append(abs(2.0 * p - 1.0))
            margin.append(math.nan if pair.margin is None else pair.margin)
            cluster.append(record.prompt.messages)
            subset.append(str(record.meta.get("subset") or pair.source or ""))
    strong = np.array(margin if np.isfinite(margin).any() else strength)
    sizes = np.array(lengths, dtype=np.float64).reshape(-1, 2)
    return Judged(np.array(score), np.array(label), sizes, strong, tuple(cluster), tuple(subset))


def cyclic_triple_accuracy(
    oracle: Oracle, records: Sequence[PreferenceRecord], *, seed: int = 0, resamples: int = 1000
) -> dict[str, Any]:
    """Accuracy on the edges of those triples whose gold majority is a cycle, beside the scalar ceiling of 2/3.

    Only records in which every pair is labelled take part; a record's candidates are shown in random order, all at
    once. `cyclic_share` is the share of such triples among all triples without ties. Accuracies are None when there is
    no cyclic triple.
    """
    asked, total = _cyclic_triples(records)
    upper = np.triu_indices(3, 1)
    orders = [rng("order", seed, r.id).permutation(len(r.responses)) for r, _, _ in asked]
    shown = [[r.responses[n] for n in order] for (r, _, _), order in zip(asked, orders, strict=True)]
    answers = oracle.matrix([r.prompt for r, _, _ in asked], shown) if asked else []
    hits, clusters = [], []
    for (record, gold, circles), order, answer in zip(asked, orders, answers, strict=True):
        table = np.empty_like(answer)
        table[np.ix_(order, order)] = answer  # back in the record's order
        for t in circles:
            model, truth = table[np.ix_(t, t)], gold[np.ix_(t, t)]
            hits.append(
                np.where(np.isnan(model), np.nan, 0.5 * (1 + np.sign(model - 0.5) * np.sign(truth - 0.5)))[upper]
            )
            clusters += [record.prompt.messages] * 3
    estimate = bootstrap_mean(np.concatenate(hits) if hits else [], clusters, resamples=resamples, seed=seed)
    return {
        **_named("accuracy", estimate),
        "n": estimate.n,
        "n_dropped": estimate.n_failed,
        "n_triples": len(hits),
        "cyclic_share": len(hits) / total if total else None,
        "ceiling_scalar": BT_CEILING,
    }


def _cyclic_triples(
    records: Sequence[PreferenceRecord],
) -> tuple[list[tuple[PreferenceRecord, FloatArray, list[tuple[int, int, int]]]], int]:
    """(record, gold P, its cyclic triples) of each fully labelled record that has some; all triples without ties."""
    upper = np.triu_indices(3, 1)
    found: list[tuple[PreferenceRecord, FloatArray, list[tuple[int, int, int]]]] = []
    total = 0
    for record in records:
        gold = gold_matrix(record)
        if np.isnan(gold).any():
            continue
        triples = {t: gold[np.ix_(t, t)] for t in combinations(range(len(gold)), 3)}
        total += sum(not (edges[upper] == 0.5).any() for edges in triples.values())
        cyclic = [t for t, edges in triples.items() if is_cyclic(edges)]
        if cyclic:
            found.append((record, gold, cyclic))
    return found, total


def _subsets(judged: Judged, resamples: int, seed: int) -> list[dict[str, Any]]:
    rows = []
    for name in sorted(set(judged.subset)) if any(judged.subset) else []:
        inside = np.array([s == name for s in judged.subset])
        decided = inside & judged.decided
        clusters = [c for c, k in zip(judged.cluster, decided, strict=True) if k]
        estimate = bootstrap_mean(judged.correct[decided], clusters, resamples=resamples, seed=seed)
        rows.append({"subset": name, **_named("accuracy", estimate), "n": estimate.n, "n_dropped": estimate.n_failed})
    return rows


def _edges(record: PreferenceRecord) -> list[tuple[int, int]]:
    return sorted({(min(p.i, p.j), max(p.i, p.j)) for p in record.pairs})


def _is_dense(record: PreferenceRecord) -> bool:
    return bool(record.pairs) and 2 * len(_edges(record)) >= math.comb(len(record.responses), 2)


def _named(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {name: _number(estimate.point), f"{name}_low": _number(estimate.low), f"{name}_high": _number(estimate.high)}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
