"""The report's small parts: texts, numbers, words about intervals, ticks, tables."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaderboard.report_matrix import matrix_plot
from leaderboard.report_scores import warnings_of
from leaderboard.report_summary import against_half, compared
from leaderboard.report_svg import Axes, Point, Series, bars, line_panel, smoothed, thinned, ticks
from leaderboard.report_text import Column, Grid, cell, clean, esc, estimate, listed, real, redact, show
from prefeval.stats import Estimate


def test_clean_takes_out_what_a_page_must_not_hold() -> None:
    assert clean("a\x00b\x1b[0m\u202ec\ud83d\r\nd\te\x85") == "ab[0mc\nd\te"
    assert esc("<a href='x'>\"&") == "&lt;a href=&#39;x&#39;&gt;&#34;&amp;"


@given(st.text(st.characters(exclude_categories=())))
def test_cleaned_text_can_be_written(text: str) -> None:
    clean(text).encode("utf-8")
    assert "<" not in esc(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("judge:m@https://me:pw@host/v1", "judge:m@https://***@host/v1"),
        ("api_key: abc123", "api_key: ***"),
        ("--token=abc", "--token=***"),
        ("max_new_tokens: 256", "max_new_tokens: 256"),
        ("tokens_per_second: 3", "tokens_per_second: 3"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("value", "style", "shown"),
    [
        (0.12345, "percent", "12.3%"),
        (-0.5, "two", "−0.50"),
        (-0.0004, "three", "0.000"),
        (1234.4, "count", "1,234"),
        (math.nan, "percent", "–"),
    ],
)
def test_show(value: float, style: str, shown: str) -> None:
    assert show(value, style) == shown  # type: ignore[arg-type]


def test_estimate_takes_only_numbers() -> None:
    assert [real(v) for v in (1, 2.5)] == [1.0, 2.5]
    assert all(math.isnan(real(v)) for v in (None, "3", True, math.inf, [1]))
    found = estimate({"a": 0.5, "a_low": None, "a_high": 0.6, "a_n": 7}, "a")
    assert (found.point, found.n) == (0.5, 7)
    assert cell(found, "percent").interval == ""
    assert cell(Estimate(math.nan, 0, 1, 0), "percent").text == "–"


def test_words_about_intervals() -> None:
    assert "no difference has been shown" in against_half(Estimate(0.55, 0.5, 0.6, 10))
    assert "lies above 50%" in against_half(Estimate(0.55, 0.501, 0.6, 10))
    assert "lies below 50%" in against_half(Estimate(0.4, 0.3, 0.499, 10))
    assert "no difference has been shown" in against_half(Estimate(0.55, math.nan, math.nan, 10))
    assert compared(Estimate(0.5, 0.4, 0.6, 1), Estimate(0.7, 0.61, 0.8, 1)) == "their intervals do not overlap"
    assert "overlap, so" in compared(Estimate(0.5, 0.4, 0.6, 1), Estimate(0.7, 0.6, 0.8, 1))
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_language_marks() -> None:
    base = {"broken": 0.01, "duplicates": 0.0, "start_logp": -2.0}
    assert warnings_of({"broken": 0.05, "duplicates": 0.1, "start_logp": -3.0}, base) == {}
    assert set(warnings_of({"broken": 0.07, "duplicates": 0.11, "start_logp": -3.1}, base)) == set(base)
    assert warnings_of({"broken": None}, base) == {}


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 1.0, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.3, 0.9, 4) == [0.0, 0.5]
    assert ticks(1.0, 1.0, 4) == []


def test_long_curves_stay_small_and_keep_their_mean() -> None:
    points = [(float(i), float(i)) for i in range(960)]
    thin = thinned(points)
    assert len(thin) == 240
    assert sum(p.y for p in thin) / 240 == pytest.approx(479.5)
    assert [p.y for p in smoothed([Point(0, 2.0), Point(1, 4.0), Point(2, 9.0)], 2)] == [2.0, 3.0, 6.5]


def test_plots_tell_their_numbers_and_survive_gaps() -> None:
    gap = (Point(0, 0.5), Point(1, math.nan), Point(2, 0.75, 0.7, 0.8))
    plot = line_panel(Axes("win rate", "round", "percent"), [Series("judge <x>", 0, gap)])
    assert 'aria-label="win rate. judge &lt;x&gt;: 50.0% at round 0, 75.0% at round 2"' in plot
    assert "nan" not in plot
    assert "nan" not in line_panel(Axes("empty", "round", "percent"), [])
    drawn = bars(
        "scores", [("a", Estimate(0.5, 0.4, 0.6, 3), 0), ("b", Estimate(*[math.nan] * 3, 0), 1)], "percent", (0, 1)
    )
    assert "no score" in drawn
    # the bar of one half ends in the middle of the 444 pixels between the limits
    assert 'width="222.0"' in drawn


def test_matrix_plot_takes_square_matrices_of_probabilities() -> None:
    plot = matrix_plot(["a", "b"], [[0.5, 0.9], [0.1, None]], "t")
    assert plot is not None
    assert ">0.90<" in plot
    assert "rgb(" in plot
    assert 'class="hole"' in plot
    for bad in (None, [[0.5]], [[0.5, 1], 3], "ab"):
        assert matrix_plot(["a", "b"], bad, "t") is None


def test_column_groups_run_together() -> None:
    columns = tuple(Column(c, group=g) for c, g in zip("abcd", ("", "x", "x", ""), strict=True))
    assert Grid("t", columns, ()).groups == [("", 1), ("x", 2), ("", 1)]
    assert Grid("t", (Column("a"),), ()).groups == []
