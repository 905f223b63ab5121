"""Alignment tax: lm-eval results normalised as the Open LLM Leaderboard v2 did, base against aligned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefeval.errors import DataError

# Answers to choose from per subtask (chance = 1 / choices), as the board counted them; lm-eval 0.4.13's task files have
# the same number of choices in all 24.
BBH = {
    "boolean_expressions": 2, "causal_judgement": 2, "date_understanding": 6, "disambiguation_qa": 3,
    "formal_fallacies": 2, "geometric_shapes": 11, "hyperbaton": 2, "logical_deduction_five_objects": 5,
    "logical_deduction_seven_objects": 7, "logical_deduction_three_objects": 3, "movie_recommendation": 6,
    "navigate": 2, "object_counting": 19, "penguins_in_a_table": 5, "reasoning_about_colored_objects": 18,
    "ruin_names": 6, "salient_translation_error_detection": 6, "snarks": 2, "sports_understanding": 2,
    "temporal_sequences": 4, "tracking_shuffled_objects_five_objects": 5,
    "tracking_shuffled_objects_seven_objects": 7, "tracking_shuffled_objects_three_objects": 3, "web_of_lies": 2,
}  # fmt: skip
MUSR = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}
# Board task -> its parts: (lm-eval task, metric, choices); no choices: generated, not normalised.
PARTS: dict[str, list[tuple[str, str, int | None]]] = {
    "IFEval": [("leaderboard_ifeval", f"{level}_level_strict_acc", None) for level in ("prompt", "inst")],
    "BBH": [(f"leaderboard_bbh_{name}", "acc_norm", choices) for name, choices in BBH.items()],
    "MATH Lvl 5": [("leaderboard_math_hard", "exact_match", None)],
    "GPQA": [("leaderboard_gpqa", "acc_norm", 4)],
    "MuSR": [(f"leaderboard_musr_{name}", "acc_norm", choices) for name, choices in MUSR.items()],
    "MMLU-Pro": [("leaderboard_mmlu_pro", "acc", 10)],
}


@dataclass(frozen=True)
class TaskScore:
    """A normalised score in points, and its standard error (NaN where the harness gave none)."""

    score: float
    error: float


def normalised(accuracy: float, chance: float) -> float:
    """100 max(0, (accuracy - chance) / (1 - chance)): 0 at chance, 100 when all is right."""
    return 100 * max(0.0, (accuracy - chance) / (1 - chance))


def board_scores(results: Mapping[str, Any]) -> dict[str, TaskScore]:
    """The six board scores and their `average`, each part normalised before averaging.

    `results` is the harness's results JSON. Errors are independent between parts; clipping at chance is left out
    of them. Raises DataError naming the first task or metric that is missing: a mean of fewer is another number.
    """
    table = results.get("results")
    if not isinstance(table, Mapping):
        raise DataError("has no 'results' object: not a results file of lm-eval")
    scores = {name: _mean([_part(table, *part) for part in parts]) for name, parts in PARTS.items()}
    return {**scores, "average": _mean(list(scores.values()))}


def _part(table: Mapping[str, Any], task: str, metric: str, choices: int | None) -> TaskScore:
    row = table.get(task)
    if not isinstance(row, Mapping):
        raise DataError(f"has no task {task} (run the whole task group 'leaderboard')")
    value = row.get(f"{metric},none")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"task {task}: '{metric},none' is {value!r}, not a number from 0 to 1")
    error = row.get(f"{metric}_stderr,none")  # "N/A" where the harness cannot tell
    chance = 1 / choices if choices else 0.0
    spread = float(error) if isinstance(error, int | float) else math.nan
    return TaskScore(normalised(value, chance), 100 * spread / (1 - chance))


def _mean(parts: Sequence[TaskScore]) -> TaskScore:
    n = len(parts)
    return TaskScore(sum(p.score for p in parts) / n, math.sqrt(sum(p.error**2 for p in parts)) / n)
