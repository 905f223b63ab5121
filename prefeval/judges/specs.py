"""`open_chat_judge`: the judges behind a chat endpoint, by what people type; and the clients they ask with."""

from __future__ import annotations

from dataclasses import replace

from prefeval.api import ChatClient, open_client
from prefeval.api_limits import Budget
from prefeval.api_types import Limits, parse_endpoint
from prefeval.judges.annotator import read_annotators
from prefeval.judges.annotator_judge import AnnotatorJudge
from prefeval.judges.base import Judge
from prefeval.judges.llm import LLMJudge
from prefeval.judges.panel import PanelJudge
from prefeval.store import Store

_ANNOTATOR = "alpaca_eval:"


def open_chat_judge(
    spec: str, store: Store | None = None, limits: Limits | None = None, budget: Budget | None = None
) -> Judge:
    """The judge of 'judge:MODEL[@BASE_URL]' or 'judge:alpaca_eval:NAME[@BASE_URL]', with or without 'judge:'.

    NAME is an annotator config of the alpaca_eval package, or the path of one. `budget` is a cap shared with other
    judges. Raises ConfigError and DataError.
    """
    rest = spec.removeprefix("judge:")
    if not rest.startswith(_ANNOTATOR):
        return LLMJudge(open_client(rest, limits, budget=budget), store)
    asked, url = parse_endpoint(rest.removeprefix(_ANNOTATOR))
    name, annotators = read_annotators(asked)
    given = limits or Limits()
    clients = {}
    for one in annotators:
        price = one.price_per_token and (one.price_per_token * 1e6, one.price_per_token * 1e6)
        address = url or one.base_url
        clients[one.name] = open_client(
            f"{one.model}@{address}" if address else one.model,
            replace(given, price=given.price or price or None),
            budget=budget,
        )
    return AnnotatorJudge(name, annotators, clients, store)


def clients_of(judge: Judge) -> list[ChatClient]:
    """The clients that a judge asks with; none for a preference model."""
    if isinstance(judge, PanelJudge):
        return [client for member in judge.members for client in clients_of(member)]
    if isinstance(judge, AnnotatorJudge):
        return list(judge.clients.values())
    return [judge.client] if isinstance(judge, LLMJudge) else []
