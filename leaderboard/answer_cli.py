"""`prefeval answer`: a model's answers to a benchmark, resumable, with a side file that says how they were made."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from leaderboard.arguments import benchmark_arguments, command_parser, positive
from prefeval.errors import ConfigError
from prefeval.log import logger

if TYPE_CHECKING:
    from leaderboard.benchmarks.base import Benchmark
    from leaderboard.sampling import AnswerSettings, Sampled
    from prefeval.generate.base import Generator


def answer(argv: list[str]) -> int:
    """A model's answers to a benchmark, in the original's own file."""
    args = _arguments(argv)
    from leaderboard.answering import answers_from_file, write_answers
    from leaderboard.benchmarks import open_benchmark

    benchmark = open_benchmark(args.benchmark, args.data, args.limit)
    if args.model.startswith("answers:"):
        answers = answers_from_file(benchmark, args.model.removeprefix("answers:"), args.name)
        logger.info("wrote %s", write_answers(benchmark, args.out, answers))
        return 0
    settings = _settings(args, benchmark)
    generator = _open(args)
    _write(args, benchmark, generator, settings)
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "answer", "A model's answers to a benchmark, written as the original's own tools read them."
    )
    combined = "mix:0.5*SPEC+0.5*SPEC, linear:GAMMA[INSTRUCTION]:SPEC, best-of-N[ORACLE]:SPEC"
    kinds = f"folder, hub id, server:MODEL@URL, {combined}, answers:FILE"
    parser.add_argument("--model", required=True, metavar="SPEC", help=kinds)
    parser.add_argument("--name", default="", help="the model's name in the file (default: the spec)")
    benchmark_arguments(parser)
    parser.add_argument("--max-new-tokens", type=positive, default=512, metavar="N", help="longest reply, in tokens")
    parser.add_argument("--temperature", type=float, help="for every prompt (default: the protocol's own, else 0)")
    parser.add_argument("--instruction", default="", metavar="TEXT", help="put behind every turn that is answered")
    parser.add_argument("--samples", type=positive, default=1, metavar="K", help="answers to each prompt")
    parser.add_argument("--best-of", type=positive, metavar="N", help="sample N candidates, keep one by --oracle")
    parser.add_argument("--oracle", default="", metavar="SPEC", help="compares the candidates of --best-of")
    parser.add_argument("--select", choices=("best", "nash"), default="best", help="best mean P, or the equilibrium")
    parser.add_argument("--strip-reasoning", action="store_true", help="take <think> traces out of the replies")
    args = parser.parse_args(argv)
    if args.temperature is not None and not 0 <= args.temperature < math.inf:
        raise ConfigError("--temperature must be a number that is not negative")
    if (args.best_of is None) != (not args.oracle):
        raise ConfigError("--best-of N and --oracle SPEC go together")
    if args.best_of == 1:
        raise ConfigError("--best-of needs at least 2 candidates")
    if args.select == "nash" and args.best_of is None:
        raise ConfigError("--select nash chooses among candidates: give --best-of N and --oracle SPEC")
    sampled = args.samples > 1 or args.best_of or args.instruction or args.temperature is not None
    if args.model.startswith("answers:") and (sampled or args.strip_reasoning):
        raise ConfigError("answers:FILE is copied as it is: options that sample or change replies do not apply")
    return args


def _settings(args: argparse.Namespace, benchmark: Benchmark) -> AnswerSettings:
    from leaderboard.sampling import AnswerSettings
    from prefeval.generate.base import SamplingParams

    params = SamplingParams(args.max_new_tokens, 0.0)
    settings = AnswerSettings(params, args.seed, args.instruction, args.temperature, args.samples)
    several = args.samples > 1 or args.best_of or args.model.startswith(("best-of-", "nash-of-"))
    if several and not any(settings.temperature_of(p) for p in benchmark.prompts()):
        raise ConfigError("at temperature 0 all samples of a prompt are the same: give a --temperature above 0")
    return settings


def _open(args: argparse.Namespace) -> Generator:
    """The model, without its reasoning traces and choosing among candidates where that is asked for."""
    from leaderboard.sampling import open_answerer

    generator = open_answerer(args.model, args.name or args.model, args.out / "store.sqlite")
    if args.strip_reasoning:
        from prefeval.generate.reasoning import WithoutReasoning

        generator = WithoutReasoning(generator)
    if args.best_of:
        from prefeval.generate.select import SelectingGenerator
        from reward_models.oracles import open_oracle

        generator = SelectingGenerator(generator, open_oracle(args.oracle), args.best_of, args.select)
    return generator


def _write(args: argparse.Namespace, benchmark: Benchmark, generator: Generator, settings: AnswerSettings) -> None:
    """Sample what the journal lacks, then write the answer files, each with its side file."""
    from leaderboard.answering import file_name, write_answers
    from leaderboard.sampling import TOGETHER, ReplyJournal, identity, sample_benchmark
    from prefeval.files import write_json

    name = args.name or generator.name
    source = {
        "model": identity(args.model),
        "strip_reasoning": args.strip_reasoning,
        "selection": [args.best_of, args.select, identity(args.oracle)] if args.best_of else None,
    }
    path = args.out / "replies" / f"{file_name(benchmark.name)}.{file_name(name)}.jsonl"
    journal = ReplyJournal(path, source, max(1, TOGETHER // (args.best_of or 1)))
    sampled = sample_benchmark(benchmark, generator, name, settings, journal)
    files = [sampled.samples] if benchmark.protocol == "mt_bench" else [(one,) for one in sampled.samples]
    meta = _meta(args, benchmark, generator, settings, sampled)
    for answers in files:
        written = write_answers(benchmark, args.out, *answers)
        model = answers[0].model
        side = write_json(written.parent / f"{file_name(model)}.meta.json", {"name": model, **meta})
        logger.info("wrote %s and %s", written, side.name)


def _meta(
    args: argparse.Namespace,
    benchmark: Benchmark,
    generator: Generator,
    settings: AnswerSettings,
    sampled: Sampled,
) -> dict[str, Any]:
    """How the answers were made. The counts are over all samples; a server's chat template is not known (null)."""
    from prefeval.api_limits import scrub
    from prefeval.runs import manifest

    own = dict(sorted({(p.category, settings.temperature_of(p)) for p in benchmark.prompts()}))
    if len(set(own.values())) == 1:
        own = {"": next(iter(own.values()))}
    selection = {"best_of": args.best_of, "select": args.select, "oracle": scrub(args.oracle, None)}
    return {
        "model": scrub(args.model, None),
        "benchmark": benchmark.name,
        "prompts": len(benchmark.prompts()),
        "data_revision": benchmark.data_revision,
        "chat_template_hash": template_of(generator),
        "max_new_tokens": settings.params.max_new_tokens,
        "temperature": own if len(own) > 1 else next(iter(own.values())),
        "seed": settings.seed,
        "instruction": settings.instruction,
        "samples": settings.samples,
        "selection": selection if args.best_of else None,
        "strip_reasoning": args.strip_reasoning,
        "replies": sampled.replies,
        "cut_replies": sampled.cut,
        "empty_replies": sampled.empty,
        "versions": manifest("answer")["versions"],
    }


def template_of(generator: Any) -> str | None:
    """The hash of the chat template of the model inside a generator, None where another machine applies it."""
    from prefeval.chat import template_hash

    while not hasattr(generator, "tokenizer"):
        if not hasattr(generator, "generator"):
            return None
        generator = generator.generator
    return template_hash(generator.tokenizer)
