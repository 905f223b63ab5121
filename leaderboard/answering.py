"""Model answers taken from a file, and where answers are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from leaderboard.answers import (
    Answers,
    read_answers,
    write_alpaca_outputs,
    write_arena_answers,
    write_mt_answers,
)
from leaderboard.benchmarks.base import Benchmark, BenchPrompt, answer_of
from prefeval.errors import DataError
from prefeval.files import sha256_json


def answers_from_file(
    benchmark: Benchmark, file: str | Path, model: str = "", *, prompts: Sequence[BenchPrompt] | None = None
) -> Answers:
    """The answers to this benchmark's prompts (or those of `prompts`) in a file; `model` renames them.

    Raises DataError when one is missing.
    """
    found = read_answers(file)
    if len(found) > 1:
        named = [a for a in found if a.model == model]
        if not named:
            raise DataError(f"holds answers of {len(found)} models: {', '.join(a.model for a in found)}", file=file)
        found = named
    answers = Answers(model or found[0].model, found[0].items)
    try:
        kept = {p.key: answer_of(answers, p) for p in (benchmark.prompts() if prompts is None else prompts)}
    except DataError as error:
        raise DataError(f"{error} of {benchmark.name}", file=file) from None
    return Answers(answers.model, kept)


def write_answers(benchmark: Benchmark, folder: str | Path, answers: Answers, *more: Answers) -> Path:
    """Write the original's answer file under a folder: `NAME/model_outputs.json` or `model_answer/NAME.jsonl`.

    `more` are further samples of the same model: MT-Bench's file has a choice for each, the others have no place.
    """
    root, name = Path(folder), file_name(answers.model)
    if more and benchmark.protocol != "mt_bench":
        raise ValueError(f"{benchmark.protocol} has one answer a file")
    if benchmark.protocol == "alpaca_eval":
        return write_alpaca_outputs(root / name / "model_outputs.json", answers)
    path = root / "model_answer" / f"{name}.jsonl"
    if benchmark.protocol == "arena_hard":
        return write_arena_answers(path, answers)
    return write_mt_answers(path, answers, *more)


def content_hash(answers: Sequence[Answers]) -> str:
    """A hash of what was said, not of when it was written."""
    return sha256_json([[a.model, sorted((k, list(v.turns)) for k, v in a.items.items())] for a in answers])


def file_name(model: str) -> str:
    """A model's name as a file name, never a path; long names, which no file system takes, end with their hash."""
    plain = re.sub(r"[^\w.@+=-]+", "_", model).strip("._") or "model"
    return plain if len(plain.encode()) <= 150 else f"{plain[:40]}-{sha256_json(model)[:12]}"
