"""OpenAI's batch files: requests written instead of sent, and replies read back into the store, at half the price.

The format is one JSON object a line, joined by `custom_id`, which is the request's key in the store: a reply that was
read is found by every later run, and a request whose reply is there is never written again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from prefeval.api import ChatClient, ChatReply, ChatRequest
from prefeval.api_faults import Failure, error_detail, status_failure
from prefeval.api_limits import scrub
from prefeval.api_types import MalformedReply, Usage, endpoint_family, read_completion
from prefeval.errors import DataError
from prefeval.files import dumps, iterate_jsonl, write_text
from prefeval.store import Store

BATCHED = "left for the batch"
PRICE = 0.5  # of the price of a call
URL: Final = "/v1/chat/completions"
_MOST_REQUESTS, _MOST_BYTES = 50_000, 190_000_000  # a file; the limits are 50,000 and 200 MB
_CHUNK = 500  # replies a transaction

Requests = Mapping[str, tuple[ChatClient, ChatRequest]]  # by key


class Collector:
    """Takes the requests of the clients it is set on; each gets a reply with an error, counted as `BATCHED`."""

    def __init__(self, clients: Sequence[ChatClient]) -> None:
        self.requests: dict[str, tuple[ChatClient, ChatRequest]] = {}
        self._clients = clients

    def __enter__(self) -> Collector:
        for client in self._clients:
            client.collect = self._take
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.collect = None

    def _take(self, client: ChatClient, key: str, request: ChatRequest) -> ChatReply:
        self.requests[key] = (client, request)
        return ChatReply(error="not sent: left for the batch", reason=BATCHED)


@dataclass
class Reading:
    """What an output held: replies `read`, those that were there `already`, failures by reason (and the first message
    of each), ids nobody asked. `learned`: a refusal told how to ask better."""

    read: int = 0
    already: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    learned: bool = False

    def text(self, waiting: int) -> str:
        """One line for a person; `waiting` are the requests without a reply."""
        parts = [f"{self.read} replies read"]
        parts += [f"{self.already} were there already"] if self.already else []
        if self.failed:
            told = "; ".join(f"{n} {why}: {self.messages[why][:120]}" for why, n in self.failed.most_common())
            parts.append(f"{self.failed.total()} failed ({told})")
        if self.unknown:
            shown = ", ".join(self.unknown[:3]) + (", ..." if len(self.unknown) > 3 else "")
            parts.append(f"{len(self.unknown)} answer nothing that was asked ({shown})")
        return f"{'; '.join(parts)}; {waiting} requests are without a reply"


def write_requests(folder: str | Path, requests: Requests) -> dict[Path, ChatClient]:
    """Write the requests as batch input files, one model each and within the limits of a file; file -> its client.

    A file is named by its model and a hash of what is in it: the same requests make the same file.
    """
    by_client: dict[tuple[str, str], list[tuple[str, ChatClient, ChatRequest]]] = {}
    for key, (client, request) in requests.items():
        place = client.model, endpoint_family(client.base_url)
        by_client.setdefault(place, []).append((key, client, request))
    written = {}
    for (model, _), rows in by_client.items():
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in model)
        for lines in _parts([_line(key, client, request) for key, client, request in sorted(rows, key=lambda r: r[0])]):
            text = "".join(lines)
            digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
            written[write_text(Path(folder) / f"requests-{name}-{digest}.jsonl", text)] = rows[0][1]
    return written


def most_cost(requests: Requests) -> float:
    """Dollars that the requests cost at most in a batch, every reply at its limit; 0 without a price."""
    tokens = ((client, Usage(r.prompt_tokens(), r.max_tokens)) for client, r in requests.values())
    return PRICE * sum(client.price_of(usage) for client, usage in tokens)


def read_outputs(files: Sequence[str | Path], requests: Requests, store: Store) -> Reading:
    """Put the replies of batch output (and error) files into the store. A cut last line is left out.

    Raises DataError for a line that is not of a batch output.
    """
    reading, found = Reading(), dict[str, Any]()
    for file in files:
        for number, row in iterate_jsonl(file, tolerate_cut_tail=True):
            key = row.get("custom_id") if isinstance(row, dict) else None
            if not isinstance(key, str):
                raise DataError("must be a text: not a batch output", file=file, row=number, field="custom_id")
            if key in found or store.has("reply", key):
                reading.already += 1
            elif key not in requests:
                reading.unknown.append(key)
            else:
                _take(reading, found, key, row, *requests[key])
            if len(found) >= _CHUNK:
                store.put_many("reply", found)
                found.clear()
    store.put_many("reply", found)
    return reading


def _line(key: str, client: ChatClient, request: ChatRequest) -> str:
    body = client.body(request)
    body.update(body.pop("extra_body", {}))
    return dumps({"custom_id": key, "method": "POST", "url": URL, "body": body}) + "\n"


def _parts(lines: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for line in lines:
        weight = len(line.encode("utf-8"))
        if part and (len(part) == _MOST_REQUESTS or size + weight > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += weight
    if part:
        yield part


def _take(
    reading: Reading,
    found: dict[str, Any],
    key: str,
    row: Mapping[str, Any],
    client: ChatClient,
    request: ChatRequest,
) -> None:
    """Count one line, and keep its reply in `found` if it has one."""
    reply = _reply(row, client, request)
    if reply.error is None:
        found[key] = reply.as_json()
        reading.read += 1
        return
    reason = reply.reason or "failed call"
    reading.failed[reason] += 1
    reading.messages.setdefault(reason, reply.error)
    refusal = Failure(reply.error, reason, False, reply.status)
    reading.learned = client.learn(refusal, request) or reading.learned


def _reply(row: Mapping[str, Any], client: ChatClient, request: ChatRequest) -> ChatReply:
    """The reply of one line, or the reason why there is none."""
    response = row.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    body = response.get("body") if isinstance(response, dict) else None
    if status == 200:
        try:
            raw = json.loads(json.dumps(body), object_hook=lambda d: SimpleNamespace(**d))
            reply = read_completion(raw, request, 0.0)
        except MalformedReply as error:
            return ChatReply(error=str(error), reason="malformed reply")
        return replace(reply, cost=PRICE * client.price_of(reply.usage))
    if isinstance(status, int):
        detail = body.get("error", body) if isinstance(body, dict) else body
        failure = status_failure(status, scrub(error_detail(detail, "no message"), client.secret))
        return ChatReply(error=failure.message, status=status, reason=failure.reason)
    problem = row.get("error")
    told = problem if isinstance(problem, dict) else {}
    code = str(told.get("code") or "failed call")
    return ChatReply(error=scrub(str(told.get("message") or code), client.secret), reason=code.replace("_", " "))
