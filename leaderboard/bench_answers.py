"""The answers that a bench run judges: those of its models, sampled or from a file, and those of the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

from leaderboard.answering import answers_from_file, file_name, write_answers
from leaderboard.answers import Answer, Answers, read_answers
from leaderboard.benchmarks.arena_hard import CATEGORIES
from leaderboard.benchmarks.base import Benchmark, BenchPrompt
from leaderboard.config import BenchConfig, ModelSpec, check_names
from leaderboard.sampling import AnswerSettings, ReplyJournal, identity, sample_benchmark
from prefeval.errors import ConfigError
from prefeval.files import sha256_file
from prefeval.generate.base import Generator, SamplingParams
from prefeval.runs import RunDir

ANSWERS_FILE = "answers:"
ALONE = "the only model is the baseline; give another one to compare with it"
GeneratorOpener = Callable[[ModelSpec], Generator]


def all_answers(
    run: RunDir, config: BenchConfig, benchmarks: Sequence[Benchmark], open_model: GeneratorOpener
) -> dict[str, dict[str, Answers]]:
    """Benchmark -> model -> answers; each model is opened once, when first needed, and let go before the next."""
    needed = {b.name: needed_models(config, b) for b in benchmarks}
    found: dict[str, dict[str, Answers]] = {b.name: {} for b in benchmarks}
    for model in dict.fromkeys(model for models in needed.values() for model in models):
        opened = cache(partial(open_model, model))
        for benchmark in benchmarks:
            if model in needed[benchmark.name]:
                found[benchmark.name][model.name] = _answers(run, config, benchmark, model, opened)
    return found


def needed_models(config: BenchConfig, benchmark: Benchmark) -> list[ModelSpec]:
    """The models of the run, and baselines that are other models: all that must answer this benchmark."""
    names = {m.name for m in config.models}
    specs = dict.fromkeys(baseline_specs(config, benchmark).values())
    others = [s for s in specs if s not in names and not s.startswith(ANSWERS_FILE)]
    return [*config.models, *(ModelSpec(spec, spec) for spec in others)]


def baseline_specs(config: BenchConfig, benchmark: Benchmark) -> dict[str, str]:
    """Category ('' is all of them) -> what is compared with: the benchmark's own in the recipe, else what came with its
    prompts, else the recipe's common one. Raises ConfigError for baselines that this benchmark cannot have."""
    own = config.baseline_of(benchmark.name)
    if isinstance(own, dict):
        where = f"baselines.{benchmark.name}"
        if benchmark.protocol != "arena_hard":
            raise ConfigError(f"{where}: one baseline is compared with; only Arena-Hard may have one a category")
        categories = dict.fromkeys(p.category for p in benchmark.prompts())
        check_names(where, own, {**categories, **dict.fromkeys(CATEGORIES)})
        missing = [c for c in categories if c not in own]
        if missing:
            raise ConfigError(f"{where}: no baseline for category '{missing[0]}'")
        return {c: own[c] for c in categories}
    spec = own or benchmark.baseline or config.baseline
    if not spec and benchmark.needs_baseline:
        raise ConfigError(f"{benchmark.name} compares with a baseline: name one of the models, or answers:FILE")
    return {"": spec} if spec else {}


def check_baselines(config: BenchConfig, benchmark: Benchmark) -> None:
    """Raise ConfigError or DataError, before anything is sampled, for baselines that are not all there, or that are the
    only model."""
    specs = baseline_specs(config, benchmark)
    if _is_duel(benchmark) and len(config.models) == 1 and set(specs.values()) == {config.models[0].name}:
        raise ConfigError(f"{benchmark.name}: {ALONE}")
    for category, spec in specs.items():
        if spec.startswith(ANSWERS_FILE):
            answers_from_file(benchmark, spec.removeprefix(ANSWERS_FILE), prompts=_prompts(benchmark, category))


def baselines_of(config: BenchConfig, benchmark: Benchmark, answers: dict[str, Answers]) -> list[Answers]:
    """The baselines' answers: of the run's models, of other models, or from files; each to its own categories."""
    parts: dict[str, dict[str, Answer]] = {}
    for category, spec in baseline_specs(config, benchmark).items():
        prompts = _prompts(benchmark, category)
        found = answers.get(spec) or answers_from_file(benchmark, spec.removeprefix(ANSWERS_FILE), prompts=prompts)
        parts.setdefault(found.model, {}).update({p.key: found.items[p.key] for p in prompts})
    return [Answers(model, items) for model, items in parts.items()]


def compared_models(config: BenchConfig, benchmark: Benchmark, baselines: Sequence[Answers]) -> list[str]:
    """The models that are judged: all but the baseline in games and pairs, where nobody plays against itself.

    Raises ConfigError when none is left.
    """
    names = set(benchmark.baseline_names(baselines).values())
    found = [m.name for m in config.models if not (_is_duel(benchmark) and names == {m.name})]
    if not found:
        raise ConfigError(f"{benchmark.name}: {ALONE}")
    return found


def _is_duel(benchmark: Benchmark) -> bool:
    return benchmark.needs_baseline and benchmark.protocol != "alpaca_eval"


def _prompts(benchmark: Benchmark, category: str) -> list[BenchPrompt]:
    return [p for p in benchmark.prompts() if category in ("", p.category)]


def settings_of(config: BenchConfig) -> AnswerSettings:
    return AnswerSettings(SamplingParams(config.max_new_tokens, config.temperature), config.seed, config.instruction)


def journal_of(run: Path, model: ModelSpec, *, read_only: bool = False) -> ReplyJournal:
    """Every reply of a model as it came, so that a killed run goes on at the prompt where it was, and what two
    benchmarks ask (grades and pairs of MT-Bench) is sampled once."""
    path = run / "replies" / f"{file_name(model.name)}.jsonl"
    return ReplyJournal(path, {"model": identity(model.spec)}, read_only=read_only)


def _answers(
    run: RunDir, config: BenchConfig, benchmark: Benchmark, model: ModelSpec, opened: Callable[[], Generator]
) -> Answers:
    """The stage that writes a model's answers; read back from the file that it wrote."""
    folder, settings = run.path / "answers" / file_name(benchmark.name), settings_of(config)
    source = model.spec.removeprefix(ANSWERS_FILE)
    from_file = model.spec.startswith(ANSWERS_FILE)
    inputs: dict[str, Any] = {"prompts": benchmark.data_revision, "spec": model.spec}
    if from_file:
        inputs["file"] = sha256_file(source) if Path(source).is_file() else ""
    else:
        inputs |= {"sampling": asdict(settings.params), "seed": config.seed, "instruction": config.instruction}
        files = identity(model.spec)[1:]
        inputs |= {"files": files} if files else {}

    def work() -> dict[str, str]:
        if from_file:
            answers = answers_from_file(benchmark, source, model.name)
        else:
            journal = journal_of(run.path, model)
            answers = sample_benchmark(benchmark, opened(), model.name, settings, journal).samples[0]
        return {"file": str(write_answers(benchmark, folder, answers).relative_to(run.path))}

    done = run.stage(f"answers/{benchmark.name}/{file_name(model.name)}", inputs, work)
    return read_answers(run.path / done["file"])[0]
