"""A local endpoint that has OpenAI's files and batches, on a script, and counts what it was asked.

    with FakeBatches(lambda body: ok("[[A]]")) as server:
        server.started  # the input files that became batches, in order; server.live counts ordinary calls

A request whose answer is a Step with another code than 200 goes into the error file; `expire` leaves that many of the
last requests of each batch unanswered, as an expired batch does. Outputs come in another order than the inputs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fake_server import Step, completion

Row = dict[str, Any]


def output_line(row: Row, step: Step) -> Row:
    """One line of a batch's output or error file."""
    if step.code != 200:
        told = {"error": {"message": step.message, "code": step.error_code, "param": step.param, "type": "x"}}
        response = {"status_code": step.code, "request_id": "r", "body": told}
    else:
        response = {"status_code": 200, "request_id": "r", "body": completion(step, row["body"])}
    return {"id": "x", "custom_id": row["custom_id"], "response": response, "error": None}


def expired_line(row: Row) -> Row:
    error = {"code": "batch_expired", "message": "This request could not be executed before the completion window."}
    return {"id": "x", "custom_id": row["custom_id"], "response": None, "error": error}


def lines(text: str) -> list[Row]:
    return [json.loads(line) for line in text.split("\n") if line]


class FakeBatches:
    def __init__(self, reply: Callable[[Row], Step], *, looks: int = 1, expire: int = 0) -> None:
        self.reply, self.looks, self.expire = reply, looks, expire
        self.files: dict[str, str] = {}
        self.batches: dict[str, Row] = {}
        self.started: list[list[Row]] = []
        self.live = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                fake.send(self, fake.post(self.path, data, self.headers["content-type"]))

            def do_GET(self) -> None:
                fake.send(self, fake.get(self.path))

            def log_message(self, format: str, *args: Any) -> None:
                """Silence."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> FakeBatches:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def post(self, path: str, data: bytes, kind: str) -> Any:
        if path == "/v1/files":
            boundary = kind.split("boundary=")[1].encode()
            part = next(p for p in data.split(b"--" + boundary) if b'name="file"' in p)
            name = f"file-{len(self.files)}"
            self.files[name] = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n").decode("utf-8")
            return {"id": name, "object": "file", "purpose": "batch"}
        if path == "/v1/batches":
            asked = json.loads(data)
            assert asked["endpoint"] == "/v1/chat/completions"
            assert asked["completion_window"] == "24h"
            name = f"batch-{len(self.batches)}"
            self.batches[name] = {**asked, "id": name, "object": "batch", "status": "validating", "looks": 0}
            self.started.append(lines(self.files[asked["input_file_id"]]))
            return self.batches[name]
        self.live += 1
        return completion(self.reply(json.loads(data)), json.loads(data))

    def get(self, path: str) -> Any:
        where = path.split("?")[0].removeprefix("/v1/").split("/")
        if where[0] == "files":
            return self.files[where[1]]
        if len(where) == 1:
            return {"object": "list", "data": list(reversed(self.batches.values())), "has_more": False}
        batch = self.batches[where[1]]
        batch["looks"] += 1
        if batch["status"] not in ("completed", "expired"):
            batch["status"] = "in_progress"
            if batch["looks"] > self.looks:
                self.finish(batch)
        return batch

    def finish(self, batch: Row) -> None:
        rows = lines(self.files[batch["input_file_id"]])
        answered = rows[: len(rows) - self.expire]
        found = [output_line(row, self.reply(row["body"])) for row in answered]
        found += [expired_line(row) for row in rows[len(answered) :]]
        good = [r for r in reversed(found) if r["response"] and r["response"]["status_code"] == 200]
        bad = [r for r in found if r not in good]
        for kind, part in (("output_file_id", good), ("error_file_id", bad)):
            if part:
                batch[kind] = f"{kind}-{batch['id']}"
                self.files[batch[kind]] = "".join(json.dumps(r) + "\n" for r in part)
        batch["status"] = "expired" if self.expire else "completed"

    def send(self, http: BaseHTTPRequestHandler, answer: Any) -> None:
        payload = (answer if isinstance(answer, str) else json.dumps(answer)).encode("utf-8")
        http.send_response(200)
        http.send_header("content-type", "application/json")
        http.send_header("content-length", str(len(payload)))
        http.end_headers()
        http.wfile.write(payload)
