"""The contract of `prefeval game`: lines, fields, exit codes, start-up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignment.algorithm import list_algorithms
from alignment.game_cli import game
from prefeval.games import open_game, regularised_gap


def lines(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    assert game([*argv, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    rows = lines(capsys, "--game", "rps", "--algorithm", "onpo", "--rounds", "4")
    assert [row["round"] for row in rows] == [1, 2, 3, 4]
    assert all(set(row) == {"round", "gap", "gap_average", "gap_regularised", "policy"} for row in rows)
    assert all(row["gap_regularised"] is None for row in rows)
    assert rows[0]["gap"] == rows[0]["gap_average"]
    # After one update ONPO plays start * exp(2 * 0.5 * P start), with the default step and start.
    rps = open_game("rps")
    p = rps.start * np.exp(rps.P @ rps.start)
    np.testing.assert_allclose(rows[0]["policy"], p / p.sum(), atol=1e-14)
    assert rows[0]["gap"] == pytest.approx(2 * np.max(rps.P @ (p / p.sum())) - 1, abs=1e-14)


def test_tau_gives_the_regularised_gap(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--game", "cyc3", "--algorithm", "inpo", "--tau", "0.1", "--rounds", "30"]
    rows = lines(capsys, *argv)
    cyc3 = open_game("cyc3")
    for row in rows:
        expected = regularised_gap(np.array(row["policy"]), cyc3.P, 0.1, cyc3.start)
        assert row["gap_regularised"] == pytest.approx(expected, abs=1e-12)
    assert rows[-1]["gap_regularised"] < rows[0]["gap_regularised"] / 10
    uniform = lines(capsys, *argv, "--ref", "0.2,0.2,0.6")
    assert uniform[-1]["policy"] != rows[-1]["policy"]
    assert uniform[-1]["gap_regularised"] < uniform[0]["gap_regularised"] / 10


def test_inpo_without_tau_and_sppo_are_the_same_play(capsys: pytest.CaptureFixture[str]) -> None:
    plain = lines(capsys, "--game", "rand10:1", "--algorithm", "sppo", "--rounds", "20", "--step", "0.3")
    inpo = lines(capsys, "--game", "rand10:1", "--algorithm", "inpo", "--rounds", "20", "--step", "0.3")
    np.testing.assert_allclose(plain[-1]["policy"], inpo[-1]["policy"], atol=1e-14)


def test_start_and_csv(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("0.5,1\n0,0.5\n")
    argv = ["--game", str(file), "--algorithm", "sppo", "--rounds", "1", "--step", "1"]
    p = lines(capsys, *argv)[0]["policy"]
    assert np.log(p[0] / p[1]) == pytest.approx(0.75 - 0.25)  # from uniform: win rates 3/4 and 1/4
    p = lines(capsys, *argv, "--start", "0.2,0.8")[0]["policy"]
    assert np.log(p[0] / p[1]) == pytest.approx(np.log(0.25) + 0.9 - 0.4)


def test_sampled_play(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--game", "rps", "--algorithm", "onpo", "--rounds", "3", "--sampled", "2000"]
    drawn, again = lines(capsys, *argv, "--seed", "4"), lines(capsys, *argv, "--seed", "4")
    assert drawn == again
    assert drawn != lines(capsys, *argv, "--seed", "5")
    exact = lines(capsys, *argv[:-2])
    np.testing.assert_allclose(drawn[-1]["policy"], exact[-1]["policy"], atol=0.03)
    assert lines(capsys, *argv, "--labels", "bernoulli") != drawn


def test_algorithm_options(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--game", "cyc3", "--algorithm", "onpo", "--rounds", "10"]
    two, one = lines(capsys, *argv), lines(capsys, *argv, "--set", "one_fit=true")
    np.testing.assert_allclose(one[-1]["policy"], two[-1]["policy"], atol=1e-13)
    hard = lines(capsys, *argv, "--labels", "hard")
    assert np.max(np.abs(np.subtract(hard[-1]["policy"], two[-1]["policy"]))) > 1e-2


def test_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert game(["--game", "rps", "--algorithm", "onpo", "--rounds", "12", "--tau", "0.1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["round", "gap", "average", "regularised", "policy"]
    assert [line.split()[0] for line in out[1:]] == ["1", "2", "5", "10", "12"]


@pytest.mark.parametrize(("name", "head"), [("g.svg", b"<?xml"), ("g.png", b"\x89PNG")])
def test_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, head: bytes) -> None:
    argv = ["--game", "rps", "--algorithm", "inpo", "--tau", "0.1", "--rounds", "5"]
    assert len(lines(capsys, *argv, "--plot", str(tmp_path / name))) == 5
    assert (tmp_path / name).read_bytes().startswith(head)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--game", "rsp"], "did you mean 'rps'"),
        (["--algorithm", "onpoo"], "did you mean 'onpo'"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--sampled", "0"], "--sampled must be at least 1"),
        (["--tau", "-1"], "--tau must be"),
        (["--step", "nan"], "--step must be"),
        (["--algorithm", "inpo", "--step", "5", "--tau", "1"], "must not exceed 1"),
        (["--start", "0.5,0.5"], "2 probabilities for a game of 3"),
        (["--start", "0.5,0.6,0.1"], "sum to 1"),
        (["--start", "1,0,0"], "must be positive"),
        (["--start", "a,b,c"], "expected numbers"),
        (["--set", "one_fit"], "expected OPTION=VALUE"),
        (["--set", "onefit=true"], "did you mean 'one_fit'"),
        (["--plot", "gap.jpg"], ".svg or .png"),
    ],
)
def test_bad_usage(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert game(["--game", "rps", "--algorithm", "onpo", "--json", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_bad_csv(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text("0.5,0.9\n0.3,0.5\n")
    assert game(["--game", str(file), "--algorithm", "onpo"]) == 2
    captured = capsys.readouterr()
    assert "bad.csv, row 1, field '2': 0.9 and 0.3 (row 2, column 1) must sum to 1" in captured.err
    assert captured.out == ""


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        game(["--game"])
    assert caught.value.code == 2
    for given, missing in ((["--game", "rps"], "--algorithm"), (["--algorithm", "onpo"], "--game")):
        capsys.readouterr()
        assert game(given) == 2
        assert capsys.readouterr().err == f"prefeval game: {missing} is missing\n"


def test_the_table_of_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert game(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(list_algorithms())
    assert next(x for x in lines if x.startswith("egpo ")).split()[1:3] == ["2503.08942", "regularised"]
    assert next(x for x in lines if x.startswith("mirror_prox ")).endswith("alias of egpo")
    assert next(x for x in lines if x.startswith("sppo ")).endswith("fixed points: test_algorithm_losses")
    for name in ("test_algorithms", "test_algorithm_losses"):
        assert (Path(__file__).parent / f"{name}.py").exists()


@pytest.mark.parametrize("name", [i.name for i in list_algorithms()])
def test_every_method_plays_with_the_default_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The contract: step 0.5 and tau 0 unless given, for every algorithm; Nash-MP alone has no update at tau 0.

    One-fit ONPO has no regularised form.
    """
    for tau in ("0",) if name == "onpo_one_fit" else ("0", "0.1"):
        code = game(["--game", "cyc3", "--algorithm", name, "--tau", tau, "--rounds", "3", "--json"])
        captured = capsys.readouterr()
        if name == "nash_mp" and tau == "0":
            assert code == 2
            assert "tau must be a positive number" in captured.err
        elif name in ("irft", "spin", "sapo"):
            assert code == 2
            assert "learns from demonstrations, and a matrix game has none" in captured.err
        else:
            assert code == 0, captured.err
            assert len(captured.out.splitlines()) == 3


def test_exact_play_imports_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; from alignment.game_cli import game; "
        "game(['--game', 'rps', '--algorithm', 'onpo', '--rounds', '2', '--json']); "
        "sys.exit(len({'torch', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_rows_choose_what_is_measured_not_what_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--game", "cyc3", "--algorithm", "onpo", "--rounds", "11"]
    every, powers, last = (lines(capsys, *argv, "--rows", rows) for rows in ("all", "powers", "last"))
    assert every == lines(capsys, *argv)
    assert powers == [every[n - 1] for n in (1, 2, 4, 8, 11)]
    assert last == every[-1:]
    assert game([*argv, "--rows", "powers"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["1", "2", "4", "8", "11"]
