"""MT-Bench's protocol, single-answer grading (arXiv 2306.05685; reference/benchmarks.md 3.1-3.2).

Two turns a question; the second turn sees the model's own first answer. Each turn is graded from 1 to 10, the second in
view of the whole conversation; math, reasoning and coding are graded against a reference where there is one. A judge
that is a preference model grades by comparing with reference texts: the question's own, else the baseline's answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leaderboard.answers import Answers
from leaderboard.benchmarks.base import (
    BenchPrompt,
    Judged,
    Source,
    answer_of,
    pick_baseline,
    read_rows,
    revision_of,
    short_hash,
    text_field,
)
from leaderboard.benchmarks.rendering import fastchat_prompts, fill, shipped
from prefeval.errors import DataError
from prefeval.judges.base import JudgeTask
from prefeval.types import Message

REFERENCE_CATEGORIES = ("math", "reasoning", "coding", "arena-hard-200")
WRONG_REFERENCES = frozenset(map(str, (104, 105, 109, 111, 113, 114, 120, 122, 124, 125, 126, 128, 130)))  # gpt-4's
FAILED = "$ERROR$"  # what FastChat stores where a call gave no judgment
TEMPERATURES = {
    **{"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1},
    **{"extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0},
}
_ORIGINAL = {
    "single": "single-v1",
    "single_reference": "single-math-v1",
    "multi": "single-v1-multi-turn",
    "multi_reference": "single-math-v1-multi-turn",
}


class MTBench:
    """Prompts: rows with `question_id`, `category`, two `turns`, perhaps `reference`; `references` adds them by id."""

    protocol, needs_baseline = "mt_bench", False

    def __init__(self, source: Source, *, references: Path | None = None) -> None:
        self.name, self.baseline = source.name, source.baseline
        self._prompts, self._notes = read_questions(source, references)
        self._wording = Wording(source, "mt_bench", _ORIGINAL)
        self.own_wording, self.template_hash = self._wording.is_own, self._wording.hash
        self.data_revision = revision_of(self._prompts)

    def prompts(self) -> Sequence[BenchPrompt]:
        return self._prompts

    def baseline_names(self, baselines: Sequence[Answers]) -> dict[str, str]:
        return {}

    def notes(self, baselines: Sequence[Answers]) -> list[str]:
        return self._notes

    def tasks(self, answers: Answers, baselines: Sequence[Answers]) -> list[JudgeTask]:
        return [
            self._task(answers, baselines, prompt, turn)
            for prompt in self._prompts
            for turn in range(1, len(prompt.turns) + 1)
        ]

    def native(
        self, answers: Answers, baselines: Sequence[Answers], judged: Sequence[Judged], judge: str
    ) -> list[dict[str, Any]]:
        """Rows of `JUDGE_single.jsonl`, with the category added; score -1 where there is no rating."""
        rows = []
        for item in judged:
            meta, grade = item.task.meta, item.verdict.grade
            rows.append(
                {
                    "question_id": question_id(meta["key"]),
                    "model": answers.model,
                    "judge": [judge, meta["template"]],
                    "user_prompt": item.task.messages[-1].content,
                    "judgment": item.verdict.raw or (FAILED if grade is None else ""),
                    "score": -1 if grade is None else grade,
                    "turn": meta["turn"],
                    "tstamp": time.time(),
                    "category": meta["category"],
                }
            )
        return rows

    def _task(self, answers: Answers, baselines: Sequence[Answers], prompt: BenchPrompt, turn: int) -> JudgeTask:
        own = answer_of(answers, prompt).turns
        template = template_of("single", prompt, turn)
        if len(prompt.reference) >= turn:
            references = [prompt.reference[turn - 1]]
        else:
            references = [answer_of(pick_baseline(baselines, prompt), prompt).turns[turn - 1]] if baselines else []
        return JudgeTask(
            id=f"{self.name}/{answers.model}/{prompt.key}/{turn}",
            prompt=prompt.conversation(own[: turn - 1]),
            first=own[turn - 1],
            second=None,
            messages=self._wording.messages(template, _values(prompt, own)),
            parser="mt_grade",
            meta={
                "key": prompt.key,
                "turn": turn,
                "category": prompt.category,
                "template": self._wording.name(template),
                "references": references,
            },
        )


class Wording:
    """How the judge is asked: FastChat's templates where the data folder has them, else the folder's own or ours.

    `originals` maps our names of the templates to FastChat's.
    """

    def __init__(self, source: Source, shipped_name: str, originals: Mapping[str, str]) -> None:
        self._original = fastchat_prompts(source.data) if source.template is None else None
        self._own = source.template or shipped(shipped_name)
        self._originals, self._benchmark = originals, source.name

    @property
    def is_own(self) -> bool:
        return self._original is None

    @property
    def hash(self) -> str:
        return short_hash(self._original or self._own)

    def name(self, template: str) -> str:
        """What the annotation files call the template."""
        return self._originals[template] if self._original else f"{self._benchmark}-{template}"

    def messages(self, template: str, values: Mapping[str, str]) -> tuple[Message, ...]:
        """The filled template. Ours and FastChat's name their fields differently: `values` has every spelling."""
        if self._original is not None:
            original = self._original[self._originals[template]]
            system, user = original["system_prompt"], original["prompt_template"]
        else:
            system, user = self._own[template]["system"], self._own[template]["user"]
        return Message("system", system), Message("user", fill(user, values))


