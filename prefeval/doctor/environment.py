"""The machine and the installation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from prefeval.doctor.findings import Finding
from prefeval.memory import total_gigabytes

_PACKAGES = ("prefeval", "reward_models", "alignment", "leaderboard")
_ROOM = 10.0  # GB
_KEYS = ("OPENAI_API_KEY", "OPENAI_BASE_URL")


def examine_environment() -> Iterator[Finding]:
    """Python, the four packages, PyTorch, memory, disk, cache and the variables that judges read."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok" if sys.version_info >= (3, 11) else "problem", "python", version, "3.11 or newer is needed")
    yield from _packages()
    yield from _torch()
    yield Finding("ok", "memory", f"{total_gigabytes():.0f} GB, {os.cpu_count()} CPU cores")
    yield from _cache()
    for name in _KEYS:  # whether, never what: a key must not reach a screen or a log
        state = "set" if os.environ.get(name) else "not set: judges over HTTP will need it, or a server without keys"
        yield Finding("note", name, state)


def _packages() -> Iterator[Finding]:
    """All four packages come from one place: `alignment` is the import name of another distribution, too."""
    homes = {}
    for name in _PACKAGES:
        found = importlib.util.find_spec(name)
        homes[name] = str(Path(found.origin).parent.parent) if found and found.origin else ""
    here = homes["prefeval"]
    strangers = {name: home for name, home in homes.items() if home != here}
    for name, home in strangers.items():
        yield Finding(
            "problem",
            "packages",
            f"'{name}' is imported from {home or 'nowhere'}, prefeval from {here}",
            f"another distribution shadows '{name}': use a fresh virtual environment",
        )
    if not strangers:
        yield Finding("ok", "packages", f"prefeval {importlib.metadata.version('prefeval')} in {here}")


def _torch() -> Iterator[Finding]:
    import torch
    from packaging.requirements import Requirement

    from prefeval.models import default_device, fast_dtype

    wanted = {r.name: r for r in map(Requirement, importlib.metadata.requires("prefeval") or []) if r.marker is None}
    for name in ("torch", "transformers", "accelerate", "datasets", "openai"):
        found = importlib.metadata.version(name)
        allowed = wanted[name].specifier if name in wanted else None
        good = allowed is None or allowed.contains(found, prereleases=True)
        remedy = "" if good else f"tested with {name}{allowed}"
        yield Finding("ok" if good else "warning", name, found, remedy)
    device = default_device()
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    half = fast_dtype(device) == torch.bfloat16
    message = f"{name}, bfloat16 {'in hardware' if half else 'not in hardware'}, {torch.get_num_threads()} threads"
    yield Finding("ok" if half else "note", "device", message, "" if half else "runs will compute in float32")


def _cache() -> Iterator[Finding]:
    from prefeval.models import cache_dir

    folder = cache_dir()
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    if not os.access(nearest, os.W_OK):
        yield Finding("problem", "cache", f"{nearest} cannot be written", "set PREFEVAL_CACHE to a folder of your own")
    free = shutil.disk_usage(nearest).free / 1e9
    room = f"{free:.0f} GB free at {nearest}"
    yield Finding("ok" if free > _ROOM else "warning", "disk", room, "every round of an alignment keeps a checkpoint")
