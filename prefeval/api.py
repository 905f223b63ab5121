"""The client of OpenAI-compatible chat endpoints, and the door to everything asynchronous (`run_async`, `map_async`).

A call that fails does not raise: its reply carries `error`, and the caller decides. Keys are read from the environment
at call time and reach no message, log or file. Attempts, waits and spending are ours; the openai library only sends.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from prefeval.api_faults import INTERRUPTED, REFUSED_KEY, SPENDING_CAP, Door, Failure, Fields, explain
from prefeval.api_limits import Budget, Pace, backoff, scrub
from prefeval.api_loop import is_stopping, map_async, pause, run_async
from prefeval.api_types import (
    ChatReply,
    ChatRequest,
    CostEstimate,
    Limits,
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


class ChatClient:
    """An OpenAI-compatible chat endpoint with bounded concurrency, pacing, retries and a spending cap.

    `price_per_million` = dollars (prompt, completion); `max_cost` dollars are never passed, as far as token estimates
    go, `spent` of which are gone already; clients that share a cap are given one `budget`. `extra_body` (a server's
    own options) is sent with every request and part of the store's key; `reply_tokens` caps what requests ask for.
    `timeout` bounds a whole call, so that a reply that trickles does not hold it up for ever. Raises ConfigError for
    unusable settings; at call time, for a missing key of a remote endpoint.
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
        spent: float = 0.0,
        price_per_million: Price | None = None,
        extra_body: Mapping[str, Any] | None = None,
        backoff_seconds: float = 0.5,
        budget: Budget | None = None,
        reply_tokens: int | None = None,
    ) -> None:
        if concurrency < 1 or max_retries < 0 or timeout <= 0:
            raise ConfigError(f"judge or server '{model}': concurrency, retries and timeout must be positive")
        if max_cost is not None and price_per_million is None:
            raise ConfigError(
                f"'{model}': a spending cap needs a price (dollars per million tokens: prompt, completion)"
            )
        self.model, self.concurrency, self.max_retries, self.timeout = model, concurrency, max_retries, timeout
        self.price, self.reply_tokens = price_per_million, reply_tokens
        self.extra_body = dict(extra_body or {})
        self._base_url = check_base_url(base_url) if base_url else None
        self._api_key, self._backoff = api_key, backoff_seconds
        self._requests, self._tokens = Pace(requests_per_minute), Pace(tokens_per_minute)
        self._budget = budget or Budget(max_cost, spent)
        self._fields, self._door = Fields(), Door()
        self.collect: Callable[[ChatClient, str, ChatRequest], ChatReply] | None = None  # takes requests, sends none
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
        """Dollars spent so far: through this client, and what it was told of at the start."""
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

        Whatever a server answered is kept, also an empty reply or a refusal: it has been paid for. Errors are not
        stored: the next run asks again. The same question asked twice at a time is one call.
        """
        if self.reply_tokens is not None and request.max_tokens > self.reply_tokens:
            request = replace(request, max_tokens=self.reply_tokens)
        key = self.key(request)
        saved = store.get("reply", key) if store is not None else None
        if saved is not None:
            return ChatReply.from_json(saved)
        if self.collect is not None:
            return self.collect(self, key, request)
        if store is None:
            return await self._call(request)
        flights = self._on_this_loop().flights
        if key not in flights:
            flights[key] = asyncio.ensure_future(self._call_and_keep(request, store, key))
            flights[key].add_done_callback(lambda _: flights.pop(key, None))
        return await asyncio.shield(flights[key])

    async def _call_and_keep(self, request: ChatRequest, store: Store, key: str) -> ChatReply:
        reply = await self._call(request)
        if reply.error is None:
            store.put("reply", key, reply.as_json())
        return reply

    async def _call(self, request: ChatRequest) -> ChatReply:
        here = self._on_this_loop()
        async with here.gate:
            most = self.price_of(Usage(request.prompt_tokens(), request.max_tokens))
            held = await self._budget.hold(most)
            if held is None:
                why = f"not sent: the spending cap of ${self._budget.cap:g} is reached"
                return ChatReply(error=why, reason=SPENDING_CAP)
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
            while (shut := self._door.wait()) and not is_stopping():
                await pause(shut)
            if is_stopping():
                return ChatReply(error="not sent: interrupted", reason=INTERRUPTED)
            if self._door.closed:
                return ChatReply(error=self._door.closed, reason=REFUSED_KEY)
            endpoint, sent, started = self.endpoint(), self.body(request), time.monotonic()
            try:
                async with asyncio.timeout(self.timeout):
                    raw = await here.client(endpoint, self.timeout).chat.completions.create(**sent)
                reply = read_completion(raw, request, time.monotonic() - started)
            except Exception as error:
                failure = explain(error, secret=self.secret, where=self.base_url or "the API", timeout=self.timeout)
                if self._fields.adapt(failure, sent, self.model):
                    continue
                self._door.note(failure)
                if not failure.retry or attempt >= self.max_retries:
                    tries = f" after {attempt + 1} attempts" if attempt else ""
                    return ChatReply(error=f"{failure.message}{tries}", status=failure.status, reason=failure.reason)
                wait = backoff(attempt, self._backoff, random.random())
                attempt += 1
                await pause(max(wait, failure.after or 0.0))
                continue
            self._door.note(None)
            self._tokens.correct(reply.usage.prompt_tokens + reply.usage.completion_tokens - expected)
            return reply

    def learn(self, failure: Failure, request: ChatRequest) -> bool:
        """Whether a refusal of the request taught which fields the endpoint takes: then another try is worth it."""
        return self._fields.adapt(failure, self.body(request), self.model)

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The arguments of the openai library's call; options of one server or request are in `extra_body`."""
        fields = self._fields
        body = request.body(self.model, completion_tokens=fields.completion_tokens, without=fields.without)
        extra = {**self.extra_body, **request.extra}
        return {**body, "extra_body": extra} if extra else body

    @property
    def secret(self) -> str:
        """The key, read now; empty without one."""
        return (self._api_key or os.environ.get("OPENAI_API_KEY") or "").strip()

    def endpoint(self) -> tuple[str | None, str]:
        """(address, key), read now. Servers of one's own want no key, but the library wants a text in its place."""
        url = self.base_url
        key = self.secret
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


