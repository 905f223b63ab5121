"""Sampling a benchmark's answers turn by turn, written down as they come: a killed run goes on where it was.

The random draws depend on (seed, prompt, turn, sample) only, so a run that was cut and repeated says what an
uninterrupted one says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from leaderboard.answers import Answer, Answers
from leaderboard.benchmarks.base import Benchmark, BenchPrompt
from prefeval.chat import with_instruction
from prefeval.errors import DataError
from prefeval.files import dumps, read_jsonl, sha256_json, write_jsonl
from prefeval.generate.base import Generator, SamplingParams
from prefeval.log import logger
from prefeval.types import Prompt

TOGETHER = 96  # replies between two writes: as many as a generator in this process decodes side by side


@dataclass(frozen=True)
class AnswerSettings:
    """How a benchmark is answered. A given `temperature` replaces the protocol's own and that of `params`.

    `instruction` is put behind the turn that is answered; `samples` is the number of answers to each prompt.
    """

    params: SamplingParams
    seed: int = 0
    instruction: str = ""
    temperature: float | None = None
    samples: int = 1

    def temperature_of(self, prompt: BenchPrompt) -> float:
        if self.temperature is not None:
            return self.temperature
        return self.params.temperature if prompt.temperature is None else prompt.temperature


@dataclass(frozen=True)
class Reply:
    text: str
    cut: bool


@dataclass(frozen=True)
class Sampled:
    """The answers, sample by sample, and how many of the replies were cut at the token limit or are empty."""

    samples: tuple[Answers, ...]
    replies: int
    cut: int
    empty: int


@dataclass
class ReplyJournal:
    """Replies by the hash of everything they depend on; kept in an append-only JSONL where there is a path.

    `source` names whoever answers; `together` is how many replies may be lost in a kill. A line that a kill cut short
    is dropped, from the file too unless it is `read_only`. Raises DataError for a file that is no such journal.
    """

    path: Path | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    together: int = field(default_factory=lambda: TOGETHER)
    read_only: bool = False
    replies: dict[str, Reply] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        rows = read_jsonl(self.path, tolerate_cut_tail=True)
        if not self.read_only and self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n"):
            write_jsonl(self.path, rows)
        for number, row in enumerate(rows, 1):
            try:
                self.replies[row["key"]] = Reply(str(row["text"]), bool(row["cut"]))
            except (KeyError, TypeError) as error:
                raise DataError(f"not a reply: {error!r}", file=self.path, row=number) from None

    def key(self, prompt: Prompt, params: SamplingParams, seed: int) -> str:
        asked = {"id": prompt.id, "messages": prompt.as_dicts(), "sampling": asdict(params), "seed": seed}
        return sha256_json({"source": dict(self.source), **asked})

    def add(self, replies: Mapping[str, Reply]) -> None:
        self.replies.update(replies)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8", newline="\n") as handle:
                handle.write(
                    "".join(dumps({"key": k, "text": r.text, "cut": r.cut}) + "\n" for k, r in replies.items())
                )


def open_answerer(spec: str, name: str, store: Path) -> Generator:
    """The model of a spec. A server's replies are paid for one by one, so each is kept in `store` at once, not only
    when its batch is whole."""
    from prefeval.generate import open_generator

    if not spec.startswith("server:"):
        from reward_models.oracles import open_oracle

        return open_generator(spec, name=name, open_oracle=open_oracle)
    from prefeval.api_types import parse_endpoint
    from prefeval.generate.server import open_server
    from prefeval.store import Store

    parse_endpoint(spec.removeprefix("server:"))  # a wrong one leaves no store behind
    return open_server(spec, name=name, store=Store(store))


def identity(spec: str) -> list[Any]:
    """A spec and, where it names files, their sizes and times: a model trained anew under its old path is another."""
    from prefeval.models import fingerprint

    for text in (spec, spec.partition(":")[2]):
        path = Path(text)
        if text and path.exists():
            files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
            return [spec, [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]]
    return [spec, fingerprint(spec)] if spec.startswith(("mix:", "best-of-", "nash-of-", "linear:")) else [spec]


def sample_benchmark(
    benchmark: Benchmark, generator: Generator, model: str, settings: AnswerSettings, journal: ReplyJournal
) -> Sampled:
    """Every sample of a reply to every turn of every prompt; later turns see the sample's own earlier replies."""
    prompts = benchmark.prompts()
    said: dict[tuple[str, int], list[Reply]] = {(p.key, j): [] for p in prompts for j in range(settings.samples)}
    for turn in range(max(len(p.turns) for p in prompts)):
        asked = [p for p in prompts if len(p.turns) > turn]
        for temperature in sorted({settings.temperature_of(p) for p in asked}):
            jobs = [(p, j) for p in asked if settings.temperature_of(p) == temperature for j in range(settings.samples)]
            conversations = [_conversation(p, j, said[p.key, j], settings.instruction) for p, j in jobs]
            here = replace(settings.params, temperature=temperature)
            found = ask_all(generator, conversations, here, settings.seed, journal)
            for (prompt, j), reply in zip(jobs, found, strict=True):
                said[prompt.key, j].append(reply)
    every = [reply for replies in said.values() for reply in replies]
    cut, limit = sum(r.cut for r in every), settings.params.max_new_tokens
    if cut:
        logger.warning(
            "%s on %s: %d of %d replies were cut at %d tokens", model, benchmark.name, cut, len(every), limit
        )
    samples = [
        Answers(
            model if settings.samples == 1 or benchmark.protocol == "mt_bench" else f"{model}-s{j + 1}",
            {p.key: Answer(p.key, tuple(r.text for r in said[p.key, j]), p.turns[0], p.category) for p in prompts},
        )
        for j in range(settings.samples)
    ]
    return Sampled(tuple(samples), len(every), cut, sum(not r.text for r in every))


