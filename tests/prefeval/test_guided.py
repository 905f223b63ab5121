"""Guided choice against a server that speaks one dialect, takes the fields and ignores them, or refuses them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_server import FakeServer, Step, ok, status

from prefeval.api import ChatClient, map_async
from prefeval.judges.base import JudgeTask, Verdict
from prefeval.judges.guided import DIALECTS
from prefeval.judges.llm import LLMJudge
from prefeval.store import Store
from prefeval.types import Message, Prompt

FREE = "Both are fine, I would say"  # what this model says when nothing holds it


def question(number: int, parser: str = "alpaca_logprob") -> JudgeTask:
    messages = (Message("user", f"which? {number}"),)
    return JudgeTask(str(number), Prompt.from_text("q"), "a", "b", messages, parser, 1, 1.0, 5)


def server_of(dialect: str, *, refuses: bool = False, logprobs: dict[str, float] | None = None) -> Any:
    """Replies as a server that knows one dialect ('' for none); a refusing one gives 400 for the others' fields."""

    def reply(body: dict[str, Any]) -> Step:
        guided = [name for name in DIALECTS if name in body]
        if guided == [dialect]:
            return ok('{"verdict": "M"}' if dialect == "response_format" else "M")
        if guided and refuses:
            return status(400, f"Extra inputs are not permitted: {guided[0]}")
        return ok(FREE, logprobs=logprobs)

    return reply


def rule(server: FakeServer, store: Store | None, *tasks: JudgeTask) -> list[Verdict]:
    client = ChatClient("j", server.base_url, "k", backoff_seconds=0.001, max_retries=0)
    return map_async(LLMJudge(client, store).rule, tasks, concurrency=4)


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_dialect_is_found_once_and_then_used(tmp_path: Path, dialect: str, refuses: bool) -> None:
    tasks = [question(i) for i in range(5)]
    with FakeServer(server_of(dialect, refuses=refuses)) as server, Store(tmp_path / "s") as store:
        found = rule(server, store, *tasks)
        probes = list(DIALECTS).index(dialect) + 1
        assert server.calls == 1 + probes + 5  # log-probabilities, the dialects up to this one, the verdicts
        assert [(v.p_first, v.label) for v in found] == [(0.0, "M")] * 5
        asked = [b for b in server.requests if b["messages"][0]["content"].startswith("which?")][1:]
        assert all(dialect in b for b in asked)
        rule(server, store, *tasks, question(6))  # another run remembers it: one call for the one new question
        assert server.calls == 1 + probes + 5 + 1


@pytest.mark.parametrize("refuses", [False, True])
def test_without_a_dialect_it_is_off(tmp_path: Path, refuses: bool) -> None:
    with FakeServer(server_of("", refuses=refuses)) as server, Store(tmp_path / "s") as store:
        found = rule(server, store, *[question(i) for i in range(3)])
        assert server.calls == 1 + len(DIALECTS) + 3
    assert {v.reason for v in found} == {"unreadable verdict"}
    asked = [b for b in server.requests if b["messages"][0]["content"].startswith("which?")]
    assert len(asked) == 1 + 3
    assert not any(set(b) & set(DIALECTS) for b in asked)


def test_neither_label_among_the_candidates(tmp_path: Path) -> None:
    """With log-probabilities the protocol's own question goes first; only what it cannot read is asked again."""
    with FakeServer(server_of("grammar", logprobs={"The": -0.1})) as server, Store(tmp_path / "s") as store:
        (found,) = rule(server, store, question(0))
        assert (found.p_first, found.raw, found.prompt_tokens) == (0.0, "M", 200)
        assert server.requests[-1]["grammar"] == 'root ::= "m" | "M"'
        assert "logprobs" not in server.requests[-1]
    with FakeServer(server_of("grammar", logprobs={"m": -0.1, "M": -3.0})) as server:
        assert rule(server, None, question(0))[0].label == "m"
        assert server.calls == 1  # nothing to find out


def test_a_reply_that_is_there_is_not_asked_for_again(tmp_path: Path) -> None:
    """Replies from before the server learned a dialect, or from a batch file, were paid for."""
    with Store(tmp_path / "s") as store:
        with FakeServer(lambda body: ok("Model m")) as server:
            rule(server, store, question(0))
            kept = store.count("reply")
            port = server.http.server_address
        for key in [*store._query("SELECT key FROM entries WHERE kind = ?", ["probe"])]:
            if "dialect" in store.get("probe", key[0]):
                store.delete("probe", [key[0]])
        again = ChatClient("j", f"http://127.0.0.1:{port[1]}/v1", "k", backoff_seconds=0.001, max_retries=0)
        (found,) = map_async(LLMJudge(again, store).rule, [question(0)])  # nobody listens there any more
        assert (found.label, found.error) == ("m", None)
        assert store.count("reply") == kept


def test_a_probe_that_fails_teaches_nothing(tmp_path: Path) -> None:
    def reply(body: dict[str, Any]) -> Step:
        return status(500, "down") if set(body) & set(DIALECTS) else ok("Model M")

    with FakeServer(reply) as server, Store(tmp_path / "s") as store:
        assert [v.label for v in rule(server, store, question(0), question(1))] == ["M", "M"]
        assert server.calls == 4  # log-probabilities, one probe, two verdicts
    with FakeServer(server_of("guided_choice")) as server, Store(tmp_path / "t") as store:
        assert rule(server, store, question(2))[0].label == "M"


def test_openais_own_endpoint_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from prefeval.api import run_async
    from prefeval.judges.guided import Guide

    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    guide = Guide(ChatClient("gpt-4", None, "k"))
    assert run_async(asyncio.wait_for(guide.dialect(), 5)) == ""


def test_free_text_verdicts_are_not_guided() -> None:
    with FakeServer("[[B]]") as server:
        task = JudgeTask("t", Prompt.from_text("q"), "a", "b", (Message("user", "?"),), "mt_pair")
        assert rule(server, None, task)[0].label == "B"
    assert server.calls == 1
