"""`prefeval evaluate`: an oracle on labelled pairs, or on a published suite by that suite's own scoring."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefeval.data.places import locate
from prefeval.data.tables import parse_columns
from prefeval.errors import ConfigError, DataError
from prefeval.files import dumps, write_json
from prefeval.log import logger
from prefeval.types import FloatArray, PreferenceRecord
from reward_models.arguments import open_store, oracle_parser, say
from reward_models.data import rated_pairs
from reward_models.evaluate_table import table


def evaluate(argv: Sequence[str]) -> int:
    """``prefeval evaluate --oracle SPEC --data SPEC [--suite NAME] --out DIR``: writes metrics.json."""
    from reward_models.oracles import open_oracle
    from reward_models.suites import suite_table

    args = _evaluate_parser().parse_args(argv)
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: not a directory")
    records, reading = _read(args)
    oracle = open_oracle(args.oracle, device=args.device, store=open_store(args.store))
    metrics = {
        **_measure(args, oracle, records),
        "encoding": encoding_facts(oracle, records[0]),
        "reading": reading,
        "data": args.data,
        "seed": args.seed,
    }
    write_json(out / "metrics.json", metrics)
    shown = table(metrics) if args.suite == "pairs" else f"{suite_table(metrics['suite'])}\n\n{table(metrics)}"
    say(dumps(metrics) if args.json else f"{shown}\n{out / 'metrics.json'}")
    return 0


def _read(args: argparse.Namespace) -> tuple[list[PreferenceRecord], dict[str, Any]]:
    """The records to ask about and what was dropped on the way. Raises DataError when nothing is left."""
    from prefeval.data.decontaminate import decontaminate_from
    from prefeval.data.readers import load_records
    from reward_models.suite_rows import read_suite

    columns = parse_columns(args.columns)
    reading: dict[str, Any] = {}
    if args.suite != "pairs":
        wrong = [
            flag
            for flag in ("split", "format", "rating_pairs", "decontaminate", "baseline", "calibrate")
            if getattr(args, flag)
        ]
        if wrong:
            raise ConfigError(f"--{wrong[0].replace('_', '-')} is for --suite pairs; a suite is scored whole")
        return read_suite(args.suite, args.data, columns), reading
    data = load_records(locate(args.data), format=args.format, columns=columns)
    rated = rated_pairs(data.records, _weights(args.rating_pairs), args.data) if args.rating_pairs else data.records
    records = [r for r in rated if r.pairs and (args.split is None or r.split == args.split)]
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
    from reward_models.evaluate import evaluate as measure
    from reward_models.suites import measured

    options = {"seed": args.seed, "resamples": args.resamples}
    if args.suite != "pairs":
        return measured(oracle, records, args.suite, **options)
    rivals, baseline = _baselines(args, records) if args.baseline else ({}, {})
    calibration = _calibrate(args, oracle, records) if args.calibrate else {}
    metrics = measure(oracle, records, tau=calibration.get("tau", 1.0), rivals=rivals, **options)
    bounds = _bounded(args, oracle, records) if args.bound else {}
    return {**metrics, "baseline": baseline, "calibration": calibration, **bounds}


def _baselines(
    args: argparse.Namespace, records: Sequence[PreferenceRecord]
) -> tuple[dict[str, list[FloatArray]], dict[str, Any]]:
    """(tables of the rules fitted on --baseline, what they were fitted on): surface features, the stronger model.

    The second only where both data sets name the models behind the responses.
    """
    from reward_models.baselines import fit_surface
    from reward_models.judged import answer
    from reward_models.rivals import STRONGER, model_rates, stronger_tables

    training = _apart(args, args.baseline, records)
    rivals = {"surface": answer(fit_surface(training), records)}
    rates = model_rates(training)
    if rates and any(r.meta.get("models") for r in records):
        rivals[STRONGER] = stronger_tables(records, rates)
    return rivals, {"data": args.baseline, "n_train_records": len(training), "n_models": len(rates)}


def _calibrate(args: argparse.Namespace, oracle: Any, records: Sequence[PreferenceRecord]) -> dict[str, Any]:
    """Fit the oracle's temperature on --calibrate; a `model:` directory keeps it in its config.json.

    Raises DataError when no pair there is decided and answered.
    """
    import numpy as np

    from reward_models.calibrate import fit_temperature
    from reward_models.judged import answer, collect

    held_out = _apart(args, args.calibrate, records)
    judged = collect(held_out, answer(oracle, held_out), args.seed)
    keep = judged.decided & np.isfinite(judged.score)
    if not keep.any():
        raise DataError("no decided pairs to calibrate on", file=args.calibrate)
    tau = fit_temperature(judged.score[keep], judged.label[keep], pseudo_pairs=1.0)
    kind, _, path = args.oracle.partition(":")
    if kind == "model":
        from reward_models.loading import store_tau

        store_tau(Path(path), oracle.model.head.tau * tau)
        logger.info("%s now keeps the temperature %.4g (it was %.4g)", path, oracle.model.head.tau * tau,
                    oracle.model.head.tau)  # fmt: skip
    return {"data": args.calibrate, "tau": tau, "n": int(keep.sum()), "stored": kind == "model"}


def _apart(args: argparse.Namespace, spec: str, records: Sequence[PreferenceRecord]) -> list[PreferenceRecord]:
    """The labelled records of other data, without the prompts that are measured. Raises DataError when none is left."""
    from prefeval.data.readers import load_records
    from prefeval.data.splits import prompt_key

    tested = {prompt_key(r.prompt) for r in records}
    other = load_records(locate(spec), format=args.format, columns=parse_columns(args.columns)).records
    other = rated_pairs(other, _weights(args.rating_pairs), spec) if args.rating_pairs else other
    apart = [r for r in other if r.pairs and prompt_key(r.prompt) not in tested]
    if not apart:
        raise DataError("no labelled pairs of other prompts than those of --data", file=spec)
    return apart


def _weights(pairs: Sequence[str]) -> dict[str, float]:
    """What `--rating-pairs attribute[=weight] ...` says. Raises ConfigError for anything else."""
    weights = {}
    for pair in pairs:
        name, equals, weight = pair.partition("=")
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError:
            raise ConfigError(f"--rating-pairs {pair}: write attribute or attribute=weight") from None
    return weights


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


def _evaluate_parser() -> argparse.ArgumentParser:
    parser = oracle_parser("evaluate", "Accuracy, calibration, length bias and cycles of an oracle on preference data.")
    parser.add_argument("--data", required=True, help="file, directory or hub id of preference data")
    parser.add_argument("--format", default=None, help="format of the data where the columns do not tell it")
    parser.add_argument("--columns", action="append", default=[], metavar="A=B", help="read column B as A; repeatable")
    parser.add_argument(
        "--rating-pairs", nargs="+", default=[], metavar="A[=W]", help="pairs from ratings, by their weighted sum"
    )
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
        "--baseline",
        default=None,
        metavar="DATA",
        help="compare with rules fitted on this data: surface features, and the stronger model where models are named",
    )
    parser.add_argument(
        "--calibrate",
        default=None,
        metavar="DATA",
        help="fit the temperature on this data and report with it; a model: oracle keeps it",
    )
    parser.add_argument("--out", required=True, help="directory for metrics.json")
    parser.add_argument(
        "--bound", type=float, default=0.0, metavar="B",
        help="also accuracy where the lower bound, B standard deviations down, decides (laplace, ensemble; asks again)",
    )  # fmt: skip
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples behind the intervals")
    return parser
