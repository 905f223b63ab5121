"""A model's name is data for a spreadsheet too."""

from __future__ import annotations

import csv
import io

import pytest

from leaderboard.table import TableRow, make_table, to_csv
from prefeval.stats import Estimate


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@SUM(A1)", "\t=1"])
def test_names_are_no_formulas_and_numbers_stay_numbers(name: str) -> None:
    table = make_table("b", "alpaca_eval", [TableRow(name, Estimate(-1.5, -2.0, 1.0, 3), judge=name)])
    (row,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert row["name"] == row["judge"] == "'" + name
    assert float(row["score"]) == -1.5
    assert row["template_hash"] == ""
