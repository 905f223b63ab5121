"""How fast verdicts become a leaderboard, beside the originals in the same run.

    python tests/speed/leaderboard.py [--repeats 3] [--files 1000]

Needs the benchmark data (PREFEVAL_DATA). Prints medians over repeats with the fastest and slowest, the peak
memory of the commands, and how far the two sides' numbers are apart, so that equal work is seen to be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "leaderboard"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # before this folder, whose names are those of packages

import numpy as np
from leaderboard_data import DATA, KO_BASELINE, ko_files, parquet
from scipy.sparse import csr_array, vstack
from sklearn.linear_model import LogisticRegression
from upstream import length_controlled_winrate

from leaderboard.alpaca_scoring import score_preferences
from leaderboard.annotations import GameRow, PreferenceRow, read_games
from leaderboard.answers import read_answers
from leaderboard.arena_scoring import StyleTable, score_games, style_table
from leaderboard.preferences import pool_of
from leaderboard.ratings import outcomes
from leaderboard.scoring import ScoreOptions
from leaderboard.side_files import read_side_files
from prefeval.judges.parse import parse
from tests.speed.timing import Timing, machine, print_table, repeated, run_command

BASELINE = "gpt4_1106_preview"
Row = tuple[str, str, str, str]


@dataclass(frozen=True)
class Run:
    repeats: int
    files: int


def annotations(models: int) -> dict[str, list[dict[str, Any]]]:
    """The real verdicts of the shared models, shuffled among instructions to make up more of them."""
    real: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(parquet("alpaca_eval/annotations_dev.parquet"), key=lambda r: r["row"]):
        real.setdefault(row["generator"], []).append(row)
    whole = [rows for name, rows in real.items() if len(rows) == 805 and name != BASELINE]
    texts = {row["index"]: row["instruction"] for row in parquet("alpaca_eval/instructions.parquet")}
    found = {}
    for m in range(models):
        rows, order = whole[m % len(whole)], np.random.default_rng(m).permutation(805)
        source = [rows[i] for i in (order if m >= len(whole) else range(805))]
        found[f"model-{m:04}"] = [
            {"instruction": texts[i], "dataset": "", "output_1": "b" * r["len_1"], "generator_1": BASELINE,
             "output_2": "m" * r["len_2"], "generator_2": f"model-{m:04}",
             "annotator": "weighted_alpaca_eval_gpt4_turbo", "preference": r["preference"]}
            for i, r in enumerate(source)
        ]  # fmt: skip
    return found


def length_control(run: Run) -> list[Row]:
    """50 models: our points and 1,000 refits each, against the package's points alone."""
    data = annotations(50)
    side = read_side_files(DATA / "alpaca_eval")
    assert side is not None
    pool = pool_of(
        PreferenceRow(r["generator_2"], BASELINE, r["annotator"], r["instruction"], "", r["preference"] - 1, i,
                      len(r["output_2"]), len(r["output_1"]))
        for rows in data.values()
        for i, r in enumerate(rows)
    )  # fmt: skip
    upstream = length_controlled_winrate(DATA / "alpaca_eval")
    theirs: dict[str, float] = {}

    def package() -> None:
        theirs.update({name: upstream(rows)["length_controlled_winrate"] for name, rows in data.items()})

    work = "LC of 50 models"
    peer = repeated(package, run.repeats)
    rows = [(work, "alpaca_eval, points only, C cross-validated", str(peer), "")]
    for how, options in (("one C", ScoreOptions()), ("C cross-validated", ScoreOptions(lc_c="cv"))):
        time = repeated(partial(score_preferences, pool, side, options), run.repeats)
        table = score_preferences(pool, side, options)
        gap = max(abs(r.score.point - theirs[r.name]) for r in table.rows)
        notes = f"{peer.median / time.median:.1f} times as fast; points within {gap:.3f}"
        rows.append((work, f"ours, with 1,000-resample intervals, {how}", str(time), notes))
    return rows


def arena_pool(folder: Path, models: int) -> tuple[list[GameRow], StyleTable]:
    """The Korean Arena-Hard pool, its models repeated under new names."""
    judgments, answers = ko_files(folder)
    style = style_table(read_answers(answers))
    by_model: dict[str, list[GameRow]] = {}
    for row in read_games([judgments]):
        if row.model != KO_BASELINE and (row.model, row.uid) in style:
            by_model.setdefault(row.model, []).append(row)
    names, rows = list(by_model), []
    for m in range(models):
        source = names[m % len(names)]
        rows += [replace(r, model=f"m{m}", baseline=KO_BASELINE) for r in by_model[source]]
        style |= {(f"m{m}", r.uid): style[source, r.uid] for r in by_model[source]}
    return rows, style


def arena(run: Run, folder: Path) -> list[Row]:
    """70 models x 500 questions: ours with 1,000 resamples of questions, v0.1's rounds of battle rows."""
    rows, style = arena_pool(folder, 70)
    options = ScoreOptions(baseline=KO_BASELINE)
    gaps: list[float] = []
    work = "Arena-Hard, 70 models"
    plain = repeated(lambda: score_games(rows, {}, options), run.repeats)
    full = repeated(lambda: score_games(rows, style, options), run.repeats)
    one = repeated(lambda: gaps.append(upstream_round(rows)), run.repeats)
    per_round = f"one round {one}, so 100 rounds take about {100 * one.median:.0f} s (not run)"
    return [
        (work, "ours, 1,000 cluster resamples", str(plain), ""),
        (work, "ours, the same with length, markdown, style and no-gap columns", str(full), ""),
        (
            work,
            "v0.1's kind: logistic regression over resampled battle rows",
            per_round,
            f"scores within {max(gaps):.4f}",
        ),
    ]


