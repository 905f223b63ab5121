"""Leaderboards: AlpacaEval 2, Arena-Hard, MT-Bench and custom benchmarks with honest uncertainty.

Three calls for notebooks and scripts; nothing heavy is imported before one of them is made.

- `score(benchmark, files)`: the table from verdict files that are there.
- `differences(table)`: which of its models differ, question by question.
- `bench(out)`: what `prefeval bench` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leaderboard.compare import Comparison
    from leaderboard.run import BenchResult
    from leaderboard.table import Table

__all__ = ["bench", "differences", "score"]


def score(benchmark: str, files: str | Sequence[str], *, data: str | None = None, **options: Any) -> Table:
    """The table of a benchmark, best model first, from the originals' own verdict files; no model, no network.

    `data` is the folder of the benchmark's side files; `options` are the fields of `leaderboard.scoring.ScoreOptions`.

    >>> table = score("mini-alpaca", "annotations.json")
    >>> [(row.name, row.extra["win_rate"], row.score.n) for row in table.rows]
    [('new', 75.0, 4), ('old', 37.5, 4)]
    """
    from leaderboard.from_files import score_files
    from leaderboard.scoring import ScoreOptions

    given = [files] if isinstance(files, str) else list(files)
    return score_files(benchmark, given, data, ScoreOptions(**options))


def differences(table: Table, *, resamples: int = 1000, seed: int = 0) -> list[Comparison]:
    """Every pair of models on their common questions: difference, interval, Holm-adjusted p, what would be detectable.

    >>> found = differences(score("mini-alpaca", "annotations.json"))
    >>> [(c.first, c.second, c.difference.point, c.difference.n) for c in found]
    [('new', 'old', 0.375, 4)]
    """
    from leaderboard.compare import paired_comparisons

    return paired_comparisons(table, resamples=resamples, seed=seed)


def bench(out: str, **options: Any) -> BenchResult:
    """Answers, verdicts and scores in the run directory `out`; a call that was cut off goes on when it is made again.

    `options` are the fields of a bench recipe. `tables` of the result are by benchmark.

    >>> models = [{"name": n, "spec": f"answers:{n}.json"} for n in ("new", "old")]
    >>> found = bench("run", models=models, baseline="old", benchmarks=["mini-alpaca"], judge="rules:longer", limit=4)
    >>> [(row.name, row.extra["win_rate"], row.score.n) for row in found.tables["mini-alpaca"].rows]
    [('new', 100.0, 4), ('old', 50.0, 4)]
    """
    from leaderboard.config import BenchConfig
    from leaderboard.run import run_bench
    from prefeval.config import from_dict

    return run_bench(from_dict(BenchConfig, {"out": out, **options}, where="bench"))
