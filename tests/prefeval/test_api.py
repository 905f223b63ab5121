"""The API client against a server that misbehaves on a script."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
import threading
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_server import FakeServer, Step, context_length, cut, drop, empty, malformed, ok, shapeless, slow, status

from prefeval.api import (
    ChatClient,
    ChatReply,
    ChatRequest,
    estimate_cost,
    map_async,
    open_client,
    parse_endpoint,
    run_async,
)
from prefeval.api_limits import Pace, backoff, retry_after, scrub
from prefeval.api_types import Limits, endpoint_family
from prefeval.errors import ConfigError
from prefeval.files import read_json
from prefeval.judges.base import JudgeTask
from prefeval.store import Store
from prefeval.types import Message, Prompt

KEY = "sk-verysecret0123456789"
HELLO = (Message("system", "be brief"), Message("user", "hello"))


def client(server: FakeServer, **settings: Any) -> ChatClient:
    return ChatClient("m", server.base_url, KEY, **{"backoff_seconds": 0.001, "timeout": 5.0, **settings})


def ask(c: ChatClient, **fields: Any) -> ChatReply:
    return run_async(c.complete(HELLO, **fields))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_reply_carries_what_the_server_said() -> None:
    with FakeServer(lambda body: ok("hi", logprobs={"m": -0.1, "M": -2.5, "x": -9.0})) as server:
        reply = ask(client(server, price_per_million=(10.0, 30.0)), max_tokens=5, temperature=1.0, top_logprobs=2)
    assert (reply.text, reply.finish_reason, reply.model, reply.error) == ("hi", "stop", "m-served", None)
    assert reply.logprobs == {"m": -0.1, "M": -2.5}
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (100, 10)
    assert reply.cost == pytest.approx((100 * 10 + 10 * 30) / 1e6)
    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
            "max_tokens": 5,
            "temperature": 1.0,
            "logprobs": True,
            "top_logprobs": 2,
        }
    ]


def test_optional_fields_are_sent_when_given() -> None:
    with FakeServer() as server:
        ask(client(server, extra_body={"guided_choice": ["m", "M"]}), seed=7, stop=["END"], top_p=1.0, temperature=None)
    body = server.requests[0]
    assert (body["seed"], body["stop"], body["top_p"], body["guided_choice"]) == (7, ["END"], 1.0, ["m", "M"])
    assert "temperature" not in body
    assert "logprobs" not in body


@pytest.mark.parametrize(
    "fault",
    [status(408), status(409), status(429), status(500), status(503), drop(), cut(), malformed(), shapeless()],
    ids=["408", "409", "429", "500", "503", "drop", "cut", "malformed", "shapeless"],
)
def test_passing_faults_are_tried_again(fault: Step) -> None:
    with FakeServer("fine", [fault, fault]) as server:
        reply = ask(client(server))
    assert (reply.text, reply.error) == ("fine", None)
    assert server.calls == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_lasting_faults_are_not_tried_again(code: int) -> None:
    with FakeServer(script=[status(code, "no such thing")]) as server:
        reply = ask(client(server))
    assert server.calls == 1
    assert reply.text == ""
    assert reply.status == code
    assert reply.error == f"HTTP {code}: no such thing"


def test_attempts_end_at_the_cap() -> None:
    with FakeServer(lambda body: status(500, "down")) as server:
        reply = ask(client(server, max_retries=3))
    assert server.calls == 4
    assert reply.error == "HTTP 500: down after 4 attempts"


def test_a_used_up_quota_is_not_waited_for() -> None:
    with FakeServer(script=[status(429, "quota", error_code="insufficient_quota")]) as server:
        assert ask(client(server)).status == 429
    assert server.calls == 1


def test_retry_after_is_honoured() -> None:
    with FakeServer("fine", [status(429, retry_after=0.4)]) as server:
        assert ask(client(server)).text == "fine"
    assert server.arrivals[1] - server.arrivals[0] >= 0.39


def test_retry_after_beyond_reason_ends_the_call() -> None:
    with FakeServer("fine", [status(429, retry_after=86400)]) as server:
        assert ask(client(server)).status == 429
    assert server.calls == 1


def test_retry_after_forms() -> None:
    now = 1_700_000_000.0
    assert retry_after({"retry-after": "3"}, now) == 3.0
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}, now) == 0.25
    assert retry_after({"retry-after": formatdate(now + 30, usegmt=True)}, now) == 30.0
    assert retry_after({"retry-after": formatdate(now - 30, usegmt=True)}, now) == 0.0
    assert retry_after({"retry-after": "soon"}, now) is None
    assert retry_after({}, now) is None


def test_backoff_doubles_and_is_capped() -> None:
    assert [backoff(i, 0.5, 0.0) for i in range(4)] == [0.25, 0.5, 1.0, 2.0]
    assert backoff(3, 0.5, 0.999) < 4.0
    assert backoff(1000, 0.5, 0.0) == 30.0


def test_slow_replies_time_out_and_are_tried_again() -> None:
    with FakeServer("fine", [slow(1.0)]) as server:
        assert ask(client(server, timeout=0.2)).text == "fine"
    with FakeServer(script=[slow(1.0)]) as server:
        assert ask(client(server, timeout=0.2, max_retries=0)).error == "no reply within 0.2 s"


def test_no_server_is_an_error_that_names_it() -> None:
    with FakeServer() as server:
        url = server.base_url
    reply = run_async(ChatClient("m", url, KEY, max_retries=1, backoff_seconds=0.001).complete(HELLO))
    assert reply.error is not None
    assert url in reply.error
    assert "after 2 attempts" in reply.error


def test_an_empty_reply_is_a_reply() -> None:
    with FakeServer(script=[empty()]) as server:
        reply = ask(client(server))
    assert (reply.text, reply.error, server.calls) == ("", None, 1)


def test_reasoning_models_get_the_fields_they_take(caplog: pytest.LogCaptureFixture) -> None:
    def strict(body: dict[str, Any]) -> str | Step:
        if "max_tokens" in body:
            text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            return status(400, text, param="max_tokens")
        if "temperature" in body:
            return status(400, "Unsupported value: 'temperature' does not support 0.0.", param="temperature")
        return "thought"

    with FakeServer(strict) as server, caplog.at_level(logging.WARNING, logger="prefeval"):
        c = client(server, max_retries=0)
        assert ask(c, max_tokens=9).text == "thought"
        assert ask(c, max_tokens=9).text == "thought"
    assert server.calls == 4  # two lessons, then straight
    assert server.requests[-1]["max_completion_tokens"] == 9
    assert sum("temperature" in record.message for record in caplog.records) == 1


def test_many_at_once_learn_the_same_lesson() -> None:
    def strict(body: dict[str, Any]) -> str | Step:
        return status(400, "use max_completion_tokens, not max_tokens") if "max_tokens" in body else "fine"

    with FakeServer(strict, latency=0.02) as server:
        c = client(server, max_retries=0)
        replies = map_async(lambda _: c.complete(HELLO), range(6), concurrency=6)
    assert [r.text for r in replies] == ["fine"] * 6


def test_a_field_that_stays_refused_ends_the_call() -> None:
    with FakeServer(lambda body: status(400, "max_tokens and temperature are refused")) as server:
        reply = ask(client(server))
    assert reply.status == 400
    assert server.calls == 3


def test_context_length_is_not_mistaken_for_a_refused_field() -> None:
    with FakeServer(script=[context_length()]) as server:
        reply = ask(client(server))
    assert server.calls == 1
    assert "maximum context length" in (reply.error or "")


def test_order_is_kept_and_concurrency_bounded() -> None:
    def echo(body: dict[str, Any]) -> Step:
        number = int(body["messages"][0]["content"])
        return slow(0.03 if number % 3 == 0 else 0.0, f"reply {number}")

    with FakeServer(echo, latency=0.01) as server:
        c = client(server, concurrency=4)
        arrived: list[int] = []
        replies = map_async(
            lambda n: c.complete((Message("user", str(n)),)),
            list(range(24)),
            concurrency=12,
            on_result=lambda index, reply: arrived.append(index),
        )
    assert [r.text for r in replies] == [f"reply {n}" for n in range(24)]
    assert sorted(arrived) == list(range(24))
    assert arrived != sorted(arrived)  # reported as they come
    assert 2 <= server.peak <= 4


def test_map_async_bounds_its_own_concurrency() -> None:
    running = peak = 0

    async def work(n: int) -> int:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.005)
        running -= 1
        return n * n

    assert map_async(work, range(10), concurrency=3) == [n * n for n in range(10)]
    assert peak == 3
    assert map_async(work, []) == []


def test_requests_per_minute_spaces_the_calls() -> None:
    with FakeServer() as server:
        c = client(server, requests_per_minute=600)
        map_async(lambda _: c.complete(HELLO), range(4))
    assert server.arrivals[3] - server.arrivals[1] >= 0.19  # two intervals of 0.1 s; the first call also connects


def test_pace_counts_what_was_used() -> None:
    pace = Pace(6000.0)  # 100 a second
    assert pace.reserve(100) == 0.0
    assert pace.reserve(50) == pytest.approx(1.0, abs=0.05)
    pace.correct(-100)
    assert pace.reserve(1) == pytest.approx(0.5, abs=0.05)
    assert Pace(None).reserve(1e9) == 0.0


def test_the_spending_cap_stops_cleanly() -> None:
    # 100 prompt and 10 reply tokens at $1000 and $1000 a million: $0.11 a call
    with FakeServer(latency=0.005) as server:
        c = client(server, price_per_million=(1000.0, 1000.0), max_cost=0.5)
        replies = map_async(lambda _: c.complete(HELLO, max_tokens=10), range(20))
    paid = [r for r in replies if r.error is None]
    assert len(paid) == server.calls == 4
    assert c.spent == pytest.approx(0.44)
    assert c.capped == 16
    assert {r.error for r in replies if r.error} == {"not sent: the spending cap of $0.5 is reached"}


def test_a_cap_needs_a_price() -> None:
    with pytest.raises(ConfigError, match="price"):
        ChatClient("m", max_cost=1.0)


def test_the_key_never_leaks(caplog: pytest.LogCaptureFixture) -> None:
    message = f"Incorrect API key provided: {KEY}. Authorization: Bearer {KEY}"
    script = [status(401, message), status(500, message), status(429, message)]
    with FakeServer(script=script) as server, caplog.at_level(logging.DEBUG, logger="prefeval"):
        c = client(server, max_retries=0)
        replies = [ask(c) for _ in script]
    assert server.keys == [KEY] * 3  # it was sent
    seen = "".join([repr(c), *(repr(r) for r in replies), *(r.error or "" for r in replies), caplog.text])
    assert "HTTP 401: Incorrect API key provided: ***" in seen
    assert KEY not in seen
    assert "verysecret" not in seen


def test_scrub_hides_keys_that_are_not_ours() -> None:
    assert scrub("sk-proj-abcDEF123456 at http://user:pass@host/v1", None) == "*** at http://***@host/v1"
    assert scrub("authorization: Bearer abc.def-123456", "zzzz") == "authorization: Bearer ***"


def test_the_environment_is_read_at_call_time(monkeypatch: pytest.MonkeyPatch) -> None:
    c = ChatClient("m", max_retries=0)
    with FakeServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        assert run_async(c.complete(HELLO)).text == "ok"  # a server of one's own needs no key
        monkeypatch.setenv("OPENAI_API_KEY", "first-key")
        run_async(c.complete(HELLO))
        monkeypatch.setenv("OPENAI_API_KEY", "second-key\n")
        run_async(c.complete(HELLO))
    assert server.keys == ["none", "first-key", "second-key"]


def test_openai_without_a_key_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        run_async(ChatClient("gpt-4").complete(HELLO))


def test_run_async_works_inside_a_running_loop() -> None:
    async def notebook_cell() -> str:
        return run_async(asyncio.sleep(0.001, "done"))

    assert asyncio.run(notebook_cell()) == "done"


def test_run_async_refuses_to_wait_for_itself() -> None:
    async def nested() -> None:
        run_async(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="await"):
        run_async(nested())


def test_a_client_serves_several_loops() -> None:
    with FakeServer() as server:
        c = client(server)
        assert [asyncio.run(c.complete(HELLO)).text, ask(c).text, asyncio.run(c.complete(HELLO)).text] == ["ok"] * 3


def test_an_exception_waits_for_what_is_on_its_way() -> None:
    finished: list[int] = []

    async def work(n: int) -> int:
        await asyncio.sleep(0.01 if n == 0 else 0.05)
        if n == 0:
            raise ConfigError("unusable")
        return n

    with pytest.raises(ConfigError, match="unusable"):
        map_async(work, range(50), concurrency=3, on_result=lambda i, r: finished.append(r))
    assert sorted(finished) == [1, 2]


def test_ctrl_c_finishes_what_is_paid_for(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # a shell that started the tests in the background has them ignore the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    store = Store(tmp_path / "store.sqlite")
    requests = [ChatRequest((Message("user", str(n)),)) for n in range(100)]

    def interrupting(body: dict[str, Any]) -> str:
        # four requests are open at once, so that nobody need see exactly six; one signal only
        if server.calls >= 6 and once.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)
        return f"reply {body['messages'][0]['content']}"

    once = threading.Lock()
    with FakeServer(interrupting, latency=0.1) as server:
        c = client(server)
        with pytest.raises(KeyboardInterrupt):
            map_async(lambda r: c.ask(r, store), requests, concurrency=4)
        done = server.calls
        assert 6 <= done < 100  # it takes 2.5 s to make them all, and a loaded machine some time to hear the signal
        assert store.count("reply") == done  # every call that was made is kept
        server.latency = 0.0
        replies = map_async(lambda r: c.ask(r, store), requests, concurrency=40)
        assert server.calls == 100  # and none is paid twice
    assert [r.text for r in replies] == [f"reply {n}" for n in range(100)]


def test_a_stored_reply_makes_no_call(tmp_path: Path) -> None:
    request = ChatRequest(HELLO, max_tokens=4, top_logprobs=3)
    with FakeServer(lambda body: ok("m", logprobs={"m": -0.2, "M": -1.7})) as server, Store(tmp_path / "s") as store:
        c = client(server, price_per_million=(1.0, 1.0))
        first = run_async(c.ask(request, store))
        again = run_async(client(server, price_per_million=(1.0, 1.0)).ask(request, store))
    assert server.calls == 1
    assert again == first


def test_errors_are_not_stored_but_whatever_was_answered_is(tmp_path: Path) -> None:
    with FakeServer("fine", [status(400), empty()]) as server, Store(tmp_path / "s") as store:
        c = client(server)
        texts = [run_async(c.ask(ChatRequest(HELLO), store)).text for _ in range(4)]
    assert texts == ["", "", "", ""]
    assert server.calls == 2  # the empty reply was paid for


def test_the_same_question_twice_at_a_time_is_one_call(tmp_path: Path) -> None:
    with FakeServer("fine", latency=0.05) as server, Store(tmp_path / "s") as store:
        c = client(server)
        replies = map_async(lambda _: c.ask(ChatRequest(HELLO), store), range(6))
    assert [r.text for r in replies] == ["fine"] * 6
    assert server.calls == 1


def test_a_key_that_stays_refused_stops_the_sending() -> None:
    with FakeServer(lambda body: status(401, "no")) as server:
        c = client(server, concurrency=1)
        replies = map_async(lambda _: c.complete(HELLO), range(9))
    assert server.calls == 3
    assert {r.reason for r in replies} == {"refused key"}
    assert sum((r.error or "").startswith("not sent") for r in replies) == 6


def test_a_date_is_read_by_the_servers_own_clock() -> None:
    ours, theirs = 1_700_000_000.0, 1_600_000_000.0
    headers = {"date": formatdate(theirs, usegmt=True), "retry-after": formatdate(theirs + 30, usegmt=True)}
    assert retry_after(headers, ours) == 30.0


def test_the_pace_ignores_jumps_of_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(60.0)
    assert pace.reserve(1) == 0.0
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert pace.reserve(1) == pytest.approx(1.0, abs=0.05)


def test_the_key_of_a_request_is_its_content() -> None:
    request = ChatRequest(HELLO)
    same = ChatClient("m", "http://127.0.0.1:1/v1", "a").key(request)
    assert ChatClient("m", "http://localhost:1/other", "b").key(ChatRequest(HELLO)) == same
    others = [
        ChatClient("n", "http://127.0.0.1:1/v1").key(request),
        ChatClient("m", "http://127.0.0.1:2/v1").key(request),
        ChatClient("m", "http://127.0.0.1:1/v1", extra_body={"a": 1}).key(request),
        ChatClient("m", "http://127.0.0.1:1/v1").key(ChatRequest(HELLO, temperature=1.0)),
        ChatClient("m", "http://127.0.0.1:1/v1").key(ChatRequest(HELLO[1:])),
    ]
    assert len({same, *others}) == 6
    assert endpoint_family(None) == endpoint_family("https://api.openai.com/v1") == "openai"


def test_endpoints_are_parsed() -> None:
    assert parse_endpoint("gpt-4.1") == ("gpt-4.1", None)
    assert parse_endpoint("Qwen/Qwen2.5@http://127.0.0.1:8000/v1/") == ("Qwen/Qwen2.5", "http://127.0.0.1:8000/v1")
    assert parse_endpoint("claude@20240620") == ("claude@20240620", None)
    assert open_client("judge:m@https://host/v1").base_url == "https://host/v1"
    for bad in ("", "@http://host/v1", "m@http://", "m@localhost:8000", "m@http://host:port/v1"):
        with pytest.raises(ConfigError):
            parse_endpoint(bad)


def test_cost_is_estimated_before_anything_is_sent() -> None:
    text = "x" * 4500  # 1000 tokens at 4.5 bytes a token, 7 more for one message of a template
    task = JudgeTask("t", Prompt.from_text("q"), "a", "b", (Message("user", text),), "mt_pair", max_tokens=2048)
    found = estimate_cost([task] * 100, Limits(price=(10.0, 30.0)), expected_completion=500)
    assert (found.calls, found.prompt_tokens, found.completion_tokens) == (100, 100_700, 50_000)
    assert found.cost == pytest.approx((100_700 * 10 + 50_000 * 30) / 1e6)
    assert found.most == pytest.approx((100_700 * 10 + 204_800 * 30) / 1e6)
    capped = estimate_cost([task], Limits(price=(10.0, 30.0), reply_tokens=100))
    assert (capped.completion_tokens, capped.most) == (100, pytest.approx((1007 * 10 + 100 * 30) / 1e6))
    assert estimate_cost([task], Limits()).cost is None


def test_the_estimate_is_near_what_alpaca_eval_paid() -> None:
    """The published annotations of one model: 804 judged rows, price_per_example in total $6.92 at $10 and $30."""
    data = (
        Path(os.environ.get("PREFEVAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "benchmarks/alpaca_eval"
    )
    if not data.exists():
        pytest.skip(f"no AlpacaEval data at {data}")
    template = (data / "annotator_config/alpaca_eval_clf_gpt4_turbo__alpaca_eval_clf.txt").read_text()
    blocks = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", template, re.DOTALL)
    rows = [
        r for r in read_json(data / "annotations_raw/claude-2.1_concise.annotations.json.gz") if r["raw_completion"]
    ]
    tasks = []
    for row in rows:
        messages = [(role, text) for role, text in blocks]
        for name in ("instruction", "output_1", "output_2"):
            messages = [(role, text.replace(f"{{{name}}}", row[name])) for role, text in messages]
        filled = tuple(Message(role, text) for role, text in messages)
        tasks.append(JudgeTask("t", Prompt.from_text("q"), "a", "b", filled, "alpaca_logprob", max_tokens=1))
    paid = sum(row["price_per_example"] for row in rows)
    assert paid == pytest.approx(6.92, abs=0.01)
    assert estimate_cost(tasks, Limits(price=(10.0, 30.0))).cost == pytest.approx(paid, rel=0.1)
