"""What the commands of this room have in common on their command lines."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from prefeval.errors import ConfigError


def command_parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"prefeval {command}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--benchmark", required=True, metavar="NAME", help="mini-alpaca, alpaca_eval, mt_bench, ...")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the originals' prompts (the mini sets need none)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N prompts")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the files are written")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def batch_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("batch files (OpenAI's Batch API, half the price)")
    group.add_argument("--batch-write", type=Path, metavar="DIR", help="write the missing requests, send nothing")
    group.add_argument("--batch-read", type=Path, nargs="+", metavar="FILE", help="read the replies of output files")
    group.add_argument("--batch-submit", type=Path, metavar="DIR", help="write, upload, wait and read")


def wants_batch(args: argparse.Namespace) -> bool:
    """Whether one of the options was given. Raises ConfigError for several."""
    given = [name for name in ("batch_write", "batch_read", "batch_submit") if getattr(args, name)]
    if len(given) > 1:
        raise ConfigError(f"--{given[0].replace('_', '-')} and --{given[1].replace('_', '-')}: choose one")
    return bool(given)


def batch_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The batch options of a command line, and the rest of it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    batch_arguments(parser)
    return parser.parse_known_args(argv)
