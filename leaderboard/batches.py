"""`prefeval judge` and `prefeval bench` by batch files: write what is to be asked, read what came, or do both.

    --batch-write DIR    the missing requests as input files, nothing is sent
    --batch-read FILE..  the replies of output files into the store; the same command without it then judges
    --batch-submit DIR   write, upload, wait, read, until nothing is missing or nothing more comes

Some verdicts need a second question (a label that is missing, a reply that was cut): they come with the next batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from leaderboard.config import BenchConfig
from leaderboard.judge_specs import open_judge
from prefeval.api import map_async
from prefeval.api_batch import Collector, Reading, Requests, most_cost, read_outputs, write_requests
from prefeval.api_batch_run import Batches
from prefeval.api_types import Limits
from prefeval.errors import ConfigError, RunError
from prefeval.judges.base import Judge, JudgeTask
from prefeval.judges.specs import clients_of
from prefeval.log import logger
from prefeval.store import Store


def run_batch(
    args: argparse.Namespace,
    judge: Judge,
    tasks: Sequence[JudgeTask],
    store: Store,
    *,
    max_cost: float | None = None,
    poll_seconds: float = 30.0,
) -> int:
    """Do what the options say. Raises ConfigError for a judge that calls nobody, RunError when nothing more comes."""
    if not clients_of(judge):
        raise ConfigError(f"judge '{judge.id}' calls no endpoint: it needs no batch")
    requests = missing_requests(judge, tasks)
    if args.batch_write:
        for file in write_requests(args.batch_write, requests):
            logger.info("wrote %s", file)
        told = f", at most {most_cost(requests):.2f} dollars in a batch" if most_cost(requests) else ""
        logger.info("%d requests are missing%s", len(requests), told)
    elif args.batch_read:
        reading = read_outputs(args.batch_read, requests, store)
        _report(reading, requests)
        left = len(missing_requests(judge, tasks))
        what = "asks for them; --batch-write writes them again" if left else "finds every reply"
        logger.info("%d requests are missing; the same command without --batch-read %s", left, what)
    else:
        _submit(args.batch_submit, judge, tasks, requests, store, max_cost, poll_seconds)
    return 0


def missing_requests(judge: Judge, tasks: Sequence[JudgeTask]) -> Requests:
    """The requests that the judge would send for these tasks now, by their keys in the store. None is sent."""
    with Collector(clients_of(judge)) as collector:
        map_async(judge.rule, tasks, concurrency=64, title="collecting requests")
    return collector.requests


def judge_by_batch(args: argparse.Namespace, tasks: Sequence[JudgeTask], limits: Limits) -> int:
    """`prefeval judge` with one of the options: the store is the one in `--out`."""
    store = args.out / "store.sqlite"
    return run_batch(args, open_judge(args.judge, store, limits), tasks, Store(store), max_cost=limits.max_cost)


def bench_by_batch(args: argparse.Namespace, config: BenchConfig) -> int:
    """`prefeval bench` with one of the options: the models answer first, the judge's requests go by batch."""
    tasks, store = bench_tasks(config), Path(config.folder) / "store.sqlite"
    judge = open_judge(config.judge, store, config.judge_limits())
    return run_batch(args, judge, tasks, Store(store), max_cost=config.max_cost)


def bench_tasks(config: BenchConfig) -> list[JudgeTask]:
    """All the questions that a recipe's run asks its judge. The models answer first, as stages of the run."""
    from leaderboard.bench_answers import all_answers, baselines_of, compared_models
    from leaderboard.run import answerer, open_benchmarks
    from prefeval.runs import RunDir

    config.check()
    benchmarks = open_benchmarks(config)
    run = RunDir(config.folder, config.recorded, command="bench")
    tasks: list[JudgeTask] = []
    with run.lock():
        answers = all_answers(run, config, benchmarks, partial(answerer, run))
        for benchmark in benchmarks:
            own = answers[benchmark.name]
            baselines = baselines_of(config, benchmark, own)
            for name in compared_models(config, benchmark, baselines):
                tasks += benchmark.tasks(own[name], baselines)
    return tasks


def _submit(
    folder: Path,
    judge: Judge,
    tasks: Sequence[JudgeTask],
    requests: Requests,
    store: Store,
    max_cost: float | None,
    poll_seconds: float,
) -> None:
    """Fetch what was submitted before, then submit what is missing, until nothing is or nothing more comes."""
    batches, clients = Batches(folder, poll_seconds=poll_seconds), clients_of(judge)
    while True:
        unread = batches.fetch(clients)
        if any(not batch.get("read") for batch in batches.known.values()):
            reading = read_outputs(unread, requests, store)
            _report(reading, requests)
            batches.mark_read()
            requests = missing_requests(judge, tasks)
            if requests and not reading.read and not reading.learned:
                raise RunError(f"the batch brought no reply to {len(requests)} requests; the same command tries again")
        if not requests:
            logger.info("every reply is there; the same command without --batch-submit judges")
            return
        most = most_cost(requests)
        if max_cost is not None and most > max_cost:
            raise RunError(f"the batch may cost {most:.2f} dollars, more than --max-cost {max_cost:g}: not submitted")
        batches.submit(write_requests(folder, requests))


def _report(reading: Reading, requests: Requests) -> None:
    told = logger.warning if reading.failed or reading.unknown else logger.info
    told("%s", reading.text(len(requests) - reading.read))
