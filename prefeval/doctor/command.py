"""`prefeval doctor [--model M] [--data D] [--judge J] [--speed]`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator

from prefeval.data.tables import parse_columns
from prefeval.doctor.findings import Finding
from prefeval.models import QUICKSTART

# Preference models belong to a room above this one, which is reached by name.
_PREFERENCE = "reward_models.checkup:examine_preference_model"
_SIGNS = {"ok": "ok     ", "note": "note   ", "warning": "WARNING", "problem": "PROBLEM"}


def doctor(argv: list[str]) -> int:
    """Look for what most often goes wrong before it costs a run: the environment always; a model's tokenizer, template
    and weights, preference data, and a judge where they are named. Exit status 1 if there is a problem.
    """
    args = _parser().parse_args(argv)
    findings: list[Finding] = []
    for title, examine in _plan(args):
        if not args.json:
            sys.stdout.write(f"{title}\n")
        for finding in examine():
            findings.append(finding)
            if not args.json:
                sys.stdout.write(_line(finding))
                sys.stdout.flush()
    problems = sum(f.level == "problem" for f in findings)
    warnings = sum(f.level == "warning" for f in findings)
    if args.json:
        sys.stdout.write(json.dumps({"findings": [f.as_dict() for f in findings], "problems": problems}) + "\n")
    else:
        sys.stdout.write(f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}\n")
    return 1 if problems else 0


def _plan(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
    from prefeval.doctor.environment import examine_environment

    yield "environment", examine_environment
    if args.model:
        yield f"model {args.model}", lambda: _model(args.model)
    if args.data:
        from prefeval.doctor.data import examine_data

        columns = parse_columns(args.columns)
        yield f"data {args.data}", lambda: examine_data(args.data, format=args.format, columns=columns)
    if args.judge:
        from prefeval.doctor.judge import examine_judge

        yield f"judge {args.judge} (two requests)", lambda: examine_judge(args.judge)
    if args.speed:
        from prefeval.doctor.speed import examine_speed

        spec = (args.model or QUICKSTART).removeprefix("model:").removeprefix("hf:")
        yield f"speed with {spec}", lambda: examine_speed(spec)


def _model(spec: str) -> Iterator[Finding]:
    from prefeval.doctor.models import examine_model

    path = spec.removeprefix("model:").removeprefix("hf:")
    yield from examine_model(path)
    module, _, name = _PREFERENCE.partition(":")
    yield from getattr(importlib.import_module(module), name)(path)


def _line(finding: Finding) -> str:
    text = f"  {_SIGNS[finding.level]}  {finding.check}: {finding.message}\n"
    return text + (f"           -> {finding.remedy}\n" if finding.remedy and finding.level != "ok" else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prefeval doctor", description=doctor.__doc__)
    parser.add_argument("--model", help="a base model, a policy or a preference model")
    parser.add_argument("--data", help="preference data: a file, a directory or a hub id")
    parser.add_argument("--format", help="the data's format, where its columns do not tell it")
    parser.add_argument("--columns", action="append", default=[], metavar="A=B", help="read column B as A; repeatable")
    parser.add_argument("--judge", metavar="MODEL[@URL]", help="asks it two questions")
    parser.add_argument("--speed", action="store_true", help="measure this machine, about a minute")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser
