"""Fewer labelled pairs a prompt: training costs what is read; what is learned goes with prompts as well."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from prefeval.seeds import rng
from prefeval.types import PreferenceRecord


def thin(records: Iterable[PreferenceRecord], max_pairs: int, seed: int) -> list[PreferenceRecord]:
    """At most `max_pairs` labelled pairs of each record, and only the responses that they name, in their old order.

    Pairs are drawn from (seed, record id). A record that has no more pairs than that is left as it is.
    """
    return [_thinned(record, max_pairs, seed) if len(record.pairs) > max_pairs else record for record in records]


def _thinned(record: PreferenceRecord, max_pairs: int, seed: int) -> PreferenceRecord:
    drawn = rng("thin", seed, record.id).choice(len(record.pairs), max_pairs, replace=False)
    pairs = [record.pairs[n] for n in sorted(drawn)]
    kept = sorted({index for pair in pairs for index in (pair.i, pair.j)})
    place = {old: new for new, old in enumerate(kept)}
    meta = dict(record.meta)
    if "models" in meta:  # one entry a response
        meta["models"] = [meta["models"][index] for index in kept]
    return replace(
        record,
        responses=tuple(record.responses[index] for index in kept),
        pairs=tuple(replace(pair, i=place[pair.i], j=place[pair.j]) for pair in pairs),
        ratings={name: tuple(values[index] for index in kept) for name, values in record.ratings.items()},
        meta=meta,
    )
