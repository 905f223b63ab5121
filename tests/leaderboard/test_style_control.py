"""Style control against independent fits: scikit-learn, scipy, the dense Newton solver, and a simulated truth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from leaderboard_data import read_csv, write_lines

from leaderboard import cli
from leaderboard.annotations import GameRow
from leaderboard.arena_scoring import score_games
from leaderboard.ratings import battles, fit_ratings, mean_outcome, outcomes
from leaderboard.scoring import ScoreOptions
from leaderboard.style_control import CONTROLS, V01, V2, StyleForm, controlled_scores, density_gaps, style_pool
from prefeval.stats import resample_counts

LABELS = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
ALL = CONTROLS["style_controlled"]
StyleOf = dict[tuple[str, str], tuple[float, ...]]


def simulated(models: int = 5, questions: int = 60, seed: int = 0) -> tuple[list[GameRow], StyleOf]:
    """Games in which longer and bolder answers win more often, strong verdicts and a few missing games."""
    rng = np.random.default_rng(seed)
    style: StyleOf = {}
    for q in range(questions):
        for name in ("base", *(f"m{i}" for i in range(models))):
            tokens = float(rng.integers(50, 900) * (2 if name == "m0" else 1))
            style[name, str(q)] = (tokens, *(float(v) for v in rng.poisson([1, 4, 3])))
    rows = []
    for m in range(models):
        for q in range(questions):
            gap = math.log(style[f"m{m}", str(q)][0] / style["base", str(q)][0])
            games = []
            for game in (0, 1):
                eta = 0.6 * m - 1.2 + 0.7 * gap + rng.logistic()
                label = LABELS[int(np.digitize(eta, [-2.5, -0.2, 0.2, 2.5]))]  # of B, the model, in game 1
                games.append(label if game == 0 else LABELS[4 - LABELS.index(label)])
            lost = rng.random() < 0.05
            rows.append(GameRow(str(q), f"m{m}", "base", "j", "", (games[0], None if lost else games[1]), True))
    return rows, style


def long_form(rows: list[GameRow], style: StyleOf, form: StyleForm) -> tuple[np.ndarray, ...]:
    """(model code, standardised gaps, outcome, weight) of every game, built here row by row."""
    names = list(dict.fromkeys(r.model for r in rows))
    code, gap, s, w = [], [], [], []
    for r in rows:
        d = form.gaps(np.array([style[r.model, r.uid]]), np.array([style[r.baseline, r.uid]]))[0]
        for outcome, weight in outcomes(r):
            code.append(names.index(r.model))
            gap.append(d)
            s.append(outcome)
            w.append(weight)
    d, weight = np.array(gap), np.array(w)
    mean = np.average(d, axis=0, weights=weight)
    spread = np.sqrt((weight[:, None] * (d - mean) ** 2).sum(axis=0) / (weight.sum() - form.ddof))
    return np.array(code), (d - mean) / spread, np.array(s), weight, mean / spread


@pytest.mark.parametrize("columns", list(CONTROLS.values()))
def test_v01_is_scikit_learns_regression(columns: tuple[int, ...]) -> None:
    """The original's call: ties as a win and a loss, all other rows twice, strong ones three times, C = 1."""
    from sklearn.linear_model import LogisticRegression

    rows, style = simulated()
    code, z, s, w, _ = long_form(rows, style, V01)
    k = int(code.max()) + 1
    x = np.zeros((len(code), k + 1 + len(columns)))
    x[np.arange(len(code)), code] = -math.log(10)
    x[:, k] = math.log(10)
    x[:, k + 1 :] = -z[:, list(columns)]  # A is the baseline
    twice = np.vstack([x, x])
    y = np.concatenate([np.where(s == 0.5, 1, s == 0), np.where(s == 0.5, 0, s == 0)]).astype(int)
    model = LogisticRegression(fit_intercept=False, tol=1e-10, max_iter=5000)
    model.fit(twice, y, sample_weight=np.concatenate([w, w]))
    theirs = 100 / (1 + 10.0 ** (model.coef_[0][k] - model.coef_[0][:k]))
    pool = style_pool(rows, style, V01)
    ours = controlled_scores(pool, V01, columns, np.ones((1, pool.questions)))
    assert ours.points == pytest.approx(theirs, abs=1e-4)


