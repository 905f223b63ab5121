"""`prefeval game`: an algorithm on a matrix game, one line a round."""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alignment.algorithm import Algorithm, algorithm_class, get_algorithm, list_algorithms
from alignment.tabular import GameRound, Sampling, every_round, play, play_sampled
from prefeval.errors import ConfigError, PrefevalError
from prefeval.files import dumps, write_bytes
from prefeval.games import GAMES, Game, open_game
from prefeval.log import logger
from prefeval.types import FloatArray

ROWS = ("all", "powers", "last")


def game(argv: list[str]) -> int:
    """Run `prefeval game` with these arguments; the exit code. Argparse exits by itself on bad usage and --help."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except PrefevalError as error:
        sys.stderr.write(f"prefeval game: {error}\n")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefeval game",
        description="Play an alignment algorithm on a matrix game; line t describes the policy after t updates.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--list", action="store_true", help="print the table of methods and aliases and exit")
    add("--game", help=f"{', '.join(GAMES)} or FILE.csv, a square matrix P")
    add("--algorithm", help="a method or alias (--list prints them all), or py:module:Class, which runs its code")
    add("--step", type=float, default=0.5, help="a, the factor of the win rate in the exponent (dpo: 1 / beta)")
    add("--tau", type=float, default=0.0, help="strength of the regularisation towards the reference")
    add("--rounds", type=int, default=100, help="number of updates")
    add("--sampled", type=int, metavar="N", help="learn from N sampled pairs a round instead of exactly")
    add("--group", type=int, default=2, metavar="K", help="with --sampled: responses a group")
    add("--labels", choices=("soft", "bernoulli", "hard"), default="soft", help="probabilities, draws or thresholds")
    add("--start", metavar="P1,P2,...", help="start policy (default: the game's own; a file: uniform)")
    add("--ref", metavar="P1,P2,...", help="reference policy (default: the start)")
    add("--set", action="append", default=[], metavar="OPTION=VALUE", help="another option of the algorithm")
    add("--seed", type=int, default=0, help="of --sampled")
    add("--plot", metavar="FILE", help="write the gaps over the rounds as .svg or .png")
    add("--rows", choices=ROWS, default="all", help="the rounds that are measured and printed; powers: 1, 2, 4, ...")
    add("--json", action="store_true", help="one JSON document a round on stdout")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.list:
        sys.stdout.write("\n".join(table_of_methods()) + "\n")
        return 0
    _check(options)
    table = open_game(options.game)
    if options.start is not None:
        table = dataclasses.replace(table, start=_policy(options.start, len(table.P), "--start"))
    ref = None if options.ref is None else _policy(options.ref, len(table.P), "--ref")
    rounds = _rounds(options, table, ref)
    few = options.rows != "all"
    kept = list(_print_json(rounds) if options.json else _print_table(rounds, options.rounds, every=few))
    if options.plot:
        write_bytes(options.plot, _plot(kept, f"{options.algorithm} on {table.name}", Path(options.plot).suffix[1:]))
    return 0


def table_of_methods() -> list[str]:
    """One line a method: name, arXiv id, the equilibrium it aims at, what holds loss and update together.

    'minimiser': the loss with default options is minimised by the exact update; 'fixed points': there is no such
    minimiser, and values, signs and fixed points are tested instead. Both name the test under tests/alignment.
    """
    lines = [f"{'name':<15} {'arXiv':<22} {'game':<22} shown by"]
    for row in list_algorithms():
        test = "minimiser: test_algorithms" if row.has_minimiser else "fixed points: test_algorithm_losses"
        shown = f"alias of {row.alias_of}" if row.alias_of else test
        lines.append(f"{row.name:<15} {row.arxiv:<22} {row.game:<22} {shown}")
    return lines


def _check(options: argparse.Namespace) -> None:
    for name in ("game", "algorithm"):
        if not getattr(options, name):
            raise ConfigError(f"--{name} is missing")
    for name, least in (("rounds", 1), ("sampled", 1), ("group", 2)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} must be at least {least}, not {value}")
    if not (options.tau >= 0 and np.isfinite(options.tau)):
        raise ConfigError(f"--tau must be a number >= 0, not {options.tau}")
    if not (options.step > 0 and np.isfinite(options.step)):
        raise ConfigError(f"--step must be a positive number, not {options.step}")
    if options.plot and Path(options.plot).suffix not in (".svg", ".png"):
        raise ConfigError(f"--plot {options.plot}: the file must end in .svg or .png")


def _policy(text: str, n: int, flag: str) -> FloatArray:
    try:
        p = np.array([float(part) for part in text.split(",")], dtype=np.float64)
    except ValueError:
        raise ConfigError(f"{flag} {text}: expected numbers such as 0.5,0.3,0.2") from None
    if len(p) != n:
        raise ConfigError(f"{flag} {text}: {len(p)} probabilities for a game of {n} responses")
    # A response of probability 0 can never come back under any of these updates, and its logarithm is not a number.
    if not np.all(p > 0) or abs(p.sum() - 1.0) > 1e-6:
        raise ConfigError(f"{flag} {text}: probabilities must be positive and sum to 1 (they sum to {p.sum():g})")
    return np.asarray(p / p.sum(), dtype=np.float64)


def _rounds(options: argparse.Namespace, table: Game, ref: FloatArray | None) -> Iterator[GameRound]:
    algorithm, shown = _algorithm(options), _shown(options.rows, options.rounds)
    if options.sampled is None:
        return play(algorithm, table, options.rounds, tau=options.tau, ref=ref, shown=shown)
    sampling = Sampling(options.sampled, options.group, options.labels, options.seed)
    return play_sampled(algorithm, table, options.rounds, sampling, tau=options.tau, ref=ref, shown=shown)


def _shown(rows: str, last: int) -> Callable[[int], bool]:
    """Which rounds are measured and printed; the last one always is."""
    if rows == "powers":
        return lambda number: number & (number - 1) == 0 or number == last
    return every_round if rows == "all" else lambda number: number == last


def _algorithm(options: argparse.Namespace) -> Algorithm:
    known = {field.name for field in dataclasses.fields(algorithm_class(options.algorithm))}
    values: dict[str, Any] = {"step": options.step}
    if "tau" in known:
        values["tau"] = options.tau
    elif options.tau > 0:
        logger.warning("%s has no tau: --tau only sets the regularised gap that is measured", options.algorithm)
    if options.sampled is None and "labels" in known:
        values["labels"] = options.labels  # sampled play labels the pairs when it draws them
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item}: expected OPTION=VALUE")
        values[name] = value
    return get_algorithm(options.algorithm, **values)


def _print_json(rounds: Iterable[GameRound]) -> Iterator[GameRound]:
    for row in rounds:
        document = {
            "round": row.round,
            "gap": row.gap,
            "gap_average": row.gap_average,
            "gap_regularised": row.gap_regularised,
            "policy": row.policy,
        }
        sys.stdout.write(dumps(document) + "\n")
        yield row


def _print_table(rounds: Iterable[GameRound], total: int, *, every: bool) -> Iterator[GameRound]:
    """Print the rounds that are given if `every`, else some in even steps on a logarithmic scale."""
    shown = {*(m * 10**e for e in range(len(str(total))) for m in (1, 2, 5)), total}
    sys.stdout.write(f"{'round':>7} {'gap':>10} {'average':>10} {'regularised':>12}  policy\n")
    for row in rounds:
        if every or row.round in shown:
            regularised = "-" if row.gap_regularised is None else f"{row.gap_regularised:.3e}"
            policy = " ".join(f"{p:.3f}" for p in row.policy)
            sys.stdout.write(f"{row.round:7d} {row.gap:10.3e} {row.gap_average:10.3e} {regularised:>12}  {policy}\n")
        yield row


def _plot(rows: list[GameRound], title: str, kind: str) -> bytes:
    """Gaps over rounds on logarithmic axes, as the bytes of an image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    number = [row.round for row in rows]
    # Rounding noise below 1e-16 has no place on a logarithmic axis.
    axes.plot(number, [max(row.gap, 1e-16) for row in rows], label="last iterate")
    axes.plot(number, [max(row.gap_average, 1e-16) for row in rows], label="average")
    if rows[0].gap_regularised is not None:
        axes.plot(number, [max(row.gap_regularised or 0.0, 1e-16) for row in rows], label="last, regularised game")
    axes.set(xscale="log", yscale="log", xlabel="round", ylabel="duality gap", title=title)
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format=kind)
    return image.getvalue()
