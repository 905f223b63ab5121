"""How much memory the process holds, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import time
from contextlib import suppress


def release() -> None:
    """Give freed memory back to the system.

    Python's reference cycles first; then glibc, which otherwise keeps the freed parts of its heaps, and after a fit
    these can be gigabytes.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class Releaser:
    """Calls `release` when asked, at most once in `seconds`: it takes some hundredths of one."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self.last > self.seconds:
            release()
            self.last = time.monotonic()


def peak_gigabytes() -> float:
    """The most memory this process has held so far, in GB (1e9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def total_gigabytes() -> float:
    """The machine's memory in GB (1e9 bytes)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
