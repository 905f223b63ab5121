"""Every verdict of the originals' files as it was given: who was shown first, what was said, and why one failed.

The scorers keep one verdict a question and drop the rest; diagnostics of a judge and readers of its words need all of
them, repeated ones included. At most MOST verdicts are read, whole files at a time, so that memory stays bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leaderboard.annotation_fields import name_of, objects
from leaderboard.annotations import grade_of, label_of_game, match_of, win_of
from leaderboard.answers import Answers
from leaderboard.benchmarks.alpaca_eval import is_switched
from leaderboard.ratings import LABELS
from prefeval.judges.base import UNREADABLE

MOST = 30_000  # verdicts: their texts take about 100 MB
FAILED_CALL = "failed call"
_TEXTS = 100_000_000  # characters of answers that are kept
_ERROR_TEXT = "$ERROR$"  # FastChat's judgment of a call that failed
_WORDS = 4000  # characters of a judgment that are kept
TextKey = tuple[str, str, int]  # model, question, turn


@dataclass(frozen=True, slots=True)
class Ruling:
    """One verdict. `first` and `second` are the models in the order shown, `second` '' where one answer was graded.

    `value` is the share of the win of `first` in [0, 1], or the grade; NaN where the judge failed for `reason`. `task`
    is equal for verdicts on the very same question and answers in the same order, as far as the file tells.
    """

    judge: str
    question: str
    turn: int
    first: str
    second: str
    value: float
    label: str
    words: str = ""
    reason: str = ""
    price: float = math.nan
    task: int = 0


@dataclass
class Material:
    """The rulings, the answers that they are about, and the questions' turns, as far as these are known.

    `left_out` counts the verdict files, and `texts_left_out` says whether answers, were not read because of the bounds.
    """

    protocol: str
    rulings: list[Ruling] = field(default_factory=list)
    texts: dict[TextKey, str] = field(default_factory=dict)
    prompts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)
    baselines: set[str] = field(default_factory=set)
    left_out: int = 0
    texts_left_out: bool = False


def read_material(
    protocol: str,
    files: Sequence[str | Path],
    answers: Iterable[Answers] = (),
    prompts: Mapping[str, tuple[str, ...]] | None = None,
    *,
    baseline: str = "",
) -> Material:
    """The verdicts of annotation files (no answer files among them). `baseline` serves Arena-Hard files that do not
    name it. Raises DataError."""
    found = Material(protocol, prompts=dict(prompts or {}))
    readers = {"alpaca_eval": _alpaca, "arena_hard": _arena, "mt_bench": _mt}
    for i, file in enumerate(files):
        if len(found.rulings) >= MOST:
            found.left_out = len(files) - i
            break
        found.rulings += readers[protocol](file, found, baseline)
    size = 0
    for one in answers:
        if size > _TEXTS:
            found.texts_left_out = True
            break
        for key, answer in one.items.items():
            found.texts |= {(one.model, key, turn): text for turn, text in enumerate(answer.turns, 1)}
            size += sum(map(len, answer.turns))
            if answer.prompt:
                found.prompts.setdefault(key, (answer.prompt,))
    return found


def _alpaca(file: str | Path, found: Material, _: str) -> Iterator[Ruling]:
    """One verdict a question, in the order that upstream draws from the instruction, or, of a judge that was asked in
    both, two; equal answers are never sent."""
    for number, raw in objects(file):
        question, base, model = (str(raw.get(k) or "") for k in ("instruction", "generator_1", "generator_2"))
        found.baselines.add(base)
        texts = raw.get("output_1"), raw.get("output_2")
        for name, text in zip((base, model), texts, strict=True):
            if isinstance(text, str):
                found.texts[name, question, 1] = text
        found.prompts.setdefault(question, (question,))
        found.categories.setdefault(question, str(raw.get("dataset") or ""))
        if isinstance(texts[0], str) and texts[0] == texts[1]:
            continue
        win_of(raw, file, number)  # tells what is wrong with the row
        asked = _orders(raw, question)
        for switched, preference, said in asked:
            win = win_of({"preference": preference}, file, number)
            first, second = (model, base) if switched else (base, model)
            yield Ruling(
                judge=name_of(raw.get("annotator")),
                question=question,
                turn=1,
                first=first,
                second=second,
                value=win if switched else 1.0 - win,
                label="" if math.isnan(win) else f"{100 * win:.0f}% for {model}",
                words=_words(said) if isinstance(said, str) else "",
                reason=(UNREADABLE if said is not None else FAILED_CALL) if math.isnan(win) else "",
                price=_price(_either(raw, "price_per_example")) / len(asked),
                task=hash((question, first, second, *texts)),
            )


def _orders(raw: Mapping[str, Any], question: str) -> list[tuple[bool, Any, Any]]:
    """(whether the model was shown first, the preference, what the judge said) of each order that was asked.

    `preferences` are our own rows': the baseline shown first, then the model.
    """
    each, said = raw.get("preferences"), _either(raw, "raw_completion")
    if not isinstance(each, list) or len(each) != 2:
        return [(is_switched(question), raw.get("preference"), said)]
    words = said if isinstance(said, list) and len(said) == 2 else [None, None]
    return [(switched, each[switched], words[switched]) for switched in (False, True)]


def _arena(file: str | Path, found: Material, baseline: str) -> Iterator[Ruling]:
    """Two games a question: the baseline is shown first in game 1, the model in game 2."""
    for number, raw in objects(file):
        question = str(raw.get("uid") or raw.get("question_id") or "")
        model, base = name_of(raw.get("model")), name_of(raw.get("baseline")) or baseline or "the baseline"
        found.baselines.add(base)
        found.categories.setdefault(question, name_of(raw.get("subcategory")) or name_of(raw.get("category")))
        for i, game in enumerate(raw.get("games") or []):
            label = label_of_game(game, file, number)
            first, second = (base, model) if i == 0 else (model, base)
            said = _said(game)
            yield Ruling(
                judge=name_of(raw.get("judge")),
                question=question,
                turn=1,
                first=first,
                second=second,
                value=math.nan if label is None else LABELS[label][0],
                label=label or "",
                words=_words(said),
                reason="" if label else FAILED_CALL if game is None else UNREADABLE,
                task=hash((question, first, second, _asked(game))),
            )


def _mt(file: str | Path, found: Material, _: str) -> Iterator[Ruling]:
    """A grade, or the two orders of a pair."""
    for number, raw in objects(file):
        if "g1_winner" in raw:
            yield from _pair(raw, file, number)
            continue
        row = grade_of(raw, file, number)
        if row.category:
            found.categories.setdefault(row.question_id, row.category)
        said = str(raw.get("judgment") or "")
        failed = math.isnan(row.grade)
        yield Ruling(
            judge=row.judge,
            question=row.question_id,
            turn=row.turn,
            first=row.model,
            second="",
            value=row.grade,
            label="" if failed else f"{row.grade:g}",
            words=_words(said),
            reason=(FAILED_CALL if said == _ERROR_TEXT else UNREADABLE) if failed else "",
            task=hash((row.question_id, row.turn, row.model, raw.get("user_prompt"))),
        )


def _pair(raw: Mapping[str, Any], file: str | Path, number: int) -> Iterator[Ruling]:
    row = match_of(raw, file, number)
    value = {"tie": 0.5, "error": math.nan}
    for i, winner in enumerate(row.winners):
        first, second = (row.model_1, row.model_2) if i == 0 else (row.model_2, row.model_1)
        said = str(raw.get(f"g{i + 1}_judgment") or "")
        won = row.model_1 if winner == "model_1" else row.model_2
        failed = winner == "error"
        yield Ruling(
            judge=row.judge,
            question=row.question_id,
            turn=row.turn,
            first=first,
            second=second,
            value=value.get(winner, float(won == first)),
            label="" if failed else "tie" if winner == "tie" else f"{won} wins",
            words=_words(said),
            reason=(FAILED_CALL if said == _ERROR_TEXT else UNREADABLE) if failed else "",
            task=hash((row.question_id, row.turn, first, second, raw.get(f"g{i + 1}_user_prompt"))),
        )


def _either(raw: Mapping[str, Any], name: str) -> Any:
    """AlpacaEval's optional keys, in either spelling."""
    return raw.get(name) if raw.get(name) is not None else raw.get(f"preference_{name}")


def _price(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _said(game: Any) -> str:
    """The judgment's text in either version of Arena-Hard's files."""
    judgment = game.get("judgment") if isinstance(game, dict) else None
    return str(judgment.get("answer") or "") if isinstance(judgment, dict) else str(judgment or "")


def _asked(game: Any) -> str:
    """What the judge was shown, where the file holds it."""
    if not isinstance(game, dict):
        return ""
    return str(game.get("prompt") or game.get("user_prompt") or "")


def _words(text: str) -> str:
    return text if len(text) <= _WORDS else text[:_WORDS] + "…"
