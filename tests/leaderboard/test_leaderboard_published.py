"""Published numbers, recomputed from real verdicts by `prefeval leaderboard` (reference/benchmarks.md section 8)."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from leaderboard_data import DATA, KO_BASELINE, alpaca_files, ko_files, mt_file, needs_data, parquet, read_csv, table

from leaderboard import cli
from leaderboard.lc_bootstrap import length_controlled
from leaderboard.length_control import (
    GamedRows,
    build_problem,
    choose_c,
    fit,
    rate_from_weights,
)
from leaderboard.side_files import read_side_files
from prefeval.errors import DataError
from prefeval.stats import resample_counts

pytestmark = needs_data
ALPACA = DATA / "alpaca_eval"


@pytest.fixture(scope="module")
def alpaca(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("alpaca")
    files = [str(f) for f in alpaca_files(folder)]
    arguments = ["--benchmark", "alpaca_eval", "--out", str(folder / "out"), "--data", str(ALPACA)]
    assert cli.leaderboard([*arguments, "--align", "position", "--resamples", "20", "--annotations", *files]) == 0
    return read_csv(folder / "out" / "leaderboard.csv")


def test_alpaca_raw_columns_are_the_published_ones(alpaca: dict[str, dict[str, str]]) -> None:
    published = table("alpaca_eval/published_dev.csv")
    assert set(alpaca) == {row["generator"] for row in published}
    for row in published:
        ours = alpaca[row["generator"]]
        assert float(ours["win_rate"]) == pytest.approx(float(row["win_rate"]), abs=1e-6)
        assert float(ours["standard_error"]) == pytest.approx(float(row["standard_error"]), abs=1e-6)
        assert float(ours["discrete_win_rate"]) == pytest.approx(float(row["discrete_win_rate"]), abs=1e-6)
        assert int(ours["n"]) == int(row["n_total"])


def test_alpaca_counts(alpaca: dict[str, dict[str, str]], tmp_path: Path) -> None:
    file = alpaca_files(tmp_path, {"claude-2.1"})[0]
    cli.leaderboard(
        ["--benchmark", "alpaca_eval", "--out", str(tmp_path), "--resamples", "5", "--annotations", str(file)]
    )
    breakdown = json.loads((tmp_path / "leaderboard.json").read_text())["rows"][0]["breakdown"]
    assert (breakdown["n_wins"], breakdown["n_wins_base"], breakdown["n_draws"]) == (115, 688, 2)
    assert sum(d["n"] for d in breakdown["datasets"].values()) == 805
    assert breakdown["datasets"]["vicuna"]["n"] == 80


def test_alpaca_length_controlled_is_the_published_one(alpaca: dict[str, dict[str, str]]) -> None:
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
    side = read_side_files(ALPACA)
    assert side is not None
    checked = 0
    for row in table("alpaca_eval/published_dev.csv"):
        if row["generator"] in side.weights and int(row["n_annotations"]) == 805:
            rate = rate_from_weights(side.weights[row["generator"]], side.difficulty)
            assert rate == pytest.approx(float(row["length_controlled_winrate"]), abs=1e-4)
            checked += 1
    assert checked >= 12


def _rows(model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = sorted(
        (r for r in parquet("alpaca_eval/annotations_dev.parquet") if r["generator"] == model), key=lambda r: r["row"]
    )
    y = np.array([r["preference"] - 1 for r in rows])
    gap = np.array([r["len_1"] - r["len_2"] for r in rows], dtype=float)
    return y, gap, np.array([r["row"] for r in rows])


@pytest.mark.parametrize("model", ["claude-2.1", "FuseChat-Gemma-2-9B-Instruct", "gpt4_gamed", "gpt-3.5-turbo-1106"])
def test_alpaca_with_cross_validated_c(model: str) -> None:
    side = read_side_files(ALPACA)
    assert side is not None
    y, gap, rows = _rows(model)
    problem = build_problem(y, gap, side.difficulty[rows], side.gamed)
    rate = rate_from_weights(fit(problem, choose_c(problem)), side.difficulty[rows])
    published = {r["generator"]: float(r["length_controlled_winrate"]) for r in table("alpaca_eval/published_dev.csv")}
    assert rate == pytest.approx(published[model], abs=0.2)


@pytest.mark.parametrize(("model", "low", "high"), [("claude-2.1", 21.9, 28.6), ("alpaca-7b", 4.0, 7.8)])
def test_alpaca_lc_interval(model: str, low: float, high: float) -> None:
    """The bootstrap intervals of reference section 1.8 (300 resamples of another generator: half a point of noise)."""
    side = read_side_files(ALPACA)
    assert side is not None
    y, gap, rows = _rows(model)
    counts = resample_counts(len(y), 1000, 0)
    found = length_controlled(y, gap, side.difficulty[rows], side.gamed, counts, c=side.c[model])
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
        *(
            "data_revision",
            "win_rate",
            "standard_error",
            "discrete_win_rate",
            "lc_win_rate",
            "lc_low",
            "lc_high",
            "lc_c",
        ),
    ]


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("arena")
    files = [str(f) for f in ko_files(folder)]
    arguments = ["--benchmark", "arena_hard", "--out", str(folder / "out"), "--baseline", KO_BASELINE]
    assert cli.leaderboard([*arguments, "--resamples", "100", "--annotations", *files]) == 0
    return read_csv(folder / "out" / "leaderboard.csv")


def test_arena_score_is_the_published_one(arena: dict[str, dict[str, str]]) -> None:
    published = table("arena_hard/ko_v0.1/ko_leaderboard_20250423_no_control_dev.csv")
    assert set(arena) == {row["model"] for row in published}
    for row in published:
        assert float(arena[row["model"]]["score"]) == pytest.approx(float(row["score"]), abs=0.0051)
    assert {row["n"] for row in arena.values()} == {"500"}


def test_arena_style_control_is_the_reference(arena: dict[str, dict[str, str]]) -> None:
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


def test_arena_style_control_ranks_as_published(arena: dict[str, dict[str, str]]) -> None:
    from scipy.stats import spearmanr

    published = table("arena_hard/ko_v0.1/ko_leaderboard_20250423_style_control_dev.csv")
    pairs = [
        (float(r["score"]), float(arena[r["model"]]["style_controlled"]))
        for r in published
        if arena[r["model"]]["style_controlled"]
    ]
    assert len(pairs) >= 25
    assert spearmanr(*zip(*pairs, strict=True)).statistic > 0.99


def test_arena_intervals_are_wider_than_upstreams_row_bootstrap(arena: dict[str, dict[str, str]]) -> None:
    """Reference 2.4: cluster SE / row SE has a median of 1.71 over the pool; published rows are narrower still."""
    published = {r["model"]: r for r in table("arena_hard/ko_v0.1/ko_leaderboard_20250423_no_control_dev.csv")}
    ratios = []
    for name, ours in arena.items():
        if name != KO_BASELINE:
            theirs = float(published[name]["rating_q975"]) - float(published[name]["rating_q025"])
            ratios.append((float(ours["score_high"]) - float(ours["score_low"])) / theirs)
    assert 1.3 < float(np.median(ratios)) < 3.0


def test_mt_bench_is_the_published_one(tmp_path: Path) -> None:
    arguments = ["--benchmark", "mt_bench", "--out", str(tmp_path), "--resamples", "200"]
    assert cli.leaderboard([*arguments, "--annotations", str(mt_file(tmp_path))]) == 0
    ours = read_csv(tmp_path / "leaderboard.csv")
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
    import gzip

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


def test_alpaca_with_the_hubs_own_file_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
