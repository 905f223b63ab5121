"""Model answers in the originals' own files: AlpacaEval `model_outputs.json`, Arena-Hard and MT-Bench `model_answer`.

Written so that the originals' tools read them. An answer is known by the key of its prompt: the instruction
(AlpacaEval), the uid (Arena-Hard), the question id (MT-Bench).
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from prefeval.data.chats import check_text
from prefeval.errors import DataError
from prefeval.files import iterate_jsonl, read_json, sha256_json, write_json, write_jsonl

_FENCED = re.compile(r"```([^`]*)```")
_HEADERS = {f"h{k}": re.compile(rf"^#{{{k}}}\s", re.MULTILINE) for k in range(1, 7)}
_LISTS = {
    "ordered": re.compile(r"^\s*\d+\.\s", re.MULTILINE),
    "unordered": re.compile(r"^\s*[-*+]\s", re.MULTILINE),
}
_BOLD = {"**": re.compile(r"\*\*[^*\n]+\*\*"), "__": re.compile(r"__[^_\n]+__")}
_PIECES = re.compile(r"\w{1,6}|[^\w\s]")


@dataclass(frozen=True)
class Answer:
    """The reply to each turn of one prompt; `metadata` is Arena-Hard's style record where the file has one."""

    key: str
    turns: tuple[str, ...]
    prompt: str = ""
    dataset: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """All answers of one model, by key."""

    model: str
    items: Mapping[str, Answer]


def read_answers(file: str | Path) -> list[Answers]:
    """The answers of every model in one file of any of the formats (gzipped or not). Raises DataError."""
    name = str(file).removesuffix(".gz")
    if name.endswith(".json"):
        data = read_json(file)
        if not isinstance(data, list):
            raise DataError("must hold a list of objects", file=file)
        rows = list(enumerate(data, 1))
    else:
        rows = list(iterate_jsonl(file, tolerate_cut_tail=True))
    found: dict[str, dict[str, Answer]] = {}
    for number, row in rows:
        if not isinstance(row, dict):
            raise DataError("must be an object", file=file, row=number)
        model, answer = _read_row(row, file, number)
        for text in (model, answer.key, *answer.turns):
            try:
                check_text(text)
            except ValueError as error:
                raise DataError(str(error), file=file, row=number) from None
        found.setdefault(model, {})[answer.key] = answer
    if not found:
        raise DataError("holds no answers", file=file)
    return [Answers(model, items) for model, items in found.items()]


def write_alpaca_outputs(path: str | Path, answers: Answers) -> Path:
    """`model_outputs.json`: a list of {instruction, output, generator, dataset}."""
    rows = [
        {"dataset": a.dataset, "instruction": a.key, "output": a.turns[0], "generator": answers.model}
        for a in answers.items.values()
    ]
    return write_json(path, rows)


def write_arena_answers(path: str | Path, answers: Answers) -> Path:
    """`model_answer/NAME.jsonl` in the current format, with the metadata that style control needs."""
    rows = []
    for a in answers.items.values():
        messages = [
            {"role": "user", "content": a.prompt},
            {"role": "assistant", "content": {"answer": a.turns[0]}},
        ]
        metadata = dict(a.metadata) or style_metadata(a.turns[0])
        head = {"uid": a.key, "ans_id": _answer_id(answers.model, a), "model": answers.model}
        rows.append({**head, "messages": messages, "tstamp": time.time(), "metadata": metadata})
    return write_jsonl(path, rows)


def write_mt_answers(path: str | Path, answers: Answers, *more: Answers) -> Path:
    """FastChat's `model_answer/NAME.jsonl`; `more` are further samples, a choice each (judges grade the first)."""
    rows = [
        {
            "question_id": int(a.key) if a.key.isdigit() else a.key,
            "answer_id": _answer_id(answers.model, a, *(m.items[a.key] for m in more)),
            "model_id": answers.model,
            "choices": [{"index": i, "turns": list(s.items[a.key].turns)} for i, s in enumerate((answers, *more))],
            "tstamp": time.time(),
        }
        for a in answers.items.values()
    ]
    return write_jsonl(path, rows)


