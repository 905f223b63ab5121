"""The commands leaderboard, judge and bench (answer_cli has answer). They raise prefeval.errors; the caller prints."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leaderboard.arguments import (
    batch_arguments,
    batch_options,
    benchmark_arguments,
    command_parser,
    count,
    positive,
    wants_batch,
)
from leaderboard.compare import write_comparisons
from leaderboard.enrich import with_findings
from leaderboard.from_files import expand, score_files
from leaderboard.report import board_page
from leaderboard.scoring import ALIGNMENTS, FAILURES, ScoreOptions
from leaderboard.table import Table, as_dict, to_markdown, write_table
from prefeval.errors import ConfigError, RunError, printable
from prefeval.files import dumps, read_json, write_json, write_text
from prefeval.log import logger
from prefeval.runs import manifest

if TYPE_CHECKING:
    from leaderboard.answers import Answers
    from leaderboard.benchmarks.base import Benchmark
    from leaderboard.verdicts import Journal
    from prefeval.api_types import Limits

DRY_RUN = "--dry-run"


def leaderboard(argv: list[str]) -> int:
    """Scores from existing verdict files: no model, no network."""
    parser = command_parser("leaderboard", "Scores from existing verdict files, in the originals' own formats.")
    parser.add_argument("--benchmark", required=True, metavar="NAME", help="alpaca_eval, arena_hard, mt_bench, mini-*")
    parser.add_argument("--annotations", required=True, nargs="+", metavar="FILE", help="verdict files (and answers)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where leaderboard.* are written")
    parser.add_argument("--data", type=Path, metavar="DIR", help="side files: difficulty, gamed rows, C")
    parser.add_argument("--lc-c", default="published", metavar="C", help="length control: published, cv or a number")
    parser.add_argument("--align", default="instruction", choices=ALIGNMENTS, help="how difficulty is looked up")
    parser.add_argument("--baseline", default="", metavar="NAME", help="the baseline's name (default: from the files)")
    parser.add_argument("--failures", default="dropped", choices=FAILURES, help="MT-Bench ratings without a number")
    parser.add_argument("--human", default="", metavar="FILE", help="human labels to hold the judge against")
    parser.add_argument("--compare", type=count, default=50, metavar="N", help="paired differences among the best N")
    parser.add_argument("--resamples", type=positive, default=1000, metavar="N", help="bootstrap resamples")
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals; Arena-Hard v2.0 prints 0.9")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    args = parser.parse_args(argv)
    options = ScoreOptions(
        lc_c=args.lc_c,
        align=args.align,
        failures=args.failures,
        baseline=args.baseline,
        resamples=args.resamples,
        level=args.level,
        seed=args.seed,
    )
    name, protocol = _named(args.benchmark)
    table = score_files(name, args.annotations, args.data, options, protocol=protocol)
    table = with_findings(table, args.annotations, data=args.data, human=args.human, seed=args.seed)
    written = write_table(table, args.out)
    written += write_comparisons(table, args.out, args.compare, options)
    compared = read_json(args.out / "comparisons.json") if args.compare else []
    command = f"prefeval leaderboard {shlex.join(argv)}"
    written.append(write_json(args.out / "manifest.json", manifest(command)))
    page = board_page(as_dict(table), compared, args.out, command)
    written.append(write_text(args.out / "report.html", page))
    _show(table, json=args.json)
    logger.info("wrote %s", ", ".join(str(p) for p in written))
    return 0


def judge(argv: list[str]) -> int:
    """Verdicts on answers, in the original's own annotation files."""
    parser = command_parser("judge", "Verdicts on answers. Failed ones are asked again when the command is repeated.")
    parser.add_argument("--answers", required=True, nargs="+", metavar="FILE", help="the models' answer files")
    parser.add_argument("--judge", required=True, metavar="SPEC", help="judge:MODEL[@URL], panel:SPEC+SPEC, ...")
    parser.add_argument("--baseline", nargs="+", metavar="FILE", default=[], help="answer files of the baseline(s)")
    benchmark_arguments(parser)
    parser.add_argument(
        "--orders", choices=("published", "both"), default="published", help="in which AlpacaEval asks each comparison"
    )
    parser.add_argument("--concurrency", type=positive, default=8, metavar="N", help="calls at a time")
    parser.add_argument(DRY_RUN, action="store_true", help="count calls and tokens, ask nothing")
    parser.add_argument("--price", type=float, nargs=2, metavar=("IN", "OUT"), help="dollars per million tokens")
    parser.add_argument("--max-cost", type=float, metavar="DOLLARS", help="what this call may spend; needs --price")
    parser.add_argument("--judge-max-tokens", type=positive, metavar="N", help="most tokens of a verdict's text")
    parser.add_argument("--requests-per-minute", type=float, metavar="N", help="pace of the calls")
    parser.add_argument("--tokens-per-minute", type=float, metavar="N", help="pace in prompt and completion tokens")
    batch_arguments(parser)
    args = parser.parse_args(argv)
    from leaderboard.answering import answers_from_file
    from leaderboard.benchmarks import open_benchmark
    from prefeval.api_types import Limits

    price = (args.price[0], args.price[1]) if args.price else None
    paces = args.requests_per_minute, args.tokens_per_minute
    limits = Limits(args.concurrency, *paces, args.max_cost, price, args.judge_max_tokens)

    benchmark = open_benchmark(args.benchmark, args.data, args.limit, orders=args.orders)
    if args.orders == "both" and benchmark.protocol != "alpaca_eval":
        raise ConfigError(f"--orders: only AlpacaEval asks in one order unless told so, not {benchmark.name}")
    answers = [answers_from_file(benchmark, file) for file in expand(args.answers)]
    own = [benchmark.baseline.removeprefix("answers:")] if benchmark.baseline else []
    named = args.baseline or own
    baselines = [answers_from_file(benchmark, file) for file in expand(named)] if named else []
    if args.dry_run:
        return _dry_run(benchmark, answers, baselines, args.out, limits)
    if wants_batch(args):
        from leaderboard.batches import judge_by_batch

        tasks = [task for one in answers for task in benchmark.tasks(one, baselines)]
        return judge_by_batch(args, tasks, limits)
    return _judge(benchmark, answers, baselines, args.judge, args.out, limits)


