"""An oracle over HTTP: the same numbers as `prefeval score`, one batch for what waits, one line for bad requests."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from prefeval.oracle import Group, MatrixOracle, Oracle
from prefeval.rules import open_rule
from prefeval.types import FloatArray, Prompt
from reward_models.cli import score_row, scored
from reward_models.serve import Limits, OracleService, make_server

ROW = {"id": "a", "prompt": "Hm?", "responses": ["long one", "short", "mid one"]}


class Running:
    """A server on a free port of the loopback interface, for as long as a test lasts."""

    def __init__(self, oracle: Oracle, limits: Limits | None = None) -> None:
        self.service = OracleService(oracle, limits)
        self.server = make_server(self.service, "127.0.0.1", 0)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def ask(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=20)
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        connection.request(method, path, data)
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.service.close()


@pytest.fixture
def shorter() -> Iterator[Running]:
    running = Running(open_rule("shorter"), Limits(body=2000, rows=3, responses=4))
    yield running
    running.stop()


class Slow(MatrixOracle):
    """Answers when told to; remembers how many rows it was asked about at once."""

    name = "slow"

    def __init__(self) -> None:
        self.go, self.batches = threading.Event(), []  # type: ignore[var-annotated]

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        self.batches.append(len(prompts))
        assert self.go.wait(10)
        if any("boom" in p.text for p in prompts):
            raise ZeroDivisionError
        return [np.full((len(g), len(g)), 0.5) for g in groups]


def test_the_answers_are_those_of_score(shorter: Running) -> None:
    assert shorter.ask("GET", "/health") == (200, {"status": "ok", "oracle": "rules:shorter"})
    [wanted] = scored(open_rule("shorter"), [score_row(ROW, "x", 1)])
    status, found = shorter.ask("POST", "/score", ROW)
    assert (status, found["id"], found["oracle"], found["failed"]) == (200, "a", "rules:shorter", 0)
    np.testing.assert_allclose(found["P"], wanted["P"])
    np.testing.assert_allclose(found["scores"], wanted["scores"])
    status, many = shorter.ask("POST", "/score", {"rows": [ROW, {**ROW, "id": "b", "responses": ["x"]}]})
    assert status == 200
    assert [r["id"] for r in many["rows"]] == ["a", "b"]
    assert many["rows"][1]["P"] == [[0.5]]


def test_rewards_compare_the_responses_to_one_prompt() -> None:
    class Lengths(MatrixOracle):
        name = "lengths"

        def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
            length = [np.array([float(len(t)) for t in g]) for g in groups]
            return [1 / (1 + np.exp(-(n[:, None] - n[None]))) for n in length]

    running = Running(Lengths())
    body = {"query": ["Q:aaa", "R:b", "Q:a", "Q:", "R:bbb"], "prompts": ["Q:", "R:", "Q:", "Q:", "R:"]}
    status, found = running.ask("POST", "/get_reward", body)
    running.stop()
    assert status == 200
    # Lengths 3, 1, 0 and 1, 3: mean differences to the others.
    np.testing.assert_allclose(found["rewards"], [2.5, -2.0, -0.5, -2.0, 2.0], atol=1e-9)
    assert found["scores"] == found["rewards"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/nothing", ROW, 404, "POST /score"),
        ("/score", {"prompt": "q"}, 400, "field 'responses'"),
        ("/score", {"prompt": 3, "responses": ["a"]}, 400, "field 'prompt'"),
        ("/score", [1], 400, "a row is an object"),
        ("/score", {"rows": []}, 400, "rows: must be a non-empty list"),
        ("/score", {"rows": [ROW] * 4}, 413, "rows: 4 in one request, at most 3"),
        ("/score", {"prompt": "q", "responses": ["a"] * 5}, 413, "5 responses, at most 4"),
        ("/score", {"prompt": "q" * 3000, "responses": ["a"]}, 413, "at most 2000"),
        ("/get_reward", {"query": ["a"]}, 400, "prompts: must be a non-empty list"),
        ("/get_reward", {"query": ["a", "b"], "prompts": ["a"]}, 400, "prompts: 1 for 2 queries"),
        ("/get_reward", {"query": ["a", "b"], "prompts": ["a", "b"]}, 400, "number 0 is the only one of its prompt"),
    ],
)
def test_bad_requests_get_one_line(shorter: Running, path: str, body: Any, status: int, message: str) -> None:
    found, answer = shorter.ask("POST", path, body)
    assert (found, list(answer)) == (status, ["error"])
    assert message in answer["error"]
    assert "\n" not in answer["error"]
    assert shorter.ask("GET", "/health")[0] == 200


def test_a_body_that_is_not_json(shorter: Running) -> None:
    for raw in (b"{", b"\xff\xfe", b"[" * 1500):
        assert shorter.ask("POST", "/score", raw=raw) == (400, {"error": "the body is not JSON"})
    assert shorter.ask("GET", "/elsewhere")[0] == 404


def test_what_waits_is_asked_in_one_batch_and_fails_alone() -> None:
    oracle = Slow()
    running = Running(oracle)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(running.ask, "POST", "/score", ROW)
        while not oracle.batches:
            time.sleep(0.01)
        rows = [{**ROW, "id": str(n), "prompt": "boom" if n == 2 else "fine"} for n in range(5)]
        later = [pool.submit(running.ask, "POST", "/score", row) for row in rows]
        while running.service._jobs.qsize() < 5:
            time.sleep(0.01)
        oracle.go.set()
        assert first.result()[0] == 200
        found = [f.result() for f in later]
    running.stop()
    assert oracle.batches[:2] == [1, 5]
    assert [status for status, _ in found] == [200, 200, 500, 200, 200]
    assert found[2][1]["error"].startswith("the oracle failed (ZeroDivisionError)")
    assert [answer["id"] for status, answer in found if status == 200] == ["0", "1", "3", "4"]


def test_a_full_queue_and_a_slow_oracle_are_told() -> None:
    oracle = Slow()
    running = Running(oracle, Limits(waiting=1, seconds=0.3))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.ask, "POST", "/score", ROW)
        while not oracle.batches:
            time.sleep(0.01)
        second = pool.submit(running.ask, "POST", "/score", ROW)
        while running.service._jobs.qsize() < 1:
            time.sleep(0.01)
        status, answer = running.ask("POST", "/score", ROW)
        assert (status, answer["error"]) == (503, "1 requests are waiting already; try again later")
        assert first.result()[0] == second.result()[0] == 504
    oracle.go.set()
    running.stop()
