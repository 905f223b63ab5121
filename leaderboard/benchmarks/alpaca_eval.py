"""AlpacaEval 2's protocol (arXiv 2404.04475; reference/benchmarks.md 1.2-1.3): one comparison with the baseline.

The judge names the better model by one token, m (shown first) or M, and its log-probabilities make a soft verdict.
Which answer is shown first depends on the instruction alone. Identical answers are a draw and are never sent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
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
from leaderboard.benchmarks.rendering import alpaca_chatml, chatml_messages, fill, shipped
from prefeval.judges.base import JudgeTask
from prefeval.types import Message, Prompt

OFFICIAL_BASELINE = "gpt4_1106_preview"


def is_switched(instruction: str, seed: int = 0) -> bool:
    """Whether the model's answer is shown first: upstream's own draw, a function of the instruction."""
    draw = random.Random(f"is_switched_outputs{instruction}{seed}")
    return draw.choices([False, True], k=1)[0]


class AlpacaEval:
    """Prompts: rows with `instruction` and `dataset`. `data` may hold the original's judge template."""

    protocol = "alpaca_eval"

    def __init__(self, name: str, file: Path, data: Path | None = None, *, limit: int | None = None) -> None:
        self.name = name
        self._prompts = unique([_prompt(row, file, i) for i, row in enumerate(read_rows(file, limit), 1)], file)
        self._chatml = alpaca_chatml(data)
        self.own_wording = self._chatml is None
        self.template_hash = short_hash(self._chatml or shipped("alpaca_eval"))
        self.data_revision = revision_of(self._prompts)

    def prompts(self) -> Sequence[BenchPrompt]:
        return self._prompts

    def tasks(self, answers: Answers, baselines: Sequence[Answers]) -> list[JudgeTask]:
        tasks = []
        for number, prompt in enumerate(self._prompts):
            baseline = pick_baseline(baselines, prompt, OFFICIAL_BASELINE)
            base, own = answer_of(baseline, prompt).turns[0], answer_of(answers, prompt).turns[0]
            if base != own:
                first, second = (own, base) if is_switched(prompt.key) else (base, own)
                tasks.append(self._task(answers.model, number, prompt, first, second))
        return tasks

    def native(
        self, answers: Answers, baselines: Sequence[Answers], judged: Sequence[Judged], judge: str
    ) -> list[dict[str, Any]]:
        """Rows of `annotations.json`: preference 1 = baseline, 2 = model, 1.5 = draw, null = no verdict."""
        verdicts = {str(j.task.meta["key"]): j.verdict for j in judged}
        rows = []
        for prompt in self._prompts:
            baseline = pick_baseline(baselines, prompt, OFFICIAL_BASELINE)
            base, own = answer_of(baseline, prompt).turns[0], answer_of(answers, prompt).turns[0]
            row: dict[str, Any] = {
                "instruction": prompt.key,
                "dataset": prompt.category,
                "output_1": base,
                "generator_1": baseline.model,
                "output_2": own,
                "generator_2": answers.model,
                "annotator": judge,
                "preference": 1.5 if base == own else None,
            }
            verdict = verdicts.get(prompt.key)
            if verdict is not None:
                row["raw_completion"] = verdict.raw
                if verdict.p_first is not None:
                    row["preference"] = 1 + verdict.p_first if is_switched(prompt.key) else 2 - verdict.p_first
            rows.append(row)
        return rows

    def _task(self, model: str, number: int, prompt: BenchPrompt, first: str, second: str) -> JudgeTask:
        values = {"instruction": prompt.key, "output_1": first, "output_2": second}
        if self._chatml is not None:
            messages = chatml_messages(self._chatml, values)
        else:
            own = shipped("alpaca_eval")
            messages = Message("system", own["system"]), Message("user", fill(own["user"], values))
        return JudgeTask(
            id=f"{self.name}/{model}/{number}",
            prompt=Prompt.from_text(prompt.key, id=str(number)),
            first=first,
            second=second,
            messages=messages,
            parser="alpaca_logprob",
            max_tokens=1,
            temperature=1.0,
            top_logprobs=5,
            meta={"key": prompt.key},
        )


def _prompt(row: dict[str, Any], file: Path, number: int) -> BenchPrompt:
    instruction = text_field(row, "instruction", file, number)
    return BenchPrompt(instruction, (instruction,), str(row.get("dataset") or ""))
