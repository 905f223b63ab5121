"""When a round warns, and when it keeps quiet."""

from __future__ import annotations

import numpy as np

from alignment.alarms import running_lengths, transitive_oracle, unreachable_targets
from prefeval.games import open_game


def test_targets_that_no_fit_reaches() -> None:
    table = np.array([[0.5, 0.9], [0.1, 0.5]])  # win rates with itself 0.7 and 0.3: a spread of 0.4
    assert unreachable_targets(70.0, [table] * 3) is None
    told = unreachable_targets(200.0, [table, table, np.full((2, 2), np.nan)])
    assert told is not None
    assert "about 80 nats" in told
    assert unreachable_targets(200.0, []) is None


def test_an_oracle_that_ranks() -> None:
    ranking, cyclic = open_game("bt10").P, open_game("rand10:0").P  # 120 triples each
    told = transitive_oracle([ranking, ranking])
    assert told is not None
    assert "no circle among 240 triples" in told
    assert transitive_oracle([ranking]) is None  # too few to tell
    assert transitive_oracle([ranking, ranking, cyclic]) is None


def test_lengths_that_run_away() -> None:
    assert running_lengths(40.0, 60.0) is None
    assert running_lengths(40.0, 61.0) == "replies have grown from 40 to 61 tokens since the first round"
