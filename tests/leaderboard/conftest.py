"""Boards over the real benchmark data, scored once for all tests that look at them."""

from __future__ import annotations

from pathlib import Path

import pytest
from leaderboard_data import DATA, KO_BASELINE, alpaca_files, ko_files, mt_file, read_csv

from leaderboard import cli

Board = dict[str, dict[str, str]]


def scored(folder: Path, benchmark: str, files: list[Path], *arguments: str) -> Board:
    """Rows of `prefeval leaderboard` by model name; the folder keeps what it wrote under out/."""
    argv = ["--benchmark", benchmark, "--out", str(folder / "out"), "--compare", "0", *arguments]
    assert cli.leaderboard([*argv, "--annotations", *(str(f) for f in files)]) == 0
    return read_csv(folder / "out" / "leaderboard.csv")


@pytest.fixture(scope="session")
def alpaca_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alpaca")
    alpaca_files(folder)
    return folder


@pytest.fixture(scope="session")
def alpaca(alpaca_folder: Path) -> Board:
    """All published models of the data, by position as the published numbers were made."""
    files = sorted(alpaca_folder.glob("*.json"))
    return scored(alpaca_folder, "alpaca_eval", files, "--data", str(DATA / "alpaca_eval"), "--align", "position",
                  "--resamples", "100")  # fmt: skip


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Board:
    folder = tmp_path_factory.mktemp("arena")
    return scored(folder, "arena_hard", ko_files(folder), "--baseline", KO_BASELINE, "--resamples", "200")


@pytest.fixture(scope="session")
def mt_bench(tmp_path_factory: pytest.TempPathFactory) -> Board:
    folder = tmp_path_factory.mktemp("mt")
    return scored(folder, "mt_bench", [mt_file(folder)], "--resamples", "200")
