"""Shared fixtures live in modules beside this file (`from tiny import ...`): pytest puts this folder on the path."""

import gc
import os

import pytest

# Before anything imports transformers: no test may reach the hub, and a missing model must fail at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Before torch: where tests share the cores, its threads spin for one another, and a test of 1 s takes 30.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Imports make millions of objects that stay: going through them again and again is half a minute of the whole suite.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on the collector looks at what the tests themselves make."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked slow run only when a -m expression is given, such as `-m slow`."""
    if config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
