"""Benchmarks side by side and by category: published correlations, means by hand, what is not measurable."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leaderboard_data import needs_data, table, write_lines
from scipy.stats import spearmanr
from test_judge_findings import grade_row, pair_row
from test_report import Page

from leaderboard import cli
from leaderboard.report import report
from leaderboard.report_categories import category_figure
from leaderboard.report_cross import boards_of, cross_section
from leaderboard.report_length import rank_correlation
from leaderboard.report_text import Grid, Section


def board(name: str, scores: dict[str, float], protocol: str = "arena_hard", judge: str = "j") -> Any:
    rows = [{"name": m, "score": s, "score_low": s - 1, "score_high": s + 1, "n": 9, "n_failed": 0, "judge": judge}
            for m, s in scores.items()]  # fmt: skip
    return "run", {"benchmark": name, "protocol": protocol}, rows, "score"


def grids(section: Section | None) -> tuple[Grid, Grid]:
    assert section is not None
    first, second = (b for b in section.blocks if isinstance(b, Grid))
    return first, second


def test_table_and_correlations_of_common_models() -> None:
    x = {f"m{i}": float(v) for i, v in enumerate([3, 9, 1, 30, 22, 14])}
    y = {f"m{i}": float(v) for i, v in enumerate([2, 8, 11, 40, 12])} | {"<z>": 1.0}
    scores, orders = grids(cross_section(boards_of([board("a", x), board("b", y), board("c", {"m0": 1.0, "m1": 5.0})])))
    assert [c.group for c in scores.columns] == ["", "a", "a", "b", "b", "c", "c"]
    assert scores.rows[0][0].text == "m0"  # on all three
    assert {r[0].text for r in scores.rows} == {*x, "<z>"}
    correlation = orders.rows[0][2]
    expected = spearmanr([3, 9, 1, 30, 22], [2, 8, 11, 40, 12]).statistic
    assert (correlation.text, correlation.note) == (f"{expected:.2f}", "n = 5 models")
    assert correlation.interval
    # of the ten common pairs both separate eight, six in the same order (m0 < m1 < m3, m4; m2 < m3, m4; m4 < m3)
    signs = [np.sign(a - b) * np.sign(c - d) * (abs(a - b) > 2) * (abs(c - d) > 2)
             for i, (a, c) in enumerate(zip([3, 9, 1, 30, 22], [2, 8, 11, 40, 12], strict=True))
             for b, d in list(zip([3, 9, 1, 30, 22], [2, 8, 11, 40, 12], strict=True))[:i]]  # fmt: skip
    assert orders.rows[0][3].text == f"{np.mean(signs):.2f}"
    assert (orders.rows[1][2].text, orders.rows[1][2].note) == ("not measurable", "fewer than three common models")


def test_equal_names_are_told_apart_and_strangers_need_no_table() -> None:
    boards = boards_of([board("a", {"m": 1.0}, judge="x"), board("a", {"m": 2.0}, judge="y")])
    assert [b.label for b in boards] == ["a, x", "a, y"]
    assert [b.label for b in boards_of([board("a", {"m": 1.0}), board("a", {"m": 2.0})])] == ["a, j, run", "a, j, run"]
    assert cross_section(boards_of([board("a", {"m": 1.0}), board("b", {"k": 2.0})])) is None
    assert cross_section(boards_of([board("a", {"m": 1.0})])) is None


@needs_data
def test_correlation_with_the_arena_is_the_published_one() -> None:
    """2404.04475, abstract: length control raises the Spearman correlation with Chatbot Arena from 0.94 to 0.98."""
    rows = table("meta_eval/benchmarks_correlation_table.csv")
    arena, controlled, raw = (
        np.array([float(row[name]) if row[name] else math.nan for row in rows])
        for name in ("Arena Elo\n[Feb 2, 2024]", "LC AlpacaEval 2.0", "AlpacaEval 2.0")
    )
    found = rank_correlation(controlled, arena)
    assert found.point == pytest.approx(0.98, abs=0.01)
    assert found.low < 0.97 < found.high
    assert rank_correlation(raw, arena).point == pytest.approx(0.94, abs=0.01)
    assert found.n == 37


def test_categories_have_intervals_by_question(tmp_path: Path) -> None:
    """Two categories of two questions: means by hand; the interval of a category spans its questions' means."""
    grades = {81: (4, 8), 82: (8, 4), 111: (2, 6), 112: (6, 10)}
    rows = [grade_row(q, m, s, turn=1) for q, pair in grades.items() for m, s in zip("ab", pair, strict=True)]
    rows += [grade_row(121, "a", -1.0, turn=1)]
    out = tmp_path / "out"
    assert cli.leaderboard(["--benchmark", "mt_bench", "--annotations", str(write_lines(tmp_path / "j.jsonl", rows)),
                            "--out", str(out), "--resamples", "400"]) == 0  # fmt: skip
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    spoken = next(
        str(a["aria-label"]) for t, a in page.tags if t == "svg" and "By category" in str(a.get("aria-label"))
    )
    assert "a: writing 6.00, math 4.00" in spoken
    assert "b: writing 6.00, math 8.00" in spoken
    assert "a, writing: 6.00 [4.00, 8.00], n = 2" in page.words
    assert "b, math: 8.00 [6.00, 10.00], n = 2" in page.words
    assert "n = 2 a category" in page.words
    assert "coding" not in spoken  # its only grade could not be read


