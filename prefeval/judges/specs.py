"""`open_chat_judge`: the judges behind a chat endpoint, by what people type."""

from __future__ import annotations

from prefeval.api import open_client
from prefeval.api_limits import Budget
from prefeval.api_types import Limits
from prefeval.judges.base import Judge
from prefeval.judges.llm import LLMJudge
from prefeval.store import Store


def open_chat_judge(
    spec: str, store: Store | None = None, limits: Limits | None = None, budget: Budget | None = None
) -> Judge:
    """The judge of 'judge:MODEL[@BASE_URL]'. `budget` is a cap shared with other judges. Raises ConfigError."""
    return LLMJudge(open_client(spec, limits, budget=budget), store)
