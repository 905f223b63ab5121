"""Length bias, noise floor, spectrum and the surface baseline on data whose answer is known (reference 5.3, 5.4)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from prefeval.data.decontaminate import decontaminate
from prefeval.data.groups import write_records
from prefeval.data.readers import load_records
from prefeval.oracle import Ensemble, PairwiseRule
from prefeval.types import Comparison, FloatArray, PairLabel, PreferenceRecord, Prompt
from reward_models.baselines import FEATURES, SurfaceOracle, fit_surface, surface_features
from reward_models.bias import by_confidence, by_strength, is_matched, length_bias, logistic_weights
from reward_models.calibrate import ece_estimate, expit
from reward_models.config import TrainConfig
from reward_models.cyclicity import label_cycles, noise_floor, spectrum
from reward_models.data import load_splits
from reward_models.evaluate import evaluate
from reward_models.evaluate_cli import evaluate as evaluate_command
from reward_models.evaluate_table import table as evaluate_table
from reward_models.rivals import longer_tables, model_rates, stronger_tables

RPS = np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])


def record(name: str, responses: tuple[str, ...], pairs: tuple[PairLabel, ...]) -> PreferenceRecord:
    return PreferenceRecord(name, Prompt.from_text(f"question {name}", id=name), responses, pairs)


def test_logistic_weights_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)) * np.array([1.0, 7.0])
    y = (rng.random(400) < expit(x @ np.array([1.5, -0.1]))).astype(float)
    counts = rng.integers(0, 3, 400).astype(float)
    peer = LogisticRegression(C=1e10, fit_intercept=False, tol=1e-10, max_iter=5000).fit(x, y, counts)
    assert logistic_weights(x, y, counts, ridge=1e-9) == pytest.approx(peer.coef_[0], rel=1e-4)


@pytest.mark.slow
def test_length_slope_recovers_the_bias_of_simulated_labels() -> None:
    rng = np.random.default_rng(1)
    n, truth = 6000, 0.8
    lengths = rng.integers(1, 600, (n, 2)).astype(float)
    score = rng.normal(size=n)
    label = (rng.random(n) < expit(score + truth * (lengths[:, 0] - lengths[:, 1]) / 100)).astype(float)
    correct = (np.sign(score) == np.sign(label - 0.5)).astype(float)
    found = length_bias(score, label, correct, lengths, list(range(n)), resamples=100)
    assert found["length_slope_low"] < truth < found["length_slope_high"]
    assert found["length_slope"] == pytest.approx(truth, abs=0.06)
    assert abs(found["length_correlation"]) < 0.04  # the score itself ignores length
    rule = np.mean(np.sign(lengths[:, 0] - lengths[:, 1]) == np.sign(label - 0.5))
    assert found["difference_to_longer"] == pytest.approx(correct.mean() - rule, abs=0.01)
    assert found["difference_to_longer_high"] < 0  # length made these labels
    unbiased = length_bias(score, (rng.random(n) < expit(score)).astype(float), correct, lengths, list(range(n)))
    assert unbiased["length_slope_low"] < 0 < unbiased["length_slope_high"]


def test_matched_lengths_are_within_a_tenth_of_the_longer() -> None:
    lengths = np.array([[100, 90], [100, 89], [90, 100], [0, 0], [5, 5]], dtype=float)
    assert list(is_matched(lengths)) == [True, False, True, True, True]


def test_accuracy_by_strength_and_by_confidence_by_hand() -> None:
    correct = np.array([1, 0, 1, 1, np.nan, 1.0])
    strength = np.array([1, 1, 2, 3, 3, 3.0])
    rows = by_strength(correct, strength, list(range(6)), resamples=10)
    assert [(r["from"], r["to"], r["accuracy"], r["n"]) for r in rows] == [(1, 1, 0.5, 2), (2, 2, 1, 1), (3, 3, 1, 2)]
    size = np.arange(1.0, 11.0)
    curve = by_confidence((size > 5).astype(float), size * np.where(size % 2, 1, -1), list(range(10)), resamples=10)
    assert [r["n"] for r in curve] == [2] * 5
    assert [r["accuracy"] for r in curve] == [0, 0, 0.5, 1, 1]


def test_noise_floor_finds_cycles_and_not_noise() -> None:
    rng = np.random.default_rng(2)
    r = rng.normal(size=6)
    truth = expit(r[:, None] - r[None, :])
    votes = np.full((6, 6), 8.0)
    p_values = []
    for seed in range(40):
        upper = np.triu(rng.binomial(8, truth) / 8, 1)
        share = upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(6)
        found = noise_floor(share, votes, draws=60, seed=seed)
        p_values.append(found.p_value)
        assert found.floor > 0.01  # votes on a ranking look cyclic by chance
    assert np.mean(np.array(p_values) <= 0.05) <= 0.2
    assert 0.3 < np.mean(p_values) < 0.7
    cycle = noise_floor(expit(2 * RPS), np.full((3, 3), 50.0), draws=100)
    assert cycle.observed == pytest.approx(1.0)
    assert cycle.p_value <= 0.05


def test_spectrum_of_one_block_of_a_ranking_and_of_two_blocks() -> None:
    # eigenvalues of the 3-cycle: 0, +-i sqrt(3)
    found = spectrum(RPS)
    assert found.values == pytest.approx([math.sqrt(3)])
    assert (found.effective_rank, found.first_pair) == (pytest.approx(2.0), pytest.approx(1.0))
    r = np.array([0.2, 1.0, -0.7, 3.0])
    assert spectrum(r[:, None] - r[None, :]).effective_rank == pytest.approx(2.0)
    blocks = np.kron(np.diag([2.0, 1.0]), np.array([[0, -1], [1, 0.0]]))
    two = spectrum(blocks)
    assert two.values == pytest.approx([2, 1])
    assert two.first_pair == pytest.approx(0.8)
    assert two.effective_rank == pytest.approx(math.exp(-2 * (0.4 * math.log(0.4) + 0.1 * math.log(0.1))))


def test_cycles_of_labels() -> None:
    cycle = tuple(PairLabel(i, (i + 1) % 3, source=s) for i in range(3) for s in "abcdefgh")
    found = label_cycles([record(str(n), ("a", "b", "c"), cycle) for n in range(3)])
    assert (found["cycle_rate"], found["curl_ratio"], found["n_records"]) == (1.0, pytest.approx(1.0), 3)
    assert found["share_above"] == 1.0
    assert found["curl_ratio_floor"] < 1.0
    assert label_cycles([record("1", ("a", "b"), (PairLabel(0, 1),))])["curl_ratio"] is None


def test_votes_on_one_pair_are_counted_however_they_are_written(tmp_path: Path) -> None:
    """Eight rows a pair are eight votes; a cycle of single votes is a cycle too, though three of them prove nothing."""
    data = tmp_path / "votes.jsonl"
    for copies, above in ((8, 1.0), (1, 0.0)):
        rows = [
            {"prompt": f"q{n}", "chosen": "abc"[i], "rejected": "abc"[(i + 1) % 3]}
            for n in range(2)
            for i in range(3)
            for _ in range(copies)
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        records = load_records(str(data)).records
        again = load_records(str(write_records(tmp_path / "groups.jsonl", records))).records
        for found in (label_cycles(records), label_cycles(again)):
            assert (found["cycle_rate"], found["curl_ratio"]) == (1.0, pytest.approx(1.0))
            assert (found["share_above"], found["n_records"]) == (above, 2)


def test_position_bias_of_a_judge_is_reported() -> None:
    from prefeval.judges.as_oracle import Consistency

    class Biased(PairwiseRule):
        consistency = Consistency(pairs=10, failed=2, flipped=4, ties=0, decided=16, decided_first=12)

        def ordered(self, items: list[Comparison]) -> FloatArray:
            raise AssertionError("not asked")

    records = [
        record(str(n), ("a", "bb", "ccc"), (PairLabel(2, 0), PairLabel(2, 1), PairLabel(1, 0))) for n in range(3)
    ]
    rule = Biased("biased", lambda p, a, b: 0.5 + 0.4 * float(np.sign(len(a) - len(b))))
    found = evaluate(rule, records, resamples=10)
    assert (found["position"]["first_of_decided"], found["position"]["consistent"]) == (0.75, 0.5)
    assert found["curl_ratio_floor"] is not None  # a judge's entries are votes
    assert found["difference_to_longer"] == 0.0


def test_surface_baseline_learns_length_and_lists() -> None:
    rng = np.random.default_rng(3)
    records = []
    for n in range(300):
        short, long = "word " * int(rng.integers(3, 9)), "word " * int(rng.integers(12, 20))
        records.append(record(str(n), (long.strip(), short.strip()), (PairLabel(0, 1),)))
    oracle = fit_surface(records[:200])
    found = evaluate(oracle, records[200:], resamples=20)
    assert found["accuracy"] == 1.0
    flipped = [record(r.id, r.responses, (PairLabel(1, 0),)) for r in records[:200]]
    assert evaluate(fit_surface(flipped), records[200:], resamples=20)["accuracy"] == 0.0
    coin = [record(r.id, r.responses, (PairLabel(0, 1, 0.5),)) for r in records[:50]]
    assert np.abs(fit_surface(coin).weights).max() == pytest.approx(0.0, abs=1e-6)


def test_surface_features_by_hand() -> None:
    values = surface_features("Name a colour", "# Red\n- a **bold** colour?\n1. 22 b.")
    found = dict(zip(FEATURES, values, strict=True))
    expected = {
        "characters": 35, "words": 7, "lines": 3, "list_items": 2, "bold": 1, "headings": 1, "digits": 3,
        "questions": 1, "sentences": 3, "code_blocks": 0, "ends_complete": 1, "overlap_with_prompt": 2 / 7,
    }  # fmt: skip
    assert {k: found[k] for k in expected} == expected


def test_decontamination_by_words_and_by_runs() -> None:
    long = " ".join(f"w{n}" for n in range(20))
    bench = [Prompt.from_text("Name  three COLOURS!"), Prompt.from_text(long)]
    asked = {
        "same": "name three colours",
        "run": "Please: " + " ".join(f"w{n}" for n in range(5, 18)) + ".",
        "near": " ".join(f"w{n}" for n in range(5, 17)) + " and else",  # twelve words in a row
        "part": "name three colours please",
        "other": "something else",
    }
    records = [PreferenceRecord(k, Prompt.from_text(v, id=k), ("a", "b"), (PairLabel(0, 1),)) for k, v in asked.items()]
    found = decontaminate(records, bench)
    assert (found.exact, found.overlap) == (("same",), ("run",))
    assert [r.id for r in found.kept] == ["near", "part", "other"]
    assert found.as_dict() == {"kept": 3, "exact": 1, "overlap": 1}


def test_training_keeps_benchmark_prompts_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"question number {n}", "chosen": "yes", "rejected": "no"} for n in range(20)]
    data, bench = tmp_path / "pairs.jsonl", tmp_path / "bench.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    bench.write_text(json.dumps({"prompt": "Question number 3?"}) + "\n")
    config = TrainConfig(data=str(data), valid_fraction=0.0, decontaminate=(str(bench),))
    training, _ = load_splits(config)
    assert len(training) == 19
    assert all(r.prompt.text != "question number 3" for r in training)
    out = tmp_path / "out"
    argv = ["--oracle", "rules:longer", "--data", str(data), "--decontaminate", str(bench), "--baseline", str(data)]
    rows = [{"prompt": f"another {n}", "chosen": "yes yes", "rejected": "no"} for n in range(5)]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(r) + "\n" for r in rows))
    argv[-1] = str(other)
    assert evaluate_command([*argv, "--out", str(out), "--resamples", "10"]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["reading"]["decontamination"] == {"kept": 19, "exact": 1, "overlap": 0}
    surface = {row["rival"]: row for row in metrics["rivals"]}["surface"]
    assert (metrics["n"], surface["accuracy"], metrics["baseline"]["n_train_records"]) == (19, 1.0, 5)


def rated_pairs(seed: int, prompts: int = 40) -> list[PreferenceRecord]:
    """Three models of known strength; labels follow the model in most pairs, never the length."""
    rng = np.random.default_rng(seed)
    records = []
    for n in range(prompts):
        source = "one" if n % 2 else "two"
        texts = tuple("x" * int(k) for k in rng.permutation(np.arange(3, 6)) * 10)
        edges = ((0, 1), (0, 2), (1, 2))
        pairs = tuple(PairLabel(i, j, float(rng.random() < 0.8), source=source) for i, j in edges)
        meta = {"models": [["strong"], ["middle"], ["weak", "weaker"]]}
        records.append(PreferenceRecord(str(n), Prompt.from_text(f"{seed} {n}"), texts, pairs, meta=meta))
    return records


def test_model_rates_and_the_stronger_model_rule_by_hand() -> None:
    one = PreferenceRecord(
        "1", Prompt.from_text("q"), ("a", "bb", "cc"), (PairLabel(0, 1, 0.75), PairLabel(2, 1, 0.0)),
        meta={"models": [["A"], ["B"], ["A", "C"]]},
    )  # fmt: skip
    rates = model_rates([one, record("2", ("x", "y"), (PairLabel(0, 1),))])  # the second names no models
    assert rates == {"A": (0.75 + 0.0) / 2, "B": (0.25 + 1.0) / 2, "C": 0.0}
    table = stronger_tables([one], {"A": 0.375, "B": 0.625})[0]
    inf = math.inf
    assert np.array_equal(table, [[0, -inf, 0], [inf, 0, inf], [0, -inf, 0]])  # C is unknown: its text counts as A's
    assert np.isnan(stronger_tables([record("2", ("x", "y"), ())], rates)[0]).all()
    assert np.array_equal(longer_tables([one])[0], [[0, -inf, -inf], [inf, 0, 0], [inf, 0, 0]])


def test_rivals_and_subsets_agree_with_paired_counts() -> None:
    records = rated_pairs(1)
    rivals = {"stronger_model": stronger_tables(records, model_rates(rated_pairs(2)))}
    found = evaluate(
        PairwiseRule("longer", lambda p, a, b: float(len(a) > len(b))), records, rivals=rivals, resamples=300
    )
    rows = {row["rival"]: row for row in found["rivals"]}
    assert (rows["longer"]["difference"], rows["longer"]["accuracy"]) == (0.0, found["accuracy"])
    won = [p.p == 1.0 for r in records for p in r.pairs]  # the first of a pair is the stronger model
    longer = [(len(r.responses[p.i]) > len(r.responses[p.j])) == (p.p == 1.0) for r in records for p in r.pairs]
    strong = rows["stronger_model"]
    assert (strong["accuracy"], strong["n"], strong["nll"]) == (pytest.approx(np.mean(won)), 120, None)
    assert strong["difference"] == pytest.approx(np.mean(longer) - np.mean(won))
    assert strong["difference_high"] < 0  # 0.8 against 0.5
    # the same interval from the prompts' own sums, resampled here
    gaps = (np.array(longer, float) - np.array(won, float)).reshape(-1, 3).sum(axis=1)
    draws = np.random.default_rng(5).choice(gaps, (4000, len(gaps))).sum(axis=1) / 120
    assert [strong["difference_low"], strong["difference_high"]] == pytest.approx(
        np.quantile(draws, [0.025, 0.975]), abs=0.03
    )
    subsets = {row["subset"]: row for row in found["subsets"]}
    assert {name: (row["n"], row["n_prompts"]) for name, row in subsets.items()} == {"one": (60, 20), "two": (60, 20)}
    parts = [subsets[name]["difference_to_stronger_model"] for name in ("one", "two")]
    assert np.mean(parts) == pytest.approx(strong["difference"])
    text = evaluate_table(found)
    assert "stronger_model" in text
    assert f"{subsets['two']['accuracy']:.3f}" in text


def test_the_interval_of_the_calibration_error_holds_the_known_error() -> None:
    rng = np.random.default_rng(7)
    held = 0
    for seed in range(40):
        p = rng.choice([0.1, 0.9], 400)
        label = (rng.random(400) < np.where(p > 0.5, 0.7, 0.3)).astype(float)  # 0.2 off everywhere
        found = ece_estimate(p, label, [n // 4 for n in range(400)], resamples=100, seed=seed)
        held += found.low < 0.2 < found.high
    assert held >= 34  # 95% intervals: fewer than 34 of 40 is a chance of 0.5%
    empty = ece_estimate(np.zeros(0), np.zeros(0), [])
    assert (empty.n, empty.named("ece")) == (0, {"ece": None, "ece_low": None, "ece_high": None})


def test_oracles_that_read_each_response_once_are_asked_whole() -> None:
    texts = ("a", "bb", "ccc", "dddd", "eeeee", "ffffff")
    star = record("star", texts, tuple(PairLabel(n, 0) for n in range(1, 6)))
    oracle = SurfaceOracle(np.eye(len(FEATURES))[0])
    assert evaluate(oracle, [star], resamples=10)["n_cycle_records"] == 1
    rule = PairwiseRule("rule", lambda p, a, b: 0.5)
    assert evaluate(rule, [star], resamples=10)["n_cycle_records"] == 0
    assert evaluate(Ensemble([oracle, oracle]), [star], resamples=10)["n_cycle_records"] == 1
    assert evaluate(Ensemble([oracle, rule]), [star], resamples=10)["n_cycle_records"] == 0
