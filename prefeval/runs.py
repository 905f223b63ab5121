"""A run directory and the one resume engine: `RunDir.stage(name, inputs, fn)`.

A stage is done when its marker carries the hash of its inputs. The same command, started again after any kill, skips
what is done and says so; a run directory that was started with another configuration is refused with a diff.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefeval.config import to_yaml
from prefeval.errors import ConfigError, DataError, RunError, UserError
from prefeval.files import dumps, iterate_jsonl, read_json, read_text, sha256_json, write_json, write_jsonl, write_text
from prefeval.guards import BadYaml, parse_yaml
from prefeval.log import format_seconds, logger
from prefeval.memory import release

_LONG = 2.0  # seconds: after a stage like that, memory is worth looking for
_PACKAGES = ("prefeval", "torch", "transformers", "accelerate", "datasets", "numpy", "scipy", "scikit-learn", "openai")


@dataclass(frozen=True)
class MetricRow:
    """One line of metrics.jsonl: `kind` is 'fit', 'round', 'probe', 'evaluation' or 'score'; `values` are numbers."""

    kind: str
    stage: str
    values: Mapping[str, Any]
    round: int | None = None
    step: int | None = None
    time: float = field(default_factory=time.time)


class RunDir:
    """`runs/NAME`: config.yaml, manifest.json, metrics.jsonl, stage markers and whatever the stages write."""

    def __init__(self, path: str | Path, config: Mapping[str, Any], *, command: str = "") -> None:
        """Create the directory or take up the run that is in it. Raises ConfigError if that run had another config."""
        self.path = Path(path)
        self.command = command
        try:
            self.fresh = not self.path.exists() or not any(self.path.iterdir())
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(f"--out {self.path}: not a directory") from None
        text = to_yaml(config)
        saved = self.path / "config.yaml"
        if saved.exists():
            self._refuse_other_config(saved.read_text(encoding="utf-8"), text)
        elif any(p for p in self.path.iterdir() if not p.name.startswith(".")):
            raise ConfigError(f"{self.path}: holds other files and no config.yaml; give a new directory with --out")
        else:
            write_text(saved, text)
        if not (self.path / "manifest.json").exists():
            write_json(self.path / "manifest.json", manifest(command))
        self.metrics = MetricsLog(self.path / "metrics.jsonl")

    def stage(self, name: str, inputs: Any, fn: Callable[[], Any]) -> Any:
        """Run `fn` unless it is done for these inputs; return its JSON-able result either way.

        `inputs` is whatever decides the result (configs, seeds, hashes of files, results of earlier stages).
        """
        marker = self.path / ".stages" / f"{name.replace('/', '.')}.json"
        key = sha256_json({"stage": name, "inputs": inputs})
        if marker.exists():
            done = read_json(marker)
            if done.get("inputs") == key:
                logger.info("%s: done before (%s), skipped", name, format_seconds(done.get("seconds", 0.0)))
                return done["result"]
            logger.info("%s: its inputs have changed, running it again", name)
            marker.unlink()
        logger.info("%s: started", name)
        start = time.monotonic()
        result = fn()
        seconds = time.monotonic() - start
        if seconds > _LONG:
            release()
        write_json(marker, {"stage": name, "inputs": key, "seconds": seconds, "result": result})
        logger.info("%s: finished in %s", name, format_seconds(seconds))
        return read_json(marker)["result"]

    def is_done(self, name: str) -> bool:
        return (self.path / ".stages" / f"{name.replace('/', '.')}.json").exists()

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds of each finished stage."""
        return {name: record["seconds"] for name, record in read_stages(self.path).items()}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory; a second process is refused with the holder's pid and host."""
        path = self.path / ".lock"
        me = {"pid": os.getpid(), "host": socket.gethostname()}
        while True:
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                break
            except FileExistsError:
                holder = _read_lock(path)
                if not holder:  # its owner may be between creating and writing it
                    time.sleep(0.3)
                    holder = _read_lock(path)
                if holder and not (holder.get("host") == me["host"] and not _alive(int(holder.get("pid", -1)))):
                    who = f"process {holder.get('pid')} on {holder.get('host')}"
                    raise RunError(f"{self.path} is in use by {who}; if that is wrong, delete {path}") from None
                path.unlink(missing_ok=True)
        with os.fdopen(handle, "w") as out:
            out.write(json.dumps(me))
        try:
            yield
        except UserError:
            # Bad input, found before anything was achieved: leave nothing that the corrected command would trip over.
            if self.fresh and not any(self.path.rglob(".stages/*.json")):
                shutil.rmtree(self.path, ignore_errors=True)
            raise
        finally:
            path.unlink(missing_ok=True)

    def _refuse_other_config(self, old: str, new: str) -> None:
        if old == new:
            return
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "this run", "this command", lineterm="", n=0)
        changes = "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))
        raise ConfigError(
            f"{self.path} was started with another configuration:\n{changes}\n"
            "Use the same configuration to resume it, or another --out for a new run."
        )


class MetricsLog:
    """Append-only metrics.jsonl that can be cut back to a checkpoint, so that a resumed run logs no step twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, row: MetricRow) -> None:
        with open(self.path, "a", encoding="utf-8", newline="\n") as out:
            out.write(dumps(asdict(row)) + "\n")

    def rows(self) -> list[MetricRow]:
        if not self.path.exists():
            return []
        return [_metric_row(row, number, self.path) for number, row in iterate_jsonl(self.path, tolerate_cut_tail=True)]

    def cut(self, stage: str, after_step: int = -1) -> None:
        """Drop the rows of `stage` beyond `after_step` (all of them by default) and any half-written last line."""
        if not self.path.exists():
            return
        kept = [r for r in self.rows() if r.stage != stage or (r.step is not None and r.step <= after_step)]
        write_jsonl(self.path, [asdict(r) for r in kept])


def read_run(path: str | Path) -> tuple[dict[str, Any], list[MetricRow]]:
    """(config, metric rows) of a run directory. Raises ConfigError if it is not one."""
    folder = Path(path)
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"{folder}: not a run directory (no config.yaml)")
    try:
        config = parse_yaml(read_text(folder / "config.yaml"))
    except BadYaml as error:
        raise ConfigError(f"{folder / 'config.yaml'}: not valid YAML{error.place}: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{folder / 'config.yaml'}: not a mapping: this is no run's configuration")
    return config, MetricsLog(folder / "metrics.jsonl").rows()


def _metric_row(row: Any, number: int, path: Path) -> MetricRow:
    try:
        return MetricRow(**row)
    except TypeError:
        raise DataError("not a row of metrics (kind, stage, values)", file=path, row=number) from None


def read_stages(path: str | Path) -> dict[str, dict[str, Any]]:
    """{stage: {"seconds": ..., "result": ...}} of the finished stages of a run directory."""
    rows = [read_json(p) for p in sorted((Path(path) / ".stages").glob("*.json"))]
    return {row["stage"]: {"seconds": row["seconds"], "result": row["result"]} for row in rows}


def manifest(command: str) -> dict[str, Any]:
    """What a reader needs to repeat the run: versions, machine, git commit."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "versions": versions,
        "git": _git_commit(),
    }


def _git_commit() -> str | None:
    folder = Path(__file__).parent
    try:
        out = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None if out.returncode == 0 else None


def _read_lock(path: Path) -> dict[str, Any]:
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
