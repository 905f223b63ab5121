"""Judge diagnostics: against published multi-judge tables, scipy, scikit-learn and hand-made cases."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from leaderboard_data import needs_data, parquet, table

from leaderboard.diagnostics import (
    RIDGE,
    agreement,
    bias_slope,
    cohen_kappa,
    family,
    first_wins,
    more_wins,
    order_effect,
    repeatability,
    self_preference,
    swap_consistency,
    swap_kappa,
)
from prefeval.games import cyclic_triples

JUDGES = {
    "Qwen-7B": "qwen/judge_7B",
    "Qwen-32B": "qwen/judge_32B",
    "EXAONE-32B": "exaone/judge_32B",
    "GPT-4o-mini": "gpt/judge_gpt4omini",
}
VALUE = {"A": 1.0, "B": 0.0, "tie": 0.5, "error": math.nan}
# reference/benchmarks.md 3.6: P(first shown wins), swap-consistent, cyclic and decided triples (English)
MEASURED = {
    "Qwen-32B": (0.58, 0.69, 3, 665),
    "GPT-4o-mini": (0.60, 0.67, 1, 570),
    "EXAONE-32B": (0.67, 0.58, 1, 410),
    "Qwen-7B": (0.73, 0.21, 2, 219),
}


def shown(judge: str, lang: str) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray]:
    """Rows of a judge, and the win share of model_a when it is shown first and when it is shown second."""
    rows = [
        r
        for r in parquet("mt_bench/multi_judge/pairwise_dev.parquet")
        if r["judge"] == JUDGES[judge] and r["lang"] == lang
    ]
    return (
        rows,
        np.array([VALUE[r["winner_ab"]] for r in rows]),
        1.0 - np.array([VALUE[r["winner_ba"]] for r in rows]),
    )


@needs_data
@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize("judge", list(JUDGES))
def test_swap_inconsistency_is_the_published_table(judge: str, lang: str) -> None:
    published = {r["judge"]: r for r in table("mt_bench/multi_judge/published_table5_pairwise_inconsistency.csv")}[
        judge
    ]
    rows, forward, backward = shown(judge, lang)
    found = swap_consistency(forward, backward, [r["question_id"] for r in rows])
    assert found.n == int(float(published[f"{lang}_valid"]))
    assert round((1 - found.point) * found.n) == int(float(published[f"{lang}_inconsistent"]))
    assert round(100 * (1 - found.point), 2) == float(published[f"{lang}_rate_pct"])
    assert found.n + found.n_failed == 1200
    assert found.low < found.point < found.high


@needs_data
@pytest.mark.parametrize("judge", list(MEASURED))
def test_position_and_cycles_are_the_measured_ones(judge: str) -> None:
    first, consistent, cyclic, decided = MEASURED[judge]
    rows, forward, backward = shown(judge, "en")
    questions = [r["question_id"] for r in rows]
    p_first = np.concatenate([forward, 1.0 - backward])
    assert first_wins(p_first, questions * 2).point == pytest.approx(first, abs=0.005)
    assert swap_consistency(forward, backward, questions).point == pytest.approx(consistent, abs=0.005)
    assert order_effect(forward, backward, questions).low > 0  # all four favour the first place
    names = sorted({r[k] for r in rows for k in ("model_a", "model_b")})
    tables: dict[Any, np.ndarray] = {}
    for row, p in zip(rows, (forward + backward) / 2, strict=True):
        t = tables.setdefault(row["question_id"], np.full((6, 6), 0.5))
        i, j = names.index(row["model_a"]), names.index(row["model_b"])
        t[i, j], t[j, i] = p, 1.0 - p
    strict = [
        t[np.ix_(c, c)]
        for t in tables.values()
        for c in combinations(range(6), 3)
        if all(t[i, j] > 0.5 or t[i, j] < 0.5 for i, j in combinations(c, 2))
    ]
    assert len(strict) == decided
    assert sum(cyclic_triples(t) for t in strict) == cyclic


@needs_data
def test_kappa_of_real_verdicts_is_scikit_learns() -> None:
    from sklearn.metrics import cohen_kappa_score

    rows, forward, backward = shown("EXAONE-32B", "en")
    found = swap_kappa(forward, backward, [r["question_id"] for r in rows])
    a, b = np.sign(forward - 0.5), np.sign(backward - 0.5)
    assert found.point == pytest.approx(cohen_kappa_score(np.append(a, -a), np.append(b, -b)), abs=1e-12)
    assert found.n == 1200
    assert 0 < found.low < found.point < found.high < 1


def test_kappa_drops_failures_and_clusters() -> None:
    a, b = [1, 1, -1, -1, math.nan, 0], [1, -1, -1, -1, 1, 0]
    found = cohen_kappa(a, b, [1, 1, 2, 2, 3, 3])
    # five left: 4 agree; marginals a (2, 2, 1), b (1, 3, 1): chance (2 + 6 + 1) / 25
    assert found.point == pytest.approx((0.8 - 9 / 25) / (1 - 9 / 25))
    assert (found.n, found.n_failed) == (5, 1)
    assert math.isnan(cohen_kappa([math.nan], [1.0], [0]).point)


def test_agreement_with_and_without_ties() -> None:
    judge, human = [1, 1, 0, 0.5, 0.5, math.nan], [1, 0, 0, 0.5, 1, 1]
    everything = agreement(judge, human, range(6))
    assert (everything.point, everything.n, everything.n_failed) == (0.6, 5, 1)
    decided = agreement(judge, human, range(6), ties=False)
    assert decided.point == pytest.approx(2 / 3)
    assert (decided.n, decided.n_failed) == (3, 1)


def test_slope_minimises_the_penalised_likelihood() -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(3)
    n = 400
    group, gap = rng.integers(0, 3, n), rng.normal(size=n) * 200
    x = np.tanh(gap / gap.std())
    y = (rng.random(n) < 1 / (1 + np.exp(-(np.array([-1.0, 0.0, 2.0])[group] + 1.3 * x)))).astype(float)
    y[:20] = 0.5

    def loss(beta: np.ndarray) -> float:
        z = beta[group] + beta[3] * x
        return float(np.sum(np.logaddexp(0, z) - y * z) + RIDGE / 2 * beta @ beta)

    expected = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9}).x[3]
    found = bias_slope(np.append(y, math.nan), np.append(gap, 1.0), [*group, 0], [*range(n), n])
    assert found.point == pytest.approx(expected, abs=1e-5)
    assert found.low < 1.3 < found.high
    assert found.low > 0
    assert (found.n, found.n_failed) == (n, 1)


def test_slope_sees_length_within_pairs_only() -> None:
    """Better models that write longer are no length bias; a judge that prefers the longer answer is."""
    rng = np.random.default_rng(0)
    gap = np.concatenate([rng.normal(300, 50, 500), rng.normal(-300, 50, 500)])
    quality = (rng.random(1000) < np.repeat([0.9, 0.1], 500)).astype(float)
    fair = bias_slope(quality, gap, np.repeat(["a", "b"], 500), range(1000))
    assert fair.low < 0 < fair.high
    assert more_wins(quality, gap, range(1000)).low > 0.8  # the raw share cannot tell the two apart
    biased = bias_slope((gap > np.repeat([300, -300], 500)).astype(float), gap, np.repeat(["a", "b"], 500), range(1000))
    assert biased.low > 1
    assert math.isnan(bias_slope([1.0, 0.0], [5.0, 5.0], [0, 0], [0, 1]).point)


def test_share_of_the_longer_leaves_out_ties_and_equal_lengths() -> None:
    found = more_wins([1, 0.2, 0.5, 1, math.nan], [10, 5, 3, 0, 2], range(5))
    assert (found.point, found.n, found.n_failed) == (0.5, 2, 1)


def test_order_effect_is_zero_for_a_consistent_judge() -> None:
    assert order_effect([1, 0, 0.5], [1, 0, 0.5], range(3)).point == 0
    assert order_effect([1, 1], [0, 0], range(2)).point == 0.5


@needs_data
def test_self_preference_is_a_difference_of_means_on_common_items() -> None:
    """EXAONE's judge on EXAONE's model, against the other three judges, by plain sums."""
    rows, _, _ = shown("EXAONE-32B", "en")
    mine = [i for i, r in enumerate(rows) if "EXAONE" in r["model_a"] or "EXAONE" in r["model_b"]]
    sign = np.array([1.0 if "EXAONE" in rows[i]["model_a"] else -1.0 for i in mine])

    def outcome(judge: str) -> np.ndarray:
        found, a, b = shown(judge, "en")
        key = {(r["question_id"], r["model_a"], r["model_b"]): v for r, v in zip(found, (a + b) / 2, strict=True)}
        key |= {(q, second, first): 1 - v for (q, first, second), v in key.items()}  # judges order pairs differently
        own = np.array([key[rows[i]["question_id"], rows[i]["model_a"], rows[i]["model_b"]] for i in mine])
        return 0.5 + sign * (own - 0.5)

    others = np.nanmean([outcome(j) for j in JUDGES if j != "EXAONE-32B"], axis=0)
    found = self_preference(outcome("EXAONE-32B"), others, [rows[i]["question_id"] for i in mine])
    assert found.n == 400
    assert found.point == pytest.approx(np.mean(outcome("EXAONE-32B")) - np.mean(others), abs=1e-12)
    assert found.low < found.point < found.high
    assert family("exaone/judge_32B") == family("EXAONE-3.5-7.8B-Instruct") == "lg"


def test_repeatability_counts_pairs_of_repeats() -> None:
    found = repeatability([1, 1, 0, 2, 2, 5, math.nan], ["a", "a", "a", "b", "b", "c", "b"], [1, 1, 1, 2, 2, 3, 2])
    assert found.point == pytest.approx((1 / 3 + 1) / 2)
    assert found.n == 2


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("gpt4_1106_preview", "openai"),
        ("gpt-3.5-turbo", "openai"),
        ("weighted_alpaca_eval_gpt4_turbo", "openai"),
        ("claude-2.1_concise", "anthropic"),
        ("Llama-3.1-8B-Instruct", "meta"),
        ("gemma-2-9b-it", "google"),
        ("Qwen2.5-7B", "qwen"),
        ("phi-2", "microsoft"),
        ("rules:gold", ""),
        ("o3-mini-2025-01-31", "openai"),
        ("yield-model", ""),
    ],
)
def test_families(name: str, maker: str) -> None:
    assert family(name) == maker


def test_first_wins_counts_ties_as_no_win() -> None:
    found = first_wins([0.9, 0.5, 0.1, math.nan], range(4))
    assert found.point == pytest.approx(1 / 3)
    assert (found.n, found.n_failed) == (3, 1)
