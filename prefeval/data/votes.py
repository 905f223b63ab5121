"""Readers of votes and ranks: SHP, Chatbot Arena in its three layouts, PKU-SafeRLHF, Nectar, KTO and NeMo rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prefeval.data import chats
from prefeval.data.chats import Messages
from prefeval.data.pairs import MULTI_TURN, model_names, prompt_messages
from prefeval.data.records import Collector
from prefeval.data.tables import Row
from prefeval.guards import parse_json
from prefeval.types import Message, all_pairs


def read_shp(rows: Sequence[Row], out: Collector) -> None:
    """Stanford SHP: labels 1 = human_ref_A got the higher score, 0 = human_ref_B."""
    names = ("human_ref_A", "human_ref_B")
    for row in rows:
        label = row.number("labels")
        if label not in (0.0, 1.0):
            raise row.fail(f"{row.get('labels')!r} is not a label (1 = A, 0 = B)", "labels")
        texts = (row.response(names[0]), row.response(names[1]))
        out.pair(row, row.messages("history"), texts, label, fields=names)


def read_arena(rows: Sequence[Row], out: Collector) -> None:
    """Chatbot Arena and MT-Bench human votes: conversation_a, conversation_b, winner (any kind of tie is p = 0.5)."""
    names = ("conversation_a", "conversation_b")
    for row in rows:
        p = _winner(row)
        if any(chats.has_images(row.get(name)) for name in names):
            out.drop("the conversation has images", row)
            continue
        both = chats.split_pair(row.messages(names[0]), row.messages(names[1]))
        if both is None:
            out.drop(MULTI_TURN, row)
            continue
        value = row.values.get("judge")
        source, models = value if isinstance(value, str) else "", model_names(row, "model_a", "model_b")
        out.pair(row, both[0], both[1:], p, fields=names, source=source, models=models)


def read_arena_55k(rows: Sequence[Row], out: Collector) -> None:
    """arena-human-preference-55k: JSON lists of turns as text, one 0/1 column an outcome. Single turns only."""
    names = ("response_a", "response_b")
    outcomes = {"winner_model_a": 1.0, "winner_model_b": 0.0, "winner_tie": 0.5}
    for row in rows:
        chosen = [p for name, p in outcomes.items() if row.number(name, 0.0, 1.0) == 1.0]
        if len(chosen) != 1:
            raise row.fail("exactly one of winner_model_a, winner_model_b, winner_tie must be 1", "winner_tie")
        turns = {name: _json_list(row, name) for name in ("prompt", *names)}
        if any(len(values) != 1 for values in turns.values()):
            out.drop(MULTI_TURN, row)
            continue
        cells = Row({name: values[0] for name, values in turns.items()}, row.position, row.file)
        texts = (cells.response(names[0]), cells.response(names[1]))
        out.pair(row, (Message("user", cells.response("prompt")),), texts, chosen[0], fields=names)


def read_pku_better(rows: Sequence[Row], out: Collector) -> None:
    """PKU-SafeRLHF by helpfulness: better_response_id."""
    _read_pku(rows, out, "better_response_id")


def read_pku_safer(rows: Sequence[Row], out: Collector) -> None:
    """PKU-SafeRLHF by harmlessness: safer_response_id."""
    _read_pku(rows, out, "safer_response_id")


def read_nectar(rows: Sequence[Row], out: Collector) -> None:
    """Nectar: answers with ranks (1 = best); every two of a row make a pair, equal ranks a tie."""
    for row in rows:
        try:
            prompt = chats.hh_messages(row.text("prompt"))
        except ValueError as error:
            raise row.fail(str(error), "prompt") from None
        if prompt[-1] == Message("assistant", ""):
            prompt = prompt[:-1]
        _ranked(row, prompt, _objects(row, "answers"), "answer", "answers", out)


def read_nemo(rows: Sequence[Row], out: Collector) -> None:
    """NeMo-RL: context messages and completions with ranks (lowest = best), each one assistant message."""
    for row in rows:
        _ranked(row, row.messages("context"), _objects(row, "completions"), "completion", "completions", out)


def read_kto(rows: Sequence[Row], out: Collector) -> None:
    """KTO rows (prompt, completion, label true/false): each good completion of a prompt beats each bad one."""
    sides: dict[Messages, dict[bool, list[tuple[Row, str]]]] = {}
    for row in rows:
        label = row.get("label")
        if str(label).lower() not in ("true", "false"):
            raise row.fail(f"must be true or false, not {label!r}", "label")
        prompt = prompt_messages(row)
        side = sides.setdefault(prompt, {True: [], False: []})
        side[str(label).lower() == "true"].append((row, row.response("completion")))
    for prompt, side in sides.items():
        if not (side[True] and side[False]):
            for row, _ in side[True] + side[False]:
                out.drop("no completion of the other label for this prompt", row)
        for row, good in side[True]:
            for _, bad in side[False]:
                out.pair(row, prompt, (good, bad), 1.0, fields=("completion", "completion"))


def is_kto(row: Row) -> bool:
    return str(row.values.get("label")).lower() in ("true", "false")


def _read_pku(rows: Sequence[Row], out: Collector, column: str) -> None:
    names = ("response_0", "response_1")
    for row in rows:
        winner = row.number(column)
        if winner not in (0.0, 1.0):
            raise row.fail(f"{row.get(column)!r} is not 0 or 1", column)
        texts = (row.response(names[0]), row.response(names[1]))
        out.pair(row, row.messages("prompt"), texts, 1.0 - winner, fields=names)


def _ranked(
    row: Row, prompt: Messages, items: Sequence[Mapping[str, Any]], text: str, column: str, out: Collector
) -> None:
    cells = [Row(dict(item), row.position, f"{row.file}, {column}[{k}]") for k, item in enumerate(items)]
    ranks = [cell.number("rank") for cell in cells]
    replies = [cell.response(text) for cell in cells]
    for i, j in all_pairs(len(cells)):
        first, second = ranks[i], ranks[j]
        if first is None or second is None:
            raise row.fail("every item needs a rank", column)
        i, j = (i, j) if first <= second else (j, i)
        fields = (f"{column}[{i}]", f"{column}[{j}]")
        out.pair(row, prompt, (replies[i], replies[j]), 0.5 if first == second else 1.0, fields=fields)


def _winner(row: Row) -> float:
    winner = row.text("winner")
    if winner.startswith("tie") or winner == "both_bad":
        return 0.5
    if winner not in ("model_a", "model_b"):
        raise row.fail(f"{winner!r} is not model_a, model_b, tie or both_bad", "winner")
    return 1.0 if winner == "model_a" else 0.0


def _json_list(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    try:
        value = parse_json(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise row.fail(f"not valid JSON: {error.msg}", name) from None
    if not isinstance(value, list):
        raise row.fail("must be a JSON list of turns", name)
    return value


def _objects(row: Row, name: str) -> list[Mapping[str, Any]]:
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise row.fail("must be a list of objects", name)
    return value
