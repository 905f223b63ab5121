"""A bounded choice of answers with their verdicts, to be read by a person: `answers.json` beside leaderboard.json.

Questions are taken in turn from each category, in the order of the files, not by how anybody did on them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from leaderboard.report_text import clean
from leaderboard.rulings import Material, Ruling
from leaderboard.table import Table

QUESTIONS, MODELS = 60, 6  # at most
_BUDGET = 500_000  # characters in all
_TURN, _WORDS = 3000, 700  # characters of one answer's or question's turn, and of one judgment


def showcase(table: Table, material: Material) -> dict[str, Any] | None:
    """The questions with their answers side by side; None where the files hold no answers.

    Each verdict tells the judge, the turn, the place at which the model was shown, whom it met, and what was said.
    """
    names = _models(table, material)
    about: dict[str, list[Ruling]] = {}
    for ruling in material.rulings:
        about.setdefault(ruling.question, []).append(ruling)
    answered = {question for model, question, _ in material.texts if model in names}
    questions = [q for q in about if q in answered]
    if not names or not questions:
        return None
    items, left = list[dict[str, Any]](), _BUDGET
    for question in _in_turn(questions, material)[:QUESTIONS]:
        item = _item(question, about[question], names, material)
        left -= _size(item)
        if left < 0 and items:
            break
        items.append(item)
    order = {q: i for i, q in enumerate(questions)}
    everyone = {model for model, _, _ in material.texts}
    found = {
        "questions": len(questions),
        "models": names,
        "models_left_out": len(everyone - set(names)),
        "categories": list(dict.fromkeys(i["category"] for i in items if i["category"])),
        "items": sorted(items, key=lambda item: order[item["question"]]),
    }
    return {key: _cleaned(value) for key, value in found.items()}


def _models(table: Table, material: Material) -> list[str]:
    """The baselines first, then the table's best; only models whose answers are there."""
    there = {model for model, _, _ in material.texts}
    ranked = [*sorted(material.baselines), *(row.name for row in table.rows)]
    return list(dict.fromkeys(m for m in ranked if m in there))[:MODELS]


def _in_turn(questions: Sequence[str], material: Material) -> list[str]:
    """One question of each category after the other."""
    place: dict[str, int] = {}
    turn = {}
    for question in questions:
        category = material.categories.get(question, "")
        place[category] = place.get(category, 0) + 1
        turn[question] = place[category]
    return sorted(questions, key=lambda q: turn[q])


def _item(question: str, rulings: Sequence[Ruling], names: Sequence[str], material: Material) -> dict[str, Any]:
    turns = material.prompts.get(question) or ()
    answers = []
    for name in names:
        own = [text for turn in (1, 2) if (text := material.texts.get((name, question, turn))) is not None]
        if own:
            told = [_verdict(r, name) for r in rulings if _concerns(r, name, names, material.baselines)]
            answers.append({"model": name, "turns": [_cut(text, _TURN) for text in own], "verdicts": told})
    category = material.categories.get(question, "")
    return {"question": question, "category": category, "turns": [_cut(t, _TURN) for t in turns], "answers": answers}


def _concerns(ruling: Ruling, name: str, names: Sequence[str], baselines: Collection[str]) -> bool:
    """A verdict stands beside its model: of two, the one that is no baseline, or else the one listed later."""
    if not ruling.second:
        return ruling.first == name
    sides = [m for m in names if m in (ruling.first, ruling.second)]
    own = [m for m in sides if m not in baselines] or sides
    return bool(own) and own[-1] == name


def _verdict(ruling: Ruling, name: str) -> dict[str, Any]:
    """`share` is the model's share of the win; None for grades and failures."""
    first = ruling.first == name
    share = None
    if ruling.second and not math.isnan(ruling.value):
        share = ruling.value if first else 1.0 - ruling.value
    return {
        "judge": ruling.judge,
        "turn": ruling.turn,
        "against": (ruling.second if first else ruling.first) if ruling.second else "",
        "shown": ("first" if first else "second") if ruling.second else "",
        "label": ruling.label,
        "share": share,
        "grade": None if ruling.second or math.isnan(ruling.value) else ruling.value,
        "reason": ruling.reason,
        "words": _cut(ruling.words, _WORDS),
    }


def _cleaned(value: Any) -> Any:
    """Without characters that a file or a page cannot hold, such as half of a surrogate pair."""
    if isinstance(value, dict):
        return {key: _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner) for inner in value]
    return clean(value) if isinstance(value, str) else value


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit].rstrip()}… ({len(text) - limit:,} characters more)"


def _size(item: dict[str, Any]) -> int:
    texts = [*item["turns"], *(t for a in item["answers"] for t in a["turns"])]
    return sum(map(len, texts)) + sum(len(v["words"]) + 200 for a in item["answers"] for v in a["verdicts"])
