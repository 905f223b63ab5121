"""Readers of pairs that somebody judged: AlpacaEval, PandaLM, Auto-J, LLMBar, JudgeBench, and plain labelled pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefeval.data.pairs import model_names, prompt_messages
from prefeval.data.records import Collector
from prefeval.data.tables import Row, missing_column
from prefeval.errors import DataError
from prefeval.guards import read_parquet
from prefeval.types import Message

FIRST = "response1|response_1|response_a"
SECOND = "response2|response_2|response_b"
_WORDS = {
    "1": 1.0,
    "2": 0.0,
    "0": 0.5,
    "1.5": 0.5,
    "a": 1.0,
    "b": 0.0,
    "a>b": 1.0,
    "b>a": 0.0,
    "a=b": 0.5,
    "first": 1.0,
    "second": 0.0,
    "model_a": 1.0,
    "model_b": 0.0,
    "both_bad": 0.5,
}


def read_alpaca_eval(rows: Sequence[Row], out: Collector) -> None:
    """AlpacaEval annotations.json: preference in [1, 2], P(output_2 wins) = preference - 1; null is a failed call."""
    for row in rows:
        preference = row.number("preference", 1.0, 2.0)
        if preference is None:
            out.drop("no preference (failed annotation)", row)
            continue
        prompt = prompt_messages(row, "instruction")
        texts = (row.response("output_1"), row.response("output_2"))
        source = row.text("annotator") if row.has("annotator") else ""
        models = model_names(row, "generator_1", "generator_2")
        out.pair(row, prompt, texts, 2.0 - preference, fields=("output_1", "output_2"), source=source, models=models)


def read_alpaca_eval_pairs(rows: Sequence[Row], out: Collector) -> None:
    """Judged pairs as ids: joins `X_responses.parquet` and `X_instructions.parquet` beside `X_pairs.*.parquet`."""
    path = Path(rows[0].file)
    stem = path.name.partition("_pairs")[0]
    responses = _side_table(path, f"{stem}_responses.parquet", "response_id", "text")
    instructions = _side_table(path, f"{stem}_instructions.parquet", "index", "instruction")
    for row in rows:
        preference = row.number("preference", 1.0, 2.0)
        if preference is None:
            out.drop("no preference (failed annotation)", row)
            continue
        question = _lookup(row, "index", instructions)
        texts = tuple(str(_lookup(row, name, responses)["text"] or "") for name in ("response_1", "response_2"))
        meta = {"id": row.get("index"), "dataset": question.get("dataset"), "split": row.table_split}
        known = Row(meta, row.position, row.file, row.table_split)
        prompt = (Message("user", str(question["instruction"])),)
        fields, models = ("response_1", "response_2"), model_names(row, "generator_1", "generator_2")
        both = (texts[0], texts[1])
        out.pair(known, prompt, both, 2.0 - preference, fields=fields, source=row.text("source"), models=models)


def read_pandalm(rows: Sequence[Row], out: Collector) -> None:
    """PandaLM: three humans say 1, 2 or 0 (tie); p is the mean of their labels."""
    names = ("annotator1", "annotator2", "annotator3")
    for row in rows:
        votes = [_coded(row, name, {1.0: 1.0, 2.0: 0.0, 0.0: 0.5}) for name in names]
        prompt = prompt_messages(row, "instruction")
        texts = (row.response("response1"), row.response("response2"))
        out.pair_votes(row, prompt, texts, votes, fields=("response1", "response2"), source="human")


def read_autoj(rows: Sequence[Row], out: Collector) -> None:
    """Auto-J: human label 0 = first, 1 = second, 2 = tie."""
    for row in rows:
        p = _coded(row, "label", {0.0: 1.0, 1.0: 0.0, 2.0: 0.5})
        texts = (row.response("response1"), row.response("response2"))
        out.pair(row, row.messages("prompt"), texts, p, fields=("response1", "response2"), source="human")


def read_llmbar(rows: Sequence[Row], out: Collector) -> None:
    """LLMBar: gold label 1 or 2."""
    for row in rows:
        p = _coded(row, "label", {1.0: 1.0, 2.0: 0.0})
        texts = (row.response("output_1"), row.response("output_2"))
        out.pair(row, row.messages("input"), texts, p, fields=("output_1", "output_2"), source="gold")


def read_judgebench(rows: Sequence[Row], out: Collector) -> None:
    """JudgeBench: label 'A>B' or 'B>A', by verifiable correctness."""
    names = ("response_A", "response_B")
    for row in rows:
        label = row.text("label")
        if label not in ("A>B", "B>A"):
            raise row.fail(f"must be 'A>B' or 'B>A', not {label!r}", "label")
        p = 1.0 if label == "A>B" else 0.0
        out.pair(row, row.messages("question"), (row.response(names[0]), row.response(names[1])), p, fields=names)


def read_labelled(rows: Sequence[Row], out: Collector) -> None:
    """(instruction, response1, response2, label): 1, 2 or 0 = tie; also A, B, tie, model_a, model_b as `winner`."""
    used = set()
    for row in rows:
        value = row.get("label|winner")
        if value is None or value == "":
            out.drop("no label", row)
            continue
        word = str(value).strip().lower().removesuffix(".0")
        if word not in _WORDS and not word.startswith("tie"):
            raise row.fail(f"{value!r} is not a label (1, 2, 0 = tie; A, B, tie)", row.find("label|winner"))
        used.add(word)
        texts = (row.response(FIRST), row.response(SECOND))
        fields = (row.find(FIRST) or "", row.find(SECOND) or "")
        prompt = prompt_messages(row, "instruction|prompt|question")
        out.pair(row, prompt, texts, _WORDS.get(word, 0.5), fields=fields)
    if used == {"0", "1"}:
        out.report.notes["labels, all 0 or 1, read as tie and first (--format autoj: first and second)"] += len(rows)


def _coded(row: Row, name: str, codes: Mapping[float, float]) -> float:
    """p from a numeric code."""
    value = row.number(name)
    if value is None or value not in codes:
        wanted = ", ".join(f"{code:g}" for code in codes)
        raise row.fail(f"{row.get(name)!r} is not a label ({wanted})", name)
    return codes[value]


def _side_table(path: Path, name: str, key: str, text: str) -> dict[int, dict[str, Any]]:
    side = path.with_name(name)
    if not side.is_file():
        raise DataError(f"the pairs refer to {name}, which is not beside them", file=path)
    rows = read_parquet(side)
    for wanted in (key, text):
        if rows and wanted not in rows[0]:  # the columns of a Parquet file are those of each row
            raise missing_column(str(side), wanted, rows[0])
    return {row[key]: row for row in rows}


def _lookup(row: Row, name: str, table: Mapping[int, Mapping[str, Any]]) -> Mapping[str, Any]:
    value = row.get(name)
    if not isinstance(value, (int, str)) or value not in table:
        raise row.fail(f"id {value!r} is not in the table it refers to", name)
    return table[value]  # type: ignore[index]