def test_v2_is_the_unpenalised_maximum_likelihood() -> None:
    """scipy's minimum of the sum of BCE over games, model minus baseline, densities of markdown."""
    from scipy.optimize import minimize

    rows, style = simulated(seed=3)
    code, z, s, w, _ = long_form(rows, style, V2)
    k = int(code.max()) + 1

    def loss(x: np.ndarray) -> float:
        eta = x[code] + z @ x[k:]
        return float((w * (np.logaddexp(0, eta) - s * eta)).sum())

    best = minimize(loss, np.zeros(k + 4), method="BFGS", options={"gtol": 1e-6}).x
    pool = style_pool(rows, style, V2)
    ours = controlled_scores(pool, V2, ALL, np.ones((1, pool.questions)))
    assert ours.points == pytest.approx(100 / (1 + np.exp(-best[:k])), abs=2e-3)
    d = density_gaps(np.array([[99.0, 2.0, 0.0, 4.0]]), np.array([[49.0, 1.0, 5.0, 0.0]]))[0]
    assert d == pytest.approx([50 / 148, 0.0, -0.1 / 1.1, 0.04 / 1.04])


def test_v2_is_near_the_originals_optimiser() -> None:
    """torch's LBFGS as published (rate 0.1, 50 steps, start 0.5): short of the optimum by less than half a point."""
    import torch

    rows, style = simulated(seed=4)
    code, z, s, w, _ = long_form(rows, style, V2)
    k = int(code.max()) + 1
    x = np.hstack([np.eye(k)[code], np.full((len(code), 1), -1.0), z])
    repeat = w.astype(int)
    features = torch.tensor(np.repeat(x, repeat, axis=0), dtype=torch.float32)
    target = torch.tensor(np.repeat(s, repeat), dtype=torch.float32)
    coefficients = torch.full((k + 5,), 0.5, requires_grad=True)
    optimizer = torch.optim.LBFGS([coefficients], lr=0.1, max_iter=50, tolerance_grad=1e-9, tolerance_change=1e-9)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(features @ coefficients, target, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    found = coefficients.detach().double().numpy()
    theirs = 100 / (1 + np.exp(found[k] - found[:k]))
    pool = style_pool(rows, style, V2)
    assert controlled_scores(pool, V2, ALL, np.ones((1, pool.questions))).points == pytest.approx(theirs, abs=0.5)


def test_draws_are_the_refits_of_each_resample() -> None:
    """The dense Newton solver on every game, resample by resample, read at the average gap of the resample."""
    rows, style = simulated(seed=1)
    _, z, _, w, shift = long_form(rows, style, V01)
    table = battles(rows)
    pool = style_pool(rows, style, V01)
    counts = resample_counts(pool.questions, 300, 5)
    found = controlled_scores(pool, V01, ALL, counts)
    base = table.names.index("base")
    for r in range(0, 300, 23):
        beta = fit_ratings(table, -z, counts[r][table.question])
        slopes = beta[len(table.names) :]  # of -z for the baseline, so of z for the model
        mean = np.average(z, axis=0, weights=w * counts[r][table.question])
        eta = math.log(10) * (beta[:base] - beta[base])
        assert found.draws[r] == pytest.approx(100 / (1 + np.exp(-eta - mean @ slopes)), abs=1e-4)
        zero = eta - shift @ slopes  # d = 0 is z = -shift
        assert found.zero_draws[r] == pytest.approx(100 / (1 + np.exp(-zero)), abs=1e-4)


@pytest.mark.slow
def test_at_zero_recovers_a_truth_that_does_not_depend_on_the_pool() -> None:
    """Verdicts drawn from theta + 2 d_length: the published score moves with the pool, style_at_zero stays."""
    rng = np.random.default_rng(2)
    questions, theta = 2500, {"short": 0.5, "even": 0.0, "long": -0.3}
    scale = {"short": 0.4, "even": 1.0, "long": 3.0}
    style: StyleOf = {}
    rows = []
    for q in range(questions):
        base = float(rng.integers(100, 800))
        style["base", str(q)] = (base, 0.0, 0.0, 0.0)
        for name, t in theta.items():
            tokens = round(base * scale[name] * math.exp(rng.normal(0, 0.4)))
            style[name, str(q)] = (tokens, 0.0, 0.0, 0.0)
            d = (tokens - base) / (tokens + base + 1)
            won = rng.random(2) < 1 / (1 + math.exp(-t - 2 * d))
            rows.append(
                GameRow(str(q), name, "base", "j", "", ("B>A" if won[0] else "A>B", "A>B" if won[1] else "B>A"), True)
            )
    small = [r for r in rows if r.model != "long"]
    options = ScoreOptions(resamples=200)
    for pool in (rows, small):
        table = score_games(pool, style, options)
        for row in table.rows:
            truth = 100 / (1 + math.exp(-theta[row.name]))
            assert row.extra["style_at_zero"] == pytest.approx(truth, abs=3.5)
            assert row.extra["style_at_zero_low"] < row.extra["style_at_zero"] < row.extra["style_at_zero_high"]
    full = {r.name: r.extra["style_controlled"] for r in score_games(rows, style, options).rows}
    part = {r.name: r.extra["style_controlled"] for r in score_games(small, style, options).rows}
    assert abs(full["even"] - part["even"]) > 5


def v2_rows(style: StyleOf) -> list[GameRow]:
    """Two categories with baselines of their own; creative writing has no styles for its baseline unless given."""
    rows, base_style = simulated(models=3, questions=40, seed=6)
    style |= base_style
    style |= {("muse", uid): v for (model, uid), v in base_style.items() if model == "base"}
    found = []
    for r in rows:
        category = "hard_prompt" if int(r.uid) < 28 else "creative_writing"
        baseline = "base" if category == "hard_prompt" else "muse"
        kind = "" if category != "hard_prompt" else "coding" if int(r.uid) % 2 else "math"
        found.append(GameRow(r.uid, r.model, baseline, "j", category, r.labels, False, kind))
    return found


def test_v2_categories_have_their_own_baselines_pools_and_columns() -> None:
    style: StyleOf = {}
    rows = v2_rows(style)
    table = score_games(rows, style, ScoreOptions(resamples=100))
    assert any("no official combined score" in note for note in table.notes)
    assert any("v2.0's regression" in note for note in table.notes)
    for row in table.rows:
        own = [r for r in rows if r.model == row.name]
        total = {}
        for column, kept in {
            "hard_prompt": [r for r in own if r.category == "hard_prompt"],
            "creative_writing": [r for r in own if r.category == "creative_writing"],
            "coding": [r for r in own if r.subcategory == "coding"],
            "math": [r for r in own if r.subcategory == "math"],
        }.items():
            assert row.extra[column] == pytest.approx(mean_outcome(kept, resamples=2).point)
            total[column] = sum(w for r in kept for _, w in outcomes(r))
        for category in ("hard_prompt", "creative_writing"):
            kept = [r for r in rows if r.category == category]
            pool = style_pool(kept, style, V2)
            alone = controlled_scores(pool, V2, ALL, np.ones((1, pool.questions))).points[pool.names.index(row.name)]
            assert row.extra[f"{category}_style"] == pytest.approx(alone)
            assert row.breakdown["categories"][category]["style_controlled"][0] == pytest.approx(alone)
        mixed = sum(total[c] * row.extra[f"{c}_style"] for c in ("hard_prompt", "creative_writing"))
        assert row.extra["style_controlled"] == pytest.approx(
            mixed / (total["hard_prompt"] + total["creative_writing"])
        )
        low, high = row.extra["style_low"], row.extra["style_high"]
        assert low < row.extra["style_controlled"] < high


def test_a_category_without_styles_leaves_the_combined_columns_empty() -> None:
    style: StyleOf = {}
    rows = v2_rows(style)
    known = {key: v for key, v in style.items() if key[0] != "muse"}
    row = score_games(rows, known, ScoreOptions(resamples=20)).rows[0]
    assert "style_controlled" not in row.extra
    assert row.extra["hard_prompt_style"] is not None
    assert row.extra["creative_writing_style"] is None


def test_the_benchmarks_name_chooses_the_form(tmp_path: Path) -> None:
    rows, style = simulated(models=2, questions=30, seed=8)
    games = [
        {"uid": r.uid, "category": "hard_prompt", "judge": "j", "model": r.model, "baseline": "base",
         "games": [{"score": label} for label in r.labels]} for r in rows if None not in r.labels
    ]  # fmt: skip
    answers = [
        {"uid": uid, "model": model, "messages": [{"role": "user", "content": "?"},
         {"role": "assistant", "content": {"answer": "!"}}],
         "metadata": {"token_len": int(v[0]), "header_count": {"h1": int(v[1])},
                      "list_count": {"ordered": int(v[2])}, "bold_count": {"**": int(v[3])}}}
        for (model, uid), v in style.items()
    ]  # fmt: skip
    files = [str(write_lines(tmp_path / "j.jsonl", games)), str(write_lines(tmp_path / "a.jsonl", answers))]
    kept = [r for r in rows if None not in r.labels]
    for name, form in (("arena-hard-v0.1", V01), ("arena-hard-v2.0", V2), ("arena_hard", V2)):
        cli.leaderboard(["--benchmark", name, "--out", str(tmp_path), "--resamples", "20", "--annotations", *files])
        pool = style_pool(kept, style, form)
        points = controlled_scores(pool, form, ALL, np.ones((1, pool.questions))).points
        for model, point in zip(pool.names, points, strict=True):
            assert float(read_csv(tmp_path / "leaderboard.csv")[model]["style_controlled"]) == pytest.approx(point)
