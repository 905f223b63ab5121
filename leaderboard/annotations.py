"""Readers of the originals' verdict files: AlpacaEval annotations, Arena-Hard and FastChat judgments.

Several files at once, gzipped or not. Names of models come from the rows, never from file names. Every complaint names
file, row and field. A verdict that its judge failed to give is NaN or None and is counted, never scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaderboard.annotation_fields import last_of_each, name_of, objects, short, text_field
from prefeval.errors import DataError
from prefeval.log import logger

NAN = math.nan
ARENA_LABELS = ("A>>B", "A>B", "A=B", "B=A", "B>A", "B>>A", "A<B", "A<<B", "B<A", "B<<A")
_LABELS = {label: label for label in ARENA_LABELS}  # one object a label, however many rows
MATCH_NAMES = ("model_1", "model_2", "tie", "error")


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """AlpacaEval: `win` = share of the win that goes to the model in [0, 1], NaN when the judge failed.

    `position` counts the rows of this model in its file from 0; lengths are characters, NaN when the file has no
    texts; `file` and `row` (from 1) say where it was read.
    """

    model: str
    baseline: str
    judge: str
    instruction: str
    dataset: str
    win: float
    position: int
    length_model: float
    length_baseline: float
    file: str = ""
    row: int = 0


@dataclass(frozen=True, slots=True)
class GameRow:
    """Arena-Hard: the labels of game 1 (A = baseline) and game 2 (A = model); None when the judge failed.

    `separate` games (v0.1's old files) are scored one by one; in v2's, a question with a failed game is dropped.
    `subcategory` is v2's second level (coding and math within hard_prompt), '' where the row does not tell.
    """

    uid: str
    model: str
    baseline: str
    judge: str
    category: str
    labels: tuple[str | None, str | None]
    separate: bool
    subcategory: str = ""


@dataclass(frozen=True, slots=True)
class GradeRow:
    """MT-Bench single grading: `grade` is NaN when no rating could be read (stored as -1)."""

    question_id: str
    model: str
    judge: str
    turn: int
    grade: float
    category: str = ""


@dataclass(frozen=True, slots=True)
class MatchRow:
    """MT-Bench pairs: winners of the two orders, each 'model_1', 'model_2', 'tie' or 'error'."""

    question_id: str
    model_1: str
    model_2: str
    judge: str
    turn: int
    winners: tuple[str, str]


def read_preferences(files: Sequence[str | Path]) -> list[PreferenceRow]:
    """AlpacaEval `annotations.json` files, with either spelling of the optional keys. Raises DataError."""
    rows = [row for file in files for row in iterate_preferences(file)]
    return last_of_each(rows, lambda r: (r.model, r.judge, r.instruction), "instruction")


def iterate_preferences(file: str | Path) -> Iterator[PreferenceRow]:
    """The rows of one AlpacaEval file as they stand, repeated ones included."""
    positions: dict[tuple[str, str], int] = {}
    for number, raw in objects(file):
        model, judge = text_field(raw, "generator_2", file, number), name_of(raw.get("annotator"))
        position = positions.get((model, judge), 0)
        positions[model, judge] = position + 1
        yield PreferenceRow(
            model=model,
            baseline=text_field(raw, "generator_1", file, number),
            judge=judge,
            instruction=text_field(raw, "instruction", file, number, empty=True),
            dataset=str(raw.get("dataset") or ""),
            win=win_of(raw, file, number),
            position=position,
            length_model=_length(raw, "output_2", file, number),
            length_baseline=_length(raw, "output_1", file, number),
            file=str(file),
            row=number,
        )


def read_games(files: Sequence[str | Path], *, baseline: str = "") -> list[GameRow]:
    """Arena-Hard judgments of either version. `baseline` names it for files that do not tell. Raises DataError."""
    rows: list[GameRow] = []
    for file in files:
        for number, raw in objects(file):
            old = "uid" not in raw and "question_id" in raw
            games = raw.get("games")
            if not isinstance(games, list) or not 1 <= len(games) <= 2:
                raise DataError("must be a list of one or two games", file=file, row=number, field="games")
            read = [label_of_game(game, file, number) for game in games]
            if len(read) == 1:  # the v0.1 pipeline reads the only game of such a row twice; v2 has no such rows
                logger.warning("%s, row %d: one game only%s", file, number, ", read twice as v0.1 does" if old else "")
                read.append(read[0] if old else None)
            rows.append(
                GameRow(
                    uid=text_field(raw, "question_id" if old else "uid", file, number),
                    model=text_field(raw, "model", file, number),
                    baseline=name_of(raw.get("baseline") or baseline),
                    judge=name_of(raw.get("judge")),
                    category=name_of(raw.get("category")),
                    labels=(read[0], read[1]),
                    separate=old,
                    subcategory=name_of(raw.get("subcategory")),
                )
            )
    return last_of_each(rows, lambda r: (r.model, r.judge, r.baseline, r.uid), "uid")


def read_grades(files: Sequence[str | Path]) -> tuple[list[GradeRow], list[MatchRow]]:
    """FastChat `*_single.jsonl` and `*_pair.jsonl` rows, mixed or not; the last row of a re-run counts."""
    grades: list[GradeRow] = []
    matches: list[MatchRow] = []
    for file in files:
        for number, raw in objects(file):
            if "g1_winner" in raw:
                matches.append(match_of(raw, file, number))
            else:
                grades.append(grade_of(raw, file, number))
    return (
        last_of_each(grades, lambda r: (r.model, r.judge, r.question_id, r.turn), "question and turn"),
        last_of_each(matches, lambda r: (r.model_1, r.model_2, r.judge, r.question_id, r.turn), "question and turn"),
    )


def is_answer_file(file: str | Path) -> bool:
    """Whether a file holds model answers (`messages` or `choices`) rather than verdicts; looks at the first row."""
    for _, raw in objects(file):
        return "games" not in raw and ("messages" in raw or "choices" in raw)
    return False


def category_of(question_id: str) -> str:
    """MT-Bench's category of a question id 81..160 (ten questions each, in this order); '' for other ids."""
    names = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
    number = int(question_id) if question_id.isdigit() else 0
    return names[(number - 81) // 10] if 81 <= number <= 160 else ""


def win_of(raw: Mapping[str, Any], file: object, row: int) -> float:
    """preference - 1, after 0 -> 1.5 (an old draw); null and -1 are failures."""
    if "preference" not in raw:
        raise DataError("is missing", file=file, row=row, field="preference")
    value = raw["preference"]
    if value is None:
        return NAN
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"must be a number or null, not {short(value)}", file=file, row=row, field="preference")
    if math.isnan(value) or value == -1:
        return NAN
    if value == 0:
        return 0.5
    if not 1 <= value <= 2:
        raise DataError(f"must lie in [1, 2], not {value}", file=file, row=row, field="preference")
    return float(value) - 1.0


def label_of_game(game: Any, file: object, row: int) -> str | None:
    """The label of one game; a null game, a null score or a text that is no label is a failed verdict."""
    if game is None:
        return None
    if not isinstance(game, dict):
        raise DataError(f"must hold objects or null, not {short(game)}", file=file, row=row, field="games")
    label = game.get("score")
    if label is None:
        return None
    if not isinstance(label, str):
        raise DataError(f"must be a label such as 'A>B', not {short(label)}", file=file, row=row, field="games.score")
    return _LABELS.get(label.strip().upper())


def grade_of(raw: Mapping[str, Any], file: object, row: int) -> GradeRow:
    value = raw.get("score")
    if "score" not in raw:
        raise DataError("is missing (neither a single nor a pair judgment)", file=file, row=row, field="score")
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise DataError(f"must be a number, not {short(value)}", file=file, row=row, field="score")
    if value is not None and math.isinf(value):
        raise DataError(f"must be a finite number, not {value}", file=file, row=row, field="score")
    grade = NAN if value is None or value == -1 else float(value)
    question = text_field(raw, "question_id", file, row)
    category = str(raw.get("category") or category_of(question))
    model, judge = text_field(raw, "model", file, row), name_of(raw.get("judge"))
    return GradeRow(question, model, judge, _turn(raw, file, row), grade, category)


def match_of(raw: Mapping[str, Any], file: object, row: int) -> MatchRow:
    winners = []
    for key in ("g1_winner", "g2_winner"):
        winner = text_field(raw, key, file, row)
        if winner not in MATCH_NAMES:
            raise DataError(f"must be one of {', '.join(MATCH_NAMES)}, not '{winner}'", file=file, row=row, field=key)
        winners.append(winner)
    names = text_field(raw, "model_1", file, row), text_field(raw, "model_2", file, row)
    return MatchRow(
        text_field(raw, "question_id", file, row),
        *names,
        name_of(raw.get("judge")),
        _turn(raw, file, row),
        (winners[0], winners[1]),
    )


def _turn(raw: Mapping[str, Any], file: object, row: int) -> int:
    turn = raw.get("turn", 1)
    if turn not in (1, 2):
        raise DataError(f"must be 1 or 2, not {short(turn)}", file=file, row=row, field="turn")
    return int(turn)


def _length(raw: Mapping[str, Any], key: str, file: object, row: int) -> float:
    value = raw.get(key)
    if value is None:
        return NAN
    if not isinstance(value, str):
        raise DataError(f"must be a text, not {short(value)}", file=file, row=row, field=key)
    return float(len(value))
