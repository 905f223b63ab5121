"""What goes wrong between us and a chat endpoint: each failure has a reason in one or two words, and says whether
another attempt is worth it. No message holds a secret."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefeval.api_limits import MAX_RETRY_AFTER, RETRIED, retry_after, scrub
from prefeval.api_types import MalformedReply
from prefeval.log import logger

# a 400 that refuses a value, not the field: sending it again under another name would not help
_VALUE_REFUSED = ("context length", "context_length", "context window", "too large", "too long", "at most", "between")
_DROPPED = ("temperature", "top_p")  # what reasoning models refuse; their own default stands then
_IN_A_ROW = 3  # refusals of the key before no more requests are sent: one alone may be a proxy's bad moment


@dataclass(frozen=True)
class Failure:
    """`reason` is what failures are counted by; `after` the seconds that the server asks to wait."""

    message: str
    reason: str
    retry: bool
    status: int | None = None
    after: float | None = None


class Fields:
    """Which names of request fields an endpoint takes, learned from its refusals."""

    def __init__(self) -> None:
        self.completion_tokens, self.without = False, frozenset[str]()

    def adapt(self, failure: Failure, sent: Mapping[str, Any], model: str) -> bool:
        """Learn from a 400 that refuses a field of what was sent: rename the token limit, or leave the field out.

        True: try again without it. This and all later calls go without, so it is learned once.
        """
        text = failure.message.lower()
        if failure.status != 400 or any(sign in text for sign in _VALUE_REFUSED):
            return False
        if "max_tokens" in sent and "max_tokens" in text:
            self.completion_tokens = True
            return True
        for name in _DROPPED:
            if name in sent and name in text:
                if name not in self.without:
                    logger.warning("%s does not take '%s': its own default is used", model, name)
                self.without |= {name}
                return True
        return False


class Door:
    """Shut for a while when the server asks to wait, and for good when it keeps refusing the key."""

    def __init__(self) -> None:
        self._opens = 0.0  # monotonic: jumps of the wall clock do not move it
        self._refusals = 0
        self.closed = ""

    def wait(self) -> float:
        """Seconds until requests may be sent again."""
        return max(self._opens - time.monotonic(), 0.0)

    def note(self, failure: Failure | None) -> None:
        """What the latest request met; None is a reply."""
        refused = failure is not None and failure.reason == REFUSED_KEY
        self._refusals = self._refusals + 1 if refused else 0
        if failure is not None and failure.retry and failure.after:
            self._opens = max(self._opens, time.monotonic() + failure.after)
        if failure is not None and self._refusals >= _IN_A_ROW and not self.closed:
            self.closed = f"not sent: the key was refused {_IN_A_ROW} times in a row ({failure.message})"


REFUSED_KEY = "refused key"
SPENDING_CAP = "spending cap"
INTERRUPTED = "interrupted"


def explain(error: Exception, *, secret: str, where: str, timeout: float) -> Failure:
    """What went wrong, without secrets. Raises what is not the endpoint's doing."""
    import openai

    if isinstance(error, openai.APIStatusError):
        now = time.time()
        wait = retry_after(error.response.headers, now)
        detail = scrub(error_detail(error.body, error.message), secret)
        return status_failure(error.status_code, detail, wait, quota=error.code == "insufficient_quota")
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return Failure(f"no reply within {timeout:g} s", "timeout", True)
    if isinstance(error, openai.APIConnectionError):
        return Failure(scrub(f"no connection to {where}: {error.__cause__ or error}", secret), "connection", True)
    if isinstance(error, (openai.APIError, MalformedReply, json.JSONDecodeError, UnicodeDecodeError)):
        return Failure(scrub(f"malformed reply: {error}", secret), "malformed reply", True)
    raise error


def status_failure(status: int, detail: str, wait: float | None = None, *, quota: bool = False) -> Failure:
    """The failure that an HTTP status is; 400, 401, 403, 404 and 422 are never tried again."""
    retry = (status in RETRIED or status >= 500) and not quota and (wait or 0.0) <= MAX_RETRY_AFTER
    if status in (401, 403):
        reason = REFUSED_KEY
    elif status == 429:
        reason = "quota used up" if quota else "rate limit"
    elif status >= 500:
        reason = "server error"
    else:
        reason = "timeout" if status == 408 else "bad request"
    return Failure(f"HTTP {status}: {detail}", reason, retry, status, wait)


def error_detail(body: object, otherwise: str) -> str:
    """The error text of a server: OpenAI's, or the shapes that other servers use."""
    if isinstance(body, Mapping):
        text = body.get("message") or body.get("detail") or body
        param = f" (param: {body['param']})" if body.get("param") else ""
        return f"{text}{param}"[:1000]
    return str(body or otherwise)[:1000]
