"""Verdict and answer files: what is read, what is refused and how it is named, what is written."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from leaderboard_data import DATA, needs_data, read_csv, write_lines

from leaderboard import cli
from leaderboard.annotations import GameRow, read_games, read_grades, read_preferences
from leaderboard.answers import (
    Answer,
    Answers,
    count_tokens,
    read_answers,
    style_metadata,
    write_alpaca_outputs,
    write_arena_answers,
    write_mt_answers,
)
from leaderboard.compare import paired_comparisons, win_rate_matrix
from leaderboard.length_control import GamedRows, build_problem, fit
from leaderboard.plots import colour, heat_map, nice_limit, score_bars
from leaderboard.ratings import bradley_terry, mean_outcome
from leaderboard.table import TableRow, make_table, ranks, to_csv, to_markdown
from prefeval.errors import ConfigError, DataError
from prefeval.stats import Estimate


def preference(**changes: Any) -> dict[str, Any]:
    row = {"instruction": "Say hi.", "output_1": "Hello.", "output_2": "Hi", "generator_1": "base", "generator_2": "m"}
    return {**row, "annotator": "judge", "preference": 1.25, **changes}


def game(first: str | None, second: str | None, *, separate: bool = False, uid: str = "q") -> GameRow:
    return GameRow(uid, "m", "base", "j", "", (first, second), separate)


def test_preferences_of_every_spelling(tmp_path: Path) -> None:
    values = [1.0, 2, 1.5, 0, None, -1, 1.25]
    rows = [preference(instruction=f"q{i}", preference=v) for i, v in enumerate(values)]
    rows[6] |= {"preference_raw_completion": {"x": 1}, "preference_date": "2024", "preference_version": "1"}
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    wins = [r.win for r in read_preferences([path])]
    assert wins[:4] == [0.0, 1.0, 0.5, 0.5]
    assert math.isnan(wins[4])
    assert math.isnan(wins[5])
    assert wins[6] == 0.25
    only = read_preferences([path])[0]
    assert (only.model, only.baseline, only.length_model, only.length_baseline) == ("m", "base", 2.0, 6.0)


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (preference(preference=3.0), ("row 2", "'preference'", "[1, 2]")),
        (preference(preference="m"), ("row 2", "'preference'", "number or null")),
        ({"instruction": "x"}, ("row 2", "'generator_2'", "missing")),
        (preference(output_2=5), ("row 2", "'output_2'", "text")),
        ("text", ("row 2", "object")),
    ],
)
def test_bad_preferences_are_named(tmp_path: Path, row: Any, parts: tuple[str, ...]) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([preference(), row]))
    with pytest.raises(DataError) as caught:
        read_preferences([path])
    for part in ("bad.json", *parts):
        assert part in str(caught.value)


def test_bad_files_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('[{"instruction": ')
    (tmp_path / "empty.jsonl").write_text("")
    for name, benchmark in (("cut.json", "alpaca_eval"), ("empty.jsonl", "arena_hard"), ("none.json", "mt_bench")):
        with pytest.raises(DataError, match=name):
            cli.leaderboard(
                ["--benchmark", benchmark, "--annotations", str(tmp_path / name), "--out", str(tmp_path / "out")]
            )
    with pytest.raises(ConfigError, match="did you mean 'arena_hard'"):
        cli.leaderboard(["--benchmark", "arena_hrd", "--annotations", "x", "--out", str(tmp_path / "out")])
    with pytest.raises(ConfigError, match="lc-c"):
        cli.leaderboard(
            ["--benchmark", "alpaca_eval", "--lc-c", "-1", "--annotations", "x", "--out", str(tmp_path / "out")]
        )
    assert not (tmp_path / "out").exists()


def test_exchanged_outputs_are_refused(tmp_path: Path) -> None:
    """Model as output_1, baseline as output_2: silently wrong upstream (reference 1.9), an error here."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([preference(generator_1="mine", generator_2="gpt4_1106_preview")]))
    with pytest.raises(DataError, match="exchanged"):
        cli.leaderboard(["--benchmark", "alpaca_eval", "--annotations", str(path), "--out", str(tmp_path / "out")])
    path.write_text(json.dumps([preference(), preference(instruction="other", generator_1="base2")]))
    with pytest.raises(DataError, match="'base2', not the baseline 'base'"):
        cli.leaderboard(["--benchmark", "alpaca_eval", "--annotations", str(path), "--out", str(tmp_path / "out")])


def test_games_of_both_versions(tmp_path: Path) -> None:
    new = {"uid": "u1", "category": "math", "judge": "j", "model": "m", "baseline": "b"}
    rows = [
        {**new, "games": [{"score": "A>>B", "judgment": {"answer": "..."}}, {"score": "B>A"}]},
        {**new, "uid": "u2", "games": [None, {"score": "A=B"}]},
        {"question_id": "u3", "model": "m", "judge": "j", "games": [{"score": "A<B"}, {"score": None}]},
        {**new, "uid": "u1", "games": [{"score": "A=B"}, {"score": "A=B"}]},
    ]
    found = read_games([write_lines(tmp_path / "m.jsonl", rows)])
    assert [(r.uid, r.labels, r.separate) for r in found] == [
        ("u1", ("A=B", "A=B"), False),  # a re-run: the last row counts
        ("u2", (None, "A=B"), False),
        ("u3", ("A<B", None), True),
    ]
    with pytest.raises(DataError, match="row 1, field 'games'"):
        read_games([write_lines(tmp_path / "x.jsonl", [{**new, "games": []}])])
    with pytest.raises(DataError, match=r"row 1, field 'games.score'"):
        read_games([write_lines(tmp_path / "x.jsonl", [{**new, "games": [{"score": 4}, None]}])])


