"""Benchmarks by name: our own small sets, the originals from a data folder, and custom prompt files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from leaderboard.benchmarks.base import Benchmark
from leaderboard.from_files import MINI, PROTOCOLS, protocol_of
from prefeval.errors import ConfigError
from prefeval.log import logger

_FILES = {
    "alpaca_eval": ("instructions.parquet", "alpaca_eval.json", "instructions.json", "instructions.jsonl"),
    "arena_hard": ("question.jsonl", "question.jsonl.gz"),
    "mt_bench": ("question.jsonl", "question.jsonl.gz"),
}
_REFERENCES = ("reference_answer_gpt-4.jsonl", "reference_answer_gpt-4.jsonl.gz", "reference_answer/gpt-4.jsonl")


def open_benchmark(name: str, data: str | Path | None = None, limit: int | None = None) -> Benchmark:
    """The benchmark of a name.

    | name                  | prompts                                                                 |
    |-----------------------|-------------------------------------------------------------------------|
    | mini-alpaca, ...      | our own, part of the package                                            |
    | alpaca_eval           | `data`: the originals' files (a folder) or the prompts file             |
    | arena_hard_v0.1/_v2.0 | likewise                                                                |
    | mt_bench              | likewise                                                                |
    | NAME=PROTOCOL:FILE    | your own prompts under one of the protocols, with our judge templates   |

    `limit` keeps the first prompts only. Raises ConfigError and DataError.
    """
    if "=" in name:
        return _custom(name, limit)
    protocol = protocol_of(name)
    if name in MINI:
        mini = Path(str(resources.files("prefeval"))) / "assets" / "mini" / f"{name}.jsonl"
        return _build(protocol, name, mini, None, limit)
    if data is None:
        raise ConfigError(f"benchmark '{name}': its prompts are not part of prefeval; give their folder with --data")
    root = Path(data)
    version = "v0.1" if "0.1" in name else "v2.0"
    folders = [root, root / protocol] if protocol != "arena_hard" else [root, root / version, root / protocol / version]
    if protocol == "arena_hard" and any((f / version).is_dir() for f in (root, root / protocol)):
        folders = folders[1:]  # the folder of all versions: never take another version's questions
    file = root if root.is_file() else _first(folders, _FILES[protocol])
    if file is None:
        raise ConfigError(f"benchmark '{name}': {root} holds none of {', '.join(_FILES[protocol])}")
    benchmark = _build(protocol, name, file, file.parent, limit, version)
    if benchmark.own_wording:
        logger.warning("%s: no original judge template beside the prompts; the judge is asked in our words", name)
    if limit is not None:
        logger.warning("%s: only the first %d prompts; the scores are not the benchmark's", name, limit)
    return benchmark


def _custom(spec: str, limit: int | None) -> Benchmark:
    name, _, rest = spec.partition("=")
    protocol, _, file = rest.partition(":")
    if not name or protocol not in PROTOCOLS or not file:
        raise ConfigError(f"benchmark '{spec}': write NAME=PROTOCOL:FILE with one of {', '.join(PROTOCOLS)}")
    taken = name.lower().replace("-", "_")
    if any(taken.replace("_", "").startswith(p.replace("_", "")) for p in PROTOCOLS) or name in MINI:
        raise ConfigError(f"benchmark '{spec}': the name '{name}' is another benchmark's; choose one of your own")
    return _build(protocol, name, Path(file), None, limit)


def _build(
    protocol: str, name: str, file: Path, data: Path | None, limit: int | None, version: str = "v2.0"
) -> Benchmark:
    if protocol == "alpaca_eval":
        from leaderboard.benchmarks.alpaca_eval import AlpacaEval

        return AlpacaEval(name, file, data, limit=limit)
    if protocol == "arena_hard":
        from leaderboard.benchmarks.arena_hard import ArenaHard

        return ArenaHard(name, file, data, version=version, limit=limit)
    from leaderboard.benchmarks.mt_bench import MTBench

    references = _first([data], _REFERENCES) if data else None
    return MTBench(name, file, data, references=references, limit=limit)


def _first(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    return next((f / n for f in folders for n in names if (f / n).is_file()), None)