def upstream_round(rows: list[GameRow]) -> float:
    """One bootstrap round as v0.1 does it: resample battle rows, fit Bradley-Terry by scikit-learn on one-hot rows.

    Returns how far its scores are from the mean outcome of the same battles, which is what ours resample.
    """
    code = {name: i for i, name in enumerate(dict.fromkeys(r.model for r in rows))}
    battles = [(code[r.model], o) for r in rows for o, w in outcomes(r) for _ in range(int(w))]
    drawn = np.array(battles)[np.random.default_rng(0).integers(0, len(battles), len(battles))]
    m, o = drawn[:, 0].astype(int), drawn[:, 1]
    n, k = len(m), len(code)
    columns = np.concatenate([m, np.full(n, k)])
    one_hot = csr_array((np.repeat([-np.log(10), np.log(10)], n), (np.tile(np.arange(n), 2), columns)))
    y = np.concatenate([np.where(o == 0.5, 1, 1 - o), np.where(o == 0.5, 0, 1 - o)]).astype(int)
    model = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-6, max_iter=1000)
    theta = model.fit(vstack([one_hot, one_hot]), y).coef_[0]
    mean = np.bincount(m, o, k) / np.bincount(m, minlength=k)
    return float(np.abs(100 / (1 + 10 ** (theta[-1] - theta[:-1])) - 100 * mean).max())


def rescoring(run: Run, folder: Path) -> list[Row]:
    """The command itself, in a process of its own, over 100,000 verdicts, and over many files."""
    found = []
    many = f"{run.files} AlpacaEval files, {805 * run.files:,} verdicts"
    cases = (
        ("125 AlpacaEval files, 100,625 verdicts", alpaca_arguments(folder / "a", 125, shorten=False)),
        ("100 Arena-Hard files, 100,000 verdicts", arena_arguments(folder / "b")),
        (many, alpaca_arguments(folder / "c", run.files, shorten=True)),
    )
    for name, (command, *arguments) in cases:
        out = ["--out", str(folder / "out")]
        results = [run_command([command, *out, *arguments]) for _ in range(run.repeats)]
        time = Timing(tuple(seconds for seconds, _ in results))
        memory = max(peak for _, peak in results)
        size = sum(p.stat().st_size for p in Path(arguments[-1]).iterdir()) / 2**20
        by = f"prefeval leaderboard, {size:,.0f} MiB of files"
        found.append((name, by, str(time), f"peak {memory:.2f} GiB"))
    return found


def alpaca_arguments(folder: Path, models: int, *, shorten: bool) -> list[str]:
    """Files with texts of the real lengths, or a tenth of them."""
    folder.mkdir()
    made = annotations(min(models, 125))
    for m in range(models):
        rows = made[f"model-{m % len(made):04}"]
        changed = [
            {
                **r,
                "generator_2": f"model-{m:04}",
                **({k: r[k][::10] for k in ("output_1", "output_2")} if shorten else {}),
            }
            for r in rows
        ]
        (folder / f"{m:04}.json").write_text(json.dumps(changed))
    return [
        "leaderboard",
        "--benchmark",
        "alpaca_eval",
        "--data",
        str(DATA / "alpaca_eval"),
        "--annotations",
        str(folder),
    ]


def arena_arguments(folder: Path) -> list[str]:
    """100 models x 500 questions x 2 games in the v2 layout, with judgments of about 1,500 characters."""
    folder.mkdir()
    with tempfile.TemporaryDirectory() as pool:
        rows, _ = arena_pool(Path(pool), 100)
    by_model: dict[str, list[dict[str, Any]]] = {}
    for r in rows:
        games = [{"score": label, "judgment": {"answer": "word " * 300 + f"[[{label}]]"}} for label in r.labels]
        by_model.setdefault(r.model, []).append(
            {"uid": r.uid, "category": "arena-hard-v0.1", "judge": r.judge, "model": r.model, "baseline": r.baseline,
             "games": games}
        )  # fmt: skip
    for name, lines in by_model.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["leaderboard", "--benchmark", "arena-hard-v0.1", "--annotations", str(folder)]


def parsing(run: Run) -> list[Row]:
    """Raw replies back to labels."""
    replies = [f"My own answer first. {'word ' * 300} My final verdict is: [[{x}]]" for x in ("A>B", "B>>A", "A=B")]

    def work() -> None:
        for i in range(100_000):
            parse("arena_v2", replies[i % 3])

    return [("100,000 raw replies to labels", "Arena-Hard v2.0's grammar", str(repeated(work, run.repeats)), "")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--files", type=int, default=1000, help="AlpacaEval files in the pass over many")
    args = parser.parse_args()
    if not DATA.is_dir():
        sys.exit("the benchmark data is not here (set PREFEVAL_DATA)")
    os.environ["PREFEVAL_DATA"] = str(DATA.parent)
    run = Run(args.repeats, args.files)
    print(f"{machine()}; {run.repeats} repeats: median [fastest, slowest]\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [*length_control(run), *arena(run, folder), *parsing(run), *rescoring(run, folder)]
    print_table(("work", "by", "time", "notes"), rows)


if __name__ == "__main__":
    main()
