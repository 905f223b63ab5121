"""Rows and fields of the originals' verdict files: how they are reached, and how a bad one is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from sys import intern
from typing import Any, TypeVar

from prefeval.errors import DataError
from prefeval.files import iterate_jsonl, read_json
from prefeval.log import logger

Row = TypeVar("Row")


def objects(file: str | Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(row from 1, object) of a .json list or a .jsonl file; a cut last line of a crashed run is left out."""
    name = str(file).removesuffix(".gz")
    rows: Iterator[tuple[int, Any]]
    if name.endswith(".json"):
        data = read_json(file)
        if not isinstance(data, list):
            raise DataError(f"must hold a list of objects, not a {type(data).__name__}", file=file)
        rows = iter(enumerate(data, 1))
    else:
        rows = iterate_jsonl(file, tolerate_cut_tail=True)
    empty = True
    for number, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"must be an object, not {short(row)}", file=file, row=number)
        empty = False
        yield number, row
    if empty:
        raise DataError("holds no rows", file=file)


def name_of(value: Any) -> str:
    """A name that recurs in many rows, '' for none. FastChat's judge is [model, prompt name]: the first is the name."""
    if isinstance(value, list):
        return intern(str(value[0])) if value else ""
    return intern(str(value or ""))


def text_field(raw: Mapping[str, Any], key: str, file: object, row: int, *, empty: bool = False) -> str:
    if key not in raw or raw[key] is None:
        raise DataError("is missing", file=file, row=row, field=key)
    value = raw[key]
    if isinstance(value, bool) or not isinstance(value, (str, int)) or (value == "" and not empty):
        raise DataError(f"must be a non-empty text, not {short(value)}", file=file, row=row, field=key)
    return intern(str(value)) if len(str(value)) <= 64 else str(value)  # names recur in every row


def last_of_each(rows: Sequence[Row], key: Callable[[Row], object], what: str) -> list[Row]:
    """One row a key: the last one written, at the place of the first."""
    latest = {key(row): row for row in rows}
    if len(latest) < len(rows):
        logger.warning("%d rows repeat a model and %s; the last of each is used", len(rows) - len(latest), what)
    return list(latest.values())


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
