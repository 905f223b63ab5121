"""AlpacaEval verdicts as columns: what a scorer needs of thousands of annotation files, without their texts.

A file is read, reduced to a few numbers a row, and let go before the next one, so memory grows by about 50 bytes a
verdict and by one copy of each instruction.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leaderboard.annotations import PreferenceRow, iterate_preferences
from prefeval.log import logger, progress
from prefeval.types import FloatArray

IntArray = NDArray[np.int64]
_WHOLE = ("question", "dataset", "baseline", "position", "file", "row")
_REAL = ("win", "length_model", "length_baseline")


@dataclass(frozen=True)
class Preferences:
    """The verdicts of one judge on one model: n rows, one a question; all arrays are (n,).

    `question`, `dataset`, `baseline` and `file` are places in the pool's lists; the rest is as in PreferenceRow.
    """

    model: str
    judge: str
    question: IntArray
    dataset: IntArray
    baseline: IntArray
    position: IntArray
    file: IntArray
    row: IntArray
    win: FloatArray
    length_model: FloatArray
    length_baseline: FloatArray


@dataclass(frozen=True)
class PreferencePool:
    """All groups of (model, judge), in order of appearance, and the texts that they refer to."""

    groups: tuple[Preferences, ...]
    questions: tuple[str, ...]
    datasets: tuple[str, ...]
    baselines: tuple[str, ...]
    files: tuple[str, ...]


def read_pool(files: Sequence[str | Path]) -> PreferencePool:
    """AlpacaEval annotation files, one after the other. Raises DataError naming file, row and field."""
    builder = _Builder()
    with progress("reading", len(files)) as bar:
        for file in files:
            builder.take(iterate_preferences(file))
            bar.advance()
    return builder.pool()


def pool_of(rows: Iterable[PreferenceRow]) -> PreferencePool:
    """The same from rows."""
    builder = _Builder()
    builder.take(rows)
    return builder.pool()


class _Builder:
    """Growing columns by (model, judge), and the places of the texts seen so far."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], dict[str, array[float]]] = {}
        self._questions: dict[str, int] = {}
        self._datasets: dict[str, int] = {}
        self._baselines: dict[str, int] = {}
        self._files: dict[str, int] = {}

    def take(self, rows: Iterable[PreferenceRow]) -> None:
        for row in rows:
            key = row.model, row.judge
            if key not in self._columns:
                self._columns[key] = {name: array("d") for name in (*_WHOLE, *_REAL)}
            values = (
                self._questions.setdefault(row.instruction, len(self._questions)),
                self._datasets.setdefault(row.dataset, len(self._datasets)),
                self._baselines.setdefault(row.baseline, len(self._baselines)),
                row.position,
                self._files.setdefault(row.file, len(self._files)),
                row.row,
                row.win,
                row.length_model,
                row.length_baseline,
            )
            for column, value in zip(self._columns[key].values(), values, strict=True):
                column.append(value)

    def pool(self) -> PreferencePool:
        groups, repeated = [], 0
        for (model, judge), columns in self._columns.items():
            kept = _last_of_each(np.array(columns["question"]))
            repeated += len(columns["question"]) - len(kept)
            groups.append(_columns(model, judge, {n: np.array(c)[kept] for n, c in columns.items()}))
        if repeated:
            logger.warning("%d rows repeat a model and instruction; the last of each is used", repeated)
        texts = (self._questions, self._datasets, self._baselines, self._files)
        return PreferencePool(tuple(groups), *(tuple(t) for t in texts))


def _columns(model: str, judge: str, values: Mapping[str, FloatArray]) -> Preferences:
    question, dataset, baseline, position, file, row = (values[name].astype(np.int64) for name in _WHOLE)
    win, length_model, length_baseline = (values[name] for name in _REAL)
    return Preferences(
        model, judge, question, dataset, baseline, position, file, row, win, length_model, length_baseline
    )


def _last_of_each(question: FloatArray) -> IntArray:
    """The last row of each question, in the order in which the questions first appear."""
    _, first = np.unique(question, return_index=True)
    _, from_end = np.unique(question[::-1], return_index=True)
    return np.asarray((len(question) - 1 - from_end)[np.argsort(first)], dtype=np.int64)
