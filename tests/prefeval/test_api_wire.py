"""What only a raw socket can do to the API client: replies that trickle, and replies that are sent twice."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace

from prefeval.api import ChatClient, ChatRequest
from prefeval.api_types import read_completion
from prefeval.types import Message


def response(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
    return f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


async def read_question(reader: asyncio.StreamReader) -> str:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    size = int(head.split("content-length:")[1].split("\r\n")[0])
    return str(json.loads(await reader.readexactly(size))["messages"][0]["content"])


async def ask_all(questions: list[str], drip: float) -> list[tuple[str, str | None]]:
    """The replies of a server that sends each one twice, or, with `drip`, a byte every so many seconds."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                answer = response(f"to {await read_question(reader)}")
                for part in [bytes([b]) for b in answer] if drip else [answer * 2]:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(drip)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    client = ChatClient("m", url, "k", max_retries=0, timeout=0.5 if drip else 20.0)
    replies = [await client.complete((Message("user", q),)) for q in questions]
    server.close()
    return [(r.text, r.error) for r in replies]


def test_a_reply_that_trickles_ends_at_the_time_limit() -> None:
    started = time.monotonic()
    assert asyncio.run(ask_all(["a"], 0.1)) == [("", "no reply within 0.5 s")]
    assert time.monotonic() - started < 15.0


def test_a_reply_that_is_sent_twice_never_answers_another_question() -> None:
    assert asyncio.run(ask_all(["a", "b", "c"], 0.0)) == [("to a", None), ("to b", None), ("to c", None)]


def test_a_refusal_is_kept_apart_from_a_reply() -> None:
    message = SimpleNamespace(content=None, refusal="I cannot rule on this.")
    raw = SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")])
    found = read_completion(raw, ChatRequest((Message("user", "q"),)), 0.1)
    assert (found.text, found.refusal, found.error) == ("", "I cannot rule on this.", None)
    message.content, message.refusal, raw.choices[0].finish_reason = "half a", None, "content_filter"
    assert read_completion(raw, ChatRequest((Message("user", "q"),)), 0.1).refusal == "content filter"