def style_metadata(text: str) -> dict[str, Any]:
    """Arena-Hard's style record: token_len (GPT-4o's encoding), header, list and bold counts outside fenced code.

    Without tiktoken's vocabulary on this machine (it is never fetched), token_len counts pieces of at most six letters
    and single marks, which is within 4% of the true total on English answers; `token_len_method` tells which it was.
    """
    plain = _FENCED.sub("", text)
    count, method = count_tokens(text)
    return {
        "token_len": count,
        "header_count": {name: len(p.findall(plain)) for name, p in _HEADERS.items()},
        "list_count": {name: len(p.findall(plain)) for name, p in _LISTS.items()},
        "bold_count": {name: len(p.findall(plain)) for name, p in _BOLD.items()},
        "token_len_method": method,
    }


def count_lists(text: str) -> int:
    """Items of ordered and unordered lists outside fenced code, as Arena-Hard counts them."""
    plain = _FENCED.sub("", text)
    return sum(len(pattern.findall(plain)) for pattern in _LISTS.values())


def style_vector(metadata: Mapping[str, Any], *, file: object = None) -> tuple[float, float, float, float]:
    """(token_len, headers, lists, bold) with the sub-counts summed. Raises DataError for a record without them."""
    try:
        parts = [sum(metadata[key].values()) for key in ("header_count", "list_count", "bold_count")]
        return float(metadata["token_len"]), float(parts[0]), float(parts[1]), float(parts[2])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"not a style record: {error!r}", file=file, field="metadata") from None


def count_tokens(text: str) -> tuple[int, str]:
    """(number of tokens, how they were counted): 'tiktoken:gpt-4o' or 'pieces'."""
    encoding = _encoding()
    if encoding is None:
        return len(_PIECES.findall(text)), "pieces"
    return len(encoding.encode(text, disallowed_special=())), "tiktoken:gpt-4o"


@cache
def _encoding() -> Any:
    """GPT-4o's encoding if tiktoken and its cached vocabulary are here, else None; the network is never asked."""
    default = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR") or default
    if not (os.path.isdir(folder) and os.listdir(folder)):
        return None
    try:
        import tiktoken

        return tiktoken.encoding_for_model("gpt-4o")
    except (ImportError, OSError, KeyError, ValueError):
        return None


def _read_row(row: Mapping[str, Any], file: object, number: int) -> tuple[str, Answer]:
    if "messages" in row:
        return _read_arena(row, file, number)
    if "choices" in row:
        return _read_choices(row, file, number)
    for key in ("instruction", "output", "generator"):
        if not isinstance(row.get(key), str):
            raise DataError("must be a text", file=file, row=number, field=key)
    answer = Answer(row["instruction"], (row["output"],), row["instruction"], str(row.get("dataset") or ""))
    return row["generator"], answer


def _read_arena(row: Mapping[str, Any], file: object, number: int) -> tuple[str, Answer]:
    try:
        content = row["messages"][-1]["content"]
        text = content["answer"] if isinstance(content, dict) else content
        user = next((m["content"] for m in row["messages"] if m["role"] == "user"), "")
        key, model = str(row["uid"]), str(row["model"])
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"not an Arena-Hard answer: {error!r}", file=file, row=number) from None
    if not isinstance(text, str):
        raise DataError("the assistant's answer must be a text", file=file, row=number, field="messages")
    return model, Answer(key, (text,), str(user), metadata=_style_record(row, "metadata", file, number))


def _read_choices(row: Mapping[str, Any], file: object, number: int) -> tuple[str, Answer]:
    """FastChat's rows, and Arena-Hard's old ones, whose turns are objects and whose style record has another name."""
    try:
        turns = [t["content"] if isinstance(t, dict) else t for t in row["choices"][0]["turns"]]
        key, model = str(row["question_id"]), str(row["model_id"])
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"not a model answer: {error!r}", file=file, row=number) from None
    if not turns or not all(isinstance(t, str) for t in turns):
        raise DataError("the turns must be texts", file=file, row=number, field="choices")
    return model, Answer(key, tuple(turns), metadata=_style_record(row, "conv_metadata", file, number))


def _style_record(row: Mapping[str, Any], name: str, file: object, number: int) -> Mapping[str, Any]:
    found = row.get(name) or {}
    if not isinstance(found, Mapping):
        raise DataError("must be an object", file=file, row=number, field=name)
    return found


def _answer_id(model: str, answer: Answer, *more: Answer) -> str:
    """A name for this very answer (and its further samples), the same in every run."""
    return sha256_json([model, answer.key, list(answer.turns), *(list(a.turns) for a in more)])[:22]
