"""Models and a judge whose words are known beforehand, for tests of bench runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leaderboard.answers import Answer, Answers
from leaderboard.benchmarks.base import Benchmark
from leaderboard.config import BenchConfig, ModelSpec
from prefeval.generate.base import SamplingParams
from prefeval.judges.base import JudgeTask, Verdict
from prefeval.judges.parse import label_of
from prefeval.types import Prompt, Response

MINI = ("mini-alpaca", "mini-arena", "mini-mt")


class Writer:
    """Replies that depend on the model's name and the prompt alone; counts what it was asked."""

    def __init__(self, name: str, calls: list[Prompt]) -> None:
        self._name, self.calls = name, calls

    @property
    def name(self) -> str:
        return self._name

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        self.calls.extend(prompts)
        return [
            [Response(f"{self._name} on {p.id} at {params.temperature}", finish_reason="stop")] * k for p in prompts
        ]


class Alphabet:
    """Prefers the answer whose text is smaller; fails on the tasks whose id contains one of `broken`."""

    def __init__(self, broken: Sequence[str] = ()) -> None:
        self.broken, self.asked = list(broken), 0

    @property
    def id(self) -> str:
        return "alphabet"

    async def rule(self, task: JudgeTask) -> Verdict:
        self.asked += 1
        if any(part in task.id for part in self.broken):
            return Verdict(task.id, self.id, error="server said no")
        if task.second is None:
            return Verdict(task.id, self.id, grade=8.0 if task.first.startswith("a") else 4.0, label="8")
        p = 0.9 if task.first < task.second else 0.1
        return Verdict(task.id, self.id, p_first=p, label=label_of(task.parser, p), raw="r", cost=0.5)


def config(folder: Path, **changes: object) -> BenchConfig:
    models = (ModelSpec("ann", "x"), ModelSpec("zoe", "y"), ModelSpec("mid", "z"))
    values = {"models": models, "baseline": "mid", "judge": "rules:test", "out": str(folder / "run"), "resamples": 30}
    return BenchConfig(**{**values, **changes})  # type: ignore[arg-type]


def answers_to(benchmark: Benchmark, model: str) -> Answers:
    return Answers(
        model,
        {
            p.key: Answer(p.key, tuple(f"{model} {i} {p.key[:9]}" for i in range(len(p.turns))))
            for p in benchmark.prompts()
        },
    )
