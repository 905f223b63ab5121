"""A judge server that misbehaves by task number, as a process of its own: python server.py PAID_LOG

It prints its port. Every whole answer is a paid one: its request's hash goes to the log, a line each, before it is
sent. Passing faults hit the first time a request is seen; lasting ones always.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PASSING = {1: "429", 2: "429 with Retry-After", 3: "500", 4: "reset", 5: "truncated", 6: "no choices"}
LASTING = {7: "wrong grammar", 8: "refusal", 9: "length", 10: "empty"}
CYCLE = 20  # tasks 11 to 19 and 0 of each twenty meet no fault
LATENCY = 0.02

seen: set[str] = set()
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        key = hashlib.sha256(body).hexdigest()
        number = int(re.findall(r"task (\d+)", body.decode())[0])
        time.sleep(LATENCY)
        with lock:
            first = key not in seen
            seen.add(key)
        if first and number % CYCLE in PASSING:
            self.fail(PASSING[number % CYCLE])
            return
        with lock, open(sys.argv[1], "a", encoding="utf-8") as log:
            log.write(f"{number} {key}\n")
        self.send(200, json.dumps(completion(LASTING.get(number % CYCLE, ""))).encode())

    def fail(self, kind: str) -> None:
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif kind == "truncated":
            self.send(200, json.dumps(completion("")).encode()[:40])
        elif kind == "no choices":
            self.send(200, json.dumps({**completion(""), "choices": []}).encode())
        else:
            wait = {"retry-after": "0.05"} if "Retry" in kind else {}
            self.send(int(kind[:3]), b'{"error": {"message": "scripted failure"}}', wait)

    def send(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(code)
            for name, value in {"content-type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client was killed

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: the test reads the log of paid answers."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was reset on purpose is no news."""


def completion(kind: str) -> dict[str, Any]:
    text = {"wrong grammar": "neither of them", "refusal": "", "length": "First I", "empty": ""}.get(kind, "[[A]]")
    message = {"role": "assistant", "content": text, "refusal": "I will not judge." if kind == "refusal" else None}
    finish = "length" if kind == "length" else "stop"
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "judge",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


if __name__ == "__main__":
    http = Server(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{http.server_address[1]}\n")
    sys.stdout.flush()
    http.serve_forever()
