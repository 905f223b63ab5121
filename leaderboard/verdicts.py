"""Verdicts: asked once, written down as they come, failed ones asked again on the next run and never scored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from leaderboard.answering import file_name
from leaderboard.benchmarks.base import Benchmark, Judged
from prefeval.errors import DataError
from prefeval.files import dumps, read_jsonl, sha256_json, write_json, write_jsonl
from prefeval.judges.base import Judge, JudgeTask, Verdict
from prefeval.log import logger

_ORACLE_CONCURRENCY = 256  # a preference model rules the tasks that wait together in one batch


class Journal:
    """An append-only JSONL of verdicts by task; the last line of a task counts, a line that a crash cut is dropped,
    from the file too unless it is `read_only`."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.verdicts: dict[str, Verdict] = {}
        self.failures = 0  # failed attempts so far, over all runs
        if path.exists():
            rows = read_jsonl(path, tolerate_cut_tail=True)
            if not read_only and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
                write_jsonl(path, rows)
            for number, row in enumerate(rows, 1):
                self._take(row, number)

    def done(self, key: str) -> bool:
        return key in self.verdicts and self.verdicts[key].error is None

    def add(self, handle: IO[str], key: str, verdict: Verdict) -> None:
        handle.write(dumps({"key": key, "verdict": asdict(verdict)}) + "\n")
        handle.flush()
        self._keep(key, verdict)

    def _take(self, row: Any, number: int) -> None:
        try:
            self._keep(row["key"], Verdict.from_json(row["verdict"]))
        except (KeyError, TypeError) as error:
            raise DataError(f"not a verdict: {error!r}", file=self.path, row=number) from None

    def _keep(self, key: str, verdict: Verdict) -> None:
        self.verdicts[key] = verdict
        self.failures += verdict.error is not None


def judge_tasks(
    judge: Judge, tasks: Sequence[JudgeTask], journal: Journal, *, concurrency: int = 8, title: str = "judging"
) -> list[Judged]:
    """Every task with its verdict; those that the journal holds are not asked again."""
    keys = [task_key(judge.id, task) for task in tasks]
    todo = {key: task for key, task in zip(keys, tasks, strict=True) if not journal.done(key)}
    if len(todo) < len(set(keys)):
        logger.info("%s: %d of %d verdicts are there already", title, len(set(keys)) - len(todo), len(set(keys)))
    if todo:
        journal.path.parent.mkdir(parents=True, exist_ok=True)
        with open(journal.path, "a", encoding="utf-8", newline="\n") as handle:
            _ask(judge, todo, journal, handle, concurrency, title)
    judged = [Judged(task, journal.verdicts[key]) for key, task in zip(keys, tasks, strict=True)]
    for member, reasons in member_failures(judged).items():
        told = "; ".join(f"{n} {reason}" for reason, n in reasons.items())
        logger.warning("%s: %s gave no verdict on %d tasks (%s)", title, member, sum(reasons.values()), told)
    return judged


def task_key(judge: str, task: JudgeTask) -> str:
    """The identity of a question to a judge (by its id): all that the verdict depends on, and not the task's name."""
    return sha256_json(
        {
            "judge": judge,
            "messages": [m.as_dict() for m in task.messages],
            "prompt": task.prompt.as_dicts(),
            "answers": [task.first, task.second],
            "references": task.meta.get("references"),
            "sampling": [task.parser, task.max_tokens, task.temperature, task.top_logprobs],
        }
    )


def write_native(
    benchmark: Benchmark, folder: str | Path, judge: str, rows: Mapping[str, Sequence[dict[str, Any]]]
) -> list[Path]:
    """Write each model's verdict rows in the original's own layout under a folder."""
    root = Path(folder)
    if benchmark.protocol == "alpaca_eval":
        return [write_json(root / file_name(m) / "annotations.json", list(r)) for m, r in rows.items() if r]
    if benchmark.protocol == "arena_hard":
        place = root / "model_judgment" / file_name(judge)
        return [write_jsonl(place / f"{file_name(m)}.jsonl", r) for m, r in rows.items() if r]
    every = [row for r in rows.values() for row in r]
    kind = "pair" if any("g1_winner" in row for row in every) else "single"
    return [write_jsonl(root / "model_judgment" / f"{file_name(judge)}_{kind}.jsonl", every)]


def to_ask(tasks: Sequence[JudgeTask], journal: Journal) -> list[JudgeTask]:
    """The tasks that the journal holds no verdict of, each question once; its judge is whoever spoke there."""
    judges = dict.fromkeys(verdict.judge for verdict in journal.verdicts.values())
    questions = {task_key("", task): task for task in tasks}
    return [t for t in questions.values() if not any(journal.done(task_key(judge, t)) for judge in judges)]


def _ask(
    judge: Judge, todo: Mapping[str, JudgeTask], journal: Journal, handle: IO[str], concurrency: int, title: str
) -> None:
    """The one place of this room that waits for judges."""
    from prefeval.api import map_async
    from prefeval.judges.panel import rules_in_batches

    keys = list(todo)
    map_async(
        judge.rule,
        list(todo.values()),
        concurrency=_ORACLE_CONCURRENCY if rules_in_batches(judge) else concurrency,
        title=title,
        on_result=lambda index, verdict: journal.add(handle, keys[index], verdict),
    )


def failures(judged: Sequence[Judged]) -> dict[str, int]:
    """Reason -> how many verdicts failed for it, most frequent first; the message where a judge names no reason."""
    return _reasons([item.verdict for item in judged])


def member_failures(judged: Sequence[Judged]) -> dict[str, dict[str, int]]:
    """Member of a panel -> reason -> how many of its verdicts failed, for the members that failed at all."""
    of: dict[str, list[Verdict]] = {}
    for item in judged:
        for verdict in item.verdict.members:
            of.setdefault(verdict.judge, []).append(verdict)
    counted = {member: _reasons(verdicts) for member, verdicts in of.items()}
    return {member: reasons for member, reasons in counted.items() if reasons}


def _reasons(verdicts: Sequence[Verdict]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for verdict in verdicts:
        if verdict.error is not None:
            reason = verdict.reason or json.dumps(verdict.error)[1:121].rstrip('"')
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))
