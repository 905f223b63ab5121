"""What the commands of this room have in common on their command lines."""

from __future__ import annotations

import argparse
from pathlib import Path


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
