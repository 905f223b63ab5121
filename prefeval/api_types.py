"""What goes to a chat endpoint and what comes back, as plain data that can be hashed and stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from prefeval.api_limits import estimate_tokens, scrub
from prefeval.errors import ConfigError
from prefeval.types import Message

if TYPE_CHECKING:
    from prefeval.judges.base import JudgeTask

_LATER = ("attempt", "extra")
Price = tuple[float, float]  # dollars a million tokens: prompt, completion


@dataclass(frozen=True)
class Limits:
    """What calls to an endpoint must keep to. `max_cost` is in dollars and needs a `price`; None is no limit.

    `reply_tokens` is the most that one reply may have, whatever the request asks for.
    """

    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_cost: float | None = None
    price: Price | None = None
    reply_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute", "max_cost", "reply_tokens"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name.replace('_', '-')} must be positive, not {value}")


@dataclass(frozen=True)
class Usage:
    """Tokens of one call, as the server counted them (estimated where it does not say)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class ChatRequest:
    """One chat completion. `top_logprobs` > 0 asks for that many candidates of each token; None leaves a field out.

    `attempt` tells a question that is asked once more from the first one; `extra` are further fields of the body.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 1024
    temperature: float | None = 0.0
    top_p: float | None = None
    top_logprobs: int = 0
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    attempt: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def identity(self) -> dict[str, Any]:
        """The request as canonical data: part of the store's key. Later fields count where they are used."""
        data = asdict(self)
        return {name: value for name, value in data.items() if value or name not in _LATER}

    def body(self, model: str, *, completion_tokens: bool, without: frozenset[str]) -> dict[str, Any]:
        """The request's JSON fields. `completion_tokens`: reasoning models call the token limit by that name."""
        limit = "max_completion_tokens" if completion_tokens else "max_tokens"
        fields: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": list(self.stop) if self.stop else None,
            "logprobs": True if self.top_logprobs else None,
            "top_logprobs": self.top_logprobs or None,
        }
        chosen = {name: value for name, value in fields.items() if value is not None and name not in without}
        return {"model": model, "messages": [m.as_dict() for m in self.messages], limit: self.max_tokens, **chosen}

    def prompt_tokens(self) -> int:
        """Estimated tokens of the prompt, with what a chat template adds to each message."""
        return 3 + sum(4 + estimate_tokens(m.content) for m in self.messages)


@dataclass(frozen=True)
class ChatReply:
    """A reply, or the reason why there is none in `error`.

    `logprobs`: candidates of the first token -> log-probability in nats, None where the endpoint gives none;
    `last_logprobs` those of the last of `positions` tokens, where there are several. `text` is what a tool was called
    with, if one was. `cost` is in dollars, 0 without a price; `latency` in seconds, of the last attempt; `status` the
    HTTP status of an error and `reason` what it is counted by; `refusal` what a model said instead of a reply, or
    'content filter'.
    """

    text: str = ""
    finish_reason: str | None = None
    model: str = ""
    fingerprint: str | None = None
    usage: Usage = field(default_factory=Usage)
    logprobs: Mapping[str, float] | None = None
    latency: float = 0.0
    cost: float = 0.0
    error: str | None = None
    status: int | None = None
    reason: str | None = None
    refusal: str | None = None
    last_logprobs: Mapping[str, float] | None = None
    positions: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ChatReply:
        return cls(**{**data, "usage": Usage(**data["usage"])})