def read_questions(source: Source, references: Path | None) -> tuple[tuple[BenchPrompt, ...], list[str]]:
    """The questions with their reference answers, and what a reader must know of both."""
    model, known = _references(references) if references else ("", {})
    prompts, limited = source.read(lambda row, file, number: _prompt(row, known, file, number))
    used = [p.key for p in prompts if p.key in known]
    notes = [limited] if limited else []
    if used:
        wrong = sum(key in WRONG_REFERENCES for key in used) if model == "gpt-4" else 0
        known_wrong = f"; {wrong} of them are known to be wrong in a turn (FastChat, pull request 3158)"
        notes.append(f"Reference answers: {model or 'unnamed'}'s, {len(used)} questions{known_wrong if wrong else ''}.")
    return prompts, notes


def template_of(kind: str, prompt: BenchPrompt, turn: int) -> str:
    """Our name of the template: `kind` for the first turn, 'multi' for the second, with a reference where one is due.

    A question whose category asks for a reference and has none is judged without: FastChat has no template for it.
    """
    due = prompt.category in REFERENCE_CATEGORIES and len(prompt.reference) >= turn
    return f"{kind if turn == 1 else 'multi'}{'_reference' if due else ''}"


def question_values(prompt: BenchPrompt) -> dict[str, str]:
    """What templates call the questions and their references, in every spelling."""
    values = {"question": prompt.turns[0]} | {f"question_{i}": text for i, text in enumerate(prompt.turns, 1)}
    for i, text in enumerate(prompt.reference, 1):
        values |= {f"reference_{i}": text, f"ref_answer_{i}": text, "reference": prompt.reference[0]}
    return values


def _values(prompt: BenchPrompt, own: Sequence[str]) -> dict[str, str]:
    return question_values(prompt) | {"answer": own[0]} | {f"answer_{i}": a for i, a in enumerate(own, 1)}


def question_id(key: Any) -> int | str:
    """As FastChat writes it: a number where it is one."""
    return int(key) if str(key).isdigit() else str(key)


def _prompt(row: Mapping[str, Any], known: Mapping[str, tuple[str, ...]], file: Path, number: int) -> BenchPrompt:
    key = text_field(row, "question_id", file, number)
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t for t in turns):
        raise DataError("must be a list of non-empty texts", file=file, row=number, field="turns")
    if len(turns) > 2:
        raise DataError(f"one or two turns are judged, not {len(turns)}", file=file, row=number, field="turns")
    category = str(row.get("category") or "")
    reference = row.get("reference")
    own = tuple(str(r) for r in reference) if isinstance(reference, list) else ()
    return BenchPrompt(key, tuple(turns), category, known.get(key) or own, TEMPERATURES.get(category))


def _references(file: Path) -> tuple[str, dict[str, tuple[str, ...]]]:
    """(who wrote them, question id -> the turns)."""
    rows = read_rows(file)
    try:
        known = {str(row["question_id"]): tuple(row["choices"][0]["turns"]) for row in rows}
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"not a reference answer file: {error!r}", file=file) from None
    return ", ".join(dict.fromkeys(str(row.get("model_id") or "") for row in rows)), known
