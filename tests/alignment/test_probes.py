"""Win tables, the restricted gap and the health of text on inputs whose answers are known."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alignment.best_of import against_best_of_itself
from alignment.contest import length_matched
from alignment.costs import cost_of, dollars
from alignment.probes import (
    describe,
    distinct,
    gap_control,
    intransitivity,
    is_broken,
    judge,
    restricted_gap,
    summarise,
    win_tables,
)
from alignment.samples import SampledGroup
from prefeval.files import write_json
from prefeval.games import open_game
from prefeval.oracle import LengthDebiased, MatrixOracle, PairwiseRule, symmetrise
from prefeval.rules import open_rule
from prefeval.types import Prompt, Response


def reply(text: str, tokens: int = 1, *, logprob: float | None = -1.0, reason: str = "stop") -> Response:
    return Response(text, tuple(range(tokens)), reason, logprob)


def group(number: int, *texts: str) -> SampledGroup:
    return SampledGroup(Prompt.from_text(f"q{number}", id=f"p{number}"), tuple(reply(t, len(t) or 1) for t in texts))


def noisy_wins(mean: list[list[float]], prompts: int, spread: float, seed: int = 0) -> np.ndarray:
    """W (prompts, m, m) with the given mean; noise is antisymmetric and independent over prompts."""
    m = len(mean)
    noise = np.random.default_rng(seed).normal(0, spread, (prompts, m, m))
    upper = np.triu(np.asarray(mean)[None] + noise, 1)
    lower = np.tril(1.0 - upper.transpose(0, 2, 1), -1)
    return upper + lower + 0.5 * np.eye(m)


def test_win_tables_average_the_blocks_of_P() -> None:
    first = [group(0, "a", "bb"), group(1, "aaaa", "bbbb")]
    second = [group(0, "ccc", "d", "ee"), group(1, "e", "ff", "ggg")]
    pool = [first, second]
    wins = win_tables(judge(open_rule("shorter"), pool), pool)
    # prompt 0: lengths 1, 2 against 3, 1, 2: wins 1, .5, 1 and 1, 0, .5; prompt 1: always longer
    np.testing.assert_allclose(wins[0], [[0.5, 4 / 6], [2 / 6, 0.5]])
    np.testing.assert_allclose(wins[1], [[0.5, 0.0], [1.0, 0.5]])


class Failing(MatrixOracle):
    """Every verdict of prompt p0 failed; of the others the first text beats all."""

    name = "failing"

    def matrix(self, prompts, groups):  # type: ignore[no-untyped-def]
        out = []
        for prompt, texts in zip(prompts, groups, strict=True):
            table = np.full((len(texts), len(texts)), np.nan if prompt.id == "p0" else 0.5)
            if prompt.id != "p0":
                table[0] = 1.0
            out.append(symmetrise(table if prompt.id == "p0" else np.triu(table) + np.tril(1 - table.T, -1)))
        return out


def test_failed_verdicts_are_left_out_not_ties() -> None:
    pool = [[group(i, "a") for i in range(9)], [group(i, "b") for i in range(9)]]
    wins = win_tables(judge(Failing(), pool), pool)
    assert np.isnan(wins[0, 0, 1])
    assert np.isnan(wins[0, 1, 0])
    assert wins[1:, 0, 1].tolist() == [1.0] * 8
    found = summarise(wins, 1, seed=0)
    assert (found["win_rate"], found["n"], found["n_failed"]) == (0.0, 8, 1)
    assert found["gap"] == pytest.approx(1.0)  # a tie in place of the failure would give less
    assert found["matrix"][0][1] == 1.0


def test_identical_policies_have_no_gap() -> None:
    """Without a positive bias, which the plain maximum over five noisy opponents has."""
    gaps, plain = [], []
    for seed in range(300):
        wins = noisy_wins([[0.5] * 6] * 6, 40, 0.3, seed)
        gaps.append(restricted_gap(wins, 2, seed, resamples=2)[0])
        plain.append(2 * wins[:, :, 2].mean(0).max() - 1)
    error = np.std(gaps) / math.sqrt(len(gaps))
    assert np.mean(plain) > 0.05
    assert abs(np.mean(gaps)) < 3 * error
    assert error < 0.01


def test_a_dominated_policy_has_its_gap() -> None:
    mean = [[0.5, 0.8, 0.6], [0.2, 0.5, 0.3], [0.4, 0.7, 0.5]]
    wins = noisy_wins(mean, 400, 0.05)
    gap, low, high = restricted_gap(wins, 1, seed=0)
    assert gap == pytest.approx(0.6, abs=0.02)  # 2 * 0.8 - 1
    assert low < gap < high
    assert high - low < 0.05
    assert restricted_gap(wins, 0, seed=0)[0] == pytest.approx(0.0, abs=0.01)  # nobody beats it; itself draws
    assert abs(gap_control(wins, 1, seed=0)) < 0.15


def test_rock_paper_scissors_policies_beat_one_another_in_turn() -> None:
    mean = [[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]]
    wins = noisy_wins(mean, 400, 0.05)
    for policy in range(3):
        assert restricted_gap(wins, policy, seed=0)[0] == pytest.approx(0.8, abs=0.02)
        assert np.mean(wins[:, policy]) == pytest.approx(0.5, abs=0.01)  # mean win rates do not show it


def test_the_gap_needs_two_prompts_and_some_verdicts() -> None:
    assert all(math.isnan(v) for v in restricted_gap(noisy_wins([[0.5, 0.5]] * 2, 1, 0.1), 0, seed=0))
    assert math.isnan(gap_control(noisy_wins([[0.5, 0.5]] * 2, 1, 0.1), 0, seed=0))
    lost = np.full((6, 2, 2), np.nan)
    assert all(math.isnan(v) for v in restricted_gap(lost, 0, seed=0, resamples=5))
    partly = noisy_wins([[0.5, 0.7], [0.3, 0.5]], 6, 0.0)
    partly[:3, 0, 1] = partly[:3, 1, 0] = np.nan
    assert restricted_gap(partly, 1, seed=0, resamples=5)[0] <= 0.4 + 1e-9


def test_describe_counts_what_it_says() -> None:
    groups = [
        SampledGroup(Prompt.from_text("a", id="a"), (reply("Yes", 3, logprob=-3.0), reply("yes ", 5, logprob=-5.0))),
        SampledGroup(
            Prompt.from_text("b", id="b"), (reply("", 1, logprob=-1.0), reply("No", 7, logprob=-7.0, reason="length"))
        ),
    ]
    found = describe(groups, [-4.0, -8.0, -2.0, -6.0])
    assert found["kl"] == pytest.approx((1 + 3 + 1 - 1) / 4)
    assert found["kl_low"] <= found["kl"] <= found["kl_high"]
    assert found["kl_per_token"] == pytest.approx(4 / 16)
    assert found["length"] == 4.0
    assert found["characters"] == pytest.approx((3 + 4 + 0 + 2) / 4)
    assert found["ended"] == 0.75
    assert found["start_logp"] == pytest.approx(-20 / 16)
    assert found["entropy"] == pytest.approx(1.0)
    assert found["duplicates"] == 0.5
    assert found["broken"] == 0.25
    assert found["replies"] == 4


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("", True),
        ("  \n ", True),
        ("no no no", False),
        ("no no no no no no no no", True),
        ("one two three one two three one two three one two three", True),
        ("The sky is blue because light of short waves scatters more than the rest.", False),
        ("a b a c a d a e a f a g", False),
    ],
)
def test_is_broken(text: str, broken: bool) -> None:
    assert is_broken(text) is broken


def test_length_matched_uses_only_pairs_of_like_length() -> None:
    ours = [
        SampledGroup(Prompt.from_text("q", id=str(i)), (reply("s", 100), reply("a long one", 200))) for i in range(4)
    ]
    base = [SampledGroup(g.prompt, (reply("base text", 108), reply("xx", 500))) for g in ours]
    third = [SampledGroup(g.prompt, (reply("much longer than base text", 540),)) for g in ours]
    pool = [base, ours, third]
    tables = judge(open_rule("shorter"), pool)
    found = length_matched(tables, pool, 1)
    assert (found.point, found.n) == (1.0, 4)  # 100 against 108 alone
    found = length_matched(tables, pool, 2)
    assert (found.point, found.n) == (0.0, 4)  # 540 against 500 alone
    pool = [[SampledGroup(ours[0].prompt, (reply("x", 1),))], ours[:1]]
    nothing = length_matched(judge(open_rule("shorter"), pool), pool, 1)
    assert math.isnan(nothing.point)
    assert nothing.n == 0


def test_distinct_pairs_of_words() -> None:
    assert distinct(["a b a b", "a b c"], 2) == pytest.approx(3 / 5)  # ab, ba, ab, ab, bc
    assert distinct(["same words here"] * 4, 1) == pytest.approx(3 / 12)
    assert math.isnan(distinct(["one"], 2))


def test_intransitivity_tells_a_circle_from_a_ranking() -> None:
    odds = np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
    circle, ranking = 1 / (1 + np.exp(-odds)), open_game("bt10").P
    assert intransitivity([circle]) == {"cycle_rate": 1.0, "curl_ratio": pytest.approx(1.0)}
    flat = intransitivity([ranking, ranking[:3, :3], ranking[:2, :2]])
    assert flat["cycle_rate"] == 0.0
    assert flat["curl_ratio"] == pytest.approx(0.0, abs=1e-6)
    assert intransitivity([circle, ranking])["cycle_rate"] == 0.5
    lost = circle.copy()
    lost[0, 1] = lost[1, 0] = np.nan
    assert math.isnan(intransitivity([lost, ranking[:2, :2]])["cycle_rate"])


def test_gaps_of_all_policies_in_the_pool_as_it_is() -> None:
    """The start is beaten by 0.8, the second by nobody: gaps 0.6 and, with itself as the best opponent, 0."""
    wins = noisy_wins([[0.5, 0.2], [0.8, 0.5]], 60, 0.05)
    found = summarise(wins, 1, seed=0)
    assert found["pool_gap"] == [pytest.approx(0.6, abs=0.05), pytest.approx(0.0, abs=1e-9)]
    assert found["pool_gap"][1] == found["gap"]
    assert found["pool_gap_low"][0] < 0.6 < found["pool_gap_high"][0]
    assert abs(found["pool_gap_control"][0]) < 0.2
    assert found["win_rate_previous"] == found["win_rate"]


def test_a_policy_against_the_best_of_its_other_replies() -> None:
    """Own replies of one prompt, a over b over c for sure: each meets the favourite of the two others."""
    ranked = np.array([[0.5, 1.0, 1.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.5]])
    whole = np.full((5, 5), 0.5)  # two replies of another policy in front, which do not matter
    whole[2:, 2:] = ranked
    found = against_best_of_itself([whole] * 3, 3, seed=0)
    assert found["best_of"] == 2
    assert found["win_rate_best"] == pytest.approx((1.0 + 0.0 + 0.0) / 3)  # a beats b; b and c lose to a
    assert against_best_of_itself([np.full((4, 4), 0.5)], 4, seed=0)["win_rate_best"] == 0.5
    assert math.isnan(against_best_of_itself([whole], 2, seed=0)["win_rate_best"])
    failed = ranked.copy()
    failed[0, 1] = failed[1, 0] = np.nan  # a and b should meet each other, and c has no two others that were compared
    assert math.isnan(against_best_of_itself([failed], 3, seed=0)["win_rate_best"])


def test_cost_of_rounds_and_what_a_judge_has_spent(tmp_path: Path) -> None:
    records: dict[str, dict[str, Any]] = {
        "round1/fit/sample": {"replies": 10, "length": 5.0},
        "round1/fit/compare": {"comparisons": 20, "dollars": 0.25},
        "round1/fit/fit": {"steps": 3, "tokens": 700, "seconds": 9.0, "tokens_per_second": 1.0},
        "round2/fit/compare": {"comparisons": 21, "dollars": 0.5},
        "distil/sample": {"samples": "x"},
        "round1/probe": {"kl": 1.0},
    }
    for name, result in records.items():
        marker = {"stage": name, "inputs": "x", "seconds": 60.0, "result": result}
        write_json(tmp_path / ".stages" / f"{name.replace('/', '.')}.json", marker)
    found = cost_of(tmp_path)
    assert found["comparisons"] == 41
    assert (found["dollars"], found["minutes"], found["trained_tokens"]) == (0.75, 4.0, 700 / 1e6)
    assert cost_of(tmp_path, 1)["comparisons"] == 20
    assert cost_of(tmp_path, 0)["minutes"] == 0.0
    judge = SimpleNamespace(name="j", judge=SimpleNamespace(client=SimpleNamespace(spent=1.5)))
    assert dollars(LengthDebiased(judge, 0.1)) == 1.5  # type: ignore[arg-type]
    assert dollars(PairwiseRule("free", lambda prompt, a, b: 0.5)) is None
