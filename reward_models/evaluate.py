"""How good an oracle is on labelled pairs: accuracy with its interval, calibration, length bias, intransitivity.

Pairs are put in random orientation (seeded), ties (label 0.5) count for nothing but are reported, an answer that could
not be obtained is dropped and counted, intervals resample prompts. Lengths are in characters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from prefeval.games import is_cyclic
from prefeval.judges.as_oracle import Consistency
from prefeval.oracle import Oracle, TwoOrders
from prefeval.seeds import rng
from prefeval.stats import Estimate, bootstrap_mean, finite, wilson
from prefeval.types import FloatArray, PreferenceRecord
from reward_models.bias import by_confidence, by_strength, length_bias
from reward_models.calibrate import brier_terms, ece_estimate, expit, fit_temperature, nll_terms
from reward_models.cyclicity import gold_matrix, intransitivity, label_cycles
from reward_models.judged import Judged, answer, collect
from reward_models.rivals import Tables, judged_rivals, rival_rows, subset_rows

BT_CEILING = 2.0 / 3.0  # of any scalar model on the three edges of one 3-cycle


def evaluate(
    oracle: Oracle,
    records: Sequence[PreferenceRecord],
    *,
    tau: float = 1.0,
    rivals: Mapping[str, Tables] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """The metrics of interface.md (`metrics.json`) of an oracle on labelled records, as a JSON-able mapping.

    `tau` is the temperature that would calibrate the oracle's log-odds here (1 = calibrated, above 1 = overconfident).
    `cycle_rate` and `curl_ratio` are the oracle's own, over the records whose labels cover at least half of the pairs
    of three or more responses (None without any): asking for more would multiply the cost of a judge. An oracle that
    reads each response once for all its pairs is asked about all records whole. Its log-odds are divided by `tau`, as
    found on other pairs. `rivals` are tables of other rules on the same records, see `rivals.py`.
    """
    tables = [table / tau for table in answer(oracle, records)]
    votes = 2 if isinstance(oracle, TwoOrders) else None
    options: dict[str, Any] = {"seed": seed, "resamples": resamples}
    metrics = evaluate_tables(oracle.name, records, tables, votes=votes, rivals=rivals, **options)
    return {**metrics, **position_bias(oracle)}


def evaluate_tables(
    name: str,
    records: Sequence[PreferenceRecord],
    tables: Sequence[FloatArray],
    *,
    votes: int | None = None,
    rivals: Mapping[str, Tables] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """`evaluate` for answers that are already there: log-odds tables as `answer` gives them.

    `votes`: how many votes an entry averages (a judge's two orders), for the noise floor of the curl ratio; None for
    oracles whose answers carry no sampling noise.
    """
    judged = collect(records, tables, seed)
    others = judged_rivals(records, rivals, seed)
    longer_won = np.sign(judged.label - 0.5) * judged.longer

    def mean(values: FloatArray) -> Estimate:
        return bootstrap_mean(values, judged.cluster, resamples=resamples, seed=seed)

    accuracy = mean(judged.correct)
    return {
        "oracle": name,
        **accuracy.named("accuracy"),
        "n": accuracy.n,
        "n_dropped": int((judged.decided & np.isnan(judged.score)).sum()),
        "n_ties": int((~judged.decided).sum()),
        "n_prompts": len(set(judged.where(judged.decided).cluster)),
        **_calibration(judged, resamples, seed),
        "length_only_accuracy": finite(mean(judged.longer_correct).point),
        **mean(np.where(longer_won > 0, judged.correct, np.nan)).named("accuracy_longer"),
        **mean(np.where(longer_won < 0, judged.correct, np.nan)).named("accuracy_shorter"),
        **_drivers(judged, resamples, seed),
        **intransitivity(records, tables, votes=votes, resamples=resamples, seed=seed),
        "labels": label_cycles(records, seed=seed),
        "rivals": rival_rows(judged, others, resamples=resamples, seed=seed),
        "subsets": subset_rows(judged, others, resamples=resamples, seed=seed),
    }


def position_bias(oracle: Oracle) -> dict[str, Any]:
    """How often the order of the two responses decided so far, under `position`; empty for oracles without an order.

    The interval of `first_of_decided` is Wilson's with the number of pairs, not of verdicts, as n: the two orders of a
    pair are not independent.
    """
    consistency = getattr(oracle, "consistency", None)
    if not isinstance(consistency, Consistency):
        return {}
    share, pairs = consistency.first_of_decided, consistency.pairs - consistency.failed
    low, high = wilson(share * pairs, pairs) if consistency.decided else (math.nan, math.nan)
    interval = {"first_of_decided_low": finite(low), "first_of_decided_high": finite(high)}
    return {"position": {**consistency.as_dict(), **interval}}


def _calibration(judged: Judged, resamples: int, seed: int) -> dict[str, Any]:
    """Brier score, ECE and NLL of the decided pairs that were answered, and the temperature that would calibrate."""
    known = judged.where(judged.decided & np.isfinite(judged.score))
    score, label, cluster = known.score, known.label, known.cluster
    p, options = expit(score), {"resamples": resamples, "seed": seed}
    return {
        **bootstrap_mean(brier_terms(p, label), cluster, **options).named("brier"),
        **ece_estimate(p, label, cluster, **options).named("ece"),
        **bootstrap_mean(nll_terms(score, label), cluster, **options).named("nll"),
        "tau": fit_temperature(score, label, pseudo_pairs=1.0) if len(score) else None,
    }


def _drivers(judged: Judged, resamples: int, seed: int) -> dict[str, Any]:
    """Length bias, and accuracy by strength of the label and by the oracle's own confidence."""
    correct, clusters = judged.correct, judged.cluster
    bias = length_bias(judged.score, judged.label, correct, judged.lengths, clusters, resamples=resamples, seed=seed)
    strength = by_strength(correct, judged.strength, clusters, resamples=resamples, seed=seed)
    confidence = by_confidence(correct, judged.score, clusters, resamples=resamples, seed=seed)
    return {**bias, "by_strength": strength, "by_confidence": confidence}


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
    for (record, gold, circles), order, shuffled in zip(asked, orders, answers, strict=True):
        table = np.empty_like(shuffled)
        table[np.ix_(order, order)] = shuffled  # back in the record's order
        for t in circles:
            model, truth = table[np.ix_(t, t)], gold[np.ix_(t, t)]
            hits.append(
                np.where(np.isnan(model), np.nan, 0.5 * (1 + np.sign(model - 0.5) * np.sign(truth - 0.5)))[upper]
            )
            clusters += [record.prompt.messages] * 3
    estimate = bootstrap_mean(np.concatenate(hits) if hits else [], clusters, resamples=resamples, seed=seed)
    return {
        **estimate.named("accuracy"),
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
