"""Calibration and evaluation against hand-counted fixtures and closed forms (reference 5.3, 5.4; section 9)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from prefeval.oracle import Group, MatrixOracle, PairwiseRule
from prefeval.types import FloatArray, PairLabel, PreferenceRecord, Prompt
from reward_models.calibrate import brier_terms, ece, expit, fit_temperature, nll_terms
from reward_models.cyclicity import gold_matrix
from reward_models.evaluate import cyclic_triple_accuracy, evaluate

CONTRACT = (
    "accuracy accuracy_low accuracy_high n n_dropped brier ece nll tau length_only_accuracy accuracy_longer "
    "accuracy_shorter cycle_rate curl_ratio"
)


def record(name: str, responses: Sequence[str], pairs: Sequence[PairLabel], **meta: str) -> PreferenceRecord:
    return PreferenceRecord(
        name, Prompt.from_text(f"question {name}", id=name), tuple(responses), tuple(pairs), meta=meta
    )


def longer_wins(prompt: Prompt, a: str, b: str) -> float:
    return 0.5 + 0.4 * float(np.sign(len(a) - len(b)))


LENGTH = PairwiseRule("longer", longer_wins)


class Cyclic(MatrixOracle):
    """a beats b beats c beats a, all with probability 0.9."""

    name = "cyclic"

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        def p(x: str, y: str) -> float:
            return 0.5 if x == y else 0.9 if x + y in ("ab", "bc", "ca") else 0.1

        return [np.array([[p(x, y) for y in g] for x in g]) for g in groups]


def test_temperature_restores_scaled_logits() -> None:
    rng = np.random.default_rng(0)
    s = rng.normal(0, 2, 40000)
    y = (rng.random(40000) < expit(s)).astype(float)
    assert fit_temperature(s, y) == pytest.approx(1.0, abs=0.03)
    assert fit_temperature(3 * s, y) == pytest.approx(3.0, abs=0.09)
    assert fit_temperature(3 * s, y) == pytest.approx(3 * fit_temperature(s, y), rel=1e-9)


def test_temperature_has_a_closed_form_for_one_score() -> None:
    # 80% right at |s| = 2: sigmoid(2 / tau) = 0.8
    s, y = np.array([2.0] * 4 + [-2.0]), np.ones(5)
    assert fit_temperature(s, y) == pytest.approx(2.0 / math.log(4.0), rel=1e-9)
    # always right, one pseudo-pair: sigmoid(a |s|) = n / (n + 1)
    assert fit_temperature(np.full(9, 2.0), np.ones(9), pseudo_pairs=1.0) == pytest.approx(2 / math.log(9), rel=1e-9)
    assert fit_temperature(np.zeros(3), np.ones(3)) == 1.0
    assert fit_temperature(np.zeros(0), np.zeros(0)) == 1.0


def test_chance_and_hand_counted_calibration() -> None:
    y = np.array([0.0, 1.0, 1.0, 0.0])
    half = np.full(4, 0.5)
    assert brier_terms(half, y).mean() == 0.25
    assert nll_terms(np.zeros(4), y).mean() == pytest.approx(0.693147, abs=1e-6)
    assert nll_terms(np.array([1e4]), np.array([0.0]))[0] == 1e4
    # two bins: 0.9 twice with one hit (gap 0.4), 0.1 twice with none (gap 0.1)
    p = np.array([0.9, 0.9, 0.1, 0.1])
    assert ece(p, np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert ece(np.array([1.0]), np.array([1.0])) == 0.0


def fixture_records() -> list[PreferenceRecord]:
    long, short, middle = "a long answer", "short", "middling"
    return [
        record("1", (long, short), [PairLabel(0, 1)], subset="easy"),  # longer wins: right
        record("2", (short, long), [PairLabel(1, 0, 0.8)], subset="easy"),  # right, soft
        record("3", (short, long), [PairLabel(0, 1)], subset="hard"),  # shorter wins: wrong
        record("4", (short, long), [PairLabel(0, 1, 0.5)], subset="hard"),  # a tie
        record(
            "5", (long, middle, short), [PairLabel(0, 1), PairLabel(1, 2), PairLabel(2, 0)], subset="hard"
        ),  # 2 of 3
        record("6", (short, "trohs"), [PairLabel(1, 0)], subset="even"),  # equal lengths: 1/2
    ]


def test_metrics_of_a_hand_counted_fixture() -> None:
    m = evaluate(LENGTH, fixture_records(), seed=1)
    assert set(CONTRACT.split()) <= set(m)
    assert (m["n"], m["n_dropped"], m["n_ties"]) == (7, 0, 1)
    assert m["accuracy"] == pytest.approx((1 + 1 + 0 + 2 + 0.5) / 7)
    assert m["accuracy_low"] <= m["accuracy"] <= m["accuracy_high"]
    assert m["length_only_accuracy"] == pytest.approx(m["accuracy"])
    assert (m["accuracy_longer"], m["accuracy_shorter"]) == (1.0, 0.0)
    # |p - y| is 0.1 (3 times), 0.1 (soft: 0.9 against 0.8), 0.9 (twice), 0.5, in whichever orientation
    assert m["brier"] == pytest.approx((4 * 0.01 + 2 * 0.81 + 0.25) / 7)
    right, wrong = -math.log(0.9), -math.log(0.1)
    soft = -0.8 * math.log(0.9) - 0.2 * math.log(0.1)
    assert m["nll"] == pytest.approx((3 * right + soft + 2 * wrong + math.log(2)) / 7)
    assert (m["cycle_rate"], m["n_cycle_records"]) == (0.0, 1)
    rows = {row["subset"]: row for row in m["subsets"]}
    assert (rows["easy"]["accuracy"], rows["easy"]["n"]) == (1.0, 2)
    assert (rows["hard"]["accuracy"], rows["hard"]["n"]) == (0.5, 4)


def test_accuracy_does_not_depend_on_the_orientation_seed_and_labels_are_balanced() -> None:
    records = [record(str(n), ("longer one", "no"), [PairLabel(0, 1)]) for n in range(400)]
    first, second = (evaluate(LENGTH, records, seed=s, resamples=50) for s in (0, 1))
    assert first["accuracy"] == second["accuracy"] == 1.0
    always_first = PairwiseRule("coin", lambda p, a, b: 0.5)
    coin = evaluate(always_first, records, resamples=50)
    assert (coin["accuracy"], coin["brier"]) == (0.5, 0.25)
    assert coin["ece"] < 0.1  # labels near one half: with unturned pairs it would be 0.5


def test_missing_answers_are_dropped_and_counted() -> None:
    def silent(prompt: Prompt, a: str, b: str) -> float:
        return math.nan if prompt.id == "1" else longer_wins(prompt, a, b)

    m = evaluate(PairwiseRule("silent", silent), fixture_records())
    assert (m["n"], m["n_dropped"]) == (6, 1)
    assert m["accuracy"] == pytest.approx(3.5 / 6)


def test_sparse_records_are_asked_pair_by_pair() -> None:
    asked: list[int] = []

    class Counting(Cyclic):
        def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
            asked.extend(len(g) for g in groups)
            return [np.array([[longer_wins(prompts[0], a, b) for b in g] for a in g]) for g in groups]

    star = record("star", [f"{'x' * n}" for n in range(1, 12)], [PairLabel(n, 0) for n in range(1, 11)])
    m = evaluate(Counting(), [star])
    assert (m["accuracy"], m["n"], m["cycle_rate"]) == (1.0, 10, None)
    assert asked == [2] * 10


def test_a_cyclic_oracle_is_seen_as_one() -> None:
    labels = [PairLabel(0, 1), PairLabel(1, 2), PairLabel(2, 0)]
    m = evaluate(Cyclic(), [record("c", "abc", labels)])
    assert (m["accuracy"], m["cycle_rate"]) == (1.0, 1.0)
    assert m["curl_ratio"] == pytest.approx(1.0)


def test_cyclic_triples_and_the_scalar_ceiling() -> None:
    cycle = [PairLabel(0, 1), PairLabel(1, 2), PairLabel(2, 0)]
    ranking = [PairLabel(0, 1), PairLabel(1, 2), PairLabel(0, 2)]
    records = [record("cycle", "abc", cycle), record("ranking", ("one", "two", "three"), ranking)]
    exact = cyclic_triple_accuracy(Cyclic(), records)
    assert (exact["accuracy"], exact["n"], exact["n_triples"], exact["cyclic_share"]) == (1.0, 3, 1, 0.5)
    for order in itertools.permutations("abc"):  # every ranking of the three, as a scalar oracle
        scalar = PairwiseRule("scalar", lambda p, a, b, o=order: float(o.index(a) < o.index(b)) if a != b else 0.5)
        found = cyclic_triple_accuracy(scalar, records)
        assert found["accuracy"] <= found["ceiling_scalar"] + 1e-12
    assert cyclic_triple_accuracy(Cyclic(), records[1:])["accuracy"] is None


def test_gold_matrix_averages_labels() -> None:
    gold = gold_matrix(record("g", "abc", [PairLabel(0, 1), PairLabel(1, 0), PairLabel(1, 2, 0.8)]))
    assert gold[0, 1] == gold[1, 0] == 0.5
    assert gold[1, 2] == pytest.approx(0.8)
    assert gold[2, 1] == pytest.approx(0.2)
    assert np.isnan(gold[0, 2])
