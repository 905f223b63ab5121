"""Last-layer Laplace on real judgments, published split: words hashed into 256 features, better than a coin."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer

from prefeval.data.readers import load_records
from prefeval.stats import bootstrap_mean, paired_difference
from prefeval.types import FloatArray
from reward_models.calibrate import nll_terms
from reward_models.uncertainty import last_layer_laplace

DATA = Path(os.environ.get("PREFEVAL_DATA") or Path(__file__).parents[3] / "shared" / "data") / "preferences"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here (PREFEVAL_DATA)")


def differences(split: str) -> tuple[FloatArray, FloatArray, list[int]]:
    """(feature differences, labels, prompt of each pair); every other pair is turned round."""
    words = HashingVectorizer(n_features=256)
    x, label, prompts = [], [], []
    for n, record in enumerate(load_records(str(DATA / f"alpaca_eval_pairs.{split}.parquet")).records):
        rows = words.transform(list(record.responses)).toarray()
        for pair in record.pairs:
            if pair.p == 0.5:
                continue
            i, j, p = (pair.i, pair.j, pair.p) if len(x) % 2 else (pair.j, pair.i, 1.0 - pair.p)
            x.append(rows[i] - rows[j])
            label.append(p)
            prompts.append(n)
    return np.array(x), np.array(label), prompts


@pytest.mark.slow
def test_laplace_beats_a_coin_on_unseen_prompts() -> None:
    x, label, _ = differences("val")
    unseen, truth, prompts = differences("test")
    fit = last_layer_laplace(x, label)
    hits = (fit.score(unseen) > 0) == (truth > 0.5)
    accuracy = bootstrap_mean(hits, prompts)
    print(f"accuracy on real pairs: {accuracy}")
    assert accuracy.low > 0.5
    p = fit.probability(unseen)
    adjusted = -(truth * np.log(p) + (1 - truth) * np.log1p(-p))
    gain, _ = paired_difference(adjusted, nll_terms(fit.score(unseen), truth), prompts)
    print(f"NLL, averaged over the posterior minus plug-in: {gain}")
    assert gain.high < 0  # knowing its uncertainty makes the model better calibrated
    sure = np.maximum(fit.lower(unseen), fit.lower(-unseen)) > 0
    where = np.asarray(prompts)
    surer, rest = (bootstrap_mean(hits[keep], where[keep]) for keep in (sure, ~sure))
    print(f"accuracy where a lower bound is above 0: {surer}, elsewhere: {rest}")
    assert surer.low > rest.high
