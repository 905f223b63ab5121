"""`prefeval serve`: any oracle over HTTP, on the loopback interface unless told otherwise.

    GET  /health      {"status": "ok", "oracle": NAME}
    POST /score       a row of `prefeval score`, or {"rows": [...]}: P, scores and failures of each
    POST /get_reward  {"query": [text, ...], "prompts": [text, ...]}: one reward a query, as RLHF trainers ask for it

One thread asks the oracle; requests that arrive meanwhile are answered in one batch. A full queue is a 503, a bad body
a 4xx with one line that names the field.
"""

from __future__ import annotations

import argparse
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from prefeval.errors import DataError, UserError
from prefeval.files import dumps
from prefeval.log import logger
from prefeval.oracle import Oracle
from reward_models.cli import ScoreRow, score_row, scored

Job = tuple[list[ScoreRow], "Future[list[dict[str, Any]]]"]


_ENDPOINTS = "there are GET /health, POST /score and POST /get_reward"


@dataclass(frozen=True)
class Limits:
    """What a client may ask for: bytes and rows of a body, responses of a row, waiting requests, seconds to answer."""

    body: int = 16_000_000
    rows: int = 256
    responses: int = 256
    waiting: int = 64
    seconds: float = 120.0


class Refused(Exception):
    """A request that is answered with an error: its HTTP status and one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class OracleService:
    """The oracle behind a bounded queue, asked by one thread in batches of what has piled up."""

    def __init__(self, oracle: Oracle, limits: Limits | None = None) -> None:
        self.oracle, self.limits = oracle, limits or Limits()
        self._jobs: queue.Queue[Job | None] = queue.Queue(self.limits.waiting)
        self._worker = threading.Thread(target=self._work, name="oracle", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """Answer what is waiting, then stop."""
        self._jobs.put(None)
        self._worker.join()

    def score(self, body: Any) -> Any:
        """The answer to POST /score. Raises Refused."""
        many = isinstance(body, Mapping) and "rows" in body
        rows = body["rows"] if many else [body]
        if not isinstance(rows, list) or not rows:
            raise Refused(400, "rows: must be a non-empty list of rows")
        if len(rows) > self.limits.rows:
            raise Refused(413, f"rows: {len(rows)} in one request, at most {self.limits.rows}")
        answers = self._ask([self._row(row, number) for number, row in enumerate(rows, 1)])
        return {"rows": answers} if many else answers[0]

    def rewards(self, body: Any) -> dict[str, Any]:
        """The answer to POST /get_reward: mean log-odds of each query against the others of its prompt.

        `query` holds prompt and response as one text, `prompts` the prompt that it begins with. A reward compares with
        what else was asked about the prompt in this request, so at least two queries a prompt are needed. Raises
        Refused.
        """
        queries, prompts = (_texts(body, name) for name in ("query", "prompts"))
        if len(queries) != len(prompts):
            raise Refused(400, f"prompts: {len(prompts)} for {len(queries)} queries")
        groups: dict[str, list[int]] = {}
        for n, prompt in enumerate(prompts):
            groups.setdefault(prompt, []).append(n)
        alone = next((members[0] for members in groups.values() if len(members) < 2), None)
        if alone is not None:
            raise Refused(400, f"query: number {alone} is the only one of its prompt, and a preference needs two")
        rows = [
            self._row({"id": str(n), "prompt": p, "responses": [queries[i].removeprefix(p) for i in members]}, n)
            for n, (p, members) in enumerate(groups.items())
        ]
        rewards = [float("nan")] * len(queries)
        for members, answer in zip(groups.values(), self._ask(rows), strict=True):
            scores = np.array(answer["scores"], dtype=np.float64)
            np.fill_diagonal(scores, np.nan)
            for i, value in zip(members, np.nanmean(scores, axis=1), strict=True):
                rewards[i] = float(value)
        return {"rewards": rewards, "scores": rewards, "extra_logs": {"oracle": self.oracle.name}}

    def _row(self, row: Any, number: int) -> ScoreRow:
        try:
            found = score_row(row, "request", number)
        except DataError as error:
            raise Refused(400, str(error)) from None
        if len(found[2]) > self.limits.responses:
            raise Refused(413, f"row {number}: {len(found[2])} responses, at most {self.limits.responses}")
        return found

    def _ask(self, rows: list[ScoreRow]) -> list[dict[str, Any]]:
        answer: Future[list[dict[str, Any]]] = Future()
        try:
            self._jobs.put_nowait((rows, answer))
        except queue.Full:
            raise Refused(503, f"{self.limits.waiting} requests are waiting already; try again later") from None
        try:
            return answer.result(timeout=self.limits.seconds)
        except TimeoutError:
            raise Refused(504, f"no answer within {self.limits.seconds:g} seconds") from None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            while sum(len(rows) for rows, _ in jobs) < self.limits.rows and not self._jobs.empty():
                more = self._jobs.get()
                if more is None:
                    self._jobs.put(None)
                    break
                jobs.append(more)
            self._answer(jobs)

    def _answer(self, jobs: Sequence[Job]) -> None:
        try:
            answers = scored(self.oracle, [row for rows, _ in jobs for row in rows])
        except Exception as error:  # one bad request must not fail its neighbours
            if len(jobs) > 1:
                for job in jobs:
                    self._answer([job])
            else:
                jobs[0][1].set_exception(error)
            return
        first = 0
        for rows, future in jobs:
            future.set_result(answers[first : first + len(rows)])
            first += len(rows)


class OracleServer(ThreadingHTTPServer):
    """HTTP around a service, not yet running."""

    def __init__(self, address: tuple[str, int], service: OracleService) -> None:
        self.service = service
        self.posts: dict[str, Callable[[Any], Any]] = {"/score": service.score, "/get_reward": service.rewards}
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: OracleServer
    server_version = "prefeval"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.service.limits.seconds)

    def do_GET(self) -> None:
        if self.path == "/health":
            self._reply(200, {"status": "ok", "oracle": self.server.service.oracle.name})
        else:
            self._reply(404, {"error": _ENDPOINTS})

    def do_POST(self) -> None:
        try:
            if self.path not in self.server.posts:
                raise Refused(404, _ENDPOINTS)
            self._reply(200, self.server.posts[self.path](self._body()))
        except Refused as refusal:
            self._reply(refusal.status, {"error": str(refusal)})
        except UserError as error:
            self._reply(400, {"error": str(error)})
        except Exception as error:
            logger.error("%s: %s: %s", self.path, type(error).__name__, error)
            self._reply(500, {"error": f"the oracle failed ({type(error).__name__}); the server's log says more"})

    def _body(self) -> Any:
        length, most = self.headers.get("Content-Length", ""), self.server.service.limits.body
        if not length.isdigit():
            raise Refused(411, "a body with its Content-Length is needed")
        if int(length) > most:
            self.close_connection = True
            raise Refused(413, f"a body of {length} bytes, at most {most}")
        try:
            return json.loads(self._read(int(length)))
        except (ValueError, RecursionError):
            raise Refused(400, "the body is not JSON") from None

    def _read(self, length: int) -> bytes:
        """The body, in the time that a client has for all of it: one that sends a byte now and then holds no thread."""
        seconds = self.server.service.limits.seconds
        end, data = time.monotonic() + seconds, b""
        try:
            while len(data) < length and (part := self.rfile.read1(min(length - len(data), 1 << 16))):
                data += part
                if time.monotonic() > end:
                    raise TimeoutError
        except TimeoutError:
            self.close_connection = True
            raise Refused(408, f"the body did not come within {seconds:g} seconds") from None
        return data

    def _reply(self, status: int, document: Any) -> None:
        data = dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass  # requests are data: they do not belong into a log


def make_server(service: OracleService, host: str, port: int) -> OracleServer:
    """An HTTP server, not yet running, on `host` and `port` (0: any free one)."""
    try:
        return OracleServer((host, port), service)
    except OSError as error:  # taken, not allowed, no such host
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def serve(argv: Sequence[str]) -> int:
    """``prefeval serve --oracle SPEC --port N``: runs until Ctrl-C."""
    from reward_models.oracles import open_oracle

    parser = argparse.ArgumentParser(prog="prefeval serve", description="Any oracle over HTTP: /score and /get_reward.")
    parser.add_argument("--oracle", required=True, help="model:PATH, hf:ID, judge:MODEL@URL, rules:NAME, ...")
    parser.add_argument("--port", type=_port, default=8080, help="default: %(default)s")
    parser.add_argument(
        "--host", default="127.0.0.1", help="default: %(default)s, this machine alone; no authentication"
    )
    parser.add_argument("--device", default=None, help="where models run; the accelerator if there is one")
    options = parser.parse_args(argv)
    service = OracleService(open_oracle(options.oracle, device=options.device, fast=True))
    with make_server(service, options.host, options.port) as server:
        logger.info("%s on http://%s:%d", service.oracle.name, options.host, server.server_address[1])
        try:
            server.serve_forever()
        finally:
            service.close()
    return 0


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError("must lie in 0..65535")
    return value


_port.__name__ = "int"  # what argparse calls a value that is none


def _texts(body: Any, name: str) -> list[str]:
    values = body.get(name) if isinstance(body, Mapping) else None
    if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
        raise Refused(400, f"{name}: must be a non-empty list of texts")
    return values


__all__ = ["Limits", "OracleService", "Refused", "make_server", "serve"]
