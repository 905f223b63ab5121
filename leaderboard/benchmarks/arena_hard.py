"""Arena-Hard-Auto's protocol, v0.1 and v2.0 (arXiv 2406.11939; reference/benchmarks.md 2.1-2.2): two games a prompt.

Game 1 shows the baseline first (as A), game 2 the model. The judge ends with one of five labels. v0.1 wants all labels
of a judgment to agree; v2.0 takes the last one. In v2.0 the baseline depends on the category: o3-mini for hard prompts,
gemini-2.0-flash for creative writing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from leaderboard.benchmarks.rendering import arena_config, fill, shipped
from prefeval.errors import DataError
from prefeval.judges.base import JudgeTask, Verdict
from prefeval.types import Message, Prompt

OFFICIAL_BASELINES = {
    "arena-hard-v0.1": "gpt-4-0314",
    "hard_prompt": "o3-mini-2025-01-31",
    "coding": "o3-mini-2025-01-31",
    "math": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}
CATEGORIES = ("hard_prompt", "creative_writing")  # of v2.0; coding and math are parts of the first
_MAX_TOKENS = {"arena_v01": 4096, "arena_v2": 16000}


class ArenaHard:
    """Prompts: rows with `uid`, `category`, `prompt` (or the old `question_id`, `turns`); `version` v0.1 or v2.0."""

    protocol, needs_baseline = "arena_hard", True

    def __init__(self, source: Source, *, version: str = "v2.0") -> None:
        self.name, self.baseline, self.version = source.name, source.baseline, version
        self._parser = "arena_v01" if version == "v0.1" else "arena_v2"
        self._prompts, limited = source.read(_prompt)
        self._original = arena_config(source.data) if source.template is None else None
        self._own = source.template or shipped("arena_hard")
        self.own_wording = self._original is None
        self.template_hash = short_hash(self._original or self._own)
        self.data_revision = revision_of(self._prompts)
        self._notes = [limited] if limited else []

    def prompts(self) -> Sequence[BenchPrompt]:
        return self._prompts

    def baseline_names(self, baselines: Sequence[Answers]) -> dict[str, str]:
        return names_by_category(self._prompts, baselines, lambda p: OFFICIAL_BASELINES.get(p.category, ""))

    def notes(self, baselines: Sequence[Answers]) -> list[str]:
        others = [] if self.own_wording else other_baselines(self.baseline_names(baselines))
        return [*self._notes, *others]

    def tasks(self, answers: Answers, baselines: Sequence[Answers]) -> list[JudgeTask]:
        tasks = []
        for prompt, baseline in self._games(answers, baselines):
            base, own = answer_of(baseline, prompt).turns[0], answer_of(answers, prompt).turns[0]
            tasks.append(self._task(answers.model, prompt, 1, base, own))
            tasks.append(self._task(answers.model, prompt, 2, own, base))
        return tasks

    def native(
        self, answers: Answers, baselines: Sequence[Answers], judged: Sequence[Judged], judge: str
    ) -> list[dict[str, Any]]:
        """Rows of `model_judgment/JUDGE/MODEL.jsonl` in the current format; a game without a verdict is null."""
        found = {(j.task.meta["key"], j.task.meta["game"]): j for j in judged}
        return [
            {
                "uid": prompt.key,
                "category": prompt.category,
                "judge": judge,
                "model": answers.model,
                "baseline": baseline.model,
                "games": [_game(found.get((prompt.key, game))) for game in (1, 2)],
            }
            for prompt, baseline in self._games(answers, baselines)
        ]

    def _games(self, answers: Answers, baselines: Sequence[Answers]) -> list[tuple[BenchPrompt, Answers]]:
        """Each prompt with its baseline; none where that is the model itself, which is never compared with itself."""
        pairs = [(p, pick_baseline(baselines, p, OFFICIAL_BASELINES.get(p.category, ""))) for p in self._prompts]
        return [(prompt, baseline) for prompt, baseline in pairs if baseline.model != answers.model]

    def _task(self, model: str, prompt: BenchPrompt, game: int, first: str, second: str) -> JudgeTask:
        return JudgeTask(
            id=f"{self.name}/{model}/{prompt.key}/{game}",
            prompt=Prompt.from_text(prompt.turns[0], id=prompt.key),
            first=first,
            second=second,
            messages=self._messages(prompt, first, second),
            parser=self._parser,
            max_tokens=_MAX_TOKENS[self._parser],
            meta={"key": prompt.key, "game": game},
        )

    def _messages(self, prompt: BenchPrompt, first: str, second: str) -> tuple[Message, ...]:
        if self._original is not None:
            systems = self._original["system_prompts"]
            system = (systems.get(prompt.category) or systems["hard_prompt"])["system_prompt"]
            values = {"QUESTION": prompt.turns[0], "ANSWER_A": first, "ANSWER_B": second}
            return Message("system", system), Message("user", fill(self._original["prompt_template"], values))
        own = self._own
        if prompt.category == "creative_writing":  # no answer of the judge's own: its line goes with it
            system = own["system"].replace("{first_step}\n", "")
        else:
            system = fill(own["system"], {"first_step": str(own.get("first_step", ""))})
        values = {"question": prompt.turns[0], "answer_a": first, "answer_b": second}
        return Message("system", system), Message("user", fill(own["user"], values))


def other_baselines(names: Mapping[str, str]) -> list[str]:
    """What a reader must know where a category (of `names`) is not compared with its published baseline."""
    return [
        f"{category} is compared with {name}, not with {official}: its scores are not the published benchmark's."
        for category, name in names.items()
        if (official := OFFICIAL_BASELINES.get(category, name)) != name
    ]


def _game(judged: Judged | None) -> dict[str, Any] | None:
    """One game as the original stores it; null when the call or the reading of it failed."""
    verdict: Verdict | None = judged.verdict if judged else None
    if judged is None or verdict is None or verdict.label is None or verdict.error is not None:
        return None
    prompt = [m.as_dict() for m in judged.task.messages]
    return {"score": verdict.label, "judgment": {"answer": verdict.raw}, "prompt": prompt}


def _prompt(row: dict[str, Any], file: Path, number: int) -> BenchPrompt:
    if "turns" in row and "uid" not in row:
        try:
            text = str(row["turns"][0]["content"])
        except (KeyError, IndexError, TypeError):
            raise DataError("must be a list of {'content': text}", file=file, row=number, field="turns") from None
        key = text_field(row, "question_id", file, number)
    else:
        key, text = text_field(row, "uid", file, number), text_field(row, "prompt", file, number)
    return BenchPrompt(key, (text,), str(row.get("category") or ""), meta={"cluster": row.get("cluster", "")})