@dataclass(frozen=True)
class CostEstimate:
    """What judge tasks will take: tokens, and dollars (None without a price); `most` has every reply at its limit."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    most: float | None


def estimate_cost(tasks: Iterable[JudgeTask], limits: Limits, expected_completion: int = 400) -> CostEstimate:
    """Tokens and dollars before anything is sent, with `expected_completion` tokens a reply, or its limit if lower."""
    price = limits.price
    calls = prompt = completion = longest = 0
    for task in tasks:
        calls += 1
        prompt += ChatRequest(task.messages).prompt_tokens()
        most = min(task.max_tokens, limits.reply_tokens or task.max_tokens)
        completion += min(most, expected_completion)
        longest += most
    if price is None:
        return CostEstimate(calls, prompt, completion, None, None)
    expected, worst = ((prompt * price[0] + tokens * price[1]) / 1e6 for tokens in (completion, longest))
    return CostEstimate(calls, prompt, completion, expected, worst)


class MalformedReply(Exception):
    """A reply with status 200 that is not a chat completion: worth another attempt."""


def read_completion(raw: Any, request: ChatRequest, latency: float) -> ChatReply:
    """The reply in a client library's completion object, which nobody has validated.

    Raises MalformedReply when it is not one.
    """
    try:
        choice = raw.choices[0]
        called = getattr(choice.message, "tool_calls", None)
        text = (called[0].function.arguments if called else choice.message.content) or ""
        if not isinstance(text, str):
            raise MalformedReply("the reply's content is not text")
        counted = getattr(raw, "usage", None)
        usage = Usage(
            int(getattr(counted, "prompt_tokens", None) or request.prompt_tokens()),
            int(getattr(counted, "completion_tokens", None) or estimate_tokens(text)),
        )
        tokens = getattr(getattr(choice, "logprobs", None), "content", None) if request.top_logprobs else None
        first, last = (_candidates(tokens[i]) if tokens else None for i in (0, -1))
        finish = getattr(choice, "finish_reason", None)
        refusal = getattr(choice.message, "refusal", None) or ("content filter" if finish == "content_filter" else None)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise MalformedReply("the reply is not a chat completion") from None
    model, fingerprint = str(getattr(raw, "model", None) or ""), getattr(raw, "system_fingerprint", None)
    reply = ChatReply(text, finish, model, fingerprint, usage, first, latency, refusal=refusal)
    return replace(reply, last_logprobs=last, positions=len(tokens)) if tokens and len(tokens) > 1 else reply


def endpoint_family(base_url: str | None) -> str:
    """Whose model it is, for the store's key: 'openai', else the host (with its port, where models differ by it)."""
    if not base_url:
        return "openai"
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    if host == "api.openai.com":
        return "openai"
    host = "localhost" if host in ("127.0.0.1", "::1", "0.0.0.0") else host
    return f"{host}:{parts.port}" if parts.port else host


def check_base_url(base_url: str) -> str:
    """The address without a trailing slash. Raises ConfigError when it is not an http(s) address."""
    parts = urlsplit(base_url)
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number
        usable = False
    if parts.username or parts.password:
        where = scrub(base_url, None)
        raise ConfigError(f"'{where}': an address with a password reaches logs and files; set OPENAI_API_KEY")
    if not usable:
        raise ConfigError(f"'{scrub(base_url, None)}': a base URL looks like http://127.0.0.1:8000/v1")
    return base_url.rstrip("/")


def parse_endpoint(spec: str) -> tuple[str, str | None]:
    """(model, base URL or None) of 'MODEL[@BASE_URL]'. Raises ConfigError for an empty model or an unusable address.

    Only what follows '@' and starts like an address is one: model names may hold an '@' themselves.
    """
    found = re.fullmatch(r"(?P<model>.*?)(?:@(?P<url>https?://.*))?", spec, re.DOTALL)
    model, url = (found["model"], found["url"]) if found else (spec, None)
    if not model.strip():
        raise ConfigError(f"'{spec}': no model name; write MODEL or MODEL@http://HOST:PORT/v1")
    if url is None and (bare := re.search(r"@([\w.-]+:\d+\S*|localhost\S*|\w*://.*)$", model)):
        raise ConfigError(f"'{spec}': the address after '@' must start with http:// or https://, not '{bare[1]}'")
    return model, check_base_url(url) if url else None


def _candidates(token: Any) -> dict[str, float] | None:
    candidates = getattr(token, "top_logprobs", None)
    if not candidates:
        return None
    found: dict[str, float] = {}
    for candidate in candidates:
        # some tokenizers show two tokens as the same text: the likelier one stands for it
        found[candidate.token] = max(float(candidate.logprob), found.get(candidate.token, -float("inf")))
    return found
