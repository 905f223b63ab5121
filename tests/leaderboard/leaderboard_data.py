"""Where the real benchmark data lies, and verdict files in the originals' formats made from its compact tables."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

DATA = Path(os.environ.get("PREFEVAL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data") / "benchmarks"
KO_BASELINE = "claude-3.7-sonnet"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the benchmark data is not here (set PREFEVAL_DATA)")


@cache
def parquet(name: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(DATA / name).to_pylist()
    return rows


@cache
def table(name: str) -> list[dict[str, str]]:
    with open(DATA / name, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def read_csv(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a written leaderboard by model name."""
    with open(path, encoding="utf-8", newline="") as handle:
        return {row["name"]: row for row in csv.DictReader(handle)}


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def alpaca_files(folder: Path, models: set[str] | None = None) -> list[Path]:
    """annotations.json files with texts of the right lengths."""
    texts = {row["index"]: row for row in parquet("alpaca_eval/instructions.parquet")}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(parquet("alpaca_eval/annotations_dev.parquet"), key=lambda r: r["row"]):
        if models is None or row["generator"] in models:
            found.setdefault(row["generator"], []).append(
                {
                    "instruction": texts[row["index"]]["instruction"],
                    "dataset": texts[row["index"]]["dataset"],
                    "output_1": "b" * row["len_1"],
                    "generator_1": "gpt4_1106_preview",
                    "output_2": "m" * row["len_2"],
                    "generator_2": row["generator"],
                    "annotator": "weighted_alpaca_eval_gpt4_turbo",
                    "preference": row["preference"],
                }
            )
    files = []
    for i, rows in enumerate(found.values()):
        path = folder / f"{i}.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        files.append(path)
    return files


def ko_files(folder: Path) -> list[Path]:
    """Old-format judgments and answers of the Korean Arena-Hard pool, with the style records as conv_metadata."""
    judgments = []
    for row in parquet("arena_hard/ko_v0.1/ko_verdicts_dev.parquet"):
        games = [{"score": label} for label in (row["g1"], row["g2"]) if label is not None]
        judgments.append({"question_id": row["uid"], "model": row["model"], "judge": "ensemble", "games": games})
    answers = [
        {
            "question_id": row["uid"],
            "model_id": row["model"],
            "choices": [{"index": 0, "turns": [{"content": "", "token_len": row["token_len"]}]}],
            "conv_metadata": {
                "token_len": row["token_len"],
                "header_count": {"h1": row["header"]},
                "list_count": {"ordered": row["list"], "unordered": 0},
                "bold_count": {"**": row["bold"], "__": 0},
            },
        }
        for row in parquet("arena_hard/ko_v0.1/ko_style_dev.parquet")
    ]
    return [write_lines(folder / "judgment.jsonl", judgments), write_lines(folder / "answers.jsonl", answers)]


def mt_file(folder: Path) -> Path:
    """A FastChat single-judgment file of the official ratings, -1 where none could be read."""
    rows = [
        {
            "question_id": row["question_id"],
            "model": row["model"],
            "judge": ["gpt-4", "single-v1"],
            "turn": row["turn"],
            "score": row["score"],
        }
        for row in parquet("mt_bench/gpt4_single_scores_dev.parquet")
    ]
    return write_lines(folder / "gpt-4_single.jsonl", rows)
