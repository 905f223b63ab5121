"""Judges tasks against a server, with a journal and a store: python client.py BASE_URL FOLDER TASKS CONCURRENCY"""

from __future__ import annotations

import sys
from pathlib import Path

from leaderboard.verdicts import Journal, judge_tasks
from prefeval.api import ChatClient
from prefeval.files import write_json
from prefeval.judges.base import JudgeTask
from prefeval.judges.llm import LLMJudge
from prefeval.store import Store
from prefeval.types import Message, Prompt

if __name__ == "__main__":
    url, folder, count, concurrency = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    client = ChatClient("judge", url, "k", concurrency=concurrency, backoff_seconds=0.01)
    prompt = Prompt.from_text("q", id="p")
    tasks = [
        JudgeTask(str(i), prompt, f"a{i}", "b", (Message("user", f"task {i}"),), "mt_pair", max_tokens=64)
        for i in range(count)
    ]
    judge = LLMJudge(client, Store(folder / "store.sqlite"))
    judged = judge_tasks(judge, tasks, Journal(folder / "journal.jsonl"), concurrency=concurrency)
    write_json(folder / "done.json", [[j.task.id, j.verdict.label, j.verdict.reason] for j in judged])
