"""Scores from existing verdict files: no model, no network, no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from leaderboard.alpaca_scoring import score_preferences
from leaderboard.annotations import GameRow, is_answer_file, read_games, read_grades
from leaderboard.answers import Answers, read_answers
from leaderboard.arena_scoring import score_games, style_table
from leaderboard.mt_scoring import score_grades
from leaderboard.preferences import read_pool
from leaderboard.scoring import ScoreOptions
from leaderboard.side_files import SideFiles, read_side_files
from leaderboard.style_control import Style
from leaderboard.table import Table
from prefeval.errors import ConfigError, DataError, nearest
from prefeval.files import iterate_jsonl
from prefeval.log import logger

PROTOCOLS = ("alpaca_eval", "arena_hard", "mt_bench")
MINI = {"mini-alpaca": "alpaca_eval", "mini-arena": "arena_hard", "mini-mt": "mt_bench", "mini-mt-pair": "mt_bench"}
_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


def protocol_of(benchmark: str) -> str:
    """The protocol of a benchmark's name: 'arena-hard-v2.0' and 'mini-arena' are arena_hard. Raises ConfigError."""
    if benchmark in MINI:
        return MINI[benchmark]
    plain = benchmark.lower().replace("-", "_")
    found = next((p for p in PROTOCOLS if plain == p or plain.startswith(f"{p}_")), None)
    if found is None:
        known = (*PROTOCOLS, *MINI)
        hint = nearest(benchmark, known) or f"; known: {', '.join(known)}"
        raise ConfigError(f"unknown benchmark '{benchmark}'{hint}")
    return found


def score_files(
    benchmark: str,
    files: Sequence[str | Path],
    data: str | Path | None,
    options: ScoreOptions,
    *,
    protocol: str = "",
    answers: Sequence[Answers] = (),
) -> Table:
    """The table of one benchmark from the originals' verdict files. Raises DataError or ConfigError.

    `protocol` serves benchmarks whose name does not tell it; `answers` add to those among the files (for style and
    lengths).
    """
    protocol = protocol or protocol_of(benchmark)
    paths = expand(files)
    if protocol == "alpaca_eval":
        official = benchmark.lower().replace("-", "_").startswith("alpaca_eval")
        side = _side_files(data) if official else None
        name = "alpaca_eval" if official else benchmark
        return score_preferences(read_pool(paths), side, options, benchmark=name)
    answer_files = [p for p in paths if is_answer_file(p)]
    verdict_files = [p for p in paths if p not in set(answer_files)]
    if not verdict_files:
        raise DataError("model answers only; give the verdict files too", file=paths[0])
    if protocol == "arena_hard":
        games = _with_subcategories(read_games(verdict_files), data)
        style: dict[tuple[str, str], Style] = {}
        for one in chain(answers, _answers_in(answer_files)):
            style |= style_table([one])
        return score_games(games, style, options, benchmark=benchmark)
    lengths = {a.model: _turn_length(a) for a in answers} | {
        a.model: _turn_length(a) for a in _answers_in(answer_files)
    }
    grades, matches = read_grades(verdict_files)
    table = score_grades(grades, matches, options, benchmark=benchmark)
    rows = tuple(replace(r, avg_length=lengths[r.name]) if r.name in lengths else r for r in table.rows)
    return replace(table, rows=rows)


def expand(files: Sequence[str | Path]) -> list[Path]:
    """Files as given, folders as the JSON files in them. Raises DataError for what is not there."""
    found: list[Path] = []
    for file in map(Path, files):
        if file.is_dir():
            inside = sorted(p for p in file.rglob("*") if p.name.endswith(_ENDINGS))
            if not inside:
                raise DataError("a folder without .json or .jsonl files", file=file)
            found += inside
        elif file.is_file():
            found.append(file)
        else:
            raise DataError("no such file", file=file)
    if not found:
        raise ConfigError("give at least one annotation file")
    return list(dict.fromkeys(found))


def _side_files(data: str | Path | None) -> SideFiles | None:
    """From --data, else from the folder that PREFEVAL_DATA names; a parent folder of the benchmark data will do."""
    if data is None:
        root = os.environ.get("PREFEVAL_DATA")
        if not root or not Path(root).is_dir():
            return None
        data = root
    for folder in (Path(data), Path(data) / "alpaca_eval", Path(data) / "benchmarks" / "alpaca_eval"):
        side = read_side_files(folder) if folder.is_dir() or folder == Path(data) else None
        if side is not None:
            return side
    logger.warning("%s holds no df_gamed.csv or df_gamed_reconstructed.csv", data)
    return None


def _answers_in(files: Sequence[Path]) -> Iterator[Answers]:
    """One file after the other, so that the texts of one file are in memory at a time."""
    for file in files:
        yield from read_answers(file)


def _turn_length(answers: Answers) -> float:
    """Mean characters of a turn."""
    sizes = [len(turn) for answer in answers.items.values() for turn in answer.turns]
    return sum(sizes) / len(sizes)


def _with_subcategories(games: list[GameRow], data: str | Path | None) -> list[GameRow]:
    """Arena-Hard v2.0's subcategories (coding, math) from its question file under the data folder, where it lies."""
    root = data or os.environ.get("PREFEVAL_DATA")
    if not root or all(g.subcategory or g.separate for g in games):
        return games
    places = [Path(root) / part for part in ("", "arena_hard/v2.0", "benchmarks/arena_hard/v2.0")]
    found = [p / name for p in places for name in ("question.jsonl", "question.jsonl.gz") if (p / name).is_file()]
    if not found:
        return games
    known = {str(q["uid"]): str(q.get("subcategory") or "") for _, q in iterate_jsonl(found[0]) if "uid" in q}
    return [g if g.subcategory else replace(g, subcategory=_finer(known.get(g.uid, ""), g)) for g in games]


def _finer(subcategory: str, game: GameRow) -> str:
    return "" if subcategory == game.category else subcategory
