"""Rows from wherever they are: JSONL, JSON, CSV, Parquet, directories and hub data sets, with file and row number.

Row numbers count from 1: lines of a JSONL file, records of anything else (the header of a CSV file is not a row).
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefeval.data.chats import Messages, as_messages, check_text
from prefeval.errors import ConfigError, DataError, nearest
from prefeval.files import iterate_jsonl, read_json, read_text
from prefeval.guards import parse_json, read_parquet

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".csv", ".csv.gz", ".parquet")
ID_COLUMNS = ("id", "prompt_id", "pair_id", "uid", "question_id")
# Cells of a CSV file that hold JSON in some formats; the first group always, the second only for message lists.
_JSON_CELLS = ("responses", "P", "pairs", "ratings", "messages", "turns", "conversations", "meta", "answers")
_CHAT_CELLS = ("prompt", "chosen", "rejected", "conversation_a", "conversation_b", "context")
# A whole part of the name ('x.test.parquet', 'x_train.csv'), or its beginning ('test_prefs-0.parquet'): the "eval" of
# 'alpaca_eval_pairs' is neither.
_SPLIT = re.compile(r"(?:^|[._-])(train|validation|val|valid|dev|test|eval)(?=[.-])|^(train|test|eval)(?=_)")


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands. A column name may list alternatives: 'prompt|instruction' is the first present."""

    values: Mapping[str, Any]
    position: int
    file: str
    table_split: str = ""

    @property
    def split(self) -> str:
        """The row's own split column, or the split that the file's name tells."""
        value = self.values.get("split")
        return value if isinstance(value, str) and value else self.table_split

    def find(self, name: str) -> str | None:
        if name in self.values:
            return name
        return next((part for part in name.split("|") if part in self.values), None)

    def has(self, name: str) -> bool:
        """True if the column is there and not null."""
        found = self.find(name)
        return found is not None and self.values[found] is not None

    def get(self, name: str) -> Any:
        """The cell; raises DataError with the columns present and the nearest name when there is no such column."""
        found = self.find(name)
        if found is None:
            raise missing_column(self.file, name, self.values, self.position)
        return self.values[found]

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str):
            raise self.fail(f"must be text, not {_kind(value)}", self.find(name))
        return self._checked(value, name)

    def response(self, name: str) -> str:
        """A reply as text or as one assistant message; null counts as empty."""
        value = self.get(name)
        if value is None:
            return ""
        if isinstance(value, str):
            return self._checked(value, name)
        messages = self.messages(name)
        if len(messages) != 1 or messages[0].role != "assistant":
            raise self.fail("must be text or one assistant message", self.find(name))
        return messages[0].content

    def messages(self, name: str) -> Messages:
        try:
            return as_messages(self.get(name))
        except ValueError as error:
            raise self.fail(str(error), self.find(name)) from None

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        """A finite number in [low, high], also when written as text; None for null, NaN and an empty cell."""
        value = self.get(name)
        if value is None or value == "":
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise self.fail(f"must be a number, not {value!r}", self.find(name)) from None
        if math.isnan(number):
            return None
        if math.isinf(number):
            raise self.fail(f"must be a finite number, not {value!r}", self.find(name))
        if not low <= number <= high:
            raise self.fail(f"{value!r} is outside {_range(low, high)}", self.find(name))
        return number

    def columns(self, names: Iterable[str]) -> dict[str, Any]:
        """The given columns that hold plain values."""
        plain = (str, int, float, bool)
        return {name: self.values[name] for name in names if isinstance(self.values.get(name), plain)}

    def record_id(self, names: Sequence[str] = ID_COLUMNS) -> str:
        """The row's id, else one from its split and row number."""
        found = next((self.values[n] for n in names if self.values.get(n) not in (None, "")), None)
        return f"{self.split or 'row'}-{self.position}" if found is None else str(found)

    def _checked(self, text: str, name: str) -> str:
        try:
            return check_text(text)
        except ValueError as error:
            raise self.fail(str(error), self.find(name)) from None

    def fail(self, message: str, field: str | None = None) -> DataError:
        return DataError(message, file=self.file, row=self.position, field=field)


def missing_column(
    file: str, wanted: str, present: Iterable[str], row: int | None = None, *, why: str = "", tip: str = ""
) -> DataError:
    """The error for a column that is not there: what was wanted, what is present, and the nearest name."""
    names = list(present)
    options = wanted.split("|")
    hint = next((h for h in (nearest(option, names) for option in options) if h), "")
    want = " or ".join(f"'{option}'" for option in options)
    return DataError(f"{why}no column {want}; the columns are {', '.join(names)}{hint}{tip}", file=file, row=row)


def parse_columns(pairs: Sequence[str]) -> dict[str, str] | None:
    """What `--columns wanted=column_in_the_data ...` says. Raises ConfigError for anything else."""
    split = [pair.partition("=") for pair in pairs]
    for pair, (wanted, equals, given) in zip(pairs, split, strict=True):
        if not (wanted and equals and given):
            raise ConfigError(f"--columns {pair}: write --columns wanted=column_in_the_data")
    return {wanted: given for wanted, _, given in split} or None


