"""Any preference model as a judge: offline and free. Tasks that are ruled together go to the oracle in one batch."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from prefeval.judges.base import NO_PROBABILITY, NO_REFERENCES, JudgeTask, Verdict
from prefeval.judges.parse import label_of
from prefeval.oracle import Oracle

_WHAT_IS_MISSING = (
    "a preference model grades by comparing: this task has no reference answers (meta['references'], a list of texts)"
)


class OracleJudge:
    """Pair tasks give p_first = P(first beats second). A single answer is graded against the task's reference texts:

        grade = 1 + 9 * mean over references r of P(answer beats r),   in [1, 10]

    so 5.5 is as good as the references; it is an absolute grade only as far as they are. Identical texts count 0.5. The
    oracle runs in a thread of its own, one batch at a time, so that the event loop stays free.
    """

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self._waiting: dict[asyncio.AbstractEventLoop, list[tuple[JudgeTask, asyncio.Future[Verdict]]]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="oracle-judge")

    @property
    def id(self) -> str:
        return self.oracle.name

    async def rule(self, task: JudgeTask) -> Verdict:
        """One verdict. Calls that are made before the event loop turns again share one `oracle.matrix`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Verdict] = loop.create_future()
        if loop not in self._waiting:
            self._waiting[loop] = []
            loop.call_soon(self._send, loop)
        self._waiting[loop].append((task, future))
        return await future

    def rule_all(self, tasks: Sequence[JudgeTask]) -> list[Verdict]:
        """The verdicts of many tasks in one batch, without an event loop."""
        groups = [_group(task) for task in tasks]
        asked = [i for i, group in enumerate(groups) if group and any(text != group[0] for text in group[1:])]
        tables = self.oracle.matrix([tasks[i].prompt for i in asked], [groups[i] for i in asked]) if asked else []
        rows = {i: table[0, 1:] for i, table in zip(asked, tables, strict=True)}
        verdicts = []
        for i, (task, group) in enumerate(zip(tasks, groups, strict=True)):
            same = np.array([text == group[0] for text in group[1:]])
            p = float(np.where(same, 0.5, rows.get(i, 0.5)).mean()) if group else math.nan
            missing = Verdict(task.id, self.id, error=_WHAT_IS_MISSING, reason=NO_REFERENCES)
            verdicts.append(self._verdict(task, p) if group else missing)
        return verdicts

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._waiting.pop(loop)
        work = loop.run_in_executor(self._thread, self.rule_all, [task for task, _ in batch])
        work.add_done_callback(lambda done: _deliver([future for _, future in batch], done))

    def _verdict(self, task: JudgeTask, p: float) -> Verdict:
        if math.isnan(p):
            error = f"the oracle '{self.id}' gave no probability"
            return Verdict(task.id, self.id, error=error, reason=NO_PROBABILITY)
        if task.second is None:
            grade = 1.0 + 9.0 * p
            return Verdict(task.id, self.id, grade=grade, label=f"{grade:.2f}")
        return Verdict(task.id, self.id, p_first=p, label=label_of(task.parser, p))


def _group(task: JudgeTask) -> tuple[str, ...]:
    """The texts to compare, the judged one first; empty for a single answer without references."""
    if task.second is not None:
        return (task.first, task.second)
    found = task.meta.get("references")
    return (task.first, *(str(text) for text in found)) if found and not isinstance(found, str) else ()


def _deliver(futures: list[asyncio.Future[Verdict]], done: asyncio.Future[list[Verdict]]) -> None:
    """Hand each caller its verdict, or the exception that stopped the whole batch."""
    error = asyncio.CancelledError() if done.cancelled() else done.exception()
    verdicts = done.result() if error is None else []
    for i, future in enumerate(futures):
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(verdicts[i])