def bench(argv: list[str]) -> int:
    """Answers, verdicts and scores of several models, as one resumable run."""
    from leaderboard.config import BenchConfig
    from leaderboard.run import run_bench
    from prefeval.config import load_config

    recipe = argv[0] if argv and not argv[0].startswith("-") else None
    overrides = [a for a in (argv[1:] if recipe is not None else argv) if a != DRY_RUN]
    if recipe is None and not any(a in ("-h", "--help") for a in argv):
        raise ConfigError("prefeval bench needs a recipe: prefeval bench RECIPE.yaml [--a.b value ...]")
    batch, overrides = batch_options(overrides)
    config = load_config(BenchConfig, recipe, overrides, command="bench")
    if DRY_RUN in argv:
        from leaderboard.dry_run import plan_bench, plan_text

        sys.stdout.write(plan_text(plan_bench(config)))
        return 0
    if wants_batch(batch):
        from leaderboard.batches import bench_by_batch

        return bench_by_batch(batch, config)
    result = run_bench(config)
    for table in result.tables.values():
        sys.stdout.write(printable(to_markdown(table)) + "\n")
    logger.info("the run is in %s", result.folder)
    return 0


def _named(spec: str) -> tuple[str, str]:
    """(name, protocol) of a benchmark; the protocol is '' where the name tells it."""
    from leaderboard.benchmarks.custom import PAIRS, custom_source, is_custom, protocol_in_code
    from prefeval.plugins import PREFIX

    if not is_custom(spec):
        return spec, ""
    kind, source = custom_source(spec)
    if kind.startswith(PREFIX):
        return source.name, protocol_in_code(kind)
    return source.name, "mt_bench" if kind == PAIRS else kind


def _judge(
    benchmark: Benchmark,
    answers: Sequence[Answers],
    baselines: Sequence[Answers],
    spec: str,
    out: Path,
    limits: Limits,
) -> int:
    """Ask, write what came, and say what did not."""
    from leaderboard.judge_specs import open_judge
    from leaderboard.verdicts import failures, judge_tasks, write_native
    from prefeval.api_faults import SPENDING_CAP

    tasks = {a.model: benchmark.tasks(a, baselines) for a in answers}
    used = open_judge(spec, out / "store.sqlite", limits)
    rows, failed, asked, capped = {}, 0, 0, 0
    for one in answers:
        journal = _journal(out, benchmark, one.model)
        title = f"judging {one.model} on {benchmark.name}"
        judged = judge_tasks(used, tasks[one.model], journal, concurrency=limits.concurrency, title=title)
        reasons = failures(judged)
        if reasons:
            logger.warning("%s: %d verdicts failed (%s)", title, sum(reasons.values()), "; ".join(reasons))
        failed, asked = failed + sum(reasons.values()), asked + len(judged)
        capped += sum(j.verdict.reason == SPENDING_CAP for j in judged)
        rows[one.model] = benchmark.native(one, baselines, judged, used.id)
    if asked and failed == asked and not capped:
        raise RunError("no verdict was obtained; the same command tries again")
    for path in write_native(benchmark, out, used.id, rows):
        logger.info("wrote %s", path)
    if capped:
        raise RunError(
            f"the spending cap of {limits.max_cost:g} dollars was reached: {asked - failed} of {asked} verdicts are "
            f"kept, {capped} were not asked for; the same command with another --max-cost goes on from there"
        )
    if failed:
        logger.warning("%d of %d verdicts are missing; the same command asks for them again", failed, asked)
    return 0


def _dry_run(
    benchmark: Benchmark, answers: Sequence[Answers], baselines: Sequence[Answers], out: Path, limits: Limits
) -> int:
    """What is left to ask: verdicts that an earlier call obtained are not counted."""
    from leaderboard.dry_run import cost_text
    from leaderboard.verdicts import to_ask
    from prefeval.api import estimate_cost

    journals = {one.model: _journal(out, benchmark, one.model, read_only=True) for one in answers}
    tasks = [t for one in answers for t in to_ask(benchmark.tasks(one, baselines), journals[one.model])]
    sys.stdout.write(f"{cost_text(estimate_cost(tasks, limits))}\n")
    return 0


def _journal(out: Path, benchmark: Benchmark, model: str, *, read_only: bool = False) -> Journal:
    from leaderboard.answering import file_name
    from leaderboard.verdicts import Journal

    name = f"{file_name(benchmark.name)}.{file_name(model)}.jsonl"
    return Journal(out / "verdicts" / name, read_only=read_only)


def _show(table: Table, *, json: bool) -> None:
    sys.stdout.write(dumps(as_dict(table)) + "\n" if json else printable(to_markdown(table)))
