"""`prefeval bench --dry-run`: what a run would take. No model or judge is opened, nothing is asked or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from leaderboard.answering import answers_from_file, file_name
from leaderboard.answers import Answers
from leaderboard.bench_answers import (
    ANSWERS_FILE,
    baselines_of,
    compared_models,
    journal_of,
    needed_models,
    settings_of,
)
from leaderboard.benchmarks.base import Benchmark
from leaderboard.config import BenchConfig, ModelSpec
from leaderboard.run import open_benchmarks
from leaderboard.sampling import ReplyJournal, planned_answers
from leaderboard.verdicts import Journal, to_ask
from prefeval.api_limits import scrub
from prefeval.api_types import CostEstimate, estimate_cost
from prefeval.runs import RunDir


@dataclass(frozen=True)
class BenchPlan:
    """By benchmark: the replies that each model has yet to give, and what the judge's calls will take."""

    config: BenchConfig
    replies: Mapping[str, Mapping[str, int]]
    calls: Mapping[str, CostEstimate]

    @property
    def total(self) -> CostEstimate:
        parts = list(self.calls.values())
        priced = self.config.price is not None
        return CostEstimate(
            sum(p.calls for p in parts),
            sum(p.prompt_tokens for p in parts),
            sum(p.completion_tokens for p in parts),
            sum(p.cost or 0.0 for p in parts) if priced else None,
            sum(p.most or 0.0 for p in parts) if priced else None,
        )


def plan_bench(config: BenchConfig) -> BenchPlan:
    """What is left to do in the run directory of a recipe. Raises ConfigError and DataError as the run would."""
    config.check()
    benchmarks, folder = open_benchmarks(config), Path(config.folder)
    if (folder / "config.yaml").exists():
        RunDir(folder, config.recorded, command="bench")  # refuses another configuration
    journal = cache(partial(journal_of, folder, read_only=True))
    replies, calls = {}, {}
    for benchmark in benchmarks:
        planned = {m.name: _planned(config, benchmark, m, journal) for m in needed_models(config, benchmark)}
        answers = {name: found for name, (found, _) in planned.items()}
        baselines = baselines_of(config, benchmark, answers)
        tasks = []
        for name in compared_models(config, benchmark, baselines):
            path = folder / "verdicts" / file_name(benchmark.name) / f"{file_name(name)}.jsonl"
            tasks += to_ask(benchmark.tasks(answers[name], baselines), Journal(path, read_only=True))
        replies[benchmark.name] = {name: missing for name, (_, missing) in planned.items()}
        calls[benchmark.name] = estimate_cost(tasks, config.judge_limits())
    return BenchPlan(config, replies, calls)


def _planned(
    config: BenchConfig, benchmark: Benchmark, model: ModelSpec, journal: Callable[[ModelSpec], ReplyJournal]
) -> tuple[Answers, int]:
    if model.spec.startswith(ANSWERS_FILE):
        return answers_from_file(benchmark, model.spec.removeprefix(ANSWERS_FILE), model.name), 0
    return planned_answers(benchmark, model.name, settings_of(config), journal(model))


def plan_text(plan: BenchPlan) -> str:
    """The plan for a person."""
    config, total = plan.config, plan.total
    lines = ["replies to sample:"]
    for benchmark, models in plan.replies.items():
        left = [f"{name} {missing}" for name, missing in models.items() if missing]
        lines.append(f"  {benchmark}: {', '.join(left) or 'none'}")
    lines.append(f"verdicts to ask of {scrub(config.judge, None)}:")
    lines += [f"  {benchmark}: {cost_text(found)}" for benchmark, found in plan.calls.items()]
    lines.append(f"  in all: {cost_text(total)}")
    if any(missing for models in plan.replies.values() for missing in models.values()):
        lines.append(f"Replies that are not there yet are counted at {config.max_new_tokens} tokens each.")
    if config.max_cost is not None and total.cost is not None and total.cost > config.max_cost:
        lines.append(f"The spending cap of {config.max_cost:g} dollars will stop it on the way.")
    return "\n".join(lines) + "\n"


def cost_text(found: CostEstimate) -> str:
    """An estimate in one line."""
    cost = "unknown (give --price IN OUT)"
    if found.cost is not None:
        cost = f"{found.cost:.2f} dollars, at most {found.most:.2f}"
    tokens = f"about {found.prompt_tokens} prompt and {found.completion_tokens} completion tokens"
    return f"{found.calls} calls, {tokens}; cost {cost}"