@dataclass
class _OnLoop:
    """What belongs to one event loop: the gate that bounds concurrency and the connections."""

    gate: asyncio.Semaphore
    flights: dict[str, asyncio.Future[ChatReply]] = field(default_factory=dict)
    clients: dict[tuple[str | None, str], AsyncOpenAI] = field(default_factory=dict, repr=False)

    def client(self, endpoint: tuple[str | None, str], timeout: float) -> AsyncOpenAI:
        if endpoint not in self.clients:
            from openai import AsyncOpenAI

            url, key = endpoint
            # one connection a call: on a kept one, a reply that a proxy sent twice would answer the next question
            once = {"Connection": "close"}
            settings: Any = {"max_retries": 0, "timeout": timeout, "default_headers": once}
            self.clients[endpoint] = AsyncOpenAI(api_key=key, base_url=url, **settings)
        return self.clients[endpoint]


def open_client(
    spec: str,
    limits: Limits | None = None,
    *,
    budget: Budget | None = None,
    extra_body: Mapping[str, Any] | None = None,
) -> ChatClient:
    """The client of '[judge:|server:]MODEL[@BASE_URL]'. Raises ConfigError for an unusable spec."""
    model, base_url = parse_endpoint(spec.removeprefix("judge:").removeprefix("server:"))
    given = limits or Limits()
    return ChatClient(
        model,
        base_url,
        budget=budget,
        extra_body=extra_body,
        concurrency=given.concurrency,
        requests_per_minute=given.requests_per_minute,
        tokens_per_minute=given.tokens_per_minute,
        max_cost=given.max_cost,
        price_per_million=given.price,
        reply_tokens=given.reply_tokens,
    )
