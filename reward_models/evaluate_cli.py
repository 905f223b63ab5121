"""`prefeval evaluate`: an oracle on labelled pairs, or on a published suite by that suite's own scoring."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from prefeval.data.tables import parse_columns
from prefeval.errors import ConfigError
from prefeval.files import dumps, write_json
from reward_models.arguments import oracle_parser, say
from reward_models.evaluation import EvaluateConfig, measure_oracle, shown


def evaluate(argv: Sequence[str]) -> int:
    """``prefeval evaluate --oracle SPEC --data SPEC [--suite NAME] --out DIR``: writes metrics.json."""
    args = vars(_evaluate_parser().parse_args(argv))
    as_json = args.pop("json")
    args |= {"columns": parse_columns(args["columns"]) or {}, "rating_pairs": _weights(args["rating_pairs"])}
    config = EvaluateConfig(**{**args, "decontaminate": tuple(args["decontaminate"])})
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: not a directory")
    metrics = measure_oracle(config)
    write_json(out / "metrics.json", metrics)
    say(dumps(metrics) if as_json else f"{shown(metrics, config.suite)}\n{out / 'metrics.json'}")
    return 0


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
        default="",
        metavar="DATA",
        help="compare with rules fitted on this data: surface features, and the stronger model where models are named",
    )
    parser.add_argument(
        "--calibrate",
        default="",
        metavar="DATA",
        help="fit the temperature on this data and report with it; a model: oracle keeps it",
    )
    parser.add_argument(
        "--features",
        default="",
        metavar="DIR",
        help="keep hidden states here, as `train` does",
    )
    parser.add_argument("--out", required=True, help="directory for metrics.json")
    parser.add_argument(
        "--bound", type=float, default=0.0, metavar="B",
        help="also accuracy where the lower bound, B standard deviations down, decides (laplace, ensemble; asks again)",
    )  # fmt: skip
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples behind the intervals")
    return parser
