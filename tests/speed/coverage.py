"""Do 95% intervals cover the truth 95% of the time? Ours beside intervals of the originals' kind.

    python tests/speed/coverage.py [--simulations 1000]

Verdicts are simulated from models whose truth is known, with questions that are hard or easy for everybody, so that
the two games of a prompt, the two turns of a question, and the outcomes of two models go together. Prints, for each
kind of number, the share of simulations in which the interval holds the truth, and its mean width.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # before this folder, whose names are those of packages

import numpy as np

from leaderboard.annotations import GameRow, GradeRow
from leaderboard.arena_scoring import score_games
from leaderboard.compare import paired_comparisons, refitted_comparisons
from leaderboard.grades import summarise_grades
from leaderboard.lc_bootstrap import length_controlled
from leaderboard.length_control import GamedRows
from leaderboard.ratings import mean_outcome, outcomes
from leaderboard.scoring import ScoreOptions
from leaderboard.style_control import CONTROLS, V01, controlled_scores, style_pool
from leaderboard.table import TableRow, make_table
from prefeval.stats import Estimate, resample_counts, wilson
from tests.speed.timing import machine, print_table

Z = 1.959964
LABELS = np.array(["B>>A", "B>A", "A=B", "A>B", "A>>B"])  # by rising strength of A
CUTS = (-2.5, -0.4, 0.4, 2.5)
RESAMPLES = 1000


class Case(NamedTuple):
    """One simulated interval: who made it, of what, and where the truth lies."""

    number: str
    maker: str
    low: float
    high: float
    truth: float


def expit(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def arena_rows(rng: np.random.Generator, questions: int, model: str, skill: float, hard: np.ndarray) -> list[GameRow]:
    """Two games a question; what makes a question easy for the model shows in both of them."""
    latent = skill + hard + rng.normal(0, 0.8, questions)
    strength = latent[:, None] + rng.logistic(0, 0.4, (questions, 2))
    step = np.digitize(strength, CUTS)
    first, second = LABELS[4 - step[:, 0]], LABELS[step[:, 1]]  # the model is B in game 1, A in game 2
    return [
        GameRow(str(q), model, "base", "j", "", (str(a), str(b)), True)
        for q, (a, b) in enumerate(zip(first, second, strict=True))
    ]


def arena_truth(skill: float) -> float:
    """The score of very many questions: sums of a million, weight three for strong verdicts."""
    rng = np.random.default_rng(99)
    n = 1_000_000
    strength = skill + rng.normal(0, np.sqrt(1.0 + 0.8**2), n) + rng.logistic(0, 0.4, n)
    step = np.digitize(strength, CUTS)
    weight = np.where((step == 0) | (step == 4), 3.0, 1.0)
    return float(100 * (weight * np.array([0, 0, 0.5, 1, 1])[step]).sum() / weight.sum())


def arena(simulations: int) -> Iterator[Case]:
    """Arena-Hard's score, 500 questions; v0.1's rows: every game, and each copy of a strong one, on its own."""
    truth = arena_truth(-0.4)
    for s in range(simulations):
        rng = np.random.default_rng(s)
        rows = arena_rows(rng, 500, "m", -0.4, rng.normal(0, 1, 500))
        found = mean_outcome(rows, resamples=RESAMPLES, seed=s)
        yield Case("Arena-Hard score", "ours: questions", found.low, found.high, truth)
        battles = np.concatenate([[o] * int(w) for r in rows for o, w in outcomes(r)])
        draws = 100 * rng.choice(battles, (100, len(battles))).mean(axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        yield Case("Arena-Hard score", "originals' kind: battle rows, 100 rounds", low, high, truth)


def arena_difference(simulations: int) -> Iterator[Case]:
    """The difference of two models on the same questions; apart: the variances of their own intervals added up."""
    skills = {"a": 0.1, "b": -0.2}
    truth = plain_truth(skills["a"]) - plain_truth(skills["b"])
    for s in range(simulations):
        rng = np.random.default_rng(10_000 + s)
        hard = rng.normal(0, 1, 500)
        rows = [r for name, skill in skills.items() for r in plain_rows(rng, 500, name, skill, hard)]
        table = score_games(rows, {}, ScoreOptions(resamples=RESAMPLES, seed=s))
        (found,) = paired_comparisons(table, resamples=RESAMPLES, seed=s)
        sign = 1 if found.first == "a" else -1
        low, high = found.difference.low, found.difference.high
        yield Case("difference of two models", "ours: paired by question", low, high, sign * truth)
        half = np.hypot(*((r.score.high - r.score.low) / 200 for r in table.rows))
        point = found.difference.point
        yield Case("difference of two models", "apart: too wide", point - half, point + half, sign * truth)


def plain_rows(rng: np.random.Generator, questions: int, model: str, skill: float, hard: np.ndarray) -> list[GameRow]:
    """As arena_rows without strong verdicts, so that every question weighs the same."""
    rows = arena_rows(rng, questions, model, skill, hard)
    weak = [(str(r.labels[0]).replace(">>", ">"), str(r.labels[1]).replace(">>", ">")) for r in rows]
    return [GameRow(r.uid, model, "base", "j", "", labels, True) for r, labels in zip(rows, weak, strict=True)]


def plain_truth(skill: float) -> float:
    rng = np.random.default_rng(98)
    n = 1_000_000
    strength = skill + rng.normal(0, np.sqrt(1.0 + 0.8**2), n) + rng.logistic(0, 0.4, n)
    return float(np.array([0, 0, 0.5, 1, 1])[np.digitize(strength, CUTS)].mean())


def mt_bench(simulations: int) -> Iterator[Case]:
    """MT-Bench's average of 80 questions in two turns; rows: the 160 ratings as if independent."""
    for s in range(simulations):
        rng = np.random.default_rng(20_000 + s)
        grades = 6.5 + rng.normal(0, 1.3, 80)[:, None] + rng.normal(0, 0.9, (80, 2))
        rows = [GradeRow(str(q), "m", "j", t + 1, float(grades[q, t])) for q in range(80) for t in (0, 1)]
        found = summarise_grades(rows, resamples=RESAMPLES, seed=s).average
        yield Case("MT-Bench average", "ours: questions", found.low, found.high, 6.5)
        half = Z * grades.std(ddof=1) / np.sqrt(160)
        yield Case("MT-Bench average", "rows: 160 ratings", grades.mean() - half, grades.mean() + half, 6.5)


