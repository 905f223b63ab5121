"""MT-Bench's protocol, single-answer grading (arXiv 2306.05685; reference/benchmarks.md 3.1-3.2).

Two turns a question; the second turn sees the model's own first answer. Each turn is graded from 1 to 10, the second in
view of the whole conversation; math, reasoning and coding are graded against a reference where there is one. A judge
that is a preference model grades by comparing with reference texts: the question's own, else the baseline's answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leaderboard.answers import Answers
from leaderboard.benchmarks.base import (
    BenchPrompt,
    Judged,
    answer_of,
    pick_baseline,
    read_rows,
    revision_of,
    short_hash,
    text_field,
    unique,
)
from leaderboard.benchmarks.rendering import fastchat_prompts, fill, shipped
from prefeval.errors import DataError
from prefeval.judges.base import JudgeTask
from prefeval.types import Message

REFERENCE_CATEGORIES = ("math", "reasoning", "coding")
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
    """Prompts: rows with `question_id`, `category`, two `turns` perhaps `reference`; `references` adds them by id."""

    protocol = "mt_bench"

    def __init__(
        self,
        name: str,
        file: Path,
        data: Path | None = None,
        *,
        references: Path | None = None,
        limit: int | None = None,
    ) -> None:
        self.name = name
        known = _references(references) if references else {}
        rows = read_rows(file, limit)
        self._prompts = unique([_prompt(row, known, file, i) for i, row in enumerate(rows, 1)], file)
        self._original = fastchat_prompts(data)
        self.own_wording = self._original is None
        self.template_hash = short_hash(self._original or shipped("mt_bench"))
        self.data_revision = revision_of(self._prompts)

    def prompts(self) -> Sequence[BenchPrompt]:
        return self._prompts

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
            key = str(meta["key"])
            rows.append(
                {
                    "question_id": int(key) if key.isdigit() else key,
                    "model": answers.model,
                    "judge": [judge, meta["template"]],
                    "user_prompt": item.task.messages[-1].content,
                    "judgment": item.verdict.raw,
                    "score": -1 if grade is None else grade,
                    "turn": meta["turn"],
                    "category": meta["category"],
                }
            )
        return rows

    def _task(self, answers: Answers, baselines: Sequence[Answers], prompt: BenchPrompt, turn: int) -> JudgeTask:
        own = answer_of(answers, prompt).turns
        with_reference = prompt.category in REFERENCE_CATEGORIES and len(prompt.reference) >= turn
        template = f"{'single' if turn == 1 else 'multi'}{'_reference' if with_reference else ''}"
        if len(prompt.reference) >= turn:
            references = [prompt.reference[turn - 1]]
        else:
            references = [answer_of(pick_baseline(baselines, prompt), prompt).turns[turn - 1]] if baselines else []
        return JudgeTask(
            id=f"{self.name}/{answers.model}/{prompt.key}/{turn}",
            prompt=prompt.conversation(own[: turn - 1]),
            first=own[turn - 1],
            second=None,
            messages=self._messages(template, prompt, own),
            parser="mt_grade",
            meta={
                "key": prompt.key,
                "turn": turn,
                "category": prompt.category,
                "template": _ORIGINAL[template] if self._original else f"{self.name}-{template}",
                "references": references,
            },
        )

    def _messages(self, template: str, prompt: BenchPrompt, own: Sequence[str]) -> tuple[Message, ...]:
        """Both templates name their fields differently; every spelling is offered to both."""
        values = {"question": prompt.turns[0], "answer": own[0]}
        for i, (question, answer) in enumerate(zip(prompt.turns, own, strict=False), 1):
            values |= {f"question_{i}": question, f"answer_{i}": answer}
        for i, text in enumerate(prompt.reference, 1):
            values |= {f"reference_{i}": text, f"ref_answer_{i}": text, "reference": prompt.reference[0]}
        if self._original is not None:
            original = self._original[_ORIGINAL[template]]
            system, user = original["system_prompt"], original["prompt_template"]
        else:
            system, user = shipped("mt_bench")[template]["system"], shipped("mt_bench")[template]["user"]
        return Message("system", system), Message("user", fill(user, values))


def _prompt(row: Mapping[str, Any], known: Mapping[str, tuple[str, ...]], file: Path, number: int) -> BenchPrompt:
    key = text_field(row, "question_id", file, number)
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t for t in turns):
        raise DataError("must be a list of non-empty texts", file=file, row=number, field="turns")
    category = str(row.get("category") or "")
    reference = row.get("reference")
    own = tuple(str(r) for r in reference) if isinstance(reference, list) else ()
    return BenchPrompt(key, tuple(turns), category, known.get(key) or own, TEMPERATURES.get(category))


def _references(file: Path) -> dict[str, tuple[str, ...]]:
    """Question id -> the reference model's turns."""
    try:
        return {str(row["question_id"]): tuple(row["choices"][0]["turns"]) for row in read_rows(file)}
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"not a reference answer file: {error!r}", file=file) from None
