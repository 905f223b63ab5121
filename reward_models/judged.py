"""Labelled pairs beside an oracle's answers, in random orientation: what every measure of an oracle starts from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefeval.data.chats import Messages
from prefeval.oracle import Oracle, logit
from prefeval.seeds import rng
from prefeval.types import Comparison, FloatArray, PreferenceRecord


@dataclass(frozen=True)
class Judged:
    """Labelled pairs and the oracle's answers, in random orientation; arrays of n pairs.

    `score` are log-odds of first over second (NaN: no answer), `label` = P(first beats second), `longer` the sign of
    len(first) - len(second), `lengths` (n, 2) both, `strength` the margin of the label where the data has margins, else
    |2 label - 1|, `cluster` the number of the prompt, `subset` the record's subset or else the label's source.
    """

    score: FloatArray
    label: FloatArray
    lengths: FloatArray
    strength: FloatArray
    cluster: tuple[int, ...]
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

    @property
    def longer_correct(self) -> FloatArray:
        """The same of the rule "the longer response wins", which never fails to answer."""
        hit = 0.5 * (1.0 + self.longer * np.sign(self.label - 0.5))
        return np.where(self.decided, hit, np.nan)

    def where(self, mask: NDArray[np.bool_]) -> Judged:
        """The chosen pairs alone: mask (n,)."""
        cluster = tuple(c for c, kept in zip(self.cluster, mask, strict=True) if kept)
        subset = tuple(name for name, kept in zip(self.subset, mask, strict=True) if kept)
        return Judged(self.score[mask], self.label[mask], self.lengths[mask], self.strength[mask], cluster, subset)


def answer(oracle: Oracle, records: Sequence[PreferenceRecord]) -> list[FloatArray]:
    """Log-odds tables (k, k) of the records, NaN where nothing was asked or answered.

    Records whose labels cover half of all pairs are asked whole, and all records where that costs nothing, because
    the oracle reads each response once for all its pairs (`per_response`). Of the others only the labelled pairs are
    asked.
    """
    free = bool(getattr(oracle, "per_response", False))
    dense = [bool(r.pairs) and (free or _is_dense(r)) for r in records]
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
    cluster: list[int] = []
    subset: list[str] = []
    prompts: dict[Messages, int] = {}
    for record, table in zip(records, tables, strict=True):
        flips = rng("orientation", seed, record.id).random(len(record.pairs)) < 0.5
        for pair, flip in zip(record.pairs, flips, strict=True):
            i, j, p = (pair.j, pair.i, 1.0 - pair.p) if flip else (pair.i, pair.j, pair.p)
            score.append(float(table[i, j]))
            label.append(p)
            lengths.append((len(record.responses[i]), len(record.responses[j])))
            strength.append(abs(2.0 * p - 1.0))
            margin.append(math.nan if pair.margin is None else pair.margin)
            cluster.append(prompts.setdefault(record.prompt.messages, len(prompts)))
            subset.append(str(record.meta.get("subset") or pair.source or ""))
    strong = np.array(margin if np.isfinite(margin).any() else strength)
    sizes = np.array(lengths, dtype=np.float64).reshape(-1, 2)
    return Judged(np.array(score), np.array(label), sizes, strong, tuple(cluster), tuple(subset))


def _edges(record: PreferenceRecord) -> list[tuple[int, int]]:
    return sorted({(min(p.i, p.j), max(p.i, p.j)) for p in record.pairs})


def _is_dense(record: PreferenceRecord) -> bool:
    return 2 * len(_edges(record)) >= math.comb(len(record.responses), 2)
