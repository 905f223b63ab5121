"""From rows to canonical records: grouping by prompt, label averaging, and a report of everything that was dropped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from prefeval.data.chats import Messages
from prefeval.data.tables import Row
from prefeval.errors import DataError
from prefeval.types import PairLabel, PreferenceRecord, Prompt, all_pairs

META_COLUMNS = (
    "subset",
    "scenario",
    "domain",
    "dataset",
    "category",
    "language",
    "cluster",
    "source",
    "response_model",
)


@dataclass
class ReadReport:
    """What reading did, in numbers. `dropped` counts rows by reason (pairs, where one row holds several).

    `merged` labels or ratings of an already seen response pair or response were averaged into it; `conflicts` are
    unordered pairs with labels in both directions (2-cycles); `ties` are pairs with p = 0.5; `sources` counts the
    labels read by annotator, before anything was dropped.
    """

    spec: str
    formats: tuple[str, ...] = ()
    rows: int = 0
    records: int = 0
    responses: int = 0
    pairs: int = 0
    rated: int = 0
    merged: int = 0
    conflicts: int = 0
    ties: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __str__(self) -> str:
        lines = [
            f"{self.spec} ({', '.join(self.formats)}): {self.rows:,} rows -> {self.records:,} records, "
            f"{self.responses:,} responses, {self.pairs:,} pairs ({self.ties:,} ties, {self.conflicts:,} conflicting), "
            f"{self.rated:,} rated responses, {self.merged:,} duplicates merged"
        ]
        for reason, count in self.dropped.most_common():
            lines.append(f"  dropped {count:,}: {reason} (first: {'; '.join(self.examples.get(reason, []))})")
        lines += [f"  note: {count:,} {text}" for text, count in self.notes.most_common()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Dataset:
    """Records in the order in which their prompts first appear, and the report of how they were read."""

    records: list[PreferenceRecord]
    report: ReadReport


class Group:
    """A record in the making: distinct responses in order of appearance, labels and ratings by response index."""

    def __init__(self, id: str, messages: Messages, split: str, meta: Mapping[str, Any]) -> None:
        self.id, self.messages, self.split, self.meta = id, messages, split, dict(meta)
        self.texts: dict[str, int] = {}
        self.labels: dict[tuple[int, int, str], list[tuple[float, float | None]]] = {}
        self.votes: Counter[tuple[int, int, str]] = Counter()
        self.ratings: dict[str, dict[int, list[float]]] = {}
        self.models: dict[int, dict[str, None]] = {}

    def add(self, text: str, model: str = "") -> int:
        """The index of a response; `model` is whoever wrote it, where the data tells."""
        index = self.texts.setdefault(text, len(self.texts))
        if model:
            self.models.setdefault(index, {})[model] = None
        return index

    def label(self, i: int, j: int, p: float, margin: float | None, source: str, votes: int = 1) -> None:
        """Add a label, the mean of `votes` votes. One of the opposite orientation is turned round, for averaging."""
        if (j, i, source) in self.labels:
            i, j, p = j, i, 1.0 - p
        self.labels.setdefault((i, j, source), []).append((p, margin))
        self.votes[i, j, source] += votes

    def rate(self, i: int, values: Mapping[str, float | None]) -> bool:
        """Add ratings of response i (None = missing); True if it had some before."""
        again = any(i in known for known in self.ratings.values())
        for name, value in values.items():
            cell = self.ratings.setdefault(name, {}).setdefault(i, [])
            cell += [] if value is None or math.isnan(value) else [value]
        return again

    def pairs(self) -> list[PairLabel]:
        return [
            PairLabel(i, j, _mean([p for p, _ in v]), _margin(v), s, self.votes[i, j, s])
            for (i, j, s), v in self.labels.items()
        ]

    def conflicts(self) -> int:
        """Unordered pairs whose labels, from any source, point in both directions."""
        sides: dict[tuple[int, int], set[bool]] = {}
        for (i, j, _), values in self.labels.items():
            seen = sides.setdefault((min(i, j), max(i, j)), set())
            seen.update((p > 0.5) == (i < j) for p, _ in values if p != 0.5)
        return sum(len(seen) == 2 for seen in sides.values())

    def record(self) -> PreferenceRecord:
        count = len(self.texts)
        ratings = {
            name: tuple(_mean(cells[i]) if cells.get(i) else math.nan for i in range(count))
            for name, cells in self.ratings.items()
        }
        prompt = Prompt(self.id, self.messages)
        meta = dict(self.meta)
        if self.models:  # several, where models wrote the same text
            meta["models"] = [list(self.models.get(i, ())) for i in range(count)]
        return PreferenceRecord(self.id, prompt, tuple(self.texts), tuple(self.pairs()), ratings, self.split, meta)


Placed = tuple[Group, int, int]  # a record in the making and two of its responses


class Collector:
    """Takes labelled pairs and rated responses from a reader and groups them into records by prompt and split.

    With `drop_empty` (published data sets, whose models did answer with nothing) a pair with an empty response is
    dropped and counted; without it (one's own files) it is refused with a DataError. With `one_per_row` (benchmarks,
    where a row is a test item with its own id) rows of one prompt stay apart.
    """

    def __init__(self, spec: str) -> None:
        self.report = ReadReport(spec)
        self._groups: dict[object, Group] = {}
        self._drop_empty = self._one_per_row = False

    def begin(self, name: str, rows: int, *, drop_empty: bool, one_per_row: bool) -> None:
        """Start a table of `rows` rows that is read with the format `name`."""
        self._drop_empty, self._one_per_row = drop_empty, one_per_row
        self.report.rows += rows
        if name not in self.report.formats:
            self.report.formats += (name,)

    def group(self, row: Row, messages: Messages) -> Group:
        key: object = (row.file, row.position) if self._one_per_row else (row.split, messages)
        if key not in self._groups:
            self._groups[key] = Group(row.record_id(), messages, row.split, row.columns(META_COLUMNS))
        return self._groups[key]

    def pair(
        self,
        row: Row,
        messages: Messages,
        texts: tuple[str, str],
        p: float,
        *,
        fields: tuple[str, str],
        margin: float | None = None,
        source: str = "",
        models: tuple[str, str] = ("", ""),
    ) -> Placed | None:
        """The first text beats the second with probability `p`. `fields` names their columns for error messages.

        Gives the record and the indices of both texts in it, None for a dropped row.
        """
        return self.pair_votes(row, messages, texts, [p], fields=fields, margin=margin, source=source, models=models)

    def pair_votes(
        self,
        row: Row,
        messages: Messages,
        texts: tuple[str, str],
        votes: Sequence[float],
        *,
        fields: tuple[str, str],
        margin: float | None = None,
        source: str = "",
        models: tuple[str, str] = ("", ""),
    ) -> Placed | None:
        """As `pair`, with several labels of the same pair in one row."""
        self.report.sources[source] += len(votes)
        if not self._filled(row, messages, texts, fields):
            return None
        if texts[0].strip() == texts[1].strip():
            self.drop("identical responses", row)
            return None
        group = self.group(row, messages)
        i, j = (group.add(text, model) for text, model in zip(texts, models, strict=True))
        self.report.merged += (i, j, source) in group.labels or (j, i, source) in group.labels
        for p in votes:
            group.label(i, j, p, margin, source)
        return group, i, j

    def rate(self, row: Row, messages: Messages, text: str, values: Mapping[str, float | None], field: str) -> None:
        """Ratings of one response (None = missing); a repeated response gets the mean."""
        if self._filled(row, messages, (text,), (field,)):
            group = self.group(row, messages)
            self.report.merged += group.rate(group.add(text), values)

    def drop(self, reason: str, row: Row) -> None:
        self.report.dropped[reason] += 1
        examples = self.report.examples.setdefault(reason, [])
        if len(examples) < 3:
            where = "" if row.file == self.report.spec else f"{row.file}, "
            examples.append(f"{where}row {row.position}")

    def finish(self) -> Dataset:
        """The records and their report. Raises DataError when nothing is left."""
        groups, report = list(self._groups.values()), self.report
        for group, id in zip(groups, unique_ids([g.id for g in groups]), strict=True):
            group.id = id
        records = [group.record() for group in groups]
        report.records = len(records)
        report.responses = sum(len(r.responses) for r in records)
        report.pairs = sum(len(r.pairs) for r in records)
        report.ties = sum(pair.p == 0.5 for r in records for pair in r.pairs)
        report.conflicts = sum(group.conflicts() for group in groups)
        report.rated = sum(len({i for cells in g.ratings.values() for i in cells}) for g in groups)
        if not records:
            raise DataError(f"no usable rows\n{report}")
        return Dataset(records, report)

    def _filled(self, row: Row, messages: Messages, texts: Sequence[str], fields: Sequence[str]) -> bool:
        """True if prompt and responses have content; otherwise the row is dropped or refused."""
        empty = next((field for text, field in zip(texts, fields, strict=True) if not text.strip()), None)
        if empty is None and any(m.content.strip() for m in messages):
            return True
        reason = "empty prompt" if empty is None else "empty response"
        if not self._drop_empty:
            raise row.fail(f"the {'prompt' if empty is None else 'response'} is empty", empty)
        self.drop(reason, row)
        return False


def unique_ids(ids: Sequence[str]) -> list[str]:
    """The ids with '.2', '.3', ... behind repeated ones, so that every draw and every cache key has its own."""
    taken, out = set(ids), []
    seen: Counter[str] = Counter()
    for id in ids:
        seen[id] += 1
        new = id
        while seen[id] > 1 and new in taken:
            new = f"{id}.{seen[id]}"
            seen[id] += new in taken
        taken.add(new)
        out.append(new)
    return out


def pairs_from_ratings(record: PreferenceRecord, weights: Mapping[str, float]) -> PreferenceRecord:
    """The record with a pair for every two responses rated on all of `weights`, replacing its pairs.

    The response with the higher weighted sum of ratings wins (p = 1, 0.5 when equal); the margin is the difference.
    Raises KeyError for an attribute that the record does not have.
    """
    columns = [(weight, record.ratings[name]) for name, weight in weights.items()]
    totals = [math.fsum(w * values[i] for w, values in columns) for i in range(len(record.responses))]
    source = "+".join(weights)
    pairs = []
    for i, j in all_pairs(len(totals)):
        difference = totals[i] - totals[j]
        if not math.isnan(difference):
            first, second = (i, j) if difference >= 0 else (j, i)
            pairs.append(PairLabel(first, second, 1.0 if difference else 0.5, abs(difference), source))
    return replace(record, pairs=tuple(pairs))


def _mean(values: Sequence[float]) -> float:
    return values[0] if len(values) == 1 else math.fsum(values) / len(values)


def _margin(labels: Sequence[tuple[float, float | None]]) -> float | None:
    """Strength of the averaged label: margins count negatively where the label points the other way."""
    if any(margin is None for _, margin in labels):
        return None
    signed = [math.copysign(margin or 0.0, p - 0.5) if p != 0.5 else 0.0 for p, margin in labels]
    return abs(_mean(signed)) if len(labels) > 1 else labels[0][1]
