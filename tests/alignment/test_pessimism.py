"""Training on lower-bound win rates: the table by hand, what its row means are, and an over-rated reply of a toy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from toys import random_table

from alignment.alarms import fixed_point
from alignment.algorithm import get_algorithm
from alignment.pessimism import Pessimistic, cautious
from alignment.tabular import play
from prefeval.errors import ConfigError
from prefeval.games import Game
from prefeval.oracle import Ensemble, Group, MatrixOracle, check_complementary, symmetrise
from prefeval.rules import open_rule
from prefeval.types import FloatArray, Prompt

PROMPT = Prompt.from_text("q", id="q")
REPLIES = ("good", "fair", "odd")


class Fixed(MatrixOracle):
    """A known P between the replies, in any order."""

    def __init__(self, name: str, P: Sequence[Sequence[float]]) -> None:
        self.name, self.P = name, symmetrise(np.array(P))

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        places = [[REPLIES.index(text) for text in group] for group in groups]
        return [self.P[np.ix_(place, place)] for place in places]


TRUTH = [[0.5, 0.7, 0.8], [0.3, 0.5, 0.6], [0.2, 0.4, 0.5]]
# The members agree on what good is against fair; two are taken in by the odd reply, one sees through it.
FOOLED = [[0.5, 0.7, 0.3], [0.3, 0.5, 0.15], [0.7, 0.85, 0.5]]
JUDGES = Ensemble([Fixed("a", FOOLED), Fixed("b", FOOLED), Fixed("c", TRUTH)])


def test_by_hand() -> None:
    P = np.array([[0.5, 0.7], [0.3, 0.5]])
    lower = np.array([[0.5, 0.4], [0.2, 0.5]])
    # c = (0.3 / 2, 0.1 / 2): T_01 = 0.7 - 0.1
    np.testing.assert_allclose(cautious(P, lower), [[0.5, 0.6], [0.4, 0.5]])
    np.testing.assert_allclose(cautious(P, P), P, atol=1e-15)
    np.testing.assert_allclose(cautious(P, P - 0.2 * (1 - np.eye(2))), P)  # equal doubt changes nothing
    np.testing.assert_allclose(
        cautious(np.array([[0.5, 0.1], [0.9, 0.5]]), np.array([[0.5, -0.5], [0.9, 0.5]]))[0, 1], 0
    )


def test_row_means_are_those_of_the_bound() -> None:
    """Up to one constant, for any bound that is narrow enough not to be cut at 0 or 1; a failed verdict stays one."""
    P = 0.4 + 0.2 * random_table(5, 3)
    P = symmetrise(P)
    lower = P - 0.1 * np.random.default_rng(0).random((5, 5)) * (1 - np.eye(5))
    table = cautious(P, lower)
    check_complementary(table, "pessimistic")
    shift = table.mean(axis=1) - lower.mean(axis=1)
    np.testing.assert_allclose(shift, shift[0], atol=1e-12)
    assert np.ptp(P.mean(axis=1) - lower.mean(axis=1)) > 0.01
    P[1, 3] = P[3, 1] = np.nan
    gap = cautious(P, lower)
    assert np.isnan(gap).sum() == 2
    check_complementary(gap, "pessimistic")


def test_a_bound_made_complementary_is_no_bound() -> None:
    """Why the penalty is a reply's and not a pair's."""
    (lower,) = JUDGES.lower([PROMPT], [REPLIES])
    np.testing.assert_allclose(symmetrise(lower), JUDGES.matrix([PROMPT], [REPLIES])[0], atol=1e-12)


@pytest.mark.parametrize("name", ["dpo", "inpo", "onpo", "rloo", "expert_iteration"])
def test_an_over_rated_uncertain_reply_is_avoided(name: str) -> None:
    """On average the odd reply is the favourite, and it loses against everyone; the members disagree on it alone."""
    options = {"inpo": {"step": 2.0, "tau": 0.05}, "dpo": {"step": 10.0}, "expert_iteration": {"best_of": 2}}
    options |= {"onpo": {"step": 1.0}, "rloo": {"step": 2.0}}
    last = {}
    for width in (0.0, 1.5):
        (P,) = Pessimistic(JUDGES, width).matrix([PROMPT], [REPLIES])
        check_complementary(P, "toy")
        *_, row = play(get_algorithm(name, **options[name]), Game("toy", P, np.full(3, 1 / 3)), 200)
        last[width] = row.policy
    assert np.argmax(last[0.0]) == REPLIES.index("odd")
    assert np.argmax(last[1.5]) == REPLIES.index("good")
    truth = np.array(TRUTH) @ last[0.0]
    assert last[1.5] @ truth > 0.6  # a truthful judge prefers the cautious policy


def test_what_pessimism_needs() -> None:
    with pytest.raises(ConfigError, match="rules:shorter has no bound"):
        Pessimistic(open_rule("shorter"), 1.0)
    oracle = Pessimistic(JUDGES, 0.5)
    assert oracle.name == f"pessimistic({JUDGES.name}, 0.5)"
    assert not hasattr(oracle, "lower")
    (line,) = fixed_point(get_algorithm("inpo"), 0, 0.0, 0.5)
    assert line.startswith("pessimism 0.5")
