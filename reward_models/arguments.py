"""What the commands of this package share: the arguments that open an oracle, and where their words go."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from prefeval.errors import printable

if TYPE_CHECKING:
    from prefeval.store import Store


def oracle_parser(command: str, text: str) -> argparse.ArgumentParser:
    """The arguments of every command that asks an oracle."""
    parser = argparse.ArgumentParser(
        prog=f"prefeval {command}", description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--oracle", required=True, help="model:PATH, hf:ID, judge:MODEL@URL, rules:NAME, py:mod:obj, ..."
    )
    parser.add_argument("--device", default=None, help="where models run; the accelerator if there is one")
    parser.add_argument("--store", default=None, help="SQLite file that keeps a judge's verdicts between runs")
    parser.add_argument("--seed", type=int, default=0, help="of pair orientation and the bootstrap")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    return parser


def open_store(path: str | None) -> Store | None:
    """The store that `--store` names."""
    if path is None:
        return None
    from prefeval.store import Store

    return Store(path)


def say(text: str) -> None:
    """A command's result, on standard output."""
    sys.stdout.write(printable(text) + "\n")