def test_arena_mean_is_the_weighted_one() -> None:
    """Game 1 has the baseline as A: 'A>>B' there is three losses, in game 2 three wins."""
    rows = [game("A>>B", "A>B", uid="1"), game("A=B", "B>A", uid="2"), game(None, "A>>B", uid="3")]
    found = mean_outcome(rows, resamples=50)
    assert found.point == pytest.approx(100 * (0 * 3 + 1 + 0.5 + 0) / 6)
    assert (found.n, found.n_failed) == (2, 1)
    separate = [game("A>>B", None, separate=True), game(None, "A<<B", separate=True, uid="2")]
    assert mean_outcome([*separate, game("B>A", "A>B", uid="3")], resamples=50).point == pytest.approx(100 * 2 / 8)
    empty = mean_outcome([game(None, None)])
    assert math.isnan(empty.point)
    assert (empty.n, empty.n_failed) == (0, 1)


def test_grades_keep_the_last_row_and_count_failures(tmp_path: Path) -> None:
    base = {"question_id": 81, "model": "m", "judge": ["gpt-4", "single-v1"], "turn": 1}
    rows = [{**base, "score": 3}, {**base, "score": 8}, {**base, "turn": 2, "score": -1}]
    pair = {"question_id": 81, "model_1": "m", "model_2": "k", "g1_winner": "tie", "g2_winner": "model_1", "turn": 1}
    grades, matches = read_grades([write_lines(tmp_path / "s.jsonl", [*rows, {**pair, "judge": ["gpt-4", "pair-v2"]}])])
    assert [g.grade for g in grades][:1] == [8.0]
    assert math.isnan(grades[1].grade)
    assert (grades[0].category, grades[0].judge, matches[0].winners) == ("writing", "gpt-4", ("tie", "model_1"))
    with pytest.raises(DataError, match="row 1, field 'turn'"):
        read_grades([write_lines(tmp_path / "x.jsonl", [{**base, "turn": 3, "score": 1}])])
    with pytest.raises(DataError, match="row 1, field 'g1_winner'"):
        read_grades([write_lines(tmp_path / "x.jsonl", [{**pair, "g1_winner": "A"}])])


def test_l1_solver_meets_its_optimality_conditions() -> None:
    """Subgradient conditions of min ||w||_1 + C sum s CE, computed here from the definition."""
    rng = np.random.default_rng(0)
    y, gap, difficulty = rng.uniform(size=200), rng.normal(size=200) * 500, rng.normal(size=200)
    gamed = GamedRows(np.tanh(rng.normal(size=50)), rng.normal(size=50), rng.uniform(size=50))
    for c in (0.006, 0.05, 2.78, 1e4):
        problem = build_problem(y, gap, difficulty, gamed)
        w = fit(problem, c)
        p = 1 / (1 + np.exp(-problem.x @ w))
        gradient = c * problem.x.T @ (problem.s * (p - problem.y))
        active = w != 0
        assert np.allclose(gradient[active], -np.sign(w[active]), atol=1e-4)
        assert np.all(np.abs(gradient[~active]) <= 1 + 1e-6)


def test_bradley_terry_recovers_ratings() -> None:
    true = np.array([1.0, 0.2, -0.4, -0.8])
    p = 1 / (1 + np.exp(-(true[:, None] - true[None, :])))
    np.fill_diagonal(p, 0.0)
    assert np.allclose(bradley_terry(1000 * p, penalty=1e-9), true - true.mean(), atol=1e-5)


def row(name: str, point: float, half: float, outcomes: dict[str, float] | None = None) -> TableRow:
    return TableRow(name, Estimate(point, point - half, point + half, 10), outcomes=outcomes or {})


def test_table_order_ranks_and_empty_cells() -> None:
    table = make_table(
        "x", "arena_hard", [row("low", 10, 1), row("none", math.nan, 0), row("a|b", 50, 5), row("c", 46, 2)]
    )
    assert [r.name for r in table.rows] == ["a|b", "c", "low", "none"]
    assert ranks(table)[:3] == [1, 1, 3]
    lines = to_csv(table).splitlines()
    assert lines[0].startswith(
        "name,score,score_low,score_high,n,n_failed,avg_length,judge,template_hash,data_revision,"
    )
    assert lines[4].rstrip(",") == "none,,,,10,0"
    assert lines[4].count(",") == lines[0].count(",")
    assert "| 1 | a\\|b | 50.00 [45.00, 55.00] |" in to_markdown(table)


