"""The client of OpenAI-compatible chat endpoints, and the door to everything asynchronous (`run_async`, `map_async`).

A call that fails does not raise: its reply carries `error`, and the caller decides. Keys are read from the environment
at call time and reach no message, log or file. Attempts, waits and spending are ours; the openai library only sends.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from prefeval.api_limits import MAX_RETRY_AFTER, RETRIED, Budget, Pace, backoff, retry_after, scrub
from prefeval.api_loop import is_stopping, map_async, pause, run_async
from prefeval.api_types import (
    ChatReply,
    ChatRequest,
    CostEstimate,
    MalformedReply,
    Price,
    Usage,
    check_base_url,
    endpoint_family,
    estimate_cost,
    parse_endpoint,
    read_completion,
)
from prefeval.errors import ConfigError
from prefeval.files import sha256_json
from prefeval.log import logger
from prefeval.types import Message

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from prefeval.store import Store

__all__ = [
    "ChatClient",
    "ChatReply",
    "ChatRequest",
    "CostEstimate",
    "Usage",
    "estimate_cost",
    "map_async",
    "open_client",
    "parse_endpoint",
    "run_async",
]

# a 400 that refuses a value, not the field: sending it again under another name would not help
_VALUE_REFUSED = ("context length", "context_length", "context window", "too large", "too long", "at most", "between")
_DROPPED = ("temperature", "top_p")  # what reasoning models refuse; their own default stands then


class ChatClient:
    """An OpenAI-compatible chat endpoint with bounded concurrency, pacing, retries and a spending cap.

    `price_per_million` = dollars (prompt, completion); `max_cost` dollars are never passed, as far as token estimates
    go. `extra_body` (guided decoding, a server's own options) is sent with every request and part of the store's key.
    Raises ConfigError for unusable settings; at call time, for a missing key of a remote endpoint.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_retries: int = 6,
        timeout: float = 120.0,
        max_cost: float | None = None,
        price_per_million: Price | None = None,
        extra_body: Mapping[str, Any] | None = None,
        backoff_seconds: float = 0.5,
    ) -> None:
        if concurrency < 1 or max_retries < 0 or timeout <= 0:
            raise ConfigError(f"judge or server '{model}': concurrency, retries and timeout must be positive")
        if max_cost is not None and price_per_million is None:
            raise ConfigError(
                f"'{model}': a spending cap needs a price (dollars per million tokens: prompt, completion)"
            )
        self.model, self.concurrency, self.max_retries, self.timeout = model, concurrency, max_retries, timeout
        self.price = price_per_million
        self.extra_body = dict(extra_body or {})
        self._base_url = check_base_url(base_url) if base_url else None
        self._api_key, self._backoff = api_key, backoff_seconds
        self._requests, self._tokens = Pace(requests_per_minute), Pace(tokens_per_minute)
        self._budget = Budget(max_cost)
        self._completion_tokens, self._without = False, frozenset[str]()
        # connections and gates belong to the loop they were made on
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _OnLoop] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"ChatClient({self.model!r}, {scrub(self.base_url or 'openai', None)!r})"

    @property
    def base_url(self) -> str | None:
        """The address in use; None is the library's default. Raises ConfigError for an unusable OPENAI_BASE_URL."""
        named = os.environ.get("OPENAI_BASE_URL")
        return self._base_url or (check_base_url(named) if named else None)

    @property
    def spent(self) -> float:
        """Dollars spent through this client so far."""
        return self._budget.spent

    @property
    def capped(self) -> int:
        """Calls that the spending cap refused."""
        return self._budget.refused

    def key(self, request: ChatRequest) -> str:
        """The request's identity: model, whose endpoint, messages, sampling; the parser of its reply is not in it."""
        endpoint = endpoint_family(self.base_url)
        return sha256_json([1, self.model, endpoint, request.identity(), self.extra_body])

    def price_of(self, usage: Usage) -> float:
        """Dollars; 0 without a price."""
        prompt, completion = self.price or (0.0, 0.0)
        return (usage.prompt_tokens * prompt + usage.completion_tokens * completion) / 1e6

    async def complete(
        self,
        messages: Sequence[Message],
        max_tokens: int = 1024,
        temperature: float | None = 0.0,
        top_logprobs: int = 0,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
        top_p: float | None = None,
    ) -> ChatReply:
        """One chat completion; a failure is in the reply's `error`."""
        ends = tuple(stop) if stop else None
        return await self.ask(ChatRequest(tuple(messages), max_tokens, temperature, top_p, top_logprobs, seed, ends))

    async def ask(self, request: ChatRequest, store: Store | None = None) -> ChatReply:
        """The stored reply to this request, else a new one, which is stored at once.

        Errors and empty replies are not stored: the next run asks again.
        """
        key = self.key(request) if store is not None else ""
        saved = store.get("reply", key) if store is not None else None
        if saved is not None:
            return ChatReply.from_json(saved)
        reply = await self._call(request)
        if store is not None and reply.error is None and (reply.text or reply.logprobs):
            store.put("reply", key, reply.as_json())
        return reply

    async def _call(self, request: ChatRequest) -> ChatReply:
        here = self._on_this_loop()
        async with here.gate:
            most = self.price_of(Usage(request.prompt_tokens(), request.max_tokens))
            held = await self._budget.hold(most)
            if held is None:
                return ChatReply(error=f"not sent: the spending cap of ${self._budget.cap:g} is reached")
            cost = 0.0
            try:
                reply = await self._attempts(here, request)
                cost = self.price_of(reply.usage)
            finally:
                self._budget.settle(held, cost)
        return replace(reply, cost=cost)

    async def _attempts(self, here: _OnLoop, request: ChatRequest) -> ChatReply:
        attempt = 0
        while True:
            expected = request.prompt_tokens() + request.max_tokens
            await pause(max(self._requests.reserve(1), self._tokens.reserve(expected)))
            if is_stopping():
                return ChatReply(error="not sent: interrupted")
            endpoint, sent, started = self._endpoint(), self._body(request), time.monotonic()
            try:
                raw = await here.client(endpoint, self.timeout).chat.completions.create(**sent)
                reply = read_completion(raw, request, time.monotonic() - started)
            except Exception as error:
                failure = self._explain(error)
                if self._adapt(failure, sent):
                    continue
                if not failure.retry or attempt >= self.max_retries:
                    tries = f" after {attempt + 1} attempts" if attempt else ""
                    return ChatReply(error=f"{failure.message}{tries}", status=failure.status)
                wait = backoff(attempt, self._backoff, random.random())
                attempt += 1
                await pause(max(wait, failure.after or 0.0))
                continue
            self._tokens.correct(reply.usage.prompt_tokens + reply.usage.completion_tokens - expected)
            return reply

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        body = request.body(self.model, completion_tokens=self._completion_tokens, without=self._without)
        return {**body, "extra_body": self.extra_body} if self.extra_body else body

    def _endpoint(self) -> tuple[str | None, str]:
        """(address, key), read now. Servers of one's own want no key, but the library wants a text in its place."""
        url = self.base_url
        key = (self._api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        if not key.isascii() or not key.isprintable():
            raise ConfigError(f"'{self.model}': the API key holds characters that no key has")
        if not key and endpoint_family(url) == "openai":
            raise ConfigError(f"'{self.model}': set OPENAI_API_KEY, or name a server with MODEL@http://HOST:PORT/v1")
        return url, key or "none"

    def _on_this_loop(self) -> _OnLoop:
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._loops[loop] = _OnLoop(asyncio.Semaphore(self.concurrency))
        return self._loops[loop]

    def _adapt(self, failure: _Failure, sent: Mapping[str, Any]) -> bool:
        """Learn from a 400 that refuses a field of what was sent: rename the token limit, or leave the field out.

        True: try again without it. This and all later calls go without, so it is learned once.
        """
        text = failure.message.lower()
        if failure.status != 400 or any(sign in text for sign in _VALUE_REFUSED):
            return False
        if "max_tokens" in sent and "max_tokens" in text:
            self._completion_tokens = True
            return True
        for name in _DROPPED:
            if name in sent and name in text:
                if name not in self._without:
                    logger.warning("%s does not take '%s': its own default is used", self.model, name)
                self._without |= {name}
                return True
        return False

    def _explain(self, error: Exception) -> _Failure:
        """What went wrong, without secrets, and whether to try again. Raises what is not the endpoint's doing."""
        import openai

        secret = (self._api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        if isinstance(error, openai.APIStatusError):
            status, wait = error.status_code, retry_after(error.response.headers, time.time())
            retry = status in RETRIED or status >= 500
            if error.code == "insufficient_quota" or (wait or 0.0) > MAX_RETRY_AFTER:
                retry = False
            return _Failure(scrub(f"HTTP {status}: {_detail(error.body, error.message)}", secret), retry, status, wait)
        if isinstance(error, openai.APITimeoutError):
            return _Failure(f"no reply within {self.timeout:g} s", True)
        if isinstance(error, openai.APIConnectionError):
            where = self.base_url or "the API"
            return _Failure(scrub(f"no connection to {where}: {error.__cause__ or error}", secret), True)
        if isinstance(error, (openai.APIError, MalformedReply, json.JSONDecodeError, UnicodeDecodeError)):
            return _Failure(scrub(f"malformed reply: {error}", secret), True)
        raise error


@dataclass(frozen=True)
class _Failure:
    message: str
    retry: bool
    status: int | None = None
    after: float | None = None  # seconds the server asks to wait


@dataclass
class _OnLoop:
    """What belongs to one event loop: the gate that bounds concurrency and the connections."""

    gate: asyncio.Semaphore
    clients: dict[tuple[str | None, str], AsyncOpenAI] = field(default_factory=dict, repr=False)

    def client(self, endpoint: tuple[str | None, str], timeout: float) -> AsyncOpenAI:
        if endpoint not in self.clients:
            from openai import AsyncOpenAI

            url, key = endpoint
            self.clients[endpoint] = AsyncOpenAI(api_key=key, base_url=url, max_retries=0, timeout=timeout)
        return self.clients[endpoint]


def open_client(spec: str) -> ChatClient:
    """The client of '[judge:|server:]MODEL[@BASE_URL]'. Raises ConfigError for an unusable spec."""
    model, base_url = parse_endpoint(spec.removeprefix("judge:").removeprefix("server:"))
    return ChatClient(model, base_url)


def _detail(body: object, otherwise: str) -> str:
    """The error text of a server: OpenAI's, or the shapes that other servers use."""
    if isinstance(body, Mapping):
        text = body.get("message") or body.get("detail") or body
        param = f" (param: {body['param']})" if body.get("param") else ""
        return f"{text}{param}"[:1000]
    return str(body or otherwise)[:1000]
