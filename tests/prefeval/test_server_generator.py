"""Sampling through a chat endpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_server import FakeServer, Step, context_length, ok, status

from prefeval.api import ChatClient
from prefeval.errors import ConfigError, RunError
from prefeval.generate import Generator, SamplingParams, open_generator
from prefeval.generate.server import ServerGenerator, open_server
from prefeval.store import Store
from prefeval.types import Prompt

PROMPTS = [Prompt.from_text(f"question {i}", id=f"p{i}", system="be kind") for i in range(4)]


def generator(server: FakeServer, store: Store | None = None, **settings: Any) -> ServerGenerator:
    return ServerGenerator(
        ChatClient("m", server.base_url, "k", backoff_seconds=0.001, max_retries=2, **settings), store
    )


def echo(body: dict[str, Any]) -> str:
    return f"{body['messages'][-1]['content']} seed {body['seed']}"


def test_k_separate_seeded_requests_a_prompt() -> None:
    with FakeServer(echo) as server:
        found = generator(server).sample(PROMPTS, 3, SamplingParams(max_new_tokens=9), seed=1)
    assert [len(group) for group in found] == [3] * 4
    for i, group in enumerate(found):
        assert all(r.text.startswith(f"question {i} seed ") for r in group)  # in the order of the prompts
        assert len({r.text for r in group}) == 3
        assert all(r.token_ids is None and r.logprob is None and r.finish_reason == "stop" for r in group)
    assert server.calls == 12
    for body in server.requests:
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 1.0, 9)
        assert 0 <= body["seed"] < 2**31
        assert body["messages"][0] == {"role": "system", "content": "be kind"}


def test_seeds_depend_on_seed_prompt_and_index_only() -> None:
    params = SamplingParams()
    with FakeServer(echo, latency=0.005) as server:
        g = generator(server)
        whole = g.sample(PROMPTS, 2, params, seed=1)
        assert g.sample(PROMPTS[2:3], 2, params, seed=1) == [whole[2]]
        assert [group[:1] for group in whole] == g.sample(PROMPTS, 1, params, seed=1)
        assert g.sample(PROMPTS, 2, params, seed=2) != whole


def test_passing_faults_do_not_change_the_result() -> None:
    with FakeServer(echo) as server:
        clean = generator(server).sample(PROMPTS, 2, SamplingParams(), seed=1)
    with FakeServer(echo, [status(500), status(429, retry_after=0), status(503)]) as server:
        assert generator(server).sample(PROMPTS, 2, SamplingParams(), seed=1) == clean


def test_a_lasting_failure_names_the_prompt() -> None:
    def answer(body: dict[str, Any]) -> str | Step:
        return status(500, "out of memory") if "question 2" in body["messages"][-1]["content"] else "fine"

    with FakeServer(answer) as server, pytest.raises(RunError, match=r"prompt 'p2': HTTP 500: out of memory after 3"):
        generator(server, concurrency=1).sample(PROMPTS, 1, SamplingParams(), seed=1)
    with FakeServer(script=[context_length()]) as server, pytest.raises(RunError, match=r"'p0'.*context length"):
        generator(server).sample(PROMPTS[:1], 1, SamplingParams(), seed=1)
    assert server.calls == 1


def test_an_interrupted_run_pays_for_no_reply_twice(tmp_path: Path) -> None:
    broken = [status(400, "refused")]
    with Store(tmp_path / "s") as store, FakeServer(echo) as server:
        g = generator(server, store, concurrency=1)
        g.sample(PROMPTS[:2], 2, SamplingParams(), seed=1)
        server.script = broken
        with pytest.raises(RunError):
            g.sample(PROMPTS, 2, SamplingParams(), seed=1)
        assert server.calls == 5
        found = g.sample(PROMPTS, 2, SamplingParams(), seed=1)
        assert server.calls == 9  # four from the store, four new ones
    with FakeServer(echo) as server:
        assert generator(server).sample(PROMPTS, 2, SamplingParams(), seed=1) == found


def test_cut_replies_say_so() -> None:
    with FakeServer(lambda body: ok("half", finish_reason="length")) as server:
        assert generator(server).sample(PROMPTS[:1], 1, SamplingParams(), seed=1)[0][0].finish_reason == "length"


def test_nothing_to_sample() -> None:
    with FakeServer() as server:
        assert generator(server).sample([], 2, SamplingParams(), seed=1) == []
    assert server.calls == 0


def test_top_k_is_refused() -> None:
    with FakeServer() as server, pytest.raises(ConfigError, match="top_k"):
        generator(server).sample(PROMPTS, 1, SamplingParams(top_k=5), seed=1)
    assert server.calls == 0


def test_specs_open_generators() -> None:
    found = open_generator("server:org/model@http://127.0.0.1:9/v1")
    assert isinstance(found, ServerGenerator)
    assert isinstance(found, Generator)
    assert found.name == "server:org/model@http://127.0.0.1:9/v1"
    assert (found.client.model, found.client.base_url) == ("org/model", "http://127.0.0.1:9/v1")
    assert open_server("server:m@http://h/v1", name="ours").name == "ours"
    with pytest.raises(ConfigError):
        open_generator("server:m@ftp://h")
