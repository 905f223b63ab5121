"""AlpacaEval's side files for length control: difficulty, gamed rows, published C and weights, instructions.

A folder in the layout of the shared benchmark data or with the hub's own file names (`df_gamed.csv`,
`instruction_difficulty.csv`, `alpaca_eval.json`). Nothing is ever fetched.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.length_control import GamedRows
from prefeval.errors import DataError
from prefeval.files import read_json, read_jsonl, sha256_file
from prefeval.guards import read_parquet
from prefeval.types import FloatArray

BASELINE = "gpt4_1106_preview"  # the gamed rows are this model's own runs, judged against itself
_GAMED = ("df_gamed.csv", "df_gamed_reconstructed.csv")
_DIFFICULTY = ("instruction_difficulty.csv",)
_C = ("published_dev.csv", "published.csv")
_WEIGHTS = ("glm_weights.csv", f"baseline_{BASELINE}.csv")
_INSTRUCTIONS = (
    "instructions.parquet",
    "instructions.json",
    "instructions.jsonl",
    "alpaca_eval.json",
    "alpaca_eval_gpt4_baseline.json",
)


@dataclass(frozen=True)
class SideFiles:
    """`difficulty` (805,) by canonical index; `index` of each instruction; `c`, `weights` of published models."""

    difficulty: FloatArray
    gamed: GamedRows
    c: dict[str, float]
    weights: dict[str, FloatArray]
    index: dict[str, int]
    revision: str


def read_side_files(folder: str | Path) -> SideFiles | None:
    """The side files of a folder; None if it has neither difficulty nor gamed rows. Raises DataError for bad files."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError("no such folder", file=root)
    gamed_file, difficulty_file = _first(root, _GAMED), _first(root, _DIFFICULTY)
    if gamed_file is None:
        return None
    gamed = _table(gamed_file, ("preference", "index", "std_delta_len", "instruction_difficulty"))
    prior = GamedRows(np.tanh(gamed["std_delta_len"]), gamed["instruction_difficulty"], gamed["preference"])
    if difficulty_file is not None:
        difficulty = _by_index(difficulty_file, _difficulty_rows(difficulty_file))
    else:
        difficulty = _by_index(gamed_file, dict(zip(gamed["index"], gamed["instruction_difficulty"], strict=True)))
    c_file, weight_file, instruction_file = _first(root, _C), _first(root, _WEIGHTS), _first(root, _INSTRUCTIONS)
    used = [f for f in (gamed_file, difficulty_file, c_file, weight_file, instruction_file) if f is not None]
    return SideFiles(
        difficulty=difficulty,
        gamed=prior,
        c=_published_c(c_file) if c_file else {},
        weights=_published_weights(weight_file) if weight_file else {},
        index=_instructions(instruction_file) if instruction_file else {},
        revision=hashlib.sha256("".join(sha256_file(f) for f in used).encode()).hexdigest()[:12],
    )


def _first(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with open(file, encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV: {error}", file=file) from None


def _number(row: dict[str, str], key: str, file: Path, number: int) -> float:
    try:
        return float(row[key])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"must be a number, not {row.get(key)!r}", file=file, row=number, field=key) from None


def _table(file: Path, columns: Sequence[str]) -> dict[str, FloatArray]:
    rows = _rows(file)
    return {c: np.array([_number(row, c, file, i) for i, row in enumerate(rows, 2)], dtype=np.float64) for c in columns}


def _difficulty_rows(file: Path) -> dict[float, float]:
    """index -> difficulty; the index column may be unnamed, as pandas writes it."""
    rows = _rows(file)
    key = "index" if rows and "index" in rows[0] else ""
    return {
        _number(row, key, file, i): _number(row, "instruction_difficulty", file, i) for i, row in enumerate(rows, 2)
    }


def _by_index(file: Path, values: dict[float, float]) -> FloatArray:
    if sorted(values) != list(range(len(values))):
        raise DataError("the indices must be 0..n-1, each once", file=file, field="index")
    return np.array([values[i] for i in range(len(values))], dtype=np.float64)


def _published_c(file: Path) -> dict[str, float]:
    rows = _rows(file)
    named = [(i, row) for i, row in enumerate(rows, 2) if (row.get("glm_C") or "").strip()]
    found = {str(row.get("generator") or row.get("") or ""): _number(row, "glm_C", file, i) for i, row in named}
    return {name: c for name, c in found.items() if math.isfinite(c) and c > 0}


def _published_weights(file: Path) -> dict[str, FloatArray]:
    columns = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")
    found = {}
    for i, row in enumerate(_rows(file), 2):
        found[str(row.get("") or row.get("Unnamed: 0") or "")] = np.array([_number(row, c, file, i) for c in columns])
    return found


def _instructions(file: Path) -> dict[str, int]:
    """Instruction text -> canonical index: the `index` column, or the place in the file."""
    if file.suffix == ".parquet":
        rows: Any = read_parquet(file)
    else:
        rows = read_jsonl(file) if file.suffix == ".jsonl" else read_json(file)
    found: dict[str, int] = {}
    if not isinstance(rows, list):
        raise DataError("must hold a list of objects", file=file)
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
            raise DataError("must be a text", file=file, row=i + 1, field="instruction")
        index = row.get("index", i)
        if not isinstance(index, int):
            raise DataError(f"must be a whole number, not {index!r}", file=file, row=i + 1, field="index")
        found[row["instruction"]] = index
    return found
