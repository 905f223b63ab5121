"""Prompts without replies: what policies are sampled on and benchmarks ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefeval.data.chats import Messages
from prefeval.data.pairs import prompt_messages
from prefeval.data.records import unique_ids
from prefeval.data.tables import ID_COLUMNS, Row, missing_column, read_tables
from prefeval.types import Message, Prompt

_COLUMNS = "prompt|instruction|question|messages|turns|conversations"


def load_prompts(spec: str, columns: Mapping[str, str] | None = None) -> list[Prompt]:
    """Prompts from rows with prompt, instruction (+ input), question, messages or turns; specs as in `load_records`.

    Ids are kept, or made from the row number. A conversation that ends with the assistant's reply loses that reply. Of
    several `turns` the first is the prompt; meta['turns'] keeps them all, and meta the other plain columns. Raises
    DataError for a row without a prompt.
    """
    found: list[tuple[Row, Messages, dict[str, Any]]] = []
    for rows in read_tables(str(spec), columns):
        found += [_prompt(row) for row in rows]
    ids = unique_ids([row.record_id((*ID_COLUMNS, "index", "idx")) for row, _, _ in found])
    return [Prompt(id, messages, meta) for id, (_, messages, meta) in zip(ids, found, strict=True)]


def _prompt(row: Row) -> tuple[Row, Messages, dict[str, Any]]:
    name = next((part for part in _COLUMNS.split("|") if row.has(part)), None)
    if name is None:
        raise missing_column(row.file, _COLUMNS, row.values, row.position)
    meta = row.columns(key for key in row.values if key not in (name, "input", "system", *ID_COLUMNS))
    if name == "turns":
        turns = _turns(row)
        meta["turns"] = turns
        messages: Messages = (Message("user", turns[0]),)
    else:
        messages = prompt_messages(row, name)
        while messages and messages[-1].role == "assistant":
            messages = messages[:-1]
    if not messages or messages[-1].role != "user":
        raise row.fail("has no user turn to answer", name)
    if not messages[-1].content.strip():
        raise row.fail("the prompt is empty", name)
    return row, messages, meta


def _turns(row: Row) -> list[str]:
    """The user turns, given as texts or as objects with content."""
    value = row.get("turns")
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise row.fail("must be a list of user turns", "turns")
    turns = [item.get("content") if isinstance(item, Mapping) else item for item in value]
    if not all(isinstance(turn, str) for turn in turns):
        raise row.fail("must be a list of user turns", "turns")
    return [str(turn) for turn in turns]
