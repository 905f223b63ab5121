"""Pairs worth a label: by hand, against brute force, and better than random choice on a toy that is fitted."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from tiny import make_tiny_model, make_tiny_tokenizer

from prefeval.cli import main
from prefeval.oracle import Ensemble, PairwiseRule
from prefeval.stats import bootstrap_mean
from prefeval.types import FloatArray, Prompt
from reward_models.config import HeadConfig
from reward_models.modeling import PreferenceModel
from reward_models.query import by_design, by_disagreement, suggest


def test_disagreement_ranks_pairs_by_the_spread_of_the_members() -> None:
    def member(ab: float, ac: float, bc: float) -> FloatArray:
        return np.array([[0.5, ab, ac], [1 - ab, 0.5, bc], [1 - ac, 1 - bc, 0.5]])

    stack = np.stack([member(0.9, 0.6, 0.2), member(0.1, 0.5, 0.3), member(0.5, 0.4, np.nan)])
    found = by_disagreement([stack], 5)
    assert [(q.first, q.second) for q in found] == [(0, 1), (0, 2), (1, 2)]
    assert found[0].gain == pytest.approx(np.std([0.9, 0.1, 0.5], ddof=1))
    assert found[2].gain == pytest.approx(np.std([0.2, 0.3], ddof=1))  # the failed member does not count
    alone = np.stack([member(0.9, 0.6, np.nan), member(0.1, 0.5, np.nan), member(0.5, 0.4, 0.3)])
    assert (1, 2) not in {(q.first, q.second) for q in by_disagreement([alone], 5)}


def log_det(x: FloatArray, chosen: list[int], ridge: float = 1.0) -> float:
    return float(np.linalg.slogdet(ridge * np.eye(x.shape[1]) + x[chosen].T @ x[chosen])[1])


def test_every_greedy_step_is_the_best_one_and_its_gain_is_the_growth_of_log_det() -> None:
    states = [np.random.default_rng(n).normal(size=(4, 5)) for n in range(3)]
    pairs = [(n, i, j) for n in range(3) for i, j in combinations(range(4), 2)]
    x = np.array([states[n][i] - states[n][j] for n, i, j in pairs])
    x /= np.sqrt((x**2).mean())
    chosen: list[int] = []
    for query in by_design(states, 7):
        before = log_det(x, chosen)
        growth = {k: log_det(x, [*chosen, k]) - before for k in range(len(pairs)) if k not in chosen}
        chosen.append(pairs.index((query.prompt, query.first, query.second)))
        assert query.gain == pytest.approx(max(growth.values()), abs=1e-9)
        assert growth[chosen[-1]] == pytest.approx(query.gain, abs=1e-9)


def fit_bt(x: FloatArray, y: FloatArray) -> FloatArray:
    """Ridge Bradley-Terry by Newton: minimises sum of softplus losses + |theta|^2 / 2."""
    theta = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ theta))
        hessian = np.eye(len(theta)) + (x * (p * (1 - p))[:, None]).T @ x
        theta -= np.linalg.solve(hessian, x.T @ (p - y) + theta)
    return np.asarray(theta)


def test_design_beats_random_pairs_in_the_error_of_a_fitted_model() -> None:
    """One prompt in ten varies in directions of its own, which random pairs miss: 60 trials of 40 labels each."""
    errors, growth = [], []
    for trial in range(60):
        rng = np.random.default_rng(trial)
        rare = np.arange(10) >= 5
        states = [rng.normal(size=(4, 10)) * (rare == (n % 10 == 0)) for n in range(60)]
        theta = rng.normal(size=10)
        pairs = [(n, i, j) for n in range(60) for i, j in combinations(range(4), 2)]
        x = np.array([states[n][i] - states[n][j] for n, i, j in pairs])
        chosen = [pairs.index((q.prompt, q.first, q.second)) for q in by_design(states, 40)]
        at_random = rng.choice(len(pairs), 40, replace=False).tolist()
        both = []
        for rows in (chosen, at_random):
            y = (rng.random(40) < 1 / (1 + np.exp(-x[rows] @ theta))).astype(float)
            both.append(float(((fit_bt(x[rows], y) - theta) ** 2).sum()))
        errors.append(both[1] - both[0])
        growth.append(log_det(x, chosen) - log_det(x, at_random))
    gain = bootstrap_mean(errors)
    print(f"squared error of the weights, random minus design: {gain}")
    assert gain.low > 0
    assert min(growth) > 0


def test_oracles_that_can_and_cannot_suggest(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    model = PreferenceModel.from_base(make_tiny_model(), tokenizer, HeadConfig("bt"), max_length=64)
    model.save_pretrained(tmp_path / "model")
    rows = [{"id": f"q{n}", "prompt": f"Question {n}?", "responses": ["Yes.", "No.", f"It is {n}."]} for n in range(4)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "P.jsonl"
    argv = ["score", "--oracle", f"model:{tmp_path / 'model'}", "--input", str(source), "--out", str(out)]
    assert main([*argv, "--suggest", "5"]) == 0
    found = [json.loads(line) for line in (tmp_path / "P.suggest.jsonl").read_text().splitlines()]
    assert len(found) == 5
    assert len({(r["id"], r["i"], r["j"]) for r in found}) == 5
    by_id = {r["id"]: r["responses"] for r in rows}
    assert all((r["first"], r["second"]) == (by_id[r["id"]][r["i"]], by_id[r["id"]][r["j"]]) for r in found)
    assert [r["gain"] for r in found] == sorted((r["gain"] for r in found), reverse=True)
    assert len(out.read_text().splitlines()) == 4
    argv[2] = "rules:gold"
    assert main([*argv, "--suggest", "5"]) == 2


def test_an_ensemble_suggests_where_its_members_disagree() -> None:
    def fixed(p: float) -> PairwiseRule:
        return PairwiseRule(
            "fixed", lambda _, a, b: p if (a, b) == ("x", "y") else 1 - p if (a, b) == ("y", "x") else 0.5
        )

    (query,) = suggest(Ensemble([fixed(0.9), fixed(0.3)]), [Prompt.from_text("q")], [("x", "y", "z")], 1)
    assert (query.first, query.second, query.reason) == (0, 1, "disagreement")
    assert query.gain == pytest.approx(0.6 / np.sqrt(2))
