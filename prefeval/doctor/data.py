"""Preference data: can it be read, and what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from prefeval.doctor.findings import Finding
from prefeval.errors import ConfigError, DataError
from prefeval.types import PreferenceRecord

_FEW = 20  # fewer decided pairs tell nothing about length


def examine_data(
    spec: str, *, format: str | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[Finding]:
    """Rows that cannot be used, conflicting labels, prompts shared by splits, and how far length alone goes."""
    from prefeval.data import load_records

    try:
        data = load_records(spec, format=format, columns=columns)
    except (DataError, ConfigError) as error:
        yield Finding("problem", "data", str(error))
        return
    report = data.report
    yield Finding("ok", "data", str(report).splitlines()[0])
    for reason, count in report.dropped.most_common():
        first = "; ".join(report.examples.get(reason, []))
        yield Finding(
            "warning", "dropped", f"{count} of {report.rows} rows: {reason}", f"first: {first}" if first else ""
        )
    if report.conflicts:
        text = f"{report.conflicts} pairs carry labels in both directions"
        yield Finding("note", "conflicts", text, "their labels are averaged; they bound what accuracy can be reached")
    splits: dict[str, set[str]] = {}
    for record in data.records:
        splits.setdefault(record.prompt.text, set()).add(record.split)
    shared = sum(len(found) > 1 for found in splits.values())
    if shared:
        text = f"{shared} prompts stand in more than one split"
        yield Finding("problem", "splits", text, "test accuracy would be that of training data; split by prompt")
    yield from _length(data.records)


def _length(records: Sequence[PreferenceRecord]) -> Iterator[Finding]:
    count: Counter[str] = Counter()
    for record in records:
        for pair in record.pairs:
            a, b = len(record.responses[pair.i]), len(record.responses[pair.j])
            if pair.p == 0.5 or a == b:
                continue
            count["pairs"] += 1
            count["longer"] += (a > b) == (pair.p > 0.5)
    if count["pairs"] < _FEW:
        return
    share = count["longer"] / count["pairs"]
    text = f"the longer response is preferred in {100 * share:.1f}% of {count['pairs']} pairs"
    if max(share, 1 - share) > 0.65:
        yield Finding("warning", "length", text, "a model may learn length alone: compare its accuracy with this")
    else:
        yield Finding("ok", "length", text)
