"""Published Arena-Hard, MT-Bench and RewardBench numbers, from real verdicts (reference/benchmarks.md section 8)."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from leaderboard_data import DATA, KO_BASELINE, mt_file, needs_data, parquet, read_csv, table, write_lines

from leaderboard import cli
from leaderboard.annotations import GradeRow, MatchRow, read_grades
from leaderboard.grades import summarise_grades, summarise_swaps

pytestmark = needs_data
Board = dict[str, dict[str, str]]
JUDGES = {
    "Qwen-7B": "qwen/judge_7B",
    "Qwen-32B": "qwen/judge_32B",
    "EXAONE-32B": "exaone/judge_32B",
    "GPT-4o-mini": "gpt/judge_gpt4omini",
}


def test_arena_score_is_the_published_one(arena: Board) -> None:
    published = table("arena_hard/ko_v0.1/ko_leaderboard_20250423_no_control_dev.csv")
    assert set(arena) == {row["model"] for row in published}
    for row in published:
        assert float(arena[row["model"]]["score"]) == pytest.approx(float(row["score"]), abs=0.0051)
    assert {row["n"] for row in arena.values()} == {"500"}


def test_arena_style_control_is_the_reference(arena: Board) -> None:
    pairs = {
        "length_control": "length_controlled",
        "markdown_control": "markdown_controlled",
        "style_control": "style_controlled",
    }
    rows = table("arena_hard/ko_v0.1/reference_scores_dev.csv")
    for row in rows:
        for theirs, ours in pairs.items():
            assert float(arena[row["model"]][ours]) == pytest.approx(float(row[theirs]), abs=0.05)
    assert arena["llama-3.1-8b-instruct"]["style_controlled"] == ""


def test_arena_style_at_zero_and_its_interval(arena: Board) -> None:
    """The pool-independent column: of the same order, elsewhere; every refitted interval holds its point."""
    from scipy.stats import spearmanr

    rows = [r for r in arena.values() if r["style_controlled"] and r["name"] != KO_BASELINE]
    pairs = [(float(r["style_controlled"]), float(r["style_at_zero"])) for r in rows]
    assert spearmanr(*zip(*pairs, strict=True)).statistic > 0.97
    assert max(abs(a - b) for a, b in pairs) > 1
    for row in rows:
        assert float(row["style_low"]) < float(row["style_controlled"]) < float(row["style_high"])
        assert float(row["style_at_zero_low"]) < float(row["style_at_zero"]) < float(row["style_at_zero_high"])


def test_arena_style_control_ranks_as_published(arena: Board) -> None:
    from scipy.stats import spearmanr

    published = table("arena_hard/ko_v0.1/ko_leaderboard_20250423_style_control_dev.csv")
    pairs = [
        (float(r["score"]), float(arena[r["model"]]["style_controlled"]))
        for r in published
        if arena[r["model"]]["style_controlled"]
    ]
    assert len(pairs) >= 25
    assert spearmanr(*zip(*pairs, strict=True)).statistic > 0.99


def test_arena_intervals_are_wider_than_upstreams_row_bootstrap(arena: Board) -> None:
    """Reference 2.4: cluster SE / row SE has a median of 1.71 over the pool; published rows are narrower still."""
    published = {r["model"]: r for r in table("arena_hard/ko_v0.1/ko_leaderboard_20250423_no_control_dev.csv")}
    ratios = []
    for name, ours in arena.items():
        if name != KO_BASELINE:
            theirs = float(published[name]["rating_q975"]) - float(published[name]["rating_q025"])
            ratios.append((float(ours["score_high"]) - float(ours["score_low"])) / theirs)
    assert 1.3 < float(np.median(ratios)) < 3.0


def test_mt_bench_is_the_published_one(mt_bench: Board) -> None:
    ours = mt_bench
    rows = table("mt_bench/published_dev.csv")
    assert set(ours) == {row["model"] for row in rows}
    for row in rows:
        mine = ours[row["model"]]
        assert float(mine["average_failures_minus_one"]) == pytest.approx(float(row["published_score"]), abs=0.0051)
        assert float(mine["average"]) == pytest.approx(float(row["mean_dropping_parse_failures"]), abs=1e-9)
        assert int(mine["n_failed"]) == int(row["n_parse_failures"])
        if mine["n_failed"] == "0":
            assert float(mine["turn_1"]) == pytest.approx(float(row["turn1"]), abs=1e-9)
            assert float(mine["turn_2"]) == pytest.approx(float(row["turn2"]), abs=1e-9)
            categories = [float(mine[c]) for c in ("writing", "roleplay", "reasoning", "math")]
            categories += [float(mine[c]) for c in ("coding", "extraction", "stem", "humanities")]
            assert float(np.mean(categories)) == pytest.approx(float(mine["average"]), abs=1e-9)
    assert float(ours["gpt-4"]["score_high"]) - float(ours["gpt-4"]["score_low"]) == pytest.approx(0.6, abs=0.5)


def test_mt_bench_original_files(tmp_path: Path) -> None:
    """Complete FastChat files, single and pair, several models in one; the pair counts are counted again by hand."""
    folder = DATA / "mt_bench" / "full_judgments"
    arguments = ["--benchmark", "mt_bench", "--out", str(tmp_path), "--resamples", "50"]
    assert cli.leaderboard([*arguments, "--annotations", str(folder)]) == 0
    ours = {row["name"]: row for row in json.loads((tmp_path / "leaderboard.json").read_text())["rows"]}
    assert {"vicuna-7b-v1.3", "phi-3-dpo", "mistral-orpo-mix"} <= set(ours)
    assert ours["phi-3"]["score"] is None
    with gzip.open(folder / "phi3_dpo.gpt-4_pair.jsonl.gz", "rt", encoding="utf-8") as handle:
        games = [json.loads(line) for line in handle]
    pairs = [(g["g1_winner"], g["g2_winner"]) for g in games]
    good = [p for p in pairs if "error" not in p]
    wins = sum(a == b == "model_1" for a, b in good)
    losses = sum(a == b == "model_2" for a, b in good)
    found = ours["phi-3"]["breakdown"]["pairs"]
    assert (found["win"], found["loss"], found["tie"]) == (wins, losses, len(good) - wins - losses)
    assert found["point"] == pytest.approx((wins + 0.5 * found["tie"]) / len(good))
    assert not math.isnan(found["low"])


def test_mt_bench_counts_failures_as_published_when_asked(tmp_path: Path) -> None:
    arguments = ["--benchmark", "mt_bench", "--out", str(tmp_path), "--resamples", "50", "--failures", "minus_one"]
    assert cli.leaderboard([*arguments, "--annotations", str(mt_file(tmp_path))]) == 0
    ours = read_csv(tmp_path / "leaderboard.csv")
    for row in table("mt_bench/published_dev.csv"):
        assert float(ours[row["model"]]["score"]) == pytest.approx(float(row["published_score"]), abs=0.0051)
        assert int(ours[row["model"]]["n_failed"]) == int(row["n_parse_failures"])
    assert "count as -1" in (tmp_path / "leaderboard.md").read_text()


def multi_judge_single(folder: Path, lang: str, kind: str) -> list[GradeRow]:
    """The multi-judge ratings through a FastChat file, -1 where none could be read."""
    rows = [
        {"question_id": r["question_id"], "model": r["model"], "judge": [r["judge"], kind], "turn": turn,
         "score": r[f"score_turn{turn}"]}
        for r in parquet("mt_bench/multi_judge/single_scores_dev.parquet")
        if r["lang"] == lang and r["kind"] == kind
        for turn in (1, 2)
        if kind == "single_grade" or turn == 2
    ]  # fmt: skip
    return read_grades([write_lines(folder / f"{lang}_single.jsonl", rows)])[0]


def multi_judge_pairs(folder: Path, lang: str) -> list[MatchRow]:
    """The pairwise verdicts through a FastChat file: in the second order A is model_b."""
    first = {"A": "model_1", "B": "model_2"}
    second = {"A": "model_2", "B": "model_1"}
    rows = [
        {"question_id": r["question_id"], "model_1": r["model_a"], "model_2": r["model_b"], "judge": r["judge"],
         "g1_winner": first.get(r["winner_ab"], r["winner_ab"]),
         "g2_winner": second.get(r["winner_ba"], r["winner_ba"]), "turn": 1}
        for r in parquet("mt_bench/multi_judge/pairwise_dev.parquet")
        if r["lang"] == lang
    ]  # fmt: skip
    return read_grades([write_lines(folder / f"{lang}_pair.jsonl", rows)])[1]


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_multi_judge_swap_inconsistency_is_table_5(tmp_path: Path, lang: str) -> None:
    matches = multi_judge_pairs(tmp_path, lang)
    for row in table("mt_bench/multi_judge/published_table5_pairwise_inconsistency.csv"):
        own = [m for m in matches if m.judge == JUDGES[row["judge"]]]
        found = summarise_swaps(own, resamples=10)
        assert found.agreement.n == int(float(row[f"{lang}_valid"]))
        disagree = found.first + found.second + found.other
        assert disagree == int(float(row[f"{lang}_inconsistent"]))
        assert round(100 * (1 - found.agreement.point), 2) == pytest.approx(float(row[f"{lang}_rate_pct"]))
        if lang == "ko":
            assert (found.first, found.second, found.other) == tuple(
                int(float(row[f"ko_{kind}"])) for kind in ("same_first", "same_second", "other_inconsistent")
            )


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_multi_judge_means_are_table_6_and_figure_3(tmp_path: Path, lang: str) -> None:
    grades = multi_judge_single(tmp_path, lang, "single_grade")
    figure = [r for r in table("mt_bench/multi_judge/published_figure3_scores.csv") if r["language"] == lang]
    for row in table("mt_bench/multi_judge/published_table6_single_scores.csv"):
        own = [g for g in grades if g.judge == JUDGES[row["judge"]]]
        found = summarise_grades(own, resamples=10)
        assert round(found.average.point, 2) == pytest.approx(float(row[f"{lang}_mean"]))
        assert found.average.n == int(float(row[f"{lang}_valid_scores"]))
        column = row["judge"].lower().replace("-", "_")
        for line in figure:
            part = [g for g in own if g.model == line["row_id"]] if line["row_type"] == "model" else None
            mean = summarise_grades(part, resamples=2).average.point if part else found.categories[line["row_id"]]
            assert round(mean, 4) == pytest.approx(float(line[column]), abs=1e-4)


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_multi_judge_references_are_table_7_and_failures_table_8(tmp_path: Path, lang: str) -> None:
    plain = multi_judge_single(tmp_path, lang, "single_grade")
    referenced = multi_judge_single(tmp_path, lang, "single_grade_ref")
    failures = table("mt_bench/multi_judge/published_table8_parse_failures.csv")
    for row in table("mt_bench/multi_judge/published_table7_reference_scores.csv"):
        judge = JUDGES[row["judge"]]
        with_reference = {(g.model, g.question_id, g.turn): g for g in referenced if g.judge == judge}
        without = {(g.model, g.question_id, g.turn): g for g in plain if g.judge == judge}
        both = [k for k, g in with_reference.items() if not math.isnan(g.grade) and not math.isnan(without[k].grade)]
        assert len(both) == int(float(row[f"{lang}_paired"]))
        for kind, rows in (("standard", without), ("reference", with_reference)):
            mean = summarise_grades([rows[k] for k in both], resamples=2).average.point
            assert round(mean, 2) == pytest.approx(float(row[f"{lang}_{kind}_mean"]))
        for protocol, grades in (("single_grade", without), ("single_grade_ref", with_reference)):
            told = next(
                r for r in failures if (r["language"], r["judge"], r["protocol"]) == (lang, row["judge"], protocol)
            )
            found = summarise_grades(list(grades.values()), resamples=2).average
            assert (found.n, found.n_failed) == (int(told["valid_calls"]), int(told["total_failures"]))
