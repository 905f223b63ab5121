"""Demonstrations: prompts with the answer that somebody wrote, to learn from without any comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prefeval.data.chats import Messages
from prefeval.data.pairs import prompt_messages
from prefeval.data.places import locate
from prefeval.data.records import unique_ids
from prefeval.data.tables import Row, read_tables
from prefeval.types import Prompt

_RESPONSE = "response|completion|output|answer|chosen"


def read_demonstrations(spec: str, columns: Mapping[str, str] | None = None) -> list[tuple[Prompt, str]]:
    """(prompt, the answer shown) of each row; of `messages` the last turn must be the assistant's.

    Raises DataError naming row and field.
    """
    rows = [row for table in read_tables(locate(spec), columns or None) for row in table]
    found = list(_shown(rows))
    ids = unique_ids([row.record_id() for row in rows])
    return [(Prompt(id, messages), text) for id, (messages, text) in zip(ids, found, strict=True)]


def _shown(rows: Sequence[Row]) -> Iterator[tuple[Messages, str]]:
    for row in rows:
        if row.has("messages"):
            turns = row.messages("messages")
            if len(turns) < 2 or turns[-1].role != "assistant":
                raise row.fail("must end with the assistant's turn, which is the demonstration", "messages")
            messages, text = turns[:-1], turns[-1].content
        else:
            messages, text = prompt_messages(row, "prompt|instruction|question"), row.response(_RESPONSE)
        if not text.strip():
            raise row.fail("the demonstration is empty", row.find(_RESPONSE))
        yield messages, text
