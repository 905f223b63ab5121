"""Open LLM Leaderboard v2 normalisation against values worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from leaderboard.lm_eval import BBH, PARTS, board_scores, normalised
from prefeval.cli import main
from prefeval.errors import DataError


def _results() -> dict[str, Any]:
    table: dict[str, Any] = {}
    for parts in PARTS.values():
        for task, metric, choices in parts:
            chance = 1 / choices if choices else 0.0
            table.setdefault(task, {})[f"{metric},none"] = chance  # at chance everywhere: 0 points
            table[task][f"{metric}_stderr,none"] = 0.03
    return {"results": table}


def test_normalised_by_hand() -> None:
    assert normalised(0.625, 0.25) == pytest.approx(50)
    assert normalised(0.1, 0.25) == 0
    assert normalised(1.0, 0.1) == pytest.approx(100)


def test_board_scores_by_hand() -> None:
    results = _results()
    table = results["results"]
    table["leaderboard_ifeval"] |= {"prompt_level_strict_acc,none": 0.4, "inst_level_strict_acc,none": 0.6}
    table["leaderboard_gpqa"]["acc_norm,none"] = 0.4  # (0.4 - 0.25) / 0.75 = 20
    table["leaderboard_mmlu_pro"]["acc,none"] = 0.37  # (0.37 - 0.1) / 0.9 = 30
    table["leaderboard_musr_murder_mysteries"]["acc_norm,none"] = 0.8  # 60, of three: 20
    table["leaderboard_musr_team_allocation"]["acc_norm,none"] = 0.2  # under chance: 0, not negative
    table["leaderboard_bbh_navigate"]["acc_norm,none"] = 0.74  # 48, of 24: 2
    table["leaderboard_math_hard"]["exact_match,none"] = 0.08
    got = {name: s.score for name, s in board_scores(results).items()}
    hand = {"IFEval": 50, "BBH": 2, "MATH Lvl 5": 8, "GPQA": 20, "MuSR": 20, "MMLU-Pro": 30, "average": 130 / 6}
    assert got == pytest.approx(hand)
    assert board_scores(results)["GPQA"].error == pytest.approx(4)  # 100 * 0.03 / 0.75
    assert len(BBH) == 24


def test_an_error_the_harness_does_not_know_is_nan_not_zero() -> None:
    results = _results()
    results["results"]["leaderboard_ifeval"]["inst_level_strict_acc_stderr,none"] = "N/A"
    scores = board_scores(results)
    assert math.isnan(scores["IFEval"].error)
    assert math.isnan(scores["average"].error)


def test_a_missing_task_is_named() -> None:
    results = _results()
    del results["results"]["leaderboard_bbh_snarks"]
    with pytest.raises(DataError, match="leaderboard_bbh_snarks"):
        board_scores(results)
    with pytest.raises(DataError, match="results file"):
        board_scores({})


def test_tax_prints_differences_and_names_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, aligned = _results(), _results()
    base["results"]["leaderboard_gpqa"]["acc_norm,none"] = 0.4
    aligned["n-samples"] = {f"leaderboard_gpqa_{k}": {"effective": n} for k, n in [("main", 448), ("diamond", 198)]}
    aligned["n-samples"]["leaderboard_math_algebra_hard"] = {"effective": 307}
    files = [tmp_path / "base.json", tmp_path / "aligned.json"]
    for file, results in zip(files, (base, aligned), strict=True):
        file.write_text(json.dumps(results))
    assert main(["tax", "--results", *map(str, files)]) == 0
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith("  ")]
    # 1.96 * 4 = 7.84 for one model, times the square root of 2 for the difference
    assert [r.split() for r in rows if "GPQA" in r] == [
        ["GPQA", "20.00", "+-", "7.84", "n", "?"],
        ["GPQA", "0.00", "+-", "7.84", "n", "646", "difference", "-20.00", "+-", "11.09"],
    ]
    assert any("MATH" in row and "n 307" in row for row in rows)
    files[1].write_text("{}")
    assert main(["tax", "--results", *map(str, files)]) == 2
    assert "aligned.json" in capsys.readouterr().err
