"""AlpacaEval 2's protocol (arXiv 2404.04475; reference/benchmarks.md 1.2-1.3): one comparison with the baseline.

The judge names the better model by one token, m (shown first) or M, and its log-probabilities make a soft verdict.
Which answer is shown first depends on the instruction alone, unless both orders are asked for. Identical answers are a
draw and are never sent.
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
    Source,
    answer_of,
    names_by_category,
    pick_baseline,
    revision_of,
    short_hash,
    text_field,
)
from leaderboard.benchmarks.rendering import alpaca_chatml, chatml_messages, fill, shipped
from leaderboard.config import Orders
from prefeval.judges.base import JudgeTask, Verdict
from prefeval.types import Message, Prompt

OFFICIAL_BASELINE = "gpt4_1106_preview"
BOTH_ORDERS = (
    "Each comparison was asked in both orders and the two preferences were averaged; the published protocol asks one "
    "order, drawn by the instruction."
)


def is_switched(instruction: str, seed: int = 0) -> bool:
    """Whether the model's answer is shown first: upstream's own draw, a function of the instruction."""
    draw = random.Random(f"is_switched_outputs{instruction}{seed}")
    return draw.choices([False, True], k=1)[0]


class AlpacaEval:
    """Prompts: rows with `instruction` and `dataset`. `data` may hold the original's judge template.

    `orders` 'published' asks each comparison once, in the order drawn by the instruction; 'both' asks it in both orders
    and averages, so that a judge that favours a place favours nobody.
    """

    protocol, needs_baseline = "alpaca_eval", True

    def __init__(self, source: Source, *, orders: Orders = "published") -> None:
        self.name, self.baseline, self.orders = source.name, source.baseline, orders
        self._prompts, limited = source.read(_prompt)
        self._chatml = alpaca_chatml(source.data) if source.template is None else None
        self._own = source.template or shipped("alpaca_eval")
        self.own_wording = self._chatml is None
        self.template_hash = short_hash(self._chatml or self._own)
        self.data_revision = revision_of(self._prompts)
        self._notes = [note for note in (limited, BOTH_ORDERS if orders == "both" else "") if note]

    def prompts(self) -> Sequence[BenchPrompt]:
        return self._prompts

    def baseline_names(self, baselines: Sequence[Answers]) -> dict[str, str]:
        return names_by_category(self._prompts, baselines, lambda _: OFFICIAL_BASELINE)

    def notes(self, baselines: Sequence[Answers]) -> list[str]:
        return self._notes

    def tasks(self, answers: Answers, baselines: Sequence[Answers]) -> list[JudgeTask]:
        tasks = []
        for number, prompt in enumerate(self._prompts):
            baseline = pick_baseline(baselines, prompt, OFFICIAL_BASELINE)
            base, own = answer_of(baseline, prompt).turns[0], answer_of(answers, prompt).turns[0]
            if base != own:
                for switched in self._switches(prompt):
                    first, second = (own, base) if switched else (base, own)
                    tasks.append(self._task(answers.model, number, prompt, first, second, switched))
        return tasks

    def native(
        self, answers: Answers, baselines: Sequence[Answers], judged: Sequence[Judged], judge: str
    ) -> list[dict[str, Any]]:
        """Rows of `annotations.json`: preference 1 = baseline, 2 = model, 1.5 = draw, null = no verdict.

        Asked in both orders, the preference is the mean of both, null when either failed; `preferences` has them one by
        one (baseline shown first, then model) and the annotator's name says so.
        """
        verdicts = {(j.task.meta["key"], j.task.meta["switched"]): j.verdict for j in judged}
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
                "annotator": judge if self.orders == "published" else f"{judge} (both orders)",
                "preference": 1.5 if base == own else None,
            }
            asked = [(s, verdicts[prompt.key, s]) for s in self._switches(prompt) if (prompt.key, s) in verdicts]
            if base != own and asked:
                raw = [verdict.raw for _, verdict in asked]
                row["raw_completion"] = raw if self.orders == "both" else raw[0]
                found = [_preference(verdict, switched) for switched, verdict in asked]
                got = [p for p in found if p is not None]
                if self.orders == "both":
                    row["preferences"] = found
                row["preference"] = sum(got) / len(got) if len(got) == len(self._switches(prompt)) else None
            rows.append(row)
        return rows

    def _switches(self, prompt: BenchPrompt) -> tuple[bool, ...]:
        """In which orders the comparison is asked: whether the model's answer is shown first."""
        return (False, True) if self.orders == "both" else (is_switched(prompt.key),)

    def _task(self, model: str, number: int, prompt: BenchPrompt, first: str, second: str, switched: bool) -> JudgeTask:
        values = {"instruction": prompt.key, "output_1": first, "output_2": second}
        if self._chatml is not None:
            messages = chatml_messages(self._chatml, values)
        else:
            messages = tuple(Message(role, fill(self._own[role], values)) for role in ("system", "user"))
        return JudgeTask(
            id=f"{self.name}/{model}/{number}" + (f"/{1 + switched}" if self.orders == "both" else ""),
            prompt=Prompt.from_text(prompt.key, id=str(number)),
            first=first,
            second=second,
            messages=messages,
            parser="alpaca_logprob",
            max_tokens=1,
            temperature=1.0,
            top_logprobs=5,
            meta={"key": prompt.key, "switched": switched},
        )


def _preference(verdict: Verdict, switched: bool) -> float | None:
    """1 = the baseline's answer won, 2 = the model's; None without a verdict."""
    if verdict.p_first is None:
        return None
    return 1 + verdict.p_first if switched else 2 - verdict.p_first


def _prompt(row: dict[str, Any], file: Path, number: int) -> BenchPrompt:
    instruction = text_field(row, "instruction", file, number)
    return BenchPrompt(instruction, (instruction,), str(row.get("dataset") or ""))
