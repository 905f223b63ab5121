"""The Judge protocol: one async call from a task to a verdict. A failed call is an error, never a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from prefeval.types import Message, Prompt

# what failures are counted by, beside the reasons of failed calls (prefeval.api_faults)
EMPTY, REFUSAL, CUT, UNREADABLE = "empty reply", "refusal", "cut by the token limit", "unreadable verdict"
NO_PROBABILITY, NO_REFERENCES, NO_QUORUM = "no probability", "no references", "no quorum"


@dataclass(frozen=True)
class JudgeTask:
    """One question to a judge.

    `messages` is the protocol's rendered judge prompt, for judges that read text; `prompt`, `first`, `second` are the
    same content unrendered, for judges that are preference models (`second` is None when one answer is graded).
    `parser` names the pure function in `prefeval.judges.parse` that reads the raw reply. `first` is what the judge is
    shown first: swapping is the benchmark's business.
    """

    id: str
    prompt: Prompt
    first: str
    second: str | None
    messages: tuple[Message, ...]
    parser: str
    max_tokens: int = 2048
    temperature: float = 0.0
    top_logprobs: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)


@dataclass(frozen=True)
class Verdict:
    """A judge's answer to one task. Exactly one of `p_first` (in [0, 1]), `grade` and `error` is not None.

    `label` is the verdict as the protocol writes it ('A>>B', 'm', '7'); `raw` the reply it was parsed from. `reason` is
    what a failure is counted by, in a few words. `members` are the verdicts that a panel's verdict was made of.
    """

    task_id: str
    judge: str
    p_first: float | None = None
    grade: float | None = None
    label: str | None = None
    raw: str = ""
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    reason: str | None = None
    members: tuple[Verdict, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """What `asdict` and JSON made of a verdict. Raises TypeError for anything else."""
        return cls(**{**data, "members": tuple(cls.from_json(member) for member in data.get("members", ()))})


@runtime_checkable
class Judge(Protocol):
    """`id` = model + sampling (+ template hash where the judge owns its template): part of the cache key."""

    @property
    def id(self) -> str: ...

    async def rule(self, task: JudgeTask) -> Verdict: ...
