"""Model answers: sampled from a generator turn by turn, or taken from a file; and where they are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from leaderboard.answers import (
    Answer,
    Answers,
    read_answers,
    write_alpaca_outputs,
    write_arena_answers,
    write_mt_answers,
)
from leaderboard.benchmarks.base import Benchmark, BenchPrompt, answer_of
from prefeval.chat import with_instruction
from prefeval.errors import DataError
from prefeval.files import sha256_json
from prefeval.generate.base import Generator, SamplingParams
from prefeval.log import logger
from prefeval.types import Prompt


def sample_answers(
    benchmark: Benchmark, generator: Generator, model: str, params: SamplingParams, seed: int, instruction: str = ""
) -> Answers:
    """One reply to every turn of every prompt; later turns see the model's own earlier replies.

    `instruction` is put behind the turn that is answered.

    A prompt's own temperature (MT-Bench has one a category) replaces that of `params`.
    """
    replies: dict[str, list[str]] = {p.key: [] for p in benchmark.prompts()}
    cut = 0
    for turn in range(max(len(p.turns) for p in benchmark.prompts())):
        asked = [p for p in benchmark.prompts() if len(p.turns) > turn]
        for temperature in sorted({_temperature(p, params) for p in asked}):
            batch = [p for p in asked if _temperature(p, params) == temperature]
            here = SamplingParams(params.max_new_tokens, temperature, params.top_p, params.top_k)
            groups = generator.sample([_asked(p, replies[p.key], instruction) for p in batch], 1, here, seed)
            for prompt, group in zip(batch, groups, strict=True):
                replies[prompt.key].append(group[0].text)
                cut += group[0].finish_reason == "length"
    if cut:
        logger.warning("%s on %s: %d replies were cut at %d tokens", model, benchmark.name, cut, params.max_new_tokens)
    return Answers(model, {p.key: _answer(p, replies[p.key]) for p in benchmark.prompts()})


def answers_from_file(benchmark: Benchmark, file: str | Path, model: str = "") -> Answers:
    """The answers to this benchmark's prompts in a file; `model` renames them. Raises DataError when one is missing."""
    found = read_answers(file)
    if len(found) > 1:
        named = [a for a in found if a.model == model]
        if not named:
            raise DataError(f"holds answers of {len(found)} models: {', '.join(a.model for a in found)}", file=file)
        found = named
    answers = Answers(model or found[0].model, found[0].items)
    try:
        kept = {p.key: answer_of(answers, p) for p in benchmark.prompts()}
    except DataError as error:
        raise DataError(f"{error} of {benchmark.name}", file=file) from None
    return Answers(answers.model, kept)


def write_answers(benchmark: Benchmark, folder: str | Path, answers: Answers) -> Path:
    """Write the original's answer file under a folder: `NAME/model_outputs.json` or `model_answer/NAME.jsonl`."""
    root, name = Path(folder), file_name(answers.model)
    if benchmark.protocol == "alpaca_eval":
        return write_alpaca_outputs(root / name / "model_outputs.json", answers)
    path = root / "model_answer" / f"{name}.jsonl"
    return write_arena_answers(path, answers) if benchmark.protocol == "arena_hard" else write_mt_answers(path, answers)


def content_hash(answers: Sequence[Answers]) -> str:
    """A hash of what was said, not of when it was written."""
    return sha256_json([[a.model, sorted((k, list(v.turns)) for k, v in a.items.items())] for a in answers])


def file_name(model: str) -> str:
    """A model's name as a file name."""
    return re.sub(r"[^\w.@+=-]+", "_", model).strip("._") or "model"


def _asked(prompt: BenchPrompt, replies: Sequence[str], instruction: str) -> Prompt:
    return with_instruction(prompt.conversation(replies), instruction)


def _answer(prompt: BenchPrompt, turns: Sequence[str]) -> Answer:
    return Answer(prompt.key, tuple(turns), prompt.turns[0], prompt.category)


def _temperature(prompt: BenchPrompt, params: SamplingParams) -> float:
    return params.temperature if prompt.temperature is None else prompt.temperature
