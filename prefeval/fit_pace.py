"""When a fit writes its state: often enough to lose little, seldom enough to cost little."""

from __future__ import annotations

import time

from prefeval.fit import FitConfig

_SAVE_SHARE = 20.0  # a checkpoint by steps must protect this many times the seconds that its writing takes
_SAVE_FREE = 0.5  # seconds; a faster write is never put off
_DISK = 5e8  # bytes per second, a guess until the first write is timed


class Pace:
    """`step` is the last one saved."""

    def __init__(self, config: FitConfig) -> None:
        self.config, self.step, self.at, self.seconds = config, 0, time.monotonic(), 0.0

    def expect(self, size: int) -> None:
        """How many bytes a write holds, before the first one."""
        self.seconds = size / _DISK

    def is_due(self, step: int, is_last: bool) -> bool:
        config, since = self.config, time.monotonic() - self.at
        if config.checkpoint_seconds and since >= config.checkpoint_seconds:
            return True
        by_steps = config.checkpoint_every and step - self.step >= config.checkpoint_every
        cheap = self.seconds <= _SAVE_FREE or since >= _SAVE_SHARE * self.seconds
        return bool(by_steps or is_last) and cheap

    def saved(self, step: int, start: float) -> None:
        """A write that began at `start` is over."""
        self.step, self.at = step, time.monotonic()
        self.seconds = self.at - start