def lc_data(rng: np.random.Generator, n: int, skill: float, hard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(soft verdicts, length gaps) of a model of the length-controlled form with noisy judgments."""
    gap = rng.normal(150, 700, n)
    p = expit(-1.3 * np.tanh(gap / gap.std(ddof=1)) + 0.7 * hard + skill)
    return rng.beta(1.5 * p, 1.5 * (1 - p)), gap


def lc_gamed() -> GamedRows:
    """2 x 805 gamed rows of the same taste for length."""
    rng = np.random.default_rng(5)
    t, d = np.tanh(rng.normal(0, 1, 1610)), rng.normal(0, 1, 1610)
    return GamedRows(t, d, expit(-1.3 * t + 0.7 * d))


def lc_truth(skill: float) -> float:
    return float(100 * expit(0.7 * np.random.default_rng(97).normal(0, 1, 2_000_000) + skill).mean())


def length_control(simulations: int) -> Iterator[Case]:
    """LC win rates and their difference, 805 questions; upstream's column is the spread of the predictions."""
    gamed, skills = lc_gamed(), {"a": -0.9, "b": -1.2}
    truth = {name: lc_truth(skill) for name, skill in skills.items()}
    for s in range(simulations):
        rng = np.random.default_rng(30_000 + s)
        hard = rng.normal(0, 1, 805)
        counts = resample_counts(805, RESAMPLES, s)
        rows = []
        for name, skill in skills.items():
            y, gap = lc_data(rng, 805, skill, hard)
            found = length_controlled(y, gap, hard, gamed, counts, c=21.54)
            rows.append(TableRow(name, Estimate(found.rate, found.low, found.high, 805),
                                 extra={"lc_win_rate": found.rate}, draws={"lc_win_rate": found.draws}))  # fmt: skip
            if name == "a":
                yield Case("LC win rate", "ours: refits", found.low, found.high, truth["a"])
                low, high = found.rate - Z * found.spread, found.rate + Z * found.spread
                yield Case("LC win rate", "upstream's lc_standard_error", low, high, truth["a"])
        (pair,) = refitted_comparisons(make_table("x", "alpaca_eval", rows), "lc_win_rate")
        sign = 1 if pair.first == "a" else -1
        yield Case("difference of LC win rates", "ours: both refitted in a resample", pair.difference.low,
                   pair.difference.high, sign * (truth["a"] - truth["b"]))  # fmt: skip


Style = dict[tuple[str, str], tuple[float, float, float, float]]


def style_data(rng: np.random.Generator, questions: int) -> tuple[list[GameRow], Style]:
    """Four models of different lengths, a judge that likes length, questions that are hard for all."""
    hard = rng.normal(0, 0.8, questions)
    base = rng.integers(100, 800, questions).astype(float)
    style: Style = {("base", str(q)): (float(base[q]), 1.0, 3.0, 2.0) for q in range(questions)}
    rows = []
    for i, (skill, scale) in enumerate(((-0.5, 0.7), (0.0, 1.0), (0.3, 1.6), (-0.2, 2.5))):
        tokens = np.round(base * scale * np.exp(rng.normal(0, 0.4, questions)))
        marks = rng.poisson([1.0, 3.0, 2.0], (questions, 3))
        gap = (tokens - base) / (tokens + base + 1)
        rows += arena_rows(rng, questions, f"m{i}", skill, hard + 1.2 * gap)
        for q, (n, (headers, lists, bolds)) in enumerate(zip(tokens, marks, strict=True)):
            style[f"m{i}", str(q)] = (float(n), float(headers), float(lists), float(bolds))
    return rows, style


def style_control(simulations: int) -> Iterator[Case]:
    """Style-controlled scores, 500 questions, four models; the truth is the same regression on 40,000 questions.
    Rows: every battle row resampled on its own, 100 rounds, the regression refitted."""
    rows, style = style_data(np.random.default_rng(96), 40_000)
    big = style_pool(rows, style, V01)
    columns = CONTROLS["style_controlled"]
    limit = controlled_scores(big, V01, columns, np.ones((1, big.questions)))
    for s in range(simulations):
        rng = np.random.default_rng(40_000 + s)
        rows, style = style_data(rng, 500)
        pool = style_pool(rows, style, V01)
        found = controlled_scores(pool, V01, columns, resample_counts(500, RESAMPLES, s))
        for number, draws, truth in (("style-controlled score", found.draws, limit.points),
                                     ("the same at no style gap", found.zero_draws, limit.zero_points)):  # fmt: skip
            low, high = np.quantile(draws[:, 1], [0.025, 0.975])
            yield Case(number, "ours: questions, refits", low, high, truth[1])
        single = style_pool(as_rows(rows), as_rows_style(rows, style), V01)
        alone = controlled_scores(single, V01, columns, resample_counts(single.questions, 100, s))
        low, high = np.quantile(alone.draws[:, 1], [0.025, 0.975])
        yield Case("style-controlled score", "originals' kind: battle rows, 100 rounds", low, high, limit.points[1])


def as_rows(rows: list[GameRow]) -> list[GameRow]:
    """Every battle row, copies of strong verdicts included, as a question of its own."""
    found = []
    for r in rows:
        for g, label in enumerate(r.labels):
            plain = str(label).replace(">>", ">")
            for copy in range(3 if ">>" in str(label) else 1):
                labels = (plain, None) if g == 0 else (None, plain)
                found.append(GameRow(f"{r.model}/{r.uid}/{g}/{copy}", r.model, "base", "j", "", labels, True))
    return found


def as_rows_style(rows: list[GameRow], style: Style) -> Style:
    """The style counts of `as_rows(rows)`."""
    found: Style = {}
    for r in as_rows(rows):
        uid = r.uid.split("/")[1]
        found[r.model, r.uid], found["base", r.uid] = style[r.model, uid], style["base", uid]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    simulations = parser.parse_args().simulations
    print(f"{machine()}\n95% intervals, {simulations} simulations, {RESAMPLES} resamples each\n")
    studies: list[Callable[[int], Iterator[Case]]] = [arena, arena_difference, mt_bench, length_control, style_control]
    rows = []
    for study in studies:
        found: dict[tuple[str, str], list[Case]] = {}
        for case in study(simulations):
            found.setdefault((case.number, case.maker), []).append(case)
        for (number, maker), cases in found.items():
            hits = sum(c.low <= c.truth <= c.high for c in cases)
            low, high = wilson(hits, len(cases))
            width = float(np.mean([c.high - c.low for c in cases]))
            share = f"{100 * hits / len(cases):.1f}% [{100 * low:.1f}, {100 * high:.1f}]"
            rows.append((number, maker, share, f"{width:.3f}"))
            print(f"done: {number}, {maker}: {share}", file=sys.stderr, flush=True)
    print_table(("number", "interval", "covers the truth", "mean width"), rows)


if __name__ == "__main__":
    main()
