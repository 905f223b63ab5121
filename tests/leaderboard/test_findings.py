"""The models of a board among themselves: Condorcet's examples, as questions, from the table to the page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from leaderboard.findings import MOST, with_social
from leaderboard.report import board_page
from leaderboard.table import Table, TableRow, as_dict, make_table
from prefeval.stats import Estimate


def board(profile: dict[str, int]) -> Table:
    """A question for each voter; the models' outcomes on it follow the voter's ranking, best first."""
    voters = [order for order, count in profile.items() for _ in range(count)]
    rows = []
    for name in sorted(voters[0]):
        outcomes = {str(q): 1.0 - order.index(name) / len(order) for q, order in enumerate(voters)}
        mean = 100 * sum(outcomes.values()) / len(outcomes)
        rows.append(TableRow(f"<{name}>", Estimate(mean, mean - 5, mean + 5, len(voters)), outcomes=outcomes))
    return make_table("toy", "arena_hard", rows)


def social(table: Table) -> dict[str, object]:
    return dict(json.loads(json.dumps(as_dict(table)))["social"])


def words(table: Table, folder: Path) -> str:
    return " ".join(board_page(as_dict(table), [], folder, "prefeval leaderboard").split())


def test_condorcets_example_depends_on_the_rule(tmp_path: Path) -> None:
    # 1785, 81 voters: a beats b 41:40 and c 60:21, yet Borda puts b first
    table = with_social(board({"abc": 30, "acb": 1, "bac": 29, "bca": 10, "cab": 10, "cba": 1}))
    found = social(table)
    assert (found["names"], found["condorcet"], found["cycles"]) == (["<b>", "<a>", "<c>"], "<a>", [])
    assert found["win_rates"][1] == pytest.approx([41 / 81, 0.5, 60 / 81])  # type: ignore[index]
    assert found["lottery"] == pytest.approx([0, 1, 0], abs=1e-9)
    assert found["orders"]["borda"]["places"] == [1, 2, 3]  # type: ignore[index]
    assert found["orders"]["copeland"]["places"] == [2, 1, 3]  # type: ignore[index]
    page = words(table, tmp_path)
    assert "&lt;a&gt; beats every other model by majority (Condorcet winner). No circle of three." in page
    assert "It depends on it for 1: " in page
    assert "ties half; 81 common questions a pair" in page
    assert "<a>" not in page.replace("<a ", "")
    assert "<script" not in page


def test_a_paradox_has_no_winner_and_is_a_circle(tmp_path: Path) -> None:
    table = with_social(board({"abc": 40, "bca": 40, "cab": 40}))
    found = social(table)
    assert found["condorcet"] is None
    assert found["cycles"] == [{"models": ["<a>", "<b>", "<c>"], "strength": pytest.approx(2 / 3)}]
    assert found["lottery"] == pytest.approx([1 / 3] * 3, abs=1e-6)
    curl = found["curl"]
    assert curl["ratio"] == pytest.approx(1.0)  # type: ignore[index]
    assert curl["ratio"] > curl["noise_floor"]  # type: ignore[index]
    page = words(table, tmp_path)
    assert "there is no Condorcet winner. Strongest circles of three: &lt;a&gt; &gt; &lt;b&gt; &gt; &lt;c&gt;" in page
    assert "(weakest win 66.7%)" in page
    assert "more cyclic than noise alone" in page


def test_two_models_or_strangers_have_no_findings(tmp_path: Path) -> None:
    two = board({"ab": 5})
    assert with_social(two) is two
    rows = [TableRow(n, Estimate(50.0, 40.0, 60.0, 1), outcomes={n: 1.0}) for n in "abc"]
    strangers = make_table("toy", "arena_hard", rows)
    assert with_social(strangers) is strangers
    assert "Between the models" not in words(strangers, tmp_path)


def test_pairs_that_never_met_leave_out_rules_that_need_them(tmp_path: Path) -> None:
    asked = {"a": range(40), "b": range(20, 60), "c": range(40, 80)}
    rows = [TableRow(n, Estimate(9.0 - i, 1.0, 10.0, 40), outcomes={str(q): q % (i + 2) for q in qs})
            for i, (n, qs) in enumerate(asked.items())]  # fmt: skip
    table = with_social(make_table("toy", "mt_bench", rows))
    found = social(table)
    assert found["win_rates"][0][2] is None  # type: ignore[index]
    assert found["lottery"] is None
    assert set(found["orders"]) == {"score", "bradley_terry", "borda", "copeland"}  # type: ignore[call-overload]
    assert "Some models share no question" in words(table, tmp_path)


@pytest.mark.slow
def test_large_boards_are_cut_to_the_best(tmp_path: Path) -> None:
    rows = [TableRow(f"m{i}", Estimate(float(i), i - 1.0, i + 1.0, 30), outcomes={str(q): (q * 7 + i * i) % 97 / 97
            for q in range(30)}) for i in range(MOST + 3)]  # fmt: skip
    rows.append(TableRow("none", Estimate(math.nan, math.nan, math.nan, 0)))
    table = with_social(make_table("toy", "arena_hard", rows))
    found = social(table)
    assert (len(found["names"]), found["names"][0], found["left_out"]) == (MOST, f"m{MOST + 2}", 4)  # type: ignore
    assert "The first 20 of 70 models." in words(table, tmp_path)
