"""The report's browser: the answers of `answers.json` side by side with the verdicts on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.report_text import Browser, Question, Reply, Said, Section, Tone, clean, cut, real, redact, show

MODELS, CATEGORIES = 6, 16  # that the page's style sheet can pick
_TITLE = 160  # characters of a question in the list


def browser(id_: str, value: Any) -> Section | None:
    """`value` is the content of answers.json; None without questions."""
    items = value.get("items") if isinstance(value, Mapping) else None
    names = _texts(value.get("models")) if isinstance(value, Mapping) else []
    if not isinstance(items, list) or not names:
        return None
    models = names[:MODELS]
    categories = _texts(value.get("categories"))[:CATEGORIES]
    questions = [_question(i, models, categories) for i in items if isinstance(i, Mapping)]
    questions = [q for q in questions if q.replies]
    if not questions:
        return None
    block = Browser(id_, tuple(models), tuple(categories) if len(categories) > 1 else (), tuple(questions))
    return Section(id_, "Answers and verdicts", (_told(value, len(questions)), block))


def _told(value: Mapping[str, Any], shown: int) -> str:
    total, left = real(value.get("questions")), real(value.get("models_left_out"))
    text = f"{shown} of {show(total, 'count')} questions, taken in turn from each category and not by their outcome"
    if math.isfinite(total) and total > shown:
        text += f"; {show(total - shown, 'count')} are left out to keep the page small"
    text += f". {show(left, 'count')} more models are left out." if left > 0 else "."
    return f"{text} Open a question to read its answers side by side; untick a model to hide it."


def _question(item: Mapping[str, Any], models: Sequence[str], categories: Sequence[str]) -> Question:
    key, category = clean(item.get("question") or ""), clean(item.get("category") or "")
    turns = tuple(_texts(item.get("turns")))
    pairs = [(_reply(answer, models), _brief(answer)) for answer in _mappings(item.get("answers"))]
    brief = [(reply.name, text) for reply, text in pairs if reply is not None]
    return Question(
        title=cut(" ".join((turns[0] if turns else f"Question {key}").split()), _TITLE),
        category=category,
        slot=categories.index(category) + 1 if category in categories else 0,
        brief=" · ".join(f"{name} {text}" for name, text in brief if text),
        turns=turns,
        replies=tuple(reply for reply, _ in pairs if reply is not None),
    )


def _reply(answer: Mapping[str, Any], models: Sequence[str]) -> Reply | None:
    name = clean(answer.get("model") or "")
    if name not in models:
        return None
    verdicts = tuple(_said(v) for v in _mappings(answer.get("verdicts")))
    turns = tuple(text.strip() or "(empty)" for text in _texts(answer.get("turns")))
    return Reply(models.index(name), name, turns, verdicts)


def _brief(answer: Mapping[str, Any]) -> str:
    """The mean grade, or the mean share of the win, for the list."""
    found = _mappings(answer.get("verdicts"))
    grades, shares = ([v for one in found if math.isfinite(v := real(one.get(n)))] for n in ("grade", "share"))
    if grades:
        return show(sum(grades) / len(grades), "score")
    if shares:
        return f"{show(sum(shares) / len(shares), 'percent')} of the win"
    return "no verdict" if found else ""


def _said(verdict: Mapping[str, Any]) -> Said:
    judge = redact(verdict.get("judge") or "the judge")
    share, grade, label = real(verdict.get("share")), real(verdict.get("grade")), clean(verdict.get("label") or "")
    against, shown = clean(verdict.get("against") or ""), clean(verdict.get("shown") or "")
    turn = f"turn {show(real(verdict.get('turn')), 'count')}, " if math.isfinite(grade) or not against else ""
    place = f", shown {shown}" if shown else ""
    tone: Tone = ""
    if math.isfinite(share):
        won = "wins" if share > 0.5 else "loses" if share < 0.5 else "ties"
        tone = "good" if share > 0.5 else "bad" if share < 0.5 else "quiet"
        text = f"{won} against {against} ({show(share, 'percent')} of the win; {label}{place}), says {judge}"
    elif math.isfinite(grade):
        text = f"{turn}grade {grade:g}, says {judge}"
    else:
        tone = "warn"
        text = f"{turn}no verdict of {judge}: {clean(verdict.get('reason') or 'it failed')}{place}"
    return Said(text, clean(verdict.get("words") or "").strip(), tone)


def _texts(value: Any) -> list[str]:
    return [clean(v) for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []
