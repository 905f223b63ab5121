"""What a benchmark is: prompts, judge tasks on answers, and its native verdict rows, which the scorers read.

A benchmark = a protocol + a prompts file + a name. Our own small prompt sets are `mini-alpaca`, `mini-arena` and
`mini-mt`; they share a protocol with AlpacaEval, Arena-Hard and MT-Bench and nothing else, least of all the name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from leaderboard.answers import Answer, Answers
from prefeval.errors import DataError
from prefeval.files import read_json, read_jsonl, sha256_json
from prefeval.guards import read_parquet
from prefeval.judges.base import JudgeTask, Verdict
from prefeval.types import Message, Prompt


@dataclass(frozen=True)
class BenchPrompt:
    """One question: one user message a turn. `temperature` is the protocol's own for this question, if it has one."""

    key: str
    turns: tuple[str, ...]
    category: str = ""
    reference: tuple[str, ...] = ()
    temperature: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)

    def conversation(self, replies: Sequence[str]) -> Prompt:
        """The prompt for turn len(replies) + 1: the earlier turns with the model's own replies, then the next turn."""
        messages = []
        for turn, reply in zip(self.turns, replies, strict=False):
            messages += [Message("user", turn), Message("assistant", reply)]
        return Prompt(f"{self.key}/{len(replies) + 1}", (*messages, Message("user", self.turns[len(replies)])))


@dataclass(frozen=True)
class Source:
    """Where a benchmark's prompts lie, how many of them are used, and what its folder brings along.

    `data` may hold the original's side files, `template` is a wording of one's own, `baseline` a model spec.
    """

    name: str
    file: Path
    data: Path | None = None
    limit: int | None = None
    template: Mapping[str, Any] | None = None
    baseline: str = ""

    def read(self, build: Callable[[dict[str, Any], Path, int], BenchPrompt]) -> tuple[tuple[BenchPrompt, ...], str]:
        """(the prompts, what a reader must know of the limit). Raises DataError for a row that is none."""
        rows = read_rows(self.file)
        kept = rows[: self.limit]
        prompts = unique([build(row, self.file, i) for i, row in enumerate(kept, 1)], self.file)
        return prompts, f"Only the first {len(kept)} of {len(rows)} prompts were used." if len(kept) < len(rows) else ""


@dataclass(frozen=True)
class Judged:
    """A task and what the judge said."""

    task: JudgeTask
    verdict: Verdict


@runtime_checkable
class Benchmark(Protocol):
    """`template_hash` names the judge's wording, `data_revision` the prompts; both stand beside every score."""

    @property
    def name(self) -> str: ...

    @property
    def protocol(self) -> str:
        """'alpaca_eval', 'arena_hard' or 'mt_bench'."""
        ...

    @property
    def needs_baseline(self) -> bool: ...

    @property
    def baseline(self) -> str:
        """The model spec of a baseline that comes with the prompts; '' for none."""
        ...

    def notes(self, baselines: Sequence[Answers]) -> list[str]:
        """What a reader of the scores must know."""
        ...

    @property
    def own_wording(self) -> bool:
        """Whether the judge is asked in our words: then scores do not compare with published ones."""
        ...

    @property
    def template_hash(self) -> str: ...

    @property
    def data_revision(self) -> str: ...

    def prompts(self) -> Sequence[BenchPrompt]: ...

    def tasks(self, answers: Answers, baselines: Sequence[Answers]) -> list[JudgeTask]:
        """The judge's questions about one model. Raises DataError when an answer is missing."""
        ...

    def baseline_names(self, baselines: Sequence[Answers]) -> dict[str, str]:
        """Category -> the model that is its baseline among these; empty for a protocol that compares with none."""
        ...

    def native(
        self, answers: Answers, baselines: Sequence[Answers], judged: Sequence[Judged], judge: str
    ) -> list[dict[str, Any]]:
        """The verdicts as rows of the original's own annotation file; failed ones stay in as failures."""
        ...


def answer_of(answers: Answers, prompt: BenchPrompt) -> Answer:
    """The model's answer to a prompt with all its turns. Raises DataError."""
    found = answers.items.get(prompt.key)
    if found is None:
        raise DataError(f"model '{answers.model}' has no answer to prompt '{prompt.key[:60]}'")
    if len(found.turns) < len(prompt.turns):
        raise DataError(f"model '{answers.model}' answered {len(found.turns)} turns of prompt '{prompt.key[:60]}'")
    return found


def pick_baseline(baselines: Sequence[Answers], prompt: BenchPrompt, official: str = "") -> Answers:
    """The baseline for a prompt among those that answer it: the protocol's own for its category, else the first one."""
    if not baselines:
        raise DataError("this protocol compares with a baseline; name its answers with baseline")
    able = [b for b in baselines if prompt.key in b.items] or baselines
    return next((b for b in able if b.model == official), able[0])


def names_by_category(
    prompts: Sequence[BenchPrompt], baselines: Sequence[Answers], official: Callable[[BenchPrompt], str]
) -> dict[str, str]:
    """Category -> the model that is compared with there."""
    return {p.category: pick_baseline(baselines, p, official(p)).model for p in prompts} if baselines else {}


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a prompts file: .jsonl[.gz], .json[.gz] or .parquet. Raises DataError."""
    if not file.is_file():
        raise DataError("no such file", file=file)
    if file.suffix == ".parquet":
        rows: Any = read_parquet(file)
    else:
        rows = read_json(file) if file.name.removesuffix(".gz").endswith(".json") else read_jsonl(file)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError("must hold a list of objects", file=file)
    return rows


def text_field(row: Mapping[str, Any], key: str, file: Path, number: int) -> str:
    """A non-empty text of a prompts file. Raises DataError."""
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise DataError("must be a non-empty text", file=file, row=number, field=key)
    return value


def unique(prompts: Sequence[BenchPrompt], file: Path) -> tuple[BenchPrompt, ...]:
    """The prompts, if their keys are. Raises DataError naming the row of the first repeated one."""
    seen: set[str] = set()
    for number, prompt in enumerate(prompts, 1):
        if prompt.key in seen:
            raise DataError(f"the prompt '{prompt.key[:60]}' occurs twice", file=file, row=number)
        seen.add(prompt.key)
    return tuple(prompts)


def short_hash(data: Any) -> str:
    """Twelve hex digits that name a template or a set of prompts."""
    return sha256_json(data)[:12]


def revision_of(prompts: Sequence[BenchPrompt]) -> str:
    return short_hash([[p.key, list(p.turns), list(p.reference)] for p in prompts])
