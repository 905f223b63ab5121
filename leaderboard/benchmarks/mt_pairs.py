"""MT-Bench's protocol, pairs against a baseline (arXiv 2306.05685; reference/benchmarks.md 3.3): two games a turn.

Game 1 shows the model first (as A), game 2 the baseline; the judge ends with [[A]], [[B]] or [[C]] for a tie. A turn is
won if both games agree on a winner, everything else is a tie; a turn with a game without verdict is dropped. The score
is (wins + ties / 2) / turns. The second turn is judged in view of both whole conversations.

A preference model compares replies to the first question; for the second turn its responses hold the rest of the
conversation, since the two models' first answers differ.
"""

from __future__ import annotations

import time
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
)
from leaderboard.benchmarks.mt_bench import FAILED, Wording, question_id, question_values, read_questions, template_of
from prefeval.judges.base import JudgeTask
from prefeval.types import Prompt

OFFICIAL_BASELINE = "gpt-3.5-turbo"
_ORIGINAL = {
    "pair": "pair-v2",
    "pair_reference": "pair-math-v1",
    "multi": "pair-v2-multi-turn",
    "multi_reference": "pair-math-v1-multi-turn",
}
_WINNERS = {1: {"A": "model_1", "B": "model_2", "C": "tie"}, 2: {"A": "model_2", "B": "model_1", "C": "tie"}}


class MTPairs:
    """Prompts as for single grading; model_1 is the model, model_2 the baseline, as in FastChat's baseline mode."""

    protocol, needs_baseline = "mt_bench", True

    def __init__(self, source: Source, *, references: Path | None = None) -> None:
        self.name, self.baseline = source.name, source.baseline
        self._prompts, self._notes = read_questions(source, references)
        self._wording = Wording(source, "mt_pairs", _ORIGINAL)
        self.own_wording, self.template_hash = self._wording.is_own, self._wording.hash
        self.data_revision = revision_of(self._prompts)

    def prompts(self) -> Sequence[BenchPrompt]:
        return self._prompts

    def baseline_names(self, baselines: Sequence[Answers]) -> dict[str, str]:
        return names_by_category(self._prompts, baselines, lambda _: OFFICIAL_BASELINE)

    def notes(self, baselines: Sequence[Answers]) -> list[str]:
        return self._notes

    def tasks(self, answers: Answers, baselines: Sequence[Answers]) -> list[JudgeTask]:
        return [
            self._task(answers.model, prompt, turn, game, own, base)
            for prompt in self._prompts
            for baseline in [pick_baseline(baselines, prompt, OFFICIAL_BASELINE)]
            if baseline.model != answers.model
            for own, base in [(answer_of(answers, prompt).turns, answer_of(baseline, prompt).turns)]
            for turn in range(1, len(prompt.turns) + 1)
            for game in (1, 2)
        ]

    def native(
        self, answers: Answers, baselines: Sequence[Answers], judged: Sequence[Judged], judge: str
    ) -> list[dict[str, Any]]:
        """Rows of `JUDGE_pair.jsonl`, with the category added; the winner of a game without verdict is 'error'."""
        games = {(j.task.meta["key"], j.task.meta["turn"], j.task.meta["game"]): j for j in judged}
        rows = []
        for prompt in self._prompts:
            for turn in range(1, len(prompt.turns) + 1):
                both = [games.get((prompt.key, turn, game)) for game in (1, 2)]
                first, second = both
                if first is None or second is None:
                    continue
                row: dict[str, Any] = {
                    "question_id": question_id(prompt.key),
                    "model_1": answers.model,
                    "model_2": pick_baseline(baselines, prompt, OFFICIAL_BASELINE).model,
                    **{f"g{game}_winner": _winner(found, game) for game, found in ((1, first), (2, second))},
                    "judge": [judge, first.task.meta["template"]],
                }
                for game, found in ((1, first), (2, second)):
                    row[f"g{game}_user_prompt"] = found.task.messages[-1].content
                    row[f"g{game}_judgment"] = found.verdict.raw or FAILED
                rows.append({**row, "turn": turn, "tstamp": time.time(), "category": prompt.category})
        return rows

    def _task(
        self, model: str, prompt: BenchPrompt, turn: int, game: int, own: Sequence[str], base: Sequence[str]
    ) -> JudgeTask:
        shown = (own, base) if game == 1 else (base, own)
        template = template_of("pair", prompt, turn)
        return JudgeTask(
            id=f"{self.name}/{model}/{prompt.key}/{turn}/{game}",
            prompt=Prompt.from_text(prompt.turns[0], id=prompt.key),
            first=_said(prompt, shown[0], turn),
            second=_said(prompt, shown[1], turn),
            messages=self._wording.messages(template, _values(prompt, *shown)),
            parser="mt_pair",
            meta={
                "key": prompt.key,
                "turn": turn,
                "game": game,
                "category": prompt.category,
                "template": self._wording.name(template),
            },
        )


def _values(prompt: BenchPrompt, a: Sequence[str], b: Sequence[str]) -> dict[str, str]:
    values = question_values(prompt)
    for side, turns in (("a", a), ("b", b)):
        values |= {f"answer_{side}": turns[0]} | {f"answer_{side}_{i}": text for i, text in enumerate(turns, 1)}
    return values


def _said(prompt: BenchPrompt, turns: Sequence[str], turn: int) -> str:
    """A model's side of the conversation up to a turn, as one response to the first question."""
    if turn == 1:
        return turns[0]
    return f"{turns[0]}\n\n[{prompt.turns[1]}]\n\n{turns[1]}"


def _winner(judged: Judged, game: int) -> str:
    verdict = judged.verdict
    return "error" if verdict.error is not None else _WINNERS[game].get(verdict.label or "", "error")
