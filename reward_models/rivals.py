"""An oracle beside rules that know little or nothing of the text, on the same pairs: all, length-matched, by subset.

A rival is a name and log-odds tables of the same records, infinite where a rule is certain. Differences are accuracy of
the oracle minus that of the rival on the pairs that both answered, with a paired bootstrap over prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefeval.stats import bootstrap_mean, finite, paired_difference
from prefeval.types import FloatArray, PreferenceRecord
from reward_models.bias import is_matched
from reward_models.calibrate import ece_estimate, expit, nll_terms
from reward_models.judged import Judged, collect

Tables = Sequence[FloatArray]
LONGER, STRONGER = "longer", "stronger_model"


def longer_tables(records: Sequence[PreferenceRecord]) -> list[FloatArray]:
    """The rule "the longer response wins", by characters; 0 for equal lengths."""
    return [_certain(np.array([len(text) for text in r.responses], dtype=np.float64)) for r in records]


def model_rates(records: Sequence[PreferenceRecord]) -> dict[str, float]:
    """The share of its labelled pairs that each model won, over records that name their models (`meta["models"]`).

    A soft label counts as its p; a text that several models wrote counts for each of them.
    """
    won: dict[str, float] = {}
    played: dict[str, int] = {}
    for record in records:
        models = record.meta.get("models") or [()] * len(record.responses)
        for pair in record.pairs:
            for index, p in ((pair.i, pair.p), (pair.j, 1.0 - pair.p)):
                for model in models[index]:
                    won[model] = won.get(model, 0.0) + p
                    played[model] = played.get(model, 0) + 1
    return {model: won[model] / played[model] for model in won}


def stronger_tables(records: Sequence[PreferenceRecord], rates: Mapping[str, float]) -> list[FloatArray]:
    """The rule "the model with the higher rate wins"; NaN where a model is unknown, 0 between equal rates."""
    out = []
    for record in records:
        models = record.meta.get("models") or [()] * len(record.responses)
        strength = [[rates[m] for m in names if m in rates] for names in models]
        out.append(_certain(np.array([np.mean(s) if s else np.nan for s in strength], dtype=np.float64)))
    return out


def rival_rows(
    judged: Judged, rivals: Mapping[str, Judged], *, resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """A row a rival: its accuracy, all and length-matched, its NLL where it has probabilities, and the difference."""
    rows = []
    for name, rival in rivals.items():
        gap, p_value = paired_difference(judged.correct, rival.correct, judged.cluster, resamples=resamples, seed=seed)
        near = np.where(is_matched(judged.lengths), rival.correct, np.nan)
        accuracy, matched = (
            bootstrap_mean(values, judged.cluster, resamples=resamples, seed=seed) for values in (rival.correct, near)
        )
        known = rival.decided & ~np.isnan(rival.score)
        nll = float(nll_terms(rival.score[known], rival.label[known]).mean()) if _soft(rival) else np.nan
        rows.append(
            {
                "rival": name,
                **accuracy.named("accuracy"),
                "n": accuracy.n,
                "n_dropped": int((rival.decided & np.isnan(rival.score)).sum()),
                **matched.named("accuracy_length_matched"),
                "nll": finite(nll),
                **gap.named("difference"),
                "difference_p": finite(p_value),
                "n_difference": gap.n,
            }
        )
    return rows


def subset_rows(
    judged: Judged, rivals: Mapping[str, Judged], *, resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """The same by subset: accuracy, all and length-matched, calibration, and the difference to each rival."""
    rows = []
    for name in sorted(set(judged.subset)) if any(judged.subset) else []:
        inside = np.array([s == name for s in judged.subset])
        part = judged.where(inside & judged.decided)
        known = part.where(~np.isnan(part.score))
        options: dict[str, int] = {"resamples": resamples, "seed": seed}
        accuracy = bootstrap_mean(part.correct, part.cluster, **options)
        matched = np.where(is_matched(part.lengths), part.correct, np.nan)
        near = bootstrap_mean(matched, part.cluster, **options)
        score, label, cluster = known.score, known.label, known.cluster
        row: dict[str, Any] = {"subset": name, **accuracy.named("accuracy"), "n": accuracy.n}
        row |= {"n_dropped": accuracy.n_failed, "n_prompts": len(set(part.cluster))}
        row |= {**near.named("accuracy_length_matched"), "n_length_matched": near.n}
        row |= bootstrap_mean(nll_terms(score, label), cluster, **options).named("nll")
        row |= ece_estimate(expit(score), label, cluster, **options).named("ece")
        for rival, other in rivals.items():
            theirs = other.where(inside & judged.decided).correct
            gap, _ = paired_difference(part.correct, theirs, part.cluster, **options)
            row |= {f"accuracy_{rival}": finite(float(np.nanmean(theirs))) if not np.isnan(theirs).all() else None}
            row |= gap.named(f"difference_to_{rival}")
        rows.append(row)
    return rows


def judged_rivals(
    records: Sequence[PreferenceRecord], rivals: Mapping[str, Tables] | None, seed: int
) -> dict[str, Judged]:
    """The longer-answer rule and the given rivals on the pairs of the records, oriented as the oracle's are."""
    tables = {LONGER: longer_tables(records), **(rivals or {})}
    return {name: collect(records, own, seed) for name, own in tables.items()}


def _certain(strength: FloatArray) -> FloatArray:
    """Log-odds of a rule that is sure of the larger number: 0, +inf or -inf, NaN where a number is missing."""
    gap = strength[:, None] - strength[None, :]
    return np.where(gap > 0, np.inf, np.where(gap < 0, -np.inf, gap))


def _soft(rival: Judged) -> bool:
    known = rival.score[rival.decided & ~np.isnan(rival.score)]
    return bool(len(known)) and bool(np.isfinite(known).all())
