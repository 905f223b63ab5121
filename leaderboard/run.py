"""A bench run: answers -> verdicts -> scores, as stages of a run directory.

    replies/...                journals: every reply of the models as it came
    answers/BENCHMARK/...      the originals' answer files
    verdicts/BENCHMARK/...     journals: every verdict as it came, failures included
    annotations/BENCHMARK/...  the originals' annotation files, which the scorers read
    scores/BENCHMARK/          leaderboard.csv, .md, .json

The same command goes on after any interruption. Verdicts that failed are counted, asked again by the next run, and
never scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from leaderboard.answering import content_hash, file_name
from leaderboard.answers import Answers
from leaderboard.bench_answers import GeneratorOpener, all_answers, baselines_of, check_baselines, compared_models
from leaderboard.benchmarks import open_benchmark
from leaderboard.benchmarks.base import Benchmark, Judged
from leaderboard.compare import Comparison, paired_comparisons, write_comparisons
from leaderboard.config import BenchConfig, ModelSpec
from leaderboard.enrich import with_findings
from leaderboard.from_files import score_files
from leaderboard.judge_specs import open_judge
from leaderboard.sampling import open_answerer
from leaderboard.scoring import ScoreOptions
from leaderboard.table import Table, cells, write_table
from leaderboard.verdicts import Journal, failures, judge_tasks, write_native
from prefeval.api_faults import SPENDING_CAP
from prefeval.errors import ConfigError, RunError
from prefeval.generate.base import Generator
from prefeval.judges.base import Judge
from prefeval.log import logger
from prefeval.runs import MetricRow, RunDir

_WITH_WEIGHTS = ("model:", "laplace:", "hf:", "pair:", "ensemble:", "panel:")  # judges that fill memory


@dataclass(frozen=True)
class BenchResult:
    """The tables by benchmark, the paired comparisons behind them, and where everything lies."""

    folder: Path
    tables: dict[str, Table]
    comparisons: dict[str, list[Comparison]]


def run_bench(
    config: BenchConfig, *, open_model: GeneratorOpener | None = None, judge: Judge | None = None
) -> BenchResult:
    """Run or resume a bench. `open_model` and `judge` replace what the specs would open.

    Raises ConfigError and DataError before anything is sampled; RunError when a judge gave no verdict at all.
    """
    config.check()
    benchmarks = open_benchmarks(config)
    run = RunDir(config.folder, config.recorded, command="bench")
    with run.lock():
        # a judge without weights is opened first: a wrong spec is told before hours of answers
        open_late = partial(open_judge, config.judge, run.path / "store.sqlite", config.judge_limits())
        early = judge or (None if config.judge.startswith(_WITH_WEIGHTS) else open_late())
        answers = all_answers(run, config, benchmarks, open_model or partial(answerer, run))
        used_judge = early or open_late()
        tables, comparisons = {}, {}
        for benchmark in benchmarks:
            table = _run_one(run, config, benchmark, answers[benchmark.name], used_judge)
            tables[benchmark.name] = table
            comparisons[benchmark.name] = paired_comparisons(table, resamples=config.resamples, seed=config.seed)
            folder = run.path / "scores" / file_name(benchmark.name)
            write_comparisons(table, folder, len(table.rows), _score_options(config))
    return BenchResult(run.path, tables, comparisons)


def open_benchmarks(config: BenchConfig) -> list[Benchmark]:
    """The benchmarks of a recipe, each with a baseline where it needs one. Raises ConfigError and DataError."""
    named = zip(config.benchmarks, config.names, strict=True)
    found = [open_benchmark(spec, config.data, config.limit_of(name), orders=config.orders) for spec, name in named]
    if config.orders == "both" and not any(b.protocol == "alpaca_eval" for b in found):
        raise ConfigError("orders: only AlpacaEval asks in one order unless told so, and it is not in this run")
    for benchmark in found:
        check_baselines(config, benchmark)
    return found


def bench_step(config: BenchConfig, run: RunDir) -> dict[str, Any]:
    """A bench as a step of a pipeline: where it lies and each benchmark's rows."""
    result = run_bench(config)
    return {
        "path": str(run.path),
        "tables": {name: [cells(table, row) for row in table.rows] for name, table in result.tables.items()},
    }


def answerer(run: RunDir, model: ModelSpec) -> Generator:
    """What answers for a model of the recipe; a server's replies are kept in the run's store."""
    return open_answerer(model.spec, model.name, run.path / "store.sqlite")


