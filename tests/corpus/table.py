"""All cases by area, and the table of how they came out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from . import command_cases, config_cases, data_cases, model_cases, verdict_cases
from .case import Case, Outcome, run

AREAS: dict[str, Callable[[], list[Case]]] = {
    "data: containers": data_cases.containers,
    "data: pairs": data_cases.pairs,
    "data: native rows": data_cases.groups,
    "data: published formats": data_cases.published,
    "YAML": config_cases.yaml,
    "train recipes": config_cases.train,
    "align recipes and prompts": config_cases.align,
    "pipelines and run directories": config_cases.pipelines,
    "bench recipes": config_cases.bench,
    "preference model directories": model_cases.models,
    "policy directories and specs": model_cases.policies,
    "oracle specs": model_cases.oracles,
    "score rows": model_cases.score_rows,
    "matrices": model_cases.matrices,
    "other commands": command_cases.others,
    "AlpacaEval verdicts": verdict_cases.alpaca,
    "Arena-Hard verdicts": verdict_cases.arena,
    "MT-Bench verdicts": verdict_cases.mt_bench,
    "side files": verdict_cases.side,
    "human labels": verdict_cases.human,
    "lm-eval results": verdict_cases.lm_eval,
    "answers": verdict_cases.answers,
    "own benchmarks": verdict_cases.custom,
}


def every_case() -> list[tuple[str, Case]]:
    return [(area, case) for area, make in AREAS.items() for case in make()]


def run_in_scratch(case: Case) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return run(case, Path(folder).resolve())


def table() -> tuple[str, int]:
    """(the table as text, number of cases that failed)."""
    lines = [f"{'area':<32} {'cases':>5} {'told':>5} {'wrong':>5}"]
    whole = wrong = 0
    details: list[str] = []
    for area, make in AREAS.items():
        outcomes = [run_in_scratch(case) for case in make()]
        bad = [o for o in outcomes if o.problems]
        details += [f"{area}, {o.case.name}: {'; '.join(o.problems)}" for o in bad]
        lines.append(f"{area:<32} {len(outcomes):5d} {len(outcomes) - len(bad):5d} {len(bad):5d}")
        whole, wrong = whole + len(outcomes), wrong + len(bad)
    lines.append(f"{'all':<32} {whole:5d} {whole - wrong:5d} {wrong:5d}")
    return "\n".join([*lines, *details]) + "\n", wrong
