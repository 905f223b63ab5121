"""Benchmarks by name: our own small sets, the originals from a data folder, and custom prompt files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from leaderboard.benchmarks.base import Benchmark, Source
from leaderboard.benchmarks.custom import PAIRS, custom_source, is_custom, protocol_in_code
from leaderboard.config import Orders
from leaderboard.from_files import MINI, protocol_of
from prefeval.errors import ConfigError
from prefeval.log import logger
from prefeval.plugins import PREFIX as CODE
from prefeval.plugins import load_object

_FILES = {
    "alpaca_eval": ("instructions.parquet", "alpaca_eval.json", "instructions.json", "instructions.jsonl"),
    "arena_hard": ("question.jsonl", "question.jsonl.gz"),
    "mt_bench": ("question.jsonl", "question.jsonl.gz"),
}
_REFERENCES = ("reference_answer_gpt-4.jsonl", "reference_answer_gpt-4.jsonl.gz", "reference_answer/gpt-4.jsonl")


def open_benchmark(
    name: str, data: str | Path | None = None, limit: int | None = None, *, orders: Orders = "published"
) -> Benchmark:
    """The benchmark of a name.

    | name                  | prompts                                                                 |
    |-----------------------|-------------------------------------------------------------------------|
    | mini-alpaca, ...      | our own, part of the package                                            |
    | alpaca_eval, mt_bench | `data`: the originals' files (a folder) or the prompts file             |
    | arena_hard_v0.1/_v2.0 | likewise                                                                |
    | mt_bench_pair         | mt_bench, but compared with a baseline; mini-mt-pair: our own questions |
    | custom:FOLDER         | your own: `leaderboard.benchmarks.custom` says what is in the folder    |
    | NAME=PROTOCOL:PATH    | likewise; PROTOCOL may be py:MODULE:CLASS, code of your own that is run |

    `limit` keeps the first prompts only; `orders` is AlpacaEval's. Raises ConfigError and DataError.
    """
    if is_custom(name):
        kind, source = custom_source(name, limit)
        return _build(kind, source, orders=orders)
    protocol = protocol_of(name)
    kind = PAIRS if protocol == "mt_bench" and name.endswith(("_pair", "-pair")) else protocol
    if name in MINI:
        mini = Path(str(resources.files("prefeval"))) / "assets" / "mini" / f"{name.removesuffix('-pair')}.jsonl"
        return _build(kind, Source(name, mini, limit=limit), orders=orders)
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
    benchmark = _build(kind, Source(name, file, file.parent, limit), version, orders)
    if benchmark.own_wording:
        logger.warning("%s: no original judge template beside the prompts; the judge is asked in our words", name)
    if limit is not None:
        logger.warning("%s: only the first %d prompts; the scores are not the benchmark's", name, limit)
    return benchmark


def _build(kind: str, source: Source, version: str = "v2.0", orders: Orders = "published") -> Benchmark:
    if kind.startswith(CODE):
        return _in_code(kind, source)
    if kind == "alpaca_eval":
        from leaderboard.benchmarks.alpaca_eval import AlpacaEval

        return AlpacaEval(source, orders=orders)
    if kind == "arena_hard":
        from leaderboard.benchmarks.arena_hard import ArenaHard

        return ArenaHard(source, version=version)
    references = _references(source.data) if source.data else None
    if kind == PAIRS:
        from leaderboard.benchmarks.mt_pairs import MTPairs

        return MTPairs(source, references=references)
    from leaderboard.benchmarks.mt_bench import MTBench

    return MTBench(source, references=references)


def _in_code(kind: str, source: Source) -> Benchmark:
    """A benchmark from outside of the package. Raises ConfigError for what is none."""
    protocol_in_code(kind)
    found = load_object(kind, "benchmark")(source)
    if not isinstance(found, Benchmark):
        lacking = [name for name in dir(Benchmark) if not name.startswith("_") and not hasattr(found, name)]
        raise ConfigError(f"benchmark '{kind}': lacks {', '.join(lacking)}")
    return found


def _references(folder: Path) -> Path | None:
    """gpt-4's reference answers, which the published scores were made with, else those that the folder has."""
    others = sorted([*folder.glob("reference_answer*.jsonl*"), *folder.glob("reference_answer/*.jsonl*")])
    return _first([folder], _REFERENCES) or next(iter(others), None)


def _first(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    return next((f / n for f in folders for n in names if (f / n).is_file()), None)
