"""Tables 13.5 A to C of the algorithms reference through `prefeval game`, and what they say of matrices never seen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefeval import cli
from prefeval.games import duality_gap, nash_lp, open_game, regularised_gap, regularised_nash
from prefeval.oracle import sigmoid_matrix

# gap of the average at T = 65536, multiplicative weights and ONPO, as printed in table A
GAMES = {
    "rps": (1.0e-2, 5.4e-5),
    "cyc3": (1.7e-3, 2.9e-5),
    "rand10:0": (7.5e-3, 8.0e-5),
    "rand10:1": (1.0e-2, 1.2e-4),
    "rand10:2": (8.6e-3, 1.8e-4),
    "bt10": (1.0e-2, 1.5e-4),
}
CYCLIC = [name for name in GAMES if name != "bt10"]


def rows(capsys: pytest.CaptureFixture[str], **options: Any) -> list[dict[str, Any]]:
    argv = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert cli.main(["game", *argv, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def check_averages(game: str, last: int, capsys: pytest.CaptureFixture[str]) -> tuple[float, float]:
    """Slopes of log gap against log T from T = 256 on and the bounds; (gap MWU, gap ONPO) at the last horizon.

    The step of multiplicative weights (INPO at tau = 0) belongs to one horizon, ONPO's to all of them.
    """
    d = float(np.max(-np.log(open_game(game).start)))
    horizons = [2**k for k in range(8, last + 1)]
    mwu = []
    for horizon in horizons:
        step = math.sqrt(d / horizon)
        play = rows(capsys, game=game, algorithm="inpo", tau=0, step=step, rounds=horizon, rows="last")
        mwu.append(play[-1]["gap_average"])
        assert mwu[-1] <= 4 * math.sqrt(d / horizon)
    step = min(0.5, math.sqrt(d))
    play = rows(capsys, game=game, algorithm="onpo", step=step, rounds=horizons[-1], rows="powers")
    assert [r["round"] for r in play] == [2**k for k in range(last + 1)]
    assert all(r["gap_average"] <= 4 * max(d, math.sqrt(d)) / r["round"] for r in play[5:])
    onpo = [r["gap_average"] for r in play[8:]]
    slopes = [float(np.polyfit(np.log(horizons), np.log(gaps), 1)[0]) for gaps in (mwu, onpo)]
    assert -0.9 <= slopes[0] <= -0.35
    assert -1.15 <= slopes[1] <= -0.9
    return mwu[-1], onpo[-1]


@pytest.mark.parametrize("game", ["rps", pytest.param("rand10:0", marks=pytest.mark.slow)])
def test_table_a_rates_of_the_average(game: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_averages(game, 13, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_table_a_up_to_its_last_row(game: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The table averages the policies that were played, the start among them; a row's average begins after one update.

    At 65,536 rounds one policy more or less is up to a fifth of ONPO's gap.
    """
    mwu, _ = check_averages(game, 16, capsys)
    found = open_game(game)
    step = min(0.5, math.sqrt(float(np.max(-np.log(found.start)))))
    play = rows(capsys, game=game, algorithm="onpo", step=step, rounds=2**16 - 1, rows="all")
    average = np.mean([found.start, *(r["policy"] for r in play)], axis=0)
    gap = 2 * float((found.P @ average).max()) - 1
    assert (mwu, gap) == pytest.approx(GAMES[game], rel=0.06)  # two digits are printed


@pytest.mark.slow  # test_tabular.py has the table's digits; this is the command
@pytest.mark.parametrize("game", CYCLIC)
def test_table_b_who_converges_in_the_last_iterate(game: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Multiplicative weights end at the border; optimism, mirror prox and moving magnets come to the equilibrium."""
    common: dict[str, Any] = {"game": game, "rounds": 6000, "rows": "powers"}
    mwu = rows(capsys, algorithm="omd", step=0.5, **common)
    assert max(r["gap"] for r in mwu[-3:]) > 0.25
    for algorithm, options in {
        "onpo": {"step": 1.0},
        "mirror_prox": {"step": 2.0},
        "mpo": {"step": 0.5, "set": "alpha=0.1"},
        "comal": {"step": 0.5, "tau": 0.1, "set": "refresh=100"},
        "onpo_magnet": {"step": 1.0, "set": "alpha=0.05"},
    }.items():
        play = rows(capsys, algorithm=algorithm, **options, **common)
        assert play[-1]["gap"] < 0.05, algorithm  # MPO on rand10:0 is the slowest: off-support responses must die first
    biased = rows(capsys, algorithm="inpo", step=0.5, tau=0.1, **common)  # it never leaves the regularised equilibrium
    assert biased[-1]["gap"] == pytest.approx(biased[-3]["gap"], abs=1e-3)
    assert biased[-1]["gap"] > 0.05


@pytest.mark.parametrize("game", CYCLIC)
@pytest.mark.slow
def test_table_c_who_converges_in_the_regularised_game(game: str, capsys: pytest.CaptureFixture[str]) -> None:
    common: dict[str, Any] = {"game": game, "tau": 0.02, "rounds": 1200, "rows": "powers"}
    cycling = rows(capsys, algorithm="inpo", step=1 / 0.06, **common)  # the paper's ratio: step tau = 1/3
    assert min(r["gap_regularised"] for r in cycling[-3:]) > 0.2
    table = open_game(game)
    nash = regularised_nash(table.P, 0.02, table.start)
    for algorithm, step in {"egpo": 2.0, "nash_mp": 0.04, "onpo": 1.0}.items():
        play = rows(capsys, algorithm=algorithm, step=step, **common)
        assert play[-1]["gap_regularised"] < 1e-9, algorithm
        np.testing.assert_allclose(play[-1]["policy"], nash, atol=1e-4)


@pytest.mark.parametrize("seed", [11, *(pytest.param(n, marks=pytest.mark.slow) for n in (12, 13))])
def test_unseen_matrices(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A circle of five with random odds, in a file: equilibria by linear program and by fixed point are reached."""
    draw = np.random.default_rng(seed)
    odds = np.zeros((5, 5))
    for i in range(5):
        odds[i, (i + 1) % 5], odds[i, (i + 2) % 5] = draw.uniform(0.5, 2.5, size=2)
    P = sigmoid_matrix(odds - odds.T)
    file = tmp_path / "unseen.csv"
    np.savetxt(file, P, delimiter=",", fmt="%.17g")
    start = draw.dirichlet(np.full(5, 5.0))
    common: dict[str, Any] = {"game": file, "start": ",".join(map(repr, start.tolist())), "rows": "powers"}
    mwu = rows(capsys, algorithm="omd", step=0.5, rounds=5000, **common)
    onpo = rows(capsys, algorithm="onpo", step=1.0, rounds=20000, **common)
    assert max(r["gap"] for r in mwu[-3:]) > 0.2
    assert onpo[-1]["gap"] < 5e-3
    value = nash_lp(P)
    assert duality_gap(value, P) < 1e-9
    assert np.max(P @ np.asarray(onpo[-1]["policy"])) - np.max(P @ value) < 5e-3
    egpo = rows(capsys, algorithm="egpo", step=1.0, tau=0.05, rounds=800, **common)
    assert regularised_gap(np.asarray(egpo[-1]["policy"]), P, 0.05, start) < 1e-9
    np.testing.assert_allclose(egpo[-1]["policy"], regularised_nash(P, 0.05, start), atol=1e-5)
