"""Readers of chosen/rejected data: TRL's layouts, HH-RLHF, UltraFeedback, and best-of-n benchmarks (RM-Bench)."""

from __future__ import annotations

from collections.abc import Sequence

from prefeval.data import chats
from prefeval.data.chats import Messages
from prefeval.data.records import Collector
from prefeval.data.tables import Row, missing_column
from prefeval.errors import nearest
from prefeval.types import Message

_FIELDS = ("chosen", "rejected")
_SCORES = ("score_chosen|chosen_score|chosen-rating", "score_rejected|rejected_score|rejected-rating")
MULTI_TURN = "the conversations differ before the last turn"


def prompt_messages(row: Row, name: str = "prompt|instruction|conversations") -> Messages:
    """The prompt column as messages; an Alpaca `input` is appended to it, a `system` text put before it."""
    messages = row.messages(name)
    if row.find(name) == "instruction" and row.has("input") and row.text("input").strip():
        messages = (Message("user", f"{messages[0].content}\n\n{row.text('input')}"),)
    if row.has("system") and row.text("system").strip() and messages[0].role != "system":
        messages = (Message("system", row.text("system")), *messages)
    return messages


def model_names(row: Row, first: str, second: str) -> tuple[str, str]:
    """The two columns that name the models behind the responses; '' where there is none."""
    a, b = row.values.get(first), row.values.get(second)
    return a if isinstance(a, str) else "", b if isinstance(b, str) else ""


def read_explicit(rows: Sequence[Row], out: Collector) -> None:
    """TRL explicit prompt: prompt, chosen, rejected as text or messages; optional p, margin and the two scores.

    Replies given as whole conversations, as in HuggingFaceH4's UltraFeedback, are cut at the prompt.
    """
    for row in rows:
        prompt = prompt_messages(row)
        both = split_replies(row, prompt)
        if both is None:
            out.drop(MULTI_TURN, row)
            continue
        p, margin = _label(row, out)
        out.pair(row, both[0], both[1:], p, fields=_FIELDS, margin=margin, source=_source(row))


def read_implicit(rows: Sequence[Row], out: Collector) -> None:
    """TRL implicit prompt: chosen and rejected are whole conversations or texts; the prompt is their common prefix."""
    for row in rows:
        if isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str):
            prefix, first, second = chats.split_strings(row.text("chosen"), row.text("rejected"))
            if not prefix.strip():
                why = "chosen and rejected share no beginning that could be the prompt, and there is "
                raise missing_column(row.file, "prompt", row.values, row.position, why=why)
            both: tuple[Messages, str, str] | None = ((Message("user", prefix),), first, second)
        else:
            both = chats.split_pair(row.messages("chosen"), row.messages("rejected"))
        if both is None:
            out.drop(MULTI_TURN, row)
            continue
        p, margin = _label(row, out)
        out.pair(row, both[0], both[1:], p, fields=_FIELDS, margin=margin, source=_source(row))


def read_hh(rows: Sequence[Row], out: Collector) -> None:
    """HH-RLHF: two dialogue strings, cut at the last Assistant turn; rows whose earlier turns differ are dropped."""
    for row in rows:
        try:
            head, chosen = chats.hh_split(row.text("chosen"))
            other, rejected = chats.hh_split(row.text("rejected"))
            prompt = chats.hh_messages(head)
        except ValueError as error:
            raise row.fail(str(error)) from None
        if head != other:
            out.drop(MULTI_TURN, row)
            continue
        out.pair(row, prompt, (chosen, rejected), 1.0, fields=_FIELDS)


def read_best_of(rows: Sequence[Row], out: Collector) -> None:
    """RM-Bench and RewardBench 2: lists of right and wrong replies. Each right one beats each wrong one.

    The record's meta keeps the two lists as response indices in the file's order (RM-Bench: concise, detailed plain,
    detailed markdown), so that a suite finds its cells even where a text occurs twice.
    """
    for row in rows:
        prompt = row.messages("prompt")
        lists = {name: _texts(row, name) for name in _FIELDS}
        for i, first in enumerate(lists["chosen"]):
            for j, second in enumerate(lists["rejected"]):
                out.pair(row, prompt, (first, second), 1.0, fields=(f"chosen[{i}]", f"rejected[{j}]"))
        group = out.group(row, prompt)
        group.meta.update({name: [group.add(text) for text in texts] for name, texts in lists.items()})
        group.meta.update(row.columns(("num_correct", "total_completions")))


def is_implicit(row: Row) -> bool:
    """No prompt column, and none that is a misspelt one."""
    return row.find("prompt") is None and not nearest("prompt", [n for n in row.values if n not in _FIELDS])


def is_hh(row: Row) -> bool:
    texts = [row.values.get(name) for name in _FIELDS]
    return "prompt" not in row.values and all(isinstance(t, str) and t.lstrip().startswith("Human:") for t in texts)


def is_best_of(row: Row) -> bool:
    """Lists of texts, not of messages."""
    value = row.values.get("chosen")
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def split_replies(row: Row, prompt: Messages) -> tuple[Messages, str, str] | None:
    """(prompt, chosen, rejected) of a row; None when the replies have several turns that are not shared."""
    whole = []
    for name in _FIELDS:
        value = row.get(name)
        if value is None or isinstance(value, str):
            turns: Messages = (*prompt, Message("assistant", row.response(name)))
        else:
            turns = row.messages(name)
            turns = turns if any(m.role == "user" for m in turns) else prompt + turns
        whole.append(turns)
    return chats.split_pair(whole[0], whole[1])


def _label(row: Row, out: Collector) -> tuple[float, float | None]:
    """(p, margin): explicit columns first, then the scores; equal scores are a tie."""
    p = row.number("p", 0.0, 1.0) if row.has("p") else None
    margin = row.number("margin", 0.0) if row.has("margin") else None
    first, second = (row.number(name) if row.has(name) else None for name in _SCORES)
    if first is not None and second is not None:
        if first < second:
            out.report.notes["rows whose scores contradict chosen/rejected (the order of the columns is kept)"] += 1
        elif margin is None:
            margin = first - second
        if first == second and p is None:
            p = 0.5
    return 1.0 if p is None else p, margin


def _source(row: Row) -> str:
    return row.text("annotator") if row.has("annotator") else ""


def _texts(row: Row, name: str) -> list[str]:
    value = row.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise row.fail("must be a list of texts", name)
    cells = Row({f"{name}[{k}]": text for k, text in enumerate(value)}, row.position, row.file)
    return [cells.text(cell) for cell in cells.values]
