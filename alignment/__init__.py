"""Nash alignment: algorithms, the round loop, and the exact matrix games they are checked on.

Three calls for notebooks and scripts; nothing heavy is imported before one of them is made.

- `methods()`: the table of methods.
- `play(game, algorithm)`: a method where the answer is known.
- `align(out)`: what `prefeval align` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignment.algorithm import AlgorithmInfo
    from alignment.tabular import GameRound

__all__ = ["align", "methods", "play"]


def methods() -> list[AlgorithmInfo]:
    """Every method and alias: name, arXiv id, the equilibrium aimed at, whether its loss has the update as minimiser.

    >>> {row.name: row.arxiv for row in methods()}["inpo"]
    '2407.00617'
    """
    from alignment.algorithm import list_algorithms

    return list_algorithms()


def play(game: str, algorithm: str, *, rounds: int = 100, tau: float = 0.0, **options: Any) -> list[GameRound]:
    """The rounds of exact play of an algorithm on a matrix game, with the duality gaps of last and average policy.

    `game` is rps, cyc3, rand10:SEED, bt10 or a CSV file with P; `tau` that of the regularised gap. `options` are the
    algorithm's own, its step and tau among them.

    >>> played = play("rps", "onpo", rounds=1000, step=1.0)
    >>> played[-1].gap < 1e-12, [round(p, 3) for p in played[-1].policy.tolist()]
    (True, [0.333, 0.333, 0.333])
    """
    from alignment.algorithm import get_algorithm
    from alignment.tabular import play as exact
    from prefeval.games import open_game

    return list(exact(get_algorithm(algorithm, **options), open_game(game), rounds, tau=tau))


def align(out: str, **options: Any) -> dict[str, Any]:
    """Align a policy in the run directory `out`; a call that was cut off goes on when it is made again.

    `options` are those of `prefeval align`, nested ones as mappings (the algorithm's own under `options`). `policy` of
    the result is the aligned policy's directory.

    >>> found = align("run", policy="base", oracle="rules:longer", algorithm="onpo", options={"step": 1.0}, rounds=1,
    ...               prompts="prompts.jsonl", responses=2, max_new_tokens=4, probe={"share": 0.5})
    >>> found["policy"], found["rounds"]
    ('run/final', 1)
    """
    from alignment.cli import run_align
    from alignment.config import AlignConfig
    from prefeval.config import from_dict, to_dict
    from prefeval.runs import RunDir

    config = from_dict(AlignConfig, {"out": out, **options}, where="align")
    run = RunDir(out, to_dict(config), command="alignment.align")
    with run.lock():
        return run_align(config, run)
