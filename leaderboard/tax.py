"""`prefeval tax`: what alignment cost on the Open LLM Leaderboard v2 tasks, from results files of lm-eval."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leaderboard.lm_eval import PARTS, TaskScore, board_scores
from prefeval.errors import DataError
from prefeval.files import read_json

Z95 = 1.959963984540054


def tax(argv: list[str]) -> int:
    """The command: the first file is the base, each other one is compared with it."""
    parser = argparse.ArgumentParser(
        prog="prefeval tax",
        description="Scores of base and aligned models, normalised, with their differences.",
        epilog="The files come from the harness (pip install 'prefeval[lm-eval]'): lm_eval --model hf --model_args "
        "pretrained=DIR --tasks leaderboard --output_path OUT; chat models with --apply_chat_template "
        "--fewshot_as_multiturn.",
    )
    parser.add_argument(
        "--results",
        nargs="+",
        required=True,
        metavar="FILE",
        help="lm-eval results of 'leaderboard', base first",
    )
    files = [Path(f) for f in parser.parse_args(argv).results]
    read = [_read(file) for file in files]
    sys.stdout.write(f"base: {files[0]}\n{_rows(*read[0])}")
    for file, (scores, counts) in zip(files[1:], read[1:], strict=True):
        sys.stdout.write(f"\n{file}\n{_rows(scores, counts, read[0][0])}")
    sys.stdout.write(
        "\n95% intervals; of a difference as if the two runs had no item in common: wider than a paired one.\n"
        "'+- ?': lm-eval gives no error of IFEval's instruction accuracy, so none for IFEval and the average.\n"
    )
    return 0


def item_counts(results: Mapping[str, Any]) -> dict[str, int]:
    """Items behind each board task, after `n-samples` of the file; 0 where it does not say."""
    counts = results.get("n-samples") or {}
    found = dict.fromkeys(PARTS, 0)
    for name, parts in PARTS.items():
        stem = parts[0][0] if len({task for task, _, _ in parts}) == 1 else "_".join(parts[0][0].split("_")[:2])
        stem = stem.removesuffix("_hard")  # the subtasks are leaderboard_math_algebra_hard and so on
        found[name] = sum(int(row.get("effective", 0)) for task, row in counts.items() if task.startswith(stem))
    return {**found, "average": sum(found.values())}


def _read(file: Path) -> tuple[dict[str, TaskScore], dict[str, int]]:
    results = read_json(file)
    if not isinstance(results, Mapping):
        raise DataError("is not a JSON object: not a results file of lm-eval", file=file)
    try:
        return board_scores(results), item_counts(results)
    except DataError as error:
        raise DataError(str(error), file=file) from error


def _rows(
    scores: Mapping[str, TaskScore], counts: Mapping[str, int], base: Mapping[str, TaskScore] | None = None
) -> str:
    lines = []
    for name, score in scores.items():
        line = f"  {name:<10}  {_interval(score, '.2f')}  n {counts[name] or '?'}"
        if base is not None:
            gap = TaskScore(score.score - base[name].score, math.hypot(score.error, base[name].error))
            line += f"  difference {_interval(gap, '+.2f')}"
        lines.append(line + "\n")
    return "".join(lines)


def _interval(score: TaskScore, form: str) -> str:
    half = "?" if math.isnan(score.error) else f"{Z95 * score.error:.2f}"
    return f"{score.score:{form}} +- {half}"
