"""Human labels of pairs of answers, to hold a judge against.

Rows of the published MT-Bench human judgments (`question_id, model_a, model_b, winner, judge, turn`; 2306.05685) and of
AlpacaEval's human annotations (`instruction, generator_1, generator_2, preference, annotator_index`); Arena-Hard's
questions go by `uid`. JSON lines, JSON or parquet, gzipped or not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaderboard.annotation_fields import short
from leaderboard.benchmarks.base import read_rows
from prefeval.errors import DataError

_QUESTION = ("question_id", "uid", "instruction")
_FIRST, _SECOND = ("model_a", "model_1", "generator_1"), ("model_b", "model_2", "generator_2")
_RATER = ("judge", "rater", "annotator", "annotator_index")
_WINNERS = {"model_a": 1.0, "model_1": 1.0, "model_b": 0.0, "model_2": 0.0}


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's verdict on two models' answers: `value` is 1 for `first`, 0 for `second`, 1/2 for a tie."""

    question: str
    turn: int
    first: str
    second: str
    value: float
    rater: str


def read_votes(file: str | Path) -> list[Vote]:
    """The votes of a file. Raises DataError naming file, row and field."""
    path = Path(file)
    if not path.name.removesuffix(".gz").endswith((".jsonl", ".json", ".parquet")):
        raise DataError("human labels are read from .jsonl, .json or .parquet", file=path)
    return [_vote(row, path, number) for number, row in enumerate(read_rows(path), 1)]


def _vote(row: Mapping[str, Any], file: Path, number: int) -> Vote:
    question, first, second = (_text(row, names, file, number) for names in (_QUESTION, _FIRST, _SECOND))
    turn = row.get("turn", 1)
    if turn not in (1, 2):
        raise DataError(f"must be 1 or 2, not {short(turn)}", file=file, row=number, field="turn")
    rater = next((str(row[name]) for name in _RATER if row.get(name) is not None), "")
    return Vote(question, int(turn), first, second, _value(row, file, number), rater)


def _text(row: Mapping[str, Any], names: tuple[str, ...], file: Path, number: int) -> str:
    for name in names:
        value = row.get(name)
        if value is not None and not isinstance(value, bool) and isinstance(value, (str, int)) and str(value):
            return str(value)
    raise DataError(f"is missing (one of {', '.join(names)})", file=file, row=number, field=names[0])


def _value(row: Mapping[str, Any], file: Path, number: int) -> float:
    """`winner` by name, 'tie' and 'tie (inconsistent)' a tie; or `preference` 1, 2, 1.5 and 0, the last two a tie."""
    winner = row.get("winner")
    if isinstance(winner, str):
        if winner in _WINNERS:
            return _WINNERS[winner]
        if winner.startswith("tie"):
            return 0.5
        raise DataError(f"must be model_a, model_b or tie, not {short(winner)}", file=file, row=number, field="winner")
    preference = row.get("preference")
    if isinstance(preference, bool) or not isinstance(preference, (int, float)) or not math.isfinite(preference):
        raise DataError("needs a winner or a preference", file=file, row=number, field="winner")
    if preference == 0:
        return 0.5
    if not 1 <= preference <= 2:
        raise DataError(f"must be 1, 2, 1.5 or 0, not {preference:g}", file=file, row=number, field="preference")
    return 2.0 - float(preference)