def planned_answers(
    benchmark: Benchmark, model: str, settings: AnswerSettings, journal: ReplyJournal
) -> tuple[Answers, int]:
    """(the answers as far as the journal holds them, the number of replies that it lacks).

    A reply that is not there yet is as long as one may be; the journal takes it in, in memory, so that it counts once
    where another benchmark asks the same.
    """
    filler = Reply(model.ljust(int(4.5 * settings.params.max_new_tokens), "."), cut=True)  # bytes a token, as estimated
    missing, items = 0, {}
    for prompt in benchmark.prompts():
        params = replace(settings.params, temperature=settings.temperature_of(prompt))
        replies: list[Reply] = []
        for _ in prompt.turns:
            asked = _conversation(prompt, 0, replies, settings.instruction)
            key = journal.key(asked, params, settings.seed)
            missing += key not in journal.replies
            replies.append(journal.replies.setdefault(key, filler))
        items[prompt.key] = Answer(prompt.key, tuple(r.text for r in replies), prompt.turns[0], prompt.category)
    return Answers(model, items), missing


def ask_all(
    generator: Generator, prompts: Sequence[Prompt], params: SamplingParams, seed: int, journal: ReplyJournal
) -> list[Reply]:
    """A reply to each prompt; those that the journal holds are not sampled again."""
    keys = [journal.key(p, params, seed) for p in prompts]
    todo = [(k, p) for k, p in zip(keys, prompts, strict=True) if k not in journal.replies]
    if len(todo) < len(keys):
        logger.info("%s: %d of %d replies are there already", generator.name, len(keys) - len(todo), len(keys))
    todo.sort(key=lambda job: sum(len(m.content) for m in job[1].messages))  # alike lengths waste less padding
    for start in range(0, len(todo), journal.together):
        part = todo[start : start + journal.together]
        groups = generator.sample([p for _, p in part], 1, params, seed)
        found = {k: Reply(g[0].text, g[0].finish_reason == "length") for (k, _), g in zip(part, groups, strict=True)}
        journal.add(found)
    return [journal.replies[k] for k in keys]


def _conversation(prompt: BenchPrompt, sample: int, replies: Sequence[Reply], instruction: str) -> Prompt:
    """The prompt of a sample's next turn. The first sample's draws are the same however many samples there are."""
    asked = with_instruction(prompt.conversation([r.text for r in replies]), instruction)
    return replace(asked, id=f"{asked.id}#{sample + 1}") if sample else asked
