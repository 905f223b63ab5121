"""What a person sees while waiting: rich progress on a terminal, plain lines otherwise, all of it on stderr.

Library code logs through `logger`; long work reports through `progress`, which prints the time left.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prefeval.errors import printable

logger = logging.getLogger("prefeval")


def setup_logging(*, quiet: bool = False) -> None:
    """Send the project's messages to stderr; called once by the command line."""
    if logger.handlers:
        return
    handler: logging.Handler
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False, markup=False)
        handler.setFormatter(_Printable("%(message)s", datefmt="[%X]"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Printable("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


class _Printable(logging.Formatter):
    """Names of models, and what judges and servers say, are other people's text."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@dataclass
class Progress:
    """A counter that tells how far the work is and how long it will take."""

    title: str
    total: float
    done: float = 0.0
    started: float = field(default_factory=time.monotonic)
    _bar: Any = None
    _task: Any = None
    _last: float = field(default_factory=time.monotonic)
    every: float = 15.0  # seconds between plain lines

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.done += amount
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=note)
        elif time.monotonic() - self._last >= self.every and self.done < self.total:
            self._last = time.monotonic()
            share = self.done / max(self.total, 1e-9)
            logger.info(
                "%s: %.0f%%, %s left%s", self.title, 100 * share, format_seconds(self.left), note and f", {note}"
            )

    @property
    def left(self) -> float:
        """Estimated seconds left."""
        spent = time.monotonic() - self.started
        return spent / self.done * max(self.total - self.done, 0.0) if self.done else float("nan")


@contextmanager
def progress(title: str, total: float) -> Iterator[Progress]:
    """``with progress("sampling", 100) as bar: bar.advance(5)``: a bar with time left, or plain lines without one."""
    bar = Progress(title, total)
    if not (sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)):
        yield bar
        spent = time.monotonic() - bar.started
        if spent > 2.0:
            logger.info("%s: done in %s", title, format_seconds(spent))
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    extra = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))
    with RichProgress(*columns, *extra, console=Console(stderr=True), transient=True) as rich_bar:
        bar._bar, bar._task = rich_bar, rich_bar.add_task(printable(title), total=total, note="")
        yield bar


def format_seconds(seconds: float) -> str:
    """1 h 02 min, 3 min 05 s, 12 s; '?' when unknown."""
    if seconds != seconds:
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
