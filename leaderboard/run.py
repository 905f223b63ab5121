"""A bench run: answers -> verdicts -> scores, as stages of a run directory.

    answers/BENCHMARK/...      the originals' answer files
    verdicts/BENCHMARK/...     journals: every verdict as it came, failures included
    annotations/BENCHMARK/...  the originals' annotation files, which the scorers read
    scores/BENCHMARK/          leaderboard.csv, .md, .json

The same command goes on after any interruption. Verdicts that failed are counted, asked again by the next run, and
never scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from leaderboard.answering import answers_from_file, content_hash, file_name, sample_answers, write_answers
from leaderboard.answers import Answers, read_answers
from leaderboard.benchmarks import open_benchmark
from leaderboard.benchmarks.base import Benchmark
from leaderboard.compare import Comparison, paired_comparisons, write_comparisons
from leaderboard.config import BenchConfig, ModelSpec
from leaderboard.findings import with_social
from leaderboard.from_files import score_files
from leaderboard.scoring import ScoreOptions
from leaderboard.table import Table, cells, write_table
from leaderboard.verdicts import Journal, failures, judge_tasks, write_native
from prefeval.api_types import Limits
from prefeval.config import to_dict
from prefeval.errors import ConfigError, RunError
from prefeval.files import sha256_file
from prefeval.generate.base import Generator, SamplingParams
from prefeval.judges.base import Judge
from prefeval.log import logger
from prefeval.runs import MetricRow, RunDir

ANSWERS_FILE = "answers:"
GeneratorOpener = Callable[[ModelSpec], Generator]


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
    benchmarks = [open_benchmark(name, config.data, config.limit) for name in config.benchmarks]
    for benchmark in benchmarks:
        if not config.baseline and benchmark.protocol != "mt_bench":
            raise ConfigError(f"{benchmark.name} compares with a baseline: name one of the models, or answers:FILE")
    run = RunDir(config.folder, to_dict(config), command="bench")
    with run.lock():
        answers = _all_answers(run, config, benchmarks, open_model or _open_model)
        limits = Limits(concurrency=config.concurrency)
        used_judge = judge or open_judge(config.judge, run.path / "store.sqlite", limits)
        tables, comparisons = {}, {}
        for benchmark in benchmarks:
            table = _run_one(run, config, benchmark, answers[benchmark.name], used_judge)
            tables[benchmark.name] = table
            comparisons[benchmark.name] = paired_comparisons(table, resamples=config.resamples, seed=config.seed)
            folder = run.path / "scores" / file_name(benchmark.name)
            write_comparisons(table, folder, len(table.rows), _score_options(config))
    return BenchResult(run.path, tables, comparisons)


def bench_step(config: BenchConfig, run: RunDir) -> dict[str, Any]:
    """A bench as a step of a pipeline: where it lies and each benchmark's rows."""
    result = run_bench(config)
    return {
        "path": str(run.path),
        "tables": {name: [cells(table, row) for row in table.rows] for name, table in result.tables.items()},
    }


def open_judge(spec: str, store: str | Path | None = None, limits: Limits | None = None) -> Judge:
    """`judge:MODEL[@BASE_URL]` asks with the protocol's own templates; every other oracle spec judges by its P."""
    if spec.startswith("judge:"):
        from prefeval.api import open_client
        from prefeval.judges.llm import LLMJudge
        from prefeval.store import Store

        return LLMJudge(open_client(spec, limits), Store(store) if store is not None else None)
    from prefeval.judges.from_oracle import OracleJudge
    from reward_models.oracles import open_oracle

    return OracleJudge(open_oracle(spec, fast=True))


def _open_model(model: ModelSpec) -> Generator:
    from prefeval.generate import open_generator
    from reward_models.oracles import open_oracle

    return open_generator(model.spec, name=model.name, open_oracle=open_oracle)