def test_dots_stand_where_their_numbers_are() -> None:
    one = {"point": 50.0, "low": 25.0, "high": 75.0, "n": 3}
    rows = [{"name": f"m{i}", "breakdown": {"categories": {"hard_prompt": one, "old": 3.0}}} for i in range(8)]
    figure = category_figure(rows, "score", (0.0, 100.0))
    assert figure is not None
    plot = str(figure.plots[0])
    assert (plot.count('class="pt"'), plot.count('class="whisk"')) == (6, 6)
    assert 'cx="230.0"' in plot  # the middle of the 252 pixels that begin at 104
    whisker = re.search(r'class="whisk" x1="([\d.]+)" x2="([\d.]+)"', plot)
    assert whisker is not None
    assert whisker.groups() == ("167.0", "293.0")
    assert "2 more are in leaderboard.json" in figure.caption
    assert category_figure([{"name": "m", "breakdown": {"categories": {"writing": 5.0}}}], "two", (0.0, 10.0)) is None


def test_pairs_of_several_judges_are_in_percent_and_told_apart(tmp_path: Path) -> None:
    rows = [pair_row(q, w, judge) for judge, w in (("j1", "11"), ("<j2>", "22")) for q in (81, 82)]
    argv = ["--benchmark", "mt_bench", "--annotations", str(write_lines(tmp_path / "p.jsonl", rows))]
    assert cli.leaderboard([*argv, "--out", str(tmp_path / "out"), "--resamples", "20"]) == 0
    words = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8")).words
    assert "1. a (j1): 100.0 [100.0, 100.0], n = 2" in words
    assert "3. b (j1): 0.0 [0.0, 0.0], n = 2" in words
    assert "1. b (<j2>): 100.0" in words
    assert "(wins + ties / 2) / pairs against the other models, in percent" in words
    assert "as good as the others" in words
    assert "verdicts of 2 judges do not compare" in words
    assert "paired comparisons" not in words.split("Methods")[0]


def test_runs_are_compared_in_one_report(tmp_path: Path) -> None:
    folders = []
    for i, scores in enumerate([(3, 5, 9), (4, 2, 8)]):
        rows = [grade_row(81, f"m{k}", s) for k, s in enumerate(scores)]
        folders.append(str(tmp_path / f"board{i}"))
        path = write_lines(tmp_path / f"{i}.jsonl", rows)
        argv = ["--benchmark", ("mini-mt", "mt_bench")[i], "--annotations", str(path), "--out", folders[-1]]
        assert cli.leaderboard([*argv, "--resamples", "20"]) == 0
    assert report([*folders, "--out", str(tmp_path / "r.html")]) == 0
    words = Page((tmp_path / "r.html").read_text(encoding="utf-8")).words
    assert "Across benchmarks" in words
    assert "mini-mt mt_bench 0.50n = 3 models" in words
