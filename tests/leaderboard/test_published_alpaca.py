"""Published numbers, recomputed from real verdicts by `prefeval leaderboard` (reference/benchmarks.md section 8)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leaderboard_data import DATA, alpaca_files, needs_data, parquet, read_csv, table
from upstream import length_controlled_winrate

from leaderboard import cli
from leaderboard import length_control as lc
from leaderboard.lc_bootstrap import length_controlled
from leaderboard.length_control import GamedRows, rate_from_weights
from leaderboard.side_files import read_side_files
from prefeval.errors import DataError
from prefeval.stats import resample_counts

pytestmark = needs_data
ALPACA = DATA / "alpaca_eval"
Board = dict[str, dict[str, str]]


def test_alpaca_raw_columns_are_the_published_ones(alpaca: Board) -> None:
    published = table("alpaca_eval/published_dev.csv")
    assert set(alpaca) == {row["generator"] for row in published}
    for row in published:
        ours = alpaca[row["generator"]]
        assert float(ours["win_rate"]) == pytest.approx(float(row["win_rate"]), abs=1e-6)
        assert float(ours["standard_error"]) == pytest.approx(float(row["standard_error"]), abs=1e-6)
        assert float(ours["discrete_win_rate"]) == pytest.approx(float(row["discrete_win_rate"]), abs=1e-6)
        assert int(ours["n"]) == int(row["n_total"])


def test_alpaca_counts_and_lengths(alpaca: Board, alpaca_folder: Path) -> None:
    written = json.loads((alpaca_folder / "out" / "leaderboard.json").read_text())["rows"]
    rows = {row["name"]: row for row in written}
    for row in table("alpaca_eval/published_dev.csv"):
        ours = rows[row["generator"]]["breakdown"]
        for count in ("n_wins", "n_wins_base", "n_draws"):
            assert ours[count] == int(row[count])
        if int(row["n_annotations"]) == 805:
            assert float(alpaca[row["generator"]]["avg_length"]) == float(row["avg_length"])
    datasets = rows["claude-2.1"]["breakdown"]["datasets"]
    assert sum(d["n"] for d in datasets.values()) == 805
    assert datasets["vicuna"]["n"] == 80


def test_alpaca_length_controlled_is_the_published_one(alpaca: Board) -> None:
    for row in table("alpaca_eval/published_dev.csv"):
        ours = alpaca[row["generator"]]
        assert float(ours["lc_win_rate"]) == pytest.approx(float(row["length_controlled_winrate"]), abs=0.02)
        assert ours["score"] == ours["lc_win_rate"]
        if row["glm_C"]:
            assert float(ours["lc_c"]) == pytest.approx(float(row["glm_C"]), rel=1e-6)


def test_alpaca_published_c_is_read_back_from_published_weights(tmp_path: Path) -> None:
    side = read_side_files(ALPACA)
    assert side is not None
    (tmp_path / "side").mkdir()
    for name in ("df_gamed_reconstructed.csv", "instruction_difficulty.csv", "glm_weights.csv", "instructions.parquet"):
        os.symlink(ALPACA / name, tmp_path / "side" / name)
    files = [str(f) for f in alpaca_files(tmp_path, {"alpaca-7b", "claude-2.1"})]
    arguments = ["--benchmark", "alpaca_eval", "--out", str(tmp_path), "--data", str(tmp_path / "side")]
    cli.leaderboard([*arguments, "--resamples", "5", "--annotations", *files])
    ours = read_csv(tmp_path / "leaderboard.csv")
    assert float(ours["alpaca-7b"]["lc_c"]) == pytest.approx(side.c["alpaca-7b"], rel=1e-6)
    assert float(ours["claude-2.1"]["lc_c"]) == pytest.approx(side.c["claude-2.1"], rel=1e-6)


def test_alpaca_alignment_of_incomplete_files(tmp_path: Path) -> None:
    """phi-2 has 803 rows: 4.399 by position as published, 3.89 by instruction (reference section 8)."""
    file = str(alpaca_files(tmp_path, {"phi-2"})[0])
    found = {}
    for align in ("position", "instruction"):
        arguments = ["--benchmark", "alpaca_eval", "--out", str(tmp_path), "--data", str(ALPACA), "--align", align]
        cli.leaderboard([*arguments, "--resamples", "5", "--annotations", file])
        found[align] = float(read_csv(tmp_path / "leaderboard.csv")["phi-2"]["lc_win_rate"])
    assert found["position"] == pytest.approx(4.398682, abs=0.02)
    assert found["instruction"] == pytest.approx(3.89, abs=0.02)


def test_alpaca_from_published_weights() -> None:
    """Of 199 models 189 to 1e-4; the others are the incomplete files, dbrx-instruct and NullModel (reference 1.6)."""
    side = read_side_files(ALPACA)
    assert side is not None
    gaps = {}
    for row in table("alpaca_eval/leaderboard_full.csv"):
        if row[""] in side.weights:
            rate = rate_from_weights(side.weights[row[""]], side.difficulty)
            gaps[row[""]] = abs(rate - float(row["length_controlled_winrate"]))
    assert len(gaps) == 199
    assert sum(gap < 1e-4 for gap in gaps.values()) >= 189
    assert max(gaps.values()) < 0.2
    odd = {row["generator"] for row in table("alpaca_eval/published_dev.csv") if int(row["n_annotations"]) < 805}
    assert all(gaps[row["generator"]] < 1e-4 for row in table("alpaca_eval/published_dev.csv")
               if row["generator"] in gaps and row["generator"] not in odd)  # fmt: skip


def _annotations(model: str) -> list[dict[str, Any]]:
    own = [r for r in parquet("alpaca_eval/annotations_dev.parquet") if r["generator"] == model]
    return sorted(own, key=lambda r: r["row"])


def _rows(model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = _annotations(model)
    y = np.array([r["preference"] - 1 for r in rows])
    gap = np.array([r["len_1"] - r["len_2"] for r in rows], dtype=float)
    return y, gap, np.array([r["row"] for r in rows])


def test_alpaca_with_an_unknown_c() -> None:
    """One C for every model: within 0.12 of the published rate, with the solver at its optimum (an unconverged fit is
    off by 0.2)."""
    side = read_side_files(ALPACA)
    assert side is not None
    for row in table("alpaca_eval/published_dev.csv"):
        if row["glm_C"]:
            y, gap, rows = _rows(row["generator"])
            problem = lc.build_problem(y, gap, side.difficulty[rows], side.gamed)
            w = lc.fit(problem, lc.FALLBACK_C)
            assert lc.violation(problem, w, lc.FALLBACK_C) < 1e-5
            rate = rate_from_weights(w, side.difficulty[rows])
            assert rate == pytest.approx(float(row["length_controlled_winrate"]), abs=0.12)


def test_alpaca_models_that_nobody_published(tmp_path: Path) -> None:
    """A name that the side files do not know is fitted with the fallback, one C for all with --lc-c."""
    rows = json.loads(alpaca_files(tmp_path, {"claude-2.1"})[0].read_text())
    path = tmp_path / "new.json"
    path.write_text(json.dumps([{**row, "generator_2": "new"} for row in rows]))
    arguments = ["--benchmark", "alpaca_eval", "--out", str(tmp_path), "--data", str(ALPACA), "--resamples", "5"]
    for choice, c in (("published", lc.FALLBACK_C), ("166.8", 166.8)):
        cli.leaderboard([*arguments, "--lc-c", choice, "--annotations", str(path)])
        found = read_csv(tmp_path / "leaderboard.csv")["new"]
        assert float(found["lc_c"]) == pytest.approx(c)
        assert float(found["lc_win_rate"]) == pytest.approx(25.252, abs=0.12)


@pytest.mark.slow
@pytest.mark.parity
def test_alpaca_cross_validated_is_the_packages_own() -> None:
    """Every model through alpaca_eval itself (its two files given, cross-validated C) and through ours: 0.02 points.
    The published rates are within 0.2."""
    side = read_side_files(ALPACA)
    assert side is not None
    upstream = length_controlled_winrate(ALPACA)
    for row in table("alpaca_eval/published_dev.csv"):
        model = row["generator"]
        if model == "gpt4_1106_preview":
            continue
        y, gap, places = _rows(model)
        problem = lc.build_problem(y, gap, side.difficulty[places], side.gamed)
        ours = rate_from_weights(lc.fit(problem, lc.choose_c(problem)), side.difficulty[places])
        names = {"generator_1": "gpt4_1106_preview", "generator_2": model, "annotator": "weighted"}
        annotations = [
            {**names, "output_1": "b" * r["len_1"], "output_2": "m" * r["len_2"], "preference": r["preference"]}
            for r in _annotations(model)
        ]
        assert ours == pytest.approx(upstream(annotations)["length_controlled_winrate"], abs=0.02)
        assert ours == pytest.approx(float(row["length_controlled_winrate"]), abs=0.2)


def test_alpaca_cv_is_what_the_command_uses(tmp_path: Path) -> None:
    side = read_side_files(ALPACA)
    assert side is not None
    file = str(alpaca_files(tmp_path, {"vicuna-13b"})[0])
    arguments = ["--benchmark", "alpaca_eval", "--out", str(tmp_path), "--data", str(ALPACA), "--lc-c", "cv"]
    cli.leaderboard([*arguments, "--resamples", "5", "--annotations", file])
    y, gap, rows = _rows("vicuna-13b")
    problem = lc.build_problem(y, gap, side.difficulty[rows], side.gamed)
    assert float(read_csv(tmp_path / "leaderboard.csv")["vicuna-13b"]["lc_c"]) == lc.choose_c(problem)


@pytest.mark.parametrize(
    ("model", "error", "low", "high"),
    [
        ("alpaca-7b", 1.00, 4.0, 7.8),
        ("claude-2.1", 1.74, 21.9, 28.6),
        ("gpt-3.5-turbo-1106", 1.56, 16.4, 22.8),
        ("gemma-7b-it", 1.12, 8.3, 12.5),
        ("FuseChat-Llama-3.1-8B-Instruct", 1.41, 62.6, 67.8),
        ("gpt4_gamed", 2.12, 8.2, 16.5),
    ],
)
def test_alpaca_lc_interval(model: str, error: float, low: float, high: float) -> None:
    """The bootstrap of reference section 1.8 (300 resamples of another generator: half a point of noise)."""
    side = read_side_files(ALPACA)
    assert side is not None
    y, gap, rows = _rows(model)
    counts = resample_counts(len(y), 1000, 0)
    found = length_controlled(y, gap, side.difficulty[rows], side.gamed, counts, c=side.c[model])
    assert float(np.std(found.draws, ddof=1)) == pytest.approx(error, rel=0.13)  # three standard errors of 300 draws
    assert found.low == pytest.approx(low, abs=0.7)
    assert found.high == pytest.approx(high, abs=0.7)


def test_alpaca_without_gamed_rows_is_points_away() -> None:
    """Reference 1.7: the gamed rows matter; without them gpt4_gamed is off by 13.6 points at C = 21.5."""
    side = read_side_files(ALPACA)
    assert side is not None
    y, gap, rows = _rows("gpt4_gamed")
    counts = np.ones((1, len(y)))
    found = length_controlled(y, gap, side.difficulty[rows], GamedRows(), counts, c=21.544347)
    assert abs(found.rate - 12.188764) == pytest.approx(13.6, abs=0.1)


def test_alpaca_original_files_of_both_flavours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--benchmark",
        "alpaca_eval",
        "--out",
        str(tmp_path),
        "--data",
        str(ALPACA),
        "--resamples",
        "10",
        "--json",
    ]
    files = sorted(str(f) for f in (ALPACA / "annotations_raw").glob("*.gz"))
    assert cli.leaderboard([*arguments, "--annotations", *files]) == 0
    document = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in document["rows"]]
    assert names == ["FuseChat-Gemma-2-9B-Instruct", "claude-2.1_concise"]
    first, second = document["rows"]
    assert (first["win_rate"], first["lc_win_rate"]) == pytest.approx((70.497135, 70.181063), abs=0.02)
    assert (second["win_rate"], second["lc_win_rate"]) == pytest.approx((9.227125, 18.208458), abs=0.02)
    assert (first["avg_length"], second["avg_length"]) == (2155, 573)
    assert document["columns"] == [
        *("name", "score", "score_low", "score_high", "n", "n_failed", "avg_length", "judge", "template_hash"),
        *("data_revision", "win_rate", "standard_error", "discrete_win_rate", "lc_win_rate", "lc_low", "lc_high"),
        "lc_c",
    ]


def test_scoring_needs_neither_torch_nor_the_network(tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "socket.socket.connect = None\n"
        "from leaderboard.cli import leaderboard\n"
        "assert leaderboard(sys.argv[1:]) == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    file = alpaca_files(tmp_path, {"claude-2.1"})[0]
    arguments = [
        "--benchmark",
        "alpaca_eval",
        "--data",
        str(ALPACA),
        "--resamples",
        "5",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--annotations", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "claude-2.1" in done.stdout


def test_alpaca_with_the_hubs_own_file_names(tmp_path: Path) -> None:
    """df_gamed.csv alone holds difficulty too; without a list of instructions only complete files can be aligned."""
    side = tmp_path / "hub"
    side.mkdir()
    os.symlink(ALPACA / "df_gamed_reconstructed.csv", side / "df_gamed.csv")
    arguments = ["--benchmark", "alpaca_eval", "--out", str(tmp_path), "--data", str(side), "--lc-c", "21.544347"]
    full, short = (str(alpaca_files(tmp_path, {model})[0]) for model in ("alpaca-7b",) * 2)
    cli.leaderboard([*arguments, "--resamples", "5", "--annotations", full])
    found = float(read_csv(tmp_path / "leaderboard.csv")["alpaca-7b"]["lc_win_rate"])
    assert found == pytest.approx(5.875487, abs=0.02)
    Path(short).write_text(json.dumps(json.loads(Path(full).read_text())[:-1]))
    with pytest.raises(DataError, match="804 of 805 rows"):
        cli.leaderboard([*arguments, "--resamples", "5", "--annotations", short])
    cli.leaderboard([*arguments, "--resamples", "5", "--align", "position", "--annotations", short])
    assert read_csv(tmp_path / "leaderboard.csv")["alpaca-7b"]["n"] == "804"


def test_alpaca_unknown_instruction_is_named(tmp_path: Path) -> None:
    file = alpaca_files(tmp_path, {"alpaca-7b"})[0]
    rows = json.loads(file.read_text())
    rows[7]["instruction"] = "Something else"
    file.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"0.json, row 8, field 'instruction'.*Something else"):
        cli.leaderboard(
            ["--benchmark", "alpaca_eval", "--data", str(ALPACA), "--out", str(tmp_path), "--annotations", str(file)]
        )