def _all_answers(
    run: RunDir, config: BenchConfig, benchmarks: Sequence[Benchmark], open_model: GeneratorOpener
) -> dict[str, dict[str, Answers]]:
    """Benchmark -> model -> answers; each model is opened once, when first needed, and let go before the next."""
    models = list(config.models)
    known = {"", *(m.name for m in models)}
    if config.baseline not in known and not config.baseline.startswith(ANSWERS_FILE):
        models.append(ModelSpec(config.baseline, config.baseline))
    found: dict[str, dict[str, Answers]] = {b.name: {} for b in benchmarks}
    for model in models:
        opened = cache(partial(open_model, model))
        for benchmark in benchmarks:
            found[benchmark.name][model.name] = _answers(run, config, benchmark, model, opened)
    return found


def _run_one(
    run: RunDir, config: BenchConfig, benchmark: Benchmark, answers: dict[str, Answers], judge: Judge
) -> Table:
    baselines = _baselines(config, benchmark, answers)
    names = [b.model for b in baselines]
    asked = [answers[m.name] for m in config.models]
    compared = [a for a in asked if benchmark.protocol != "arena_hard" or a.model not in names]
    if not compared:
        raise ConfigError(f"{benchmark.name}: every model is the baseline; give another one to compare with it")
    done = [_verdicts(run, config, benchmark, a, baselines, judge) for a in compared]
    files = [run.path / file for stage in done for file in stage["files"]]
    return _scores(run, config, benchmark, files, [*answers.values(), *baselines], done, next(iter(names), ""))


def _answers(
    run: RunDir, config: BenchConfig, benchmark: Benchmark, model: ModelSpec, opened: Callable[[], Generator]
) -> Answers:
    """The stage that writes a model's answers; read back from the file that it wrote."""
    folder = run.path / "answers" / file_name(benchmark.name)
    params = SamplingParams(config.max_new_tokens, config.temperature)
    source = model.spec.removeprefix(ANSWERS_FILE)
    from_file = model.spec.startswith(ANSWERS_FILE)
    inputs: dict[str, Any] = {"prompts": benchmark.data_revision, "spec": model.spec}
    if from_file:
        inputs["file"] = sha256_file(source) if Path(source).is_file() else ""
    else:
        inputs |= {"sampling": asdict(params), "seed": config.seed, "instruction": config.instruction}

    def work() -> dict[str, str]:
        if from_file:
            answers = answers_from_file(benchmark, source, model.name)
        else:
            answers = sample_answers(benchmark, opened(), model.name, params, config.seed, config.instruction)
        return {"file": str(write_answers(benchmark, folder, answers).relative_to(run.path))}

    done = run.stage(f"answers/{benchmark.name}/{file_name(model.name)}", inputs, work)
    return read_answers(run.path / done["file"])[0]


def _baselines(config: BenchConfig, benchmark: Benchmark, answers: dict[str, Answers]) -> list[Answers]:
    """The baseline's answers: one of the models, another model, or a file. MT-Bench needs none."""
    if config.baseline in answers:
        return [answers[config.baseline]]
    if config.baseline:
        return [answers_from_file(benchmark, config.baseline.removeprefix(ANSWERS_FILE))]
    return []


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
    }

    def work() -> dict[str, Any]:
        tasks = benchmark.tasks(answers, baselines)
        title = f"judging {answers.model} on {name}"
        judged = judge_tasks(judge, tasks, journal, concurrency=config.concurrency, title=title)
        failed = failures(judged)
        if failed:
            logger.warning("%s: %d verdicts failed (%s)", title, sum(failed.values()), "; ".join(failed))
        if tasks and sum(failed.values()) == len(tasks):
            raise RunError(
                f"{title}: no verdict was obtained: {judged[0].verdict.error}. Run the same command to try again."
            )
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


def _scores(
    run: RunDir,
    config: BenchConfig,
    benchmark: Benchmark,
    files: Sequence[Path],
    answers: Sequence[Answers],
    done: Sequence[dict[str, Any]],
    baseline: str,
) -> Table:
    """Score the annotation files and log one metric row a model (written anew, so that no row is logged twice)."""
    options = replace(
        _score_options(config),
        baseline=baseline,
        template_hash=benchmark.template_hash,
        data_revision=benchmark.data_revision,
    )
    table = score_files(benchmark.name, files, config.data, options, protocol=benchmark.protocol, answers=answers)
    table = with_social(table, seed=config.seed)
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
