"""`prefeval evaluate`: an oracle on labelled pairs, or on a published suite by that suite's own scoring."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefeval.data.tables import parse_columns
from prefeval.errors import ConfigError, DataError
from prefeval.files import dumps, write_json
from prefeval.log import logger
from prefeval.types import PreferenceRecord
from reward_models.cli import _parser, _say, _store

_SHOWN = ("accuracy", "brier", "ece", "nll", "tau", "length_only_accuracy", "difference_to_longer", "accuracy_longer",
          "accuracy_shorter", "accuracy_length_matched", "length_correlation", "length_slope", "cycle_rate",
          "curl_ratio", "curl_ratio_floor", "effective_rank", "first_pair")  # fmt: skip


def evaluate(argv: Sequence[str]) -> int:
    """``prefeval evaluate --oracle SPEC --data SPEC [--suite NAME] --out DIR``: writes metrics.json."""
    from reward_models.oracles import open_oracle
    from reward_models.suites import suite_table

    args = _evaluate_parser().parse_args(argv)
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: not a directory")
    records, reading = _read(args)
    oracle = open_oracle(args.oracle, device=args.device, store=_store(args.store))
    metrics = {
        **_measure(args, oracle, records),
        "encoding": encoding_facts(oracle, records[0]),
        "reading": reading,
        "data": args.data,
        "seed": args.seed,
    }
    write_json(out / "metrics.json", metrics)
    shown = table(metrics) if args.suite == "pairs" else f"{suite_table(metrics['suite'])}\n\n{table(metrics)}"
    _say(dumps(metrics) if args.json else f"{shown}\n{out / 'metrics.json'}")
    return 0


def _read(args: argparse.Namespace) -> tuple[list[PreferenceRecord], dict[str, Any]]:
    """The records to ask about and what was dropped on the way. Raises DataError when nothing is left."""
    from prefeval.data.decontaminate import decontaminate_from
    from prefeval.data.readers import load_records
    from reward_models.suite_rows import read_suite

    columns = parse_columns(args.columns)
    reading: dict[str, Any] = {}
    if args.suite != "pairs":
        wrong = [flag for flag in ("split", "format", "decontaminate", "baseline") if getattr(args, flag)]
        if wrong:
            raise ConfigError(f"--{wrong[0]} is for --suite pairs; a suite is scored whole")
        return read_suite(args.suite, args.data, columns), reading
    data = load_records(args.data, format=args.format, columns=columns)
    records = [r for r in data.records if r.pairs and (args.split is None or r.split == args.split)]
    report = data.report.as_dict()
    reading = {k: report[k] for k in ("rows", "dropped", "merged", "conflicts", "ties")}
    if args.decontaminate:
        found = decontaminate_from(records, args.decontaminate)
        logger.info("%s", found)
        records, reading["decontamination"] = found.kept, found.as_dict()
    if not records:
        raise DataError("no labelled pairs" + (f" in split '{args.split}'" if args.split else ""), file=args.data)
    return records, reading


def _measure(args: argparse.Namespace, oracle: Any, records: Sequence[PreferenceRecord]) -> dict[str, Any]:
    from reward_models.suites import measured

    metrics = measured(oracle, records, args.suite, seed=args.seed, resamples=args.resamples)
    if args.baseline:
        metrics["baseline"] = _surface(args, records)
    if args.bound:
        metrics |= _bounded(args, oracle, records)
    return metrics


def _surface(args: argparse.Namespace, records: Sequence[PreferenceRecord]) -> dict[str, Any]:
    """The logistic model on surface features, fitted on --baseline, on the same records."""
    from prefeval.data.readers import load_records
    from prefeval.data.splits import prompt_key
    from reward_models.baselines import fit_surface
    from reward_models.evaluate import evaluate as measure

    tested = {prompt_key(r.prompt) for r in records}
    training = load_records(args.baseline, format=args.format, columns=parse_columns(args.columns)).records
    apart = [r for r in training if r.pairs and prompt_key(r.prompt) not in tested]
    metrics = measure(fit_surface(apart), records, seed=args.seed, resamples=args.resamples)
    keys = ("accuracy", "accuracy_low", "accuracy_high", "n", "nll", "accuracy_length_matched", "difference_to_longer",
            "difference_to_longer_low", "difference_to_longer_high")  # fmt: skip
    return {"oracle": "surface", "n_train_records": len(apart), **{k: metrics[k] for k in keys}}


def encoding_facts(oracle: Any, record: PreferenceRecord) -> dict[str, Any]:
    """What the oracle's tokenizer did: sequences, the share cut, the template's hash, BOS tokens in one sequence.

    Empty for oracles without a tokenizer of their own. More than one BOS token is a wrong template.
    """
    from prefeval.chat import template_hash

    encoder = getattr(getattr(oracle, "model", None), "encoder", None) or getattr(oracle, "encoder", None)
    if encoder is None:
        return {}
    tokenizer, asked, cut = encoder.tokenizer, encoder.encoded, encoder.truncated
    ids = oracle.model.encode(record.prompt, record.responses[:1])[0] if hasattr(oracle.model, "encode") else ()
    bos = tokenizer.bos_token_id
    return {
        "sequences": asked,
        "truncated": cut,
        "truncated_share": cut / asked if asked else None,
        "max_length": encoder.max_length,
        "template_hash": template_hash(tokenizer) if getattr(tokenizer, "chat_template", None) else None,
        "bos_tokens": list(ids).count(bos) if bos is not None and ids else None,
        "dtype": str(next(oracle.model.parameters()).dtype).removeprefix("torch."),
    }


def _bounded(args: argparse.Namespace, oracle: Any, records: Sequence[PreferenceRecord]) -> dict[str, Any]:
    from reward_models.sure import Pessimistic, sure_pairs

    if not isinstance(oracle, Pessimistic):
        raise ConfigError(f"--bound: {oracle.name} has no bound; give laplace:PATH or ensemble:SPEC+SPEC")
    return sure_pairs(oracle, records, width=args.bound, resamples=args.resamples, seed=args.seed)


def table(metrics: dict[str, Any]) -> str:
    """The main numbers, one a line, with their intervals."""
    lines = [f"n = {metrics['n']} decided pairs, {metrics['n_dropped']} dropped, {metrics['n_ties']} ties left out"]
    lines += [_line(name, *(metrics.get(f"{name}{end}") for end in ("", "_low", "_high"))) for name in _SHOWN]
    if metrics.get("baseline"):
        b = metrics["baseline"]
        lines.append(_line("surface features", b["accuracy"], b["accuracy_low"], b["accuracy_high"]))
    if metrics.get("sure"):
        from reward_models.sure import sure_lines

        lines += sure_lines(metrics["sure"])
    if metrics.get("position"):
        share = metrics["position"]["first_of_decided"]
        lines.append(_line("first shown wins", share, None, None) + f"  of {metrics['position']['decided']} decided")
    if metrics.get("encoding"):
        lines.append("encoding: " + ", ".join(f"{k} {v}" for k, v in metrics["encoding"].items() if v is not None))
    return "\n".join(lines)


def _line(name: str, value: float | None, low: float | None, high: float | None) -> str:
    interval = "" if low is None else f"  [{low:.3f}, {high:.3f}]"
    return f"{name:<22}{' ' if len(name) > 21 else ''}{'-' if value is None else f'{value:.3f}'}{interval}"


def _evaluate_parser() -> argparse.ArgumentParser:
    parser = _parser("evaluate", "Accuracy, calibration, length bias and cycles of an oracle on preference data.")
    parser.add_argument("--data", required=True, help="file, directory or hub id of preference data")
    parser.add_argument("--format", default=None, help="format of the data where the columns do not tell it")
    parser.add_argument("--columns", action="append", default=[], metavar="A=B", help="read column B as A; repeatable")
    parser.add_argument("--split", default=None, help="only this split of the data")
    parser.add_argument(
        "--suite",
        default="pairs",
        choices=("pairs", "rewardbench", "rewardbench2", "rm-bench", "judgebench"),
        help="score --data, the suite's own rows, by its published rule",
    )
    parser.add_argument(
        "--decontaminate", nargs="+", default=[], metavar="FILE", help="drop records with a prompt of these files"
    )
    parser.add_argument(
        "--baseline", default=None, metavar="DATA", help="fit the surface-feature baseline on this data"
    )
    parser.add_argument("--out", required=True, help="directory for metrics.json")
    parser.add_argument(
        "--bound", type=float, default=0.0, metavar="B",
        help="also accuracy where the lower bound, B standard deviations down, decides (laplace, ensemble; asks again)",
    )  # fmt: skip
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples behind the intervals")
    return parser
