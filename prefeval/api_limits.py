"""The bookkeeping behind the API client: pace, budget, waits between attempts, and secrets kept out of messages."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

MAX_BACKOFF = 60.0  # seconds: the longest wait we choose ourselves
MAX_RETRY_AFTER = 600.0  # seconds: a server that asks for more is not waited for
RETRIED = frozenset({408, 409, 429})  # and every 5xx
_KEY_LIKE = re.compile(r"\b(sk|key|rk)-[A-Za-z0-9_\-*.]{6,}")
_BEARER = re.compile(r"(?i)(bearer\s+)[A-Za-z0-9_\-.=+/]{6,}")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


class Pace:
    """Spaces requests evenly: `amount` units take amount / per_minute minutes, so that no minute exceeds the rate."""

    def __init__(self, per_minute: float | None) -> None:
        self.per_minute = per_minute
        self._free = 0.0  # the monotonic time at which the next request may start

    def reserve(self, amount: float) -> float:
        """Take a place in the line; the seconds to wait for it."""
        if not self.per_minute:
            return 0.0
        now = time.monotonic()
        start = max(now, self._free)
        self._free = start + 60.0 * amount / self.per_minute
        return start - now

    def correct(self, amount: float) -> None:
        """Add what a request took beyond what was reserved (negative: give back)."""
        if self.per_minute:
            self._free += 60.0 * amount / self.per_minute


class Budget:
    """A spending cap in dollars: the most that a call may cost is set aside before it is sent.

    The amounts are estimates from token counts. The first call flies alone and every call that turns out dearer than
    its estimate raises the later ones, so that a tokenizer that counts otherwise does not carry spending past the cap.
    """

    def __init__(self, cap: float | None, spent: float = 0.0) -> None:
        self.cap, self.spent, self.refused = cap, spent, 0
        self._held, self._flying, self._settled, self._scale = 0.0, 0, 0, 1.0

    async def hold(self, amount: float) -> float | None:
        """Set `amount` aside and return what was; None when the cap leaves no room for it.

        When only the calls on their way stand in the way, wait: most of them cost less than was set aside.
        """
        while self.cap is not None and ((self._flying and not self._settled) or not self._fits(amount, self._held)):
            if not self._flying or not self._fits(amount, 0.0):
                self.refused += 1
                return None
            await asyncio.sleep(0.01)
        held = amount * self._scale
        self._held += held
        self._flying += 1
        return held

    def settle(self, held: float, cost: float) -> None:
        """Replace what was set aside by what the call cost."""
        self.spent += cost
        self._flying -= 1
        self._settled += 1
        self._held = self._held - held if self._flying else 0.0
        if held > 0:
            self._scale = max(self._scale, self._scale * cost / held)

    def _fits(self, amount: float, held: float) -> bool:
        return self.cap is None or self.spent + held + amount * self._scale <= self.cap


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.

    A date is compared with the server's own `date`, where it sends one: its clock and ours may differ. `now` is ours.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            asked, there = _timestamp(text), _timestamp(headers.get("date"))
            if asked is None:
                continue
            seconds = asked - (now if there is None else there)
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    return None


def _timestamp(text: str | None) -> float | None:
    """Seconds since the epoch of an HTTP date."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, OverflowError, TypeError):
        return None


def backoff(attempt: int, base: float, jitter: float) -> float:
    """Seconds before attempt + 1: base * 2^attempt, capped, of which `jitter` in [0, 1) scales the upper half."""
    return min(base * 2.0 ** min(attempt, 30), MAX_BACKOFF) * (0.5 + 0.5 * jitter)


def scrub(text: str, secret: str | None) -> str:
    """The text without the key, anything that looks like one, and credentials inside an address."""
    if secret and len(secret) > 3:
        text = text.replace(secret, "***")
    return _USERINFO.sub("***@", _BEARER.sub(r"\1***", _KEY_LIKE.sub("***", text)))


def estimate_tokens(text: str) -> int:
    """Four and a half UTF-8 bytes a token: 7% above what AlpacaEval's judge prompts take, and safe for code."""
    return math.ceil(len(text.encode("utf-8")) / 4.5)
