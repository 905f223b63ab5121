"""A local OpenAI-compatible chat server that misbehaves on a script: for tests of everything that calls an API.

    with FakeServer(reply="[[A]]", script=[status(429, retry_after=0), drop()]) as server:
        ChatClient("fake", server.base_url, api_key="k") ...
        server.requests  # the bodies received, in order of arrival

The script is consumed one entry a request, in order of arrival; when it is used up every request gets `reply`. `reply`
is a text or a function of the request's body that gives a text or an entry of the script.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Step:
    """What the server does with one request: after `delay` seconds answer, break, or talk nonsense."""

    text: str | None = None
    code: int = 200
    message: str = ""
    param: str | None = None
    error_code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    broken: str = ""  # '', 'drop' (no answer), 'cut' (half an answer), 'malformed' or 'shapeless'
    logprobs: Mapping[str, float] | None = None
    finish_reason: str = "stop"
    usage: tuple[int, int] | None = (100, 10)
    last_logprobs: Mapping[str, float] | None = None  # candidates of the last of two tokens
    tool_arguments: str | None = None


def ok(
    text: str, *, logprobs: Mapping[str, float] | None = None, finish_reason: str = "stop", delay: float = 0.0
) -> Step:
    return Step(text=text, logprobs=logprobs, finish_reason=finish_reason, delay=delay)


def refusing(question: str, failing: Sequence[object]) -> Callable[[Mapping[str, Any]], Step]:
    """A reply 'to QUESTION' to every question; one of them is refused as long as `failing` is not empty."""

    def reply(body: Mapping[str, Any]) -> Step:
        asked = body["messages"][-1]["content"]
        if asked == question and failing:
            return Step(code=400, message="no", delay=0.5)  # the others have been answered by then
        return ok(f"to {asked}")

    return reply


def status(
    code: int,
    message: str = "scripted failure",
    *,
    retry_after: float | str | None = None,
    param: str | None = None,
    error_code: str | None = None,
) -> Step:
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return Step(code=code, message=message, headers=headers, param=param, error_code=error_code)


def context_length() -> Step:
    text = "This model's maximum context length is 4096 tokens, you requested 5000 (max_tokens included)."
    return status(400, text, error_code="context_length_exceeded", param="messages")


def drop() -> Step:
    return Step(broken="drop")


def cut() -> Step:
    return Step(broken="cut")


def malformed() -> Step:
    return Step(broken="malformed")


def shapeless() -> Step:
    """Valid JSON with status 200 that is not a chat completion."""
    return Step(broken="shapeless")


def empty() -> Step:
    return Step(text="")


def slow(seconds: float, text: str = "late") -> Step:
    return Step(text=text, delay=seconds)


Reply = str | Callable[[dict[str, Any]], "str | Step"]


class FakeServer:
    """The server in a thread on 127.0.0.1, for the length of a `with` block.

    `latency` seconds pass before every answer. `requests` holds the bodies, `keys` the bearer tokens, `arrivals` the
    times, `peak` the largest number of requests that were open at once.
    """

    def __init__(self, reply: Reply = "ok", script: Sequence[Step] = (), *, latency: float = 0.0) -> None:
        self.reply, self.script, self.latency = reply, list(script), latency
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.arrivals: list[float] = []
        self.peak = self.open = 0
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                fake.handle(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Silence: the test reads `requests`."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # with the default of 5 a burst of connections waits a second for its turn

        self.http = Server(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> FakeServer:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.shutdown()
        self.http.server_close()

    @property
    def calls(self) -> int:
        return len(self.requests)

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        body = json.loads(http.rfile.read(int(http.headers["content-length"])))
        with self.lock:
            self.requests.append(body)
            self.keys.append(http.headers.get("authorization", "").removeprefix("Bearer "))
            self.arrivals.append(time.monotonic())
            self.open += 1
            self.peak = max(self.peak, self.open)
            step = self.script.pop(0) if self.script else None
        try:
            if step is None:
                answer = self.reply(body) if callable(self.reply) else self.reply
                step = ok(answer) if isinstance(answer, str) else answer
            time.sleep(self.latency + step.delay)
        finally:
            # before the answer is sent: the client may start its next request as soon as it has this one
            with self.lock:
                self.open -= 1
        try:
            self.answer(http, step, body)
        except OSError:
            return  # the client has gone: that is what some tests do

    def answer(self, http: BaseHTTPRequestHandler, step: Step, body: dict[str, Any]) -> None:
        if step.broken == "drop":
            # a reset instead of an orderly end
            http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            http.close_connection = True
            http.connection.close()
            return
        if step.code != 200:
            data: Any = {"error": {"message": step.message, "param": step.param, "code": step.error_code, "type": "x"}}
        else:
            data = {"status": "fine"} if step.broken == "shapeless" else completion(step, body)
        payload = json.dumps(data).encode("utf-8")
        if step.broken == "malformed":
            payload = payload[: len(payload) // 2]
        http.send_response(step.code)
        http.send_header("content-type", "application/json")
        for name, value in step.headers.items():
            http.send_header(name, value)
        http.send_header("content-length", str(len(payload)))
        http.end_headers()
        http.wfile.write(payload[: len(payload) // 2] if step.broken == "cut" else payload)


def completion(step: Step, body: dict[str, Any]) -> dict[str, Any]:
    """A chat completion; log-probabilities only where they were asked for and the step has them."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": step.text},
        "finish_reason": step.finish_reason,
        "logprobs": None,
    }
    if step.tool_arguments is not None:
        function = {"name": "f", "arguments": step.tool_arguments}
        choice["message"]["tool_calls"] = [{"id": "c", "type": "function", "function": function}]
    if step.logprobs and body.get("logprobs"):
        tokens = [step.logprobs, *([step.last_logprobs] if step.last_logprobs else [])]
        shown = [[{"token": t, "logprob": v, "bytes": None} for t, v in token.items()] for token in tokens]
        most = body.get("top_logprobs", 0)
        choice["logprobs"] = {"content": [{**token[0], "top_logprobs": token[:most]} for token in shown]}
    out = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": f"{body['model']}-served",
        "choices": [choice],
    }
    if step.usage is not None:
        prompt, reply = step.usage
        out["usage"] = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
    return out