def _run_one(
    run: RunDir, config: BenchConfig, benchmark: Benchmark, answers: dict[str, Answers], judge: Judge
) -> Table:
    baselines = baselines_of(config, benchmark, answers)
    compared = compared_models(config, benchmark, baselines)
    done = [_verdicts(run, config, benchmark, answers[name], baselines, judge) for name in compared]
    return _scores(run, config, benchmark, done, list(answers.values()), baselines)


def _verdicts(
    run: RunDir, config: BenchConfig, benchmark: Benchmark, answers: Answers, baselines: Sequence[Answers], judge: Judge
) -> dict[str, Any]:
    """The stage that asks the judge. The number of failed attempts so far is among its inputs: a run that left failures
    behind is taken up again, one that left none is not."""
    name, model = benchmark.name, file_name(answers.model)
    journal = Journal(run.path / "verdicts" / file_name(name) / f"{model}.jsonl")
    inputs = {
        "judge": judge.id,
        "answers": content_hash([answers, *baselines]),
        "template": benchmark.template_hash,
        "prompts": benchmark.data_revision,
        "failed attempts": journal.failures,
        **({"orders": config.orders} if benchmark.protocol == "alpaca_eval" and config.orders != "published" else {}),
    }

    def work() -> dict[str, Any]:
        tasks = benchmark.tasks(answers, baselines)
        title = f"judging {answers.model} on {name}"
        judged = judge_tasks(judge, tasks, journal, concurrency=config.concurrency, title=title)
        failed = failures(judged)
        _stop_if_useless(judged, failed, title, config.max_cost)
        rows = benchmark.native(answers, baselines, judged, judge.id)
        folder = run.path / "annotations" / file_name(name) / (model if benchmark.protocol == "mt_bench" else "")
        files = write_native(benchmark, folder, judge.id, {answers.model: rows})
        return {
            "files": [str(p.relative_to(run.path)) for p in files],
            "calls": len(tasks),
            "failed": failed,
            "cost": sum(j.verdict.cost for j in judged),
        }

    found: dict[str, Any] = run.stage(f"verdicts/{name}/{model}", inputs, work)
    return found


def _stop_if_useless(judged: Sequence[Judged], failed: dict[str, int], title: str, cap: float | None) -> None:
    """Say what failed; raise RunError where the cap left questions unasked, or no verdict came at all."""
    lost = sum(failed.values())
    if SPENDING_CAP in failed:
        raise RunError(
            f"the spending cap of {cap or 0:g} dollars was reached while {title}: {len(judged) - lost} of "
            f"{len(judged)} verdicts are kept; the same command goes on from there (--max-cost sets another cap)"
        )
    if failed:
        logger.warning("%s: %d verdicts failed (%s)", title, lost, "; ".join(failed))
    if judged and lost == len(judged):
        raise RunError(
            f"{title}: no verdict was obtained: {judged[0].verdict.error}. Run the same command to try again."
        )


def _scores(
    run: RunDir,
    config: BenchConfig,
    benchmark: Benchmark,
    done: Sequence[dict[str, Any]],
    answers: Sequence[Answers],
    baselines: Sequence[Answers],
) -> Table:
    """Score the annotation files and log one metric row a model (written anew, so that no row is logged twice)."""
    options = replace(
        _score_options(config),
        baseline=next(iter(benchmark.baseline_names(baselines).values()), ""),
        template_hash=benchmark.template_hash,
        data_revision=benchmark.data_revision,
    )
    files, texts = [run.path / file for stage in done for file in stage["files"]], [*answers, *baselines]
    table = score_files(benchmark.name, files, config.data, options, protocol=benchmark.protocol, answers=texts)
    table = replace(table, notes=(*table.notes, *benchmark.notes(baselines)))
    prompts = {p.key: p.turns for p in benchmark.prompts()}
    table = with_findings(
        table, files, answers=texts, prompts=prompts, human=config.human, spent=done, seed=config.seed
    )
    write_table(table, run.path / "scores" / file_name(benchmark.name))
    stage = f"scores/{benchmark.name}"
    run.metrics.cut(stage)
    for row in table.rows:
        values = {"benchmark": benchmark.name, "protocol": benchmark.protocol, **cells(table, row)}
        run.metrics.add(MetricRow(kind="score", stage=stage, values=values))
    cost = sum(float(d["cost"]) for d in done)
    logger.info("%s: %d verdicts, cost %.2f dollars", benchmark.name, sum(d["calls"] for d in done), cost)
    return table


def _score_options(config: BenchConfig) -> ScoreOptions:
    return ScoreOptions(resamples=config.resamples, seed=config.seed)
