"""The one place that runs an asyncio loop: a background thread that every blocking caller hands its coroutines to.

One loop for the whole process keeps connections alive between calls and works where a loop is running already.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from prefeval.log import logger, progress

T = TypeVar("T")
R = TypeVar("R")

_loop_lock = threading.Lock()
_loop_state: tuple[int, asyncio.AbstractEventLoop, threading.Thread] | None = None
_stopping: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stopping", default=None)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for it; Ctrl-C cancels it.

    Works where a loop is running already (a notebook). Raises RuntimeError inside the background loop itself, where
    waiting would never end: there, await instead.
    """
    future = _submit(work)
    try:
        return _wait(future)
    except BaseException:
        future.cancel()
        raise


def map_async(
    fn: Callable[[T], Awaitable[R]],
    items: Sequence[T],
    *,
    concurrency: int = 8,
    title: str = "",
    on_result: Callable[[int, R], None] | None = None,
) -> list[R]:
    """`await fn(item)` for every item, at most `concurrency` at a time; the results in the order of the items.

    `on_result(index, result)` is called as each result arrives, for storing it at once. On Ctrl-C, and when a call
    raises, nothing new is started but what is on its way is finished and reported, then the exception goes on; a second
    Ctrl-C drops it.
    """
    stop = threading.Event()
    with progress(title or "calls", len(items)) as bar:
        future = _submit(_map(fn, items, concurrency, on_result, stop, bar.advance))
        try:
            return _wait(future)
        except KeyboardInterrupt:
            stop.set()
            logger.info("interrupted: waiting for the calls on their way; Ctrl-C again drops them")
            try:
                with suppress(Exception):  # the interruption is what the caller must hear of
                    _wait(future)
            finally:
                future.cancel()
            raise


async def _map(
    fn: Callable[[T], Awaitable[R]],
    items: Sequence[T],
    concurrency: int,
    on_result: Callable[[int, R], None] | None,
    stop: threading.Event,
    advance: Callable[[], None],
) -> list[R]:
    results: dict[int, R] = {}
    errors: list[Exception] = []
    todo = iter(enumerate(items))
    _stopping.set(stop)

    async def work() -> None:
        for index, item in todo:
            try:
                results[index] = await fn(item)
                if on_result is not None:
                    on_result(index, results[index])
            except Exception as error:
                errors.append(error)
                stop.set()
            if stop.is_set():
                return
            advance()

    await asyncio.gather(*(work() for _ in range(min(max(concurrency, 1), len(items)))))
    if errors:
        raise errors[0]
    return [results[i] for i in sorted(results)]  # all of them, unless interrupted


def is_stopping() -> bool:
    """Whether the `map_async` around this call has been interrupted: no new attempt should be made."""
    stop = _stopping.get()
    return stop is not None and stop.is_set()


async def pause(seconds: float) -> None:
    """Sleep, but not through an interruption."""
    end = asyncio.get_running_loop().time() + seconds
    while (left := end - asyncio.get_running_loop().time()) > 0 and not is_stopping():
        await asyncio.sleep(min(left, 0.1))


def _submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    loop, thread = _background()
    if threading.current_thread() is thread:
        work.close()
        raise RuntimeError("this would wait for the loop that it runs on; await the coroutine instead")
    return asyncio.run_coroutine_threadsafe(work, loop)


def _wait(future: Future[T]) -> T:
    """The future's result. Waits in short turns, because on some systems a signal does not end a long one."""
    while True:
        try:
            return future.result(timeout=0.25)
        except TimeoutError:
            if future.done():  # its own error, not the end of our turn
                return future.result()


def _background() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    """The loop and its thread, started on first use and again in a forked child (threads do not survive a fork)."""
    global _loop_state
    with _loop_lock:
        if _loop_state is None or _loop_state[0] != os.getpid():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="prefeval-api", daemon=True)
            thread.start()
            atexit.register(_stop, os.getpid(), loop, thread)
            _loop_state = (os.getpid(), loop, thread)
        return _loop_state[1], _loop_state[2]


def _stop(pid: int, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if pid == os.getpid():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=1.0)