def test_paired_comparisons_and_win_matrix() -> None:
    questions = [str(i) for i in range(40)]
    a = {q: 1.0 if int(q) % 4 else 0.0 for q in questions}
    b = {q: a[q] - 0.25 for q in questions}
    c = {**dict.fromkeys(questions[:20], math.nan), **{q: a[q] for q in questions[20:]}}
    table = make_table("x", "arena_hard", [row("a", 3, 0, a), row("b", 2, 0, b), row("c", 1, 0, c)])
    first, second, _ = paired_comparisons(table, resamples=200)
    assert (first.first, first.second) == ("a", "b")
    assert (first.difference.point, first.difference.low, first.difference.high) == pytest.approx((0.25, 0.25, 0.25))
    assert first.p < 0.01
    assert (second.difference.point, second.difference.n, second.p) == pytest.approx((0.0, 20, 1.0))
    names, matrix = win_rate_matrix(table)
    assert names == ["a", "b", "c"]
    assert matrix[0].tolist() == [0.5, 1.0, 0.5]
    assert np.allclose(matrix + matrix.T, 1.0)


def test_plots_are_well_formed_and_escaped() -> None:
    table = make_table("<b>&", "mt_bench", [row("m<1>&", 7.5, 0.5), row("none", math.nan, 0)])
    bars = score_bars(table)
    found = ElementTree.fromstring(bars)
    space = "{http://www.w3.org/2000/svg}"
    rectangles = found.findall(f".//{space}rect")
    assert len(rectangles) == 1
    assert float(rectangles[0].get("width", "0")) == pytest.approx(420 * 7.5 / 10)
    assert "m<1>&: 7.50 [7.00, 8.00], n = 10" in [t.text for t in found.iter(f"{space}title")]
    cells = ElementTree.fromstring(heat_map(["a", "b&"], np.array([[0.5, 0.9], [0.1, math.nan]])))
    assert len(cells.findall(f".//{space}rect")) == 4
    assert [nice_limit(v) for v in (0, 0.7, 2.1, 8.3, 73)] == [1, 1, 2.5, 10, 100]
    assert colour(0.5) == "rgb(247,247,247)"


def test_answers_go_through_every_format(tmp_path: Path) -> None:
    text = "# Title\n\n- one\n- **two**\n\u2028 end"
    one = Answers("org/m", {"7": Answer("7", (text, "again"), "What?", "data")})
    for write, name, turns in (
        (write_alpaca_outputs, "a.json", (text,)),
        (write_arena_answers, "b.jsonl", (text,)),
        (write_mt_answers, "c.jsonl", (text, "again")),
    ):
        back = read_answers(write(tmp_path / name, one))
        assert [(a.model, list(a.items)) for a in back] == [("org/m", ["7"])]
        assert back[0].items["7"].turns == turns
    row = json.loads((tmp_path / "b.jsonl").read_text(encoding="utf-8"))
    assert row["messages"][1]["content"] == {"answer": text}
    assert row["metadata"]["header_count"]["h1"] == 1
    assert row["metadata"]["list_count"] == {"ordered": 0, "unordered": 2}
    assert row["metadata"]["bold_count"] == {"**": 1, "__": 0}
    with pytest.raises(DataError, match=r"bad.jsonl, row 1, field 'choices'"):
        read_answers(
            write_lines(tmp_path / "bad.jsonl", [{"question_id": 1, "model_id": "m", "choices": [{"turns": [1]}]}])
        )


@needs_data
def test_style_counts_are_those_of_published_answers() -> None:
    """The style records that came with 750 answers of the v2.0 baseline."""
    answers = read_answers(DATA / "arena_hard/v2.0/model_answer/o3-mini-2025-01-31.jsonl.gz")[0]
    total = counted = 0
    for answer in answers.items.values():
        ours = style_metadata(answer.turns[0])
        for key in ("header_count", "list_count", "bold_count"):
            assert ours[key] == answer.metadata[key]
        total, counted = total + answer.metadata["token_len"], counted + ours["token_len"]
    tolerance = 0.0 if count_tokens("x")[1].startswith("tiktoken") else 0.05
    assert counted == pytest.approx(total, rel=tolerance)


def test_custom_data_gets_length_control_without_difficulty(tmp_path: Path) -> None:
    """Another baseline: the length term and the constant only; equal lengths leave the raw win rate (C is large)."""
    rows = [preference(instruction=f"q{i}", output_2="Hello!", preference=1.8 if i % 4 else 1.1) for i in range(80)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    arguments = ["--benchmark", "alpaca_eval", "--out", str(tmp_path), "--lc-c", "10000", "--resamples", "50"]
    cli.leaderboard([*arguments, "--annotations", str(path)])
    found = read_csv(tmp_path / "leaderboard.csv")["m"]
    raw = 100 * (0.75 * 0.8 + 0.25 * 0.1)
    assert float(found["win_rate"]) == pytest.approx(raw)
    assert float(found["lc_win_rate"]) == pytest.approx(raw, abs=0.01)
    assert float(found["lc_c"]) == 10000.0
    assert "not the published set-up" in (tmp_path / "leaderboard.md").read_text()
