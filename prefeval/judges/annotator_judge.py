"""A judge that asks as an alpaca_eval annotator config says, whatever the benchmark's own template is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from prefeval.api import ChatClient, ChatReply, ChatRequest
from prefeval.errors import ConfigError
from prefeval.judges.annotator import Annotator, choose, fingerprint
from prefeval.judges.annotator_parsers import Completion, read_completion_with
from prefeval.judges.base import JudgeTask, Verdict
from prefeval.judges.llm import failed_call, verdict_of
from prefeval.judges.parse import Parsed, label_of
from prefeval.store import Store


class AnnotatorJudge:
    """Rules pairs behind one-turn prompts. One call a task, read as the package reads it: no second question, no other
    parser, and no verdict where the package has none. `clients` are those of the annotators by name.

    The answers are shown in the task's order; AlpacaEval's tasks carry the package's own seeded order.
    """

    def __init__(
        self, name: str, annotators: Sequence[Annotator], clients: Mapping[str, ChatClient], store: Store | None = None
    ) -> None:
        self.name, self.annotators, self.clients, self.store = name, tuple(annotators), clients, store

    @property
    def id(self) -> str:
        return f"alpaca_eval:{self.name}+{fingerprint(self.annotators)}"

    async def rule(self, task: JudgeTask) -> Verdict:
        """One verdict. Raises ConfigError for a task that is no pair behind a one-turn prompt."""
        turns = [m for m in task.prompt.messages if m.role != "system"]
        if task.second is None or len(turns) != 1:
            raise ConfigError(f"judge '{self.id}' compares two answers to one instruction; it cannot rule '{task.id}'")
        annotator = choose(self.annotators, task.prompt.text)
        reply = await self.clients[annotator.name].ask(_request(annotator, task), self.store)
        asked = replace(task, parser=annotator.parser, max_tokens=annotator.max_tokens)
        return verdict_of(asked, self.id, [reply], [reply], _read(annotator, task.parser, reply))


def _request(annotator: Annotator, task: JudgeTask) -> ChatRequest:
    return ChatRequest(
        annotator.messages(task.prompt.text, task.first, task.second or ""),
        annotator.max_tokens,
        annotator.temperature,
        annotator.top_p,
        annotator.top_logprobs,
        extra=annotator.extra,
    )


def _read(annotator: Annotator, protocol: str, reply: ChatReply) -> Parsed:
    failed = failed_call([reply])
    if failed is not None:
        return Parsed(error=failed)
    last = reply.last_logprobs if reply.positions > 1 else reply.logprobs
    completion = Completion(reply.text, reply.logprobs, last, reply.positions)
    try:
        p_first = 2.0 - read_completion_with(annotator.parser, annotator.parser_keywords, completion)
    except ValueError as error:
        return Parsed(error=str(error))
    return Parsed(p_first=p_first, label=label_of(protocol, p_first))