def rename_columns(rows: Sequence[Row], columns: Mapping[str, str]) -> list[Row]:
    """Apply `wanted=present` column names; `present=wanted` is understood too where only that makes sense."""
    renames: dict[str, str] = {}
    present = rows[0].values
    for wanted, given in columns.items():
        if given not in present and wanted in present:
            wanted, given = given, wanted
        if given not in present:
            raise missing_column(rows[0].file, given, present)
        renames[given] = wanted
    kept = set(renames.values())
    return [
        Row(
            {renames.get(k, k): v for k, v in row.values.items() if k in renames or k not in kept},
            row.position,
            row.file,
            row.table_split,
        )
        for row in rows
    ]


def read_tables(spec: str, columns: Mapping[str, str] | None = None) -> Iterator[list[Row]]:
    """The rows of each file (or hub split) of a data spec. Raises DataError for what cannot be read or is empty."""
    path = Path(spec)
    if path.is_dir():
        tables = _read_directory(path)
    elif path.is_file() or _looks_local(spec):
        tables = iter([read_file(path)])
    else:
        from prefeval.data.hub import read_hub

        tables = read_hub(spec)
    for rows in tables:
        if not rows:
            raise DataError("holds no rows", file=spec)
        yield rename_columns(rows, columns) if columns else rows


def read_file(path: Path) -> list[Row]:
    """All rows of one file, by its suffix."""
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise DataError(f"unknown kind of file; readable are {', '.join(SUFFIXES)}", file=path)
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"no such file{nearest(path.name, siblings)}", file=path)
    if ".jsonl" in name:
        numbered: Iterable[tuple[int, Any]] = iterate_jsonl(path)
    elif ".csv" in name:
        numbered = _read_csv(path)
    elif ".json" in name:
        numbered = enumerate(_json_rows(path), 1)
    else:
        numbered = enumerate(read_parquet(path), 1)
    return make_rows(numbered, str(path), split_in_name(path.name))


def make_rows(numbered: Iterable[tuple[int, Any]], file: str, split: str = "") -> list[Row]:
    rows = []
    for position, values in numbered:
        if not isinstance(values, Mapping):
            raise DataError(f"a row must be an object with named fields, not {_kind(values)}", file=file, row=position)
        rows.append(Row(values, position, file, split))
    return rows


def split_in_name(name: str) -> str:
    """'train' for 'train-00000-of-00001.parquet' and 'pairs.train.parquet'; '' when the name tells nothing."""
    matches = list(_SPLIT.finditer(name.lower()))
    return (matches[-1].group(1) or matches[-1].group(2)) if matches else ""


def _read_directory(folder: Path) -> Iterator[list[Row]]:
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        from prefeval.data.hub import read_saved

        yield from read_saved(folder)
        return
    files = [p for p in sorted(folder.rglob("*")) if p.name.lower().endswith(SUFFIXES) and p.is_file()]
    if any(
        "_pairs." in p.name for p in files
    ):  # these two are joined by the pairs files beside them, not data by itself
        files = [p for p in files if not p.name.endswith(("_responses.parquet", "_instructions.parquet"))]
    if not files:
        raise DataError(f"no data files in this directory; readable are {', '.join(SUFFIXES)}", file=folder)
    for path in files:
        yield read_file(path)


def _json_rows(path: Path) -> list[Any]:
    data = read_json(path)
    if isinstance(data, Mapping) and isinstance(data.get("data"), list):
        data = data["data"]
    if not isinstance(data, list):
        raise DataError(f"must be a JSON array of rows, not {_kind(data)}", file=path)
    return data


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_text(path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise DataError(f"repeated column names: {', '.join(header)}", file=path)
        for position, cells in enumerate((c for c in reader if c), 1):
            if len(cells) != len(header):
                message = f"{len(cells)} cells, but the header has {len(header)} ({', '.join(header)})"
                raise DataError(message, file=path, row=position)
            yield position, {name: _cell(name, cell) for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise DataError(f"not valid CSV near line {reader.line_num}: {error}", file=path) from None


def _cell(name: str, cell: str) -> Any:
    """A CSV cell; JSON only where the column is known to hold it, so that a reply that looks like JSON stays text."""
    if cell[:1] not in "[{" or not cell or name not in _JSON_CELLS + _CHAT_CELLS:
        return cell
    try:
        value = parse_json(cell)
    except json.JSONDecodeError:
        return cell
    chat = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    return value if chat or name in _JSON_CELLS else cell


def _looks_local(spec: str) -> bool:
    return spec.lower().endswith(SUFFIXES) or spec.startswith((".", "/", "~")) or spec.count("/") > 1 or "\\" in spec


def _range(low: float, high: float) -> str:
    return f"[{low:g}, {high:g}]"


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
