"""The native format: one prompt, k responses and whatever is known about them in one row; reader and writer.

{"id", "prompt": text | [messages], "responses": [text, ...], "P": [[...]]?, "pairs": [[i, j, p] | {i, j, p, margin,
source, votes}]?, "ratings": {attribute: [...]}?, "split"?, "meta"?}
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefeval.data.records import Collector, Dataset, Group
from prefeval.data.tables import Row, make_rows
from prefeval.errors import DataError
from prefeval.files import dumps, write_bytes
from prefeval.types import PairLabel, PreferenceRecord, all_pairs

# P matrices are often written with few digits: their two triangles may disagree by rounding, not by more.
_ROUNDING = 2e-3


def records_from_groups(rows: Iterable[Mapping[str, Any]], *, file: str = "rows") -> Dataset:
    """Records from rows of the native format. Raises DataError naming row and field."""
    numbered = make_rows(enumerate(rows, 1), file)
    if not numbered:
        raise DataError("holds no rows", file=file)
    out = Collector(file)
    out.begin("groups", len(numbered), drop_empty=False, one_per_row=True)
    read_groups(numbered, out)
    return out.finish()


def read_groups(rows: Sequence[Row], out: Collector) -> None:
    """Each row is a record of its own. Repeated responses are merged; meta['index'] then tells which became which."""
    ids: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.has("id") and ids.setdefault((row.split, str(row.get("id"))), row.position) != row.position:
            first = ids[row.split, str(row.get("id"))]
            raise row.fail(f"{row.get('id')!r} is already the id of row {first}", "id")
        texts = _responses(row)
        messages = row.messages("prompt")
        if not any(m.content.strip() for m in messages):
            raise row.fail("the prompt is empty", "prompt")
        group = out.group(row, messages)
        index = [group.add(text) for text in texts]
        if len(group.texts) < len(texts):
            out.report.merged += len(texts) - len(group.texts)
            group.meta["index"] = index
        for label in (*_matrix(row, len(texts)), *_pairs(row, len(texts))):
            _add_label(group, index, label, row, out)
        _add_ratings(group, index, row)
        meta = row.values.get("meta")
        group.meta.update(meta if isinstance(meta, Mapping) else {})


def write_records(path: str | Path, records: Iterable[PreferenceRecord]) -> Path:
    """Write the native format as .jsonl or .jsonl.gz, atomically; `load_records` gives the same records back."""
    target = Path(path)
    if not target.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError("records are written as .jsonl or .jsonl.gz", file=path)
    data = "".join(dumps(to_row(record)) + "\n" for record in records).encode("utf-8")
    return write_bytes(target, gzip.compress(data, mtime=0) if target.name.endswith(".gz") else data)


def to_row(record: PreferenceRecord) -> dict[str, Any]:
    """A record as a row of the native format."""
    messages = record.prompt.messages
    single = len(messages) == 1 and messages[0].role == "user"
    row: dict[str, Any] = {
        "id": record.id,
        "prompt": messages[0].content if single else record.prompt.as_dicts(),
        "responses": list(record.responses),
    }
    optional = {
        "pairs": [_pair_row(pair) for pair in record.pairs],
        "ratings": {name: list(values) for name, values in record.ratings.items()},
        "split": record.split,
        "meta": dict(record.meta),
    }
    return row | {name: value for name, value in optional.items() if value}


def _responses(row: Row) -> list[str]:
    value = row.get("responses")
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise row.fail("must be a list of at least one response", "responses")
    cells = Row({f"responses[{k}]": text for k, text in enumerate(value)}, row.position, row.file)
    texts = [cells.response(name) for name in cells.values]
    for name, text in zip(cells.values, texts, strict=True):
        if not text.strip():
            raise row.fail("the response is empty", name)
    return texts


def _matrix(row: Row, k: int) -> list[PairLabel]:
    """Labels of the upper triangle of P; null where both orders are missing."""
    if not row.has("P"):
        return []
    table = row.get("P")
    if not _is_list(table, k) or not all(_is_list(line, k) for line in table):
        raise row.fail(f"must be a {k} x {k} matrix, one line and one column a response", "P")
    cells = Row({f"P[{i}][{j}]": table[i][j] for i in range(k) for j in range(k)}, row.position, row.file)
    p = [[cells.number(f"P[{i}][{j}]", 0.0, 1.0) for j in range(k)] for i in range(k)]
    labels = []
    for i, j in all_pairs(k):
        up, down = p[i][j], p[j][i]
        if up is not None and down is not None and abs(up + down - 1.0) > _ROUNDING:
            raise row.fail(f"P[{i}][{j}] + P[{j}][{i}] is {up + down:g}, not 1", "P")
        if up is not None or down is not None:
            labels.append(PairLabel(i, j, up if up is not None else 1.0 - (down or 0.0)))
    return labels


def _pairs(row: Row, k: int) -> list[PairLabel]:
    if not row.has("pairs"):
        return []
    pairs = row.get("pairs")
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise row.fail("must be a list of [i, j, p] or {i, j, p, margin, source, votes}", "pairs")
    return [_pair(row, n, pair, k) for n, pair in enumerate(pairs)]


def _pair(row: Row, n: int, pair: object, k: int) -> PairLabel:
    name = f"pairs[{n}]"
    if isinstance(pair, Mapping):
        values = dict(pair)
    elif isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) in (2, 3):
        values = dict(zip("ijp", pair, strict=False))
    else:
        raise row.fail("must be [i, j, p] or {i, j, p, margin, source, votes}", name)
    for key in ("i", "j"):
        value = values.get(key)
        if type(value) is not int or not 0 <= value < k:
            raise row.fail(f"{key} must be the index of a response, 0 to {k - 1}, not {value!r}", name)
    if values["i"] == values["j"]:
        raise row.fail(f"compares response {values['i']} with itself", name)
    cells = Row({f"{name}.{key}": value for key, value in values.items()}, row.position, row.file)
    p = cells.number(f"{name}.p", 0.0, 1.0) if cells.has(f"{name}.p") else 1.0
    margin = cells.number(f"{name}.margin", 0.0) if cells.has(f"{name}.margin") else None
    if p is None:
        raise row.fail("p is not a number", name)
    votes = values.get("votes", 1)
    if type(votes) is not int or votes < 1:
        raise row.fail(f"votes must be a whole number from 1, not {votes!r}", name)
    return PairLabel(values["i"], values["j"], p, margin, str(values.get("source") or ""), votes)


def _add_label(group: Group, index: Sequence[int], label: PairLabel, row: Row, out: Collector) -> None:
    i, j = index[label.i], index[label.j]
    out.report.sources[label.source] += 1
    if i == j:
        out.drop("identical responses", row)
        return
    out.report.merged += (i, j, label.source) in group.labels or (j, i, label.source) in group.labels
    group.label(i, j, label.p, label.margin, label.source, label.votes)


def _add_ratings(group: Group, index: Sequence[int], row: Row) -> None:
    ratings = row.values.get("ratings")
    if ratings is None:
        return
    if not isinstance(ratings, Mapping):
        raise row.fail("must map an attribute to one number a response", "ratings")
    for name, values in ratings.items():
        field = f"ratings.{name}"
        if not _is_list(values, len(index)):
            raise row.fail(f"must be a list of {len(index)} numbers, one a response", field)
        cells = Row({f"{field}[{n}]": value for n, value in enumerate(values)}, row.position, row.file)
        for i, cell in zip(index, cells.values, strict=True):
            group.rate(i, {str(name): cells.number(cell)})


def _pair_row(pair: PairLabel) -> list[Any] | dict[str, Any]:
    if pair.margin is None and not pair.source and pair.votes == 1:
        return [pair.i, pair.j, pair.p]
    extra = {"margin": pair.margin, "source": pair.source, "votes": pair.votes if pair.votes > 1 else None}
    return {"i": pair.i, "j": pair.j, "p": pair.p} | {
        key: value for key, value in extra.items() if value not in (None, "")
    }


def _is_list(value: object, length: int) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == length


def is_groups(row: Row) -> bool:
    return isinstance(row.values.get("responses"), (list, tuple))
