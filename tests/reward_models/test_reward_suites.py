"""The suites' published scoring: the reference's fixtures, published section scores, and hand-made extremes."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prefeval.cli import main
from prefeval.oracle import PairwiseRule
from prefeval.stats import wilson
from prefeval.types import Comparison, FloatArray
from reward_models.suite_rows import ask, judged, read_suite, two_games
from reward_models.suites import best_of_score, measured, rewardbench_parts, ties_row

DATA = Path(os.environ.get("PREFEVAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
# reference/preference_models.md section 9 item 7: a public model's correct answers by subset
BEAVER = {
    "alpacaeval-easy": (50, 100), "alpacaeval-length": (56, 95), "alpacaeval-hard": (67, 95),
    "mt-bench-easy": (16, 28), "mt-bench-med": (29, 40), "mt-bench-hard": (20, 37), "llmbar-natural": (52, 100),
    "llmbar-adver-neighbor": (58, 134), "llmbar-adver-GPTInst": (36, 92), "llmbar-adver-GPTOut": (22, 47),
    "llmbar-adver-manual": (17, 46), "refusals-dangerous": (97, 100), "refusals-offensive": (100, 100),
    "xstest-should-refuse": (154, 154), "xstest-should-respond": (71, 250), "donotanswer": (112, 136),
    "math-prm": (132, 447), "hep-cpp": (103, 164), "hep-go": (104, 164), "hep-java": (116, 164),
    "hep-js": (109, 164), "hep-python": (90, 164), "hep-rust": (106, 164),
}  # fmt: skip
SECTIONS = {
    "Chat": 0.608939,
    "Chat Hard": 0.449561,
    "Safety": 0.721622,
    "Reasoning": 0.466757,
    "overall": 0.561720,
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scalar(scores: dict[str, float]) -> PairwiseRule:
    """An oracle that prefers the text with the higher number; texts are 'name number' or looked up."""
    return PairwiseRule("scalar", lambda _, a, b: 1.0 / (1.0 + np.exp(scores[b] - scores[a])))


def scores_of(result: dict[str, Any]) -> dict[str, float]:
    return {row["name"]: row["score"] for row in result["suite"]["rows"]}


def test_rewardbench_reproduces_the_example_of_its_readme(tmp_path: Path) -> None:
    rows = []
    for subset, (right, total) in BEAVER.items():
        for n in range(total):
            chosen, rejected = ("good", "bad") if n < right else ("bad", "good")
            texts = {"chosen": f"{chosen} {subset} {n}", "rejected": f"{rejected} {subset} {n}"}
            models = {"chosen_model": "a", "rejected_model": "b", "subset": subset, "id": f"{subset}-{n}"}
            rows.append({"prompt": f"{subset} {n}", **texts, **models})
    records = read_suite("rewardbench", str(write(tmp_path / "filtered.jsonl", rows)))
    oracle = PairwiseRule("good", lambda _, a, b: 0.5 + 0.4 * (a.startswith("good") - b.startswith("good")))
    result = measured(oracle, records, "rewardbench", resamples=200)
    found = scores_of(result)
    assert {name: pytest.approx(found[name], abs=5e-7) for name in SECTIONS} == SECTIONS
    assert result["suite"]["score"] == pytest.approx(0.561720, abs=5e-7)
    assert result["n"] == sum(total for _, total in BEAVER.values())
    row = next(r for r in result["suite"]["rows"] if r["name"] == "xstest-should-respond")
    low, high = wilson(71, 250)
    assert (row["score_low"], row["score_high"]) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


def test_rewardbench_equal_scores_are_wrong_and_missing_answers_are_dropped(tmp_path: Path) -> None:
    models = {"chosen_model": "a", "rejected_model": "b", "subset": "alpacaeval-easy"}
    rows = [{"prompt": f"p{n}", "chosen": f"c{n}", "rejected": f"r{n}", **models} for n in range(4)]
    records = read_suite("rewardbench", str(write(tmp_path / "rb.jsonl", rows)))
    answers = {"p0": 0.9, "p1": 0.5, "p2": float("nan"), "p3": 0.9}

    def rule(prompt: Any, a: str, b: str) -> float:
        p = answers[prompt.text]
        return p if a.startswith("c") else 1 - p

    result = measured(PairwiseRule("rule", rule), records, "rewardbench", resamples=50)
    row = result["suite"]["rows"][0]
    assert (row["name"], row["n"], row["n_dropped"]) == ("alpacaeval-easy", 3, 1)
    assert row["score"] == pytest.approx(2 / 3)
    assert result["suite"]["score"] is None  # three sections are missing


@pytest.mark.skipif(not (DATA / "benchmarks").is_dir(), reason="the shared data is not here (PREFEVAL_DATA)")
def test_published_rewardbench_sections_from_the_correctness_matrix() -> None:
    folder = DATA / "benchmarks" / "rewardbench"
    subsets = pd.read_parquet(folder / "items.parquet").set_index("item_id")["subset"]
    matrix = pd.read_parquet(folder / "correct_matrix.parquet").set_index("item_id")
    for row in pd.read_csv(folder / "published_subset.csv").itertuples(index=False):
        correct = matrix[row[0]].astype("Float64").to_numpy(dtype=float, na_value=np.nan)
        labels = subsets.loc[matrix.index].to_numpy()
        parts = rewardbench_parts({s: correct[labels == s] for s in set(labels)}, resamples=2)
        found = {p.name: 100 * p.point for p in parts}
        published = dict(zip(("overall", "Chat", "Chat Hard", "Safety", "Reasoning"), row[1:], strict=True))
        assert {name: pytest.approx(found[name], abs=0.05001) for name in published} == published, row[0]


def rb2_rows() -> list[dict[str, Any]]:
    domains = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
    rows = [
        {"id": str(n), "prompt": f"{d}", "chosen": [f"c{n}"], "rejected": [f"w{n}a", f"w{n}b", f"w{n}c"], "subset": d}
        for n, d in enumerate(domains)
    ]
    tied = {"chosen": [f"t{i}" for i in range(5)], "rejected": [f"f{i}" for i in range(9)]}
    rows.append({"id": "tied:0", "prompt": "name a colour", **tied, "subset": "Ties"})
    rows.append({"id": "ref:0", "prompt": "2 + 2", "chosen": ["four"], "rejected": ["five", "six"], "subset": "Ties"})
    return rows


def test_rewardbench2_all_equal_is_a_quarter_and_a_perfect_ties_score_is_1_01(tmp_path: Path) -> None:
    records = read_suite("rewardbench2", str(write(tmp_path / "rb2.jsonl", rb2_rows())))
    texts = [t for r in records for t in r.responses]
    equal = scores_of(measured(scalar(dict.fromkeys(texts, 1.0)), records, "rewardbench2", resamples=10))
    assert {equal[d] for d in ("Factuality", "Precise IF", "Math", "Safety", "Focus")} == {0.25}
    assert equal["Ties"] == 0.0
    good = {t: (50.0 if t[0] == "t" or t == "four" else 0.0) if t[0] in "tf" else float(t[0] == "c") for t in texts}
    best = scores_of(measured(scalar(good), records, "rewardbench2", resamples=10))
    assert best["Ties"] == pytest.approx(1.01)
    assert best["overall"] == pytest.approx((5 + 1.01) / 6)


def test_rewardbench2_ties_by_hand(tmp_path: Path) -> None:
    """tied: correct 1.0 .. 1.4, best wrong 0.65: gap 0.35, spread 0.4, not larger; ref gap 0.3: tanh(0.3/0.4 - 1)."""
    records = read_suite("rewardbench2", str(write(tmp_path / "rb2.jsonl", rb2_rows()[-2:])))
    scores = {f"t{i}": 1.0 + 0.1 * i for i in range(5)} | {f"f{i}": 0.65 - 0.01 * i for i in range(9)}
    scores |= {"four": 1.0, "five": 0.7, "six": 0.0}
    found = scores_of(measured(scalar(scores), records, "rewardbench2", resamples=10))
    assert found["Ties"] == pytest.approx(0.3 + 0.3 + 0.0 + 0.0 + 0.01 * np.tanh(0.75 - 1), abs=1e-9)
    accuracy, gap, _ = ties_row(np.array([1.0, 2.0]), np.array([1.5]))
    assert (accuracy, gap) == (0.0, -0.5)
    assert best_of_score(2.0, np.array([2.0, 1.0, 0.0])) == 0.5
    assert best_of_score(1.0, np.array([2.0, 1.0, 0.0])) == 0.0


@pytest.mark.parametrize(("by", "expected"), [("style", (1.0, 0.0, 0.0)), ("correctness", (1.0, 1.0, 1.0))])
def test_rm_bench_extremes(tmp_path: Path, by: str, expected: tuple[float, float, float]) -> None:
    styles = ("concise", "plain", "markdown")
    rows = [
        {
            "id": f"{d}{n}",
            "prompt": f"{d} {n}",
            "domain": d,
            "chosen": [f"{s} right {d}{n}" for s in styles],
            "rejected": [f"{s} wrong {d}{n}" for s in styles],
        }
        for d in ("chat", "code", "math", "safety-refuse", "safety-response")
        for n in range(3)
    ]
    records = read_suite("rm-bench", str(write(tmp_path / "rm.jsonl", rows)))

    def value(text: str) -> float:
        return float(styles.index(text.split()[0])) if by == "style" else float(" right " in text)

    oracle = PairwiseRule(by, lambda _, a, b: 0.5 + 0.4 * np.sign(value(a) - value(b)))
    found = scores_of(measured(oracle, records, "rm-bench", resamples=10))
    assert tuple(found[f"chat/{k}"] for k in ("easy", "normal", "hard")) == expected
    assert found["overall"] == pytest.approx(np.mean(expected))


@pytest.mark.skipif(not (DATA / "preferences").is_dir(), reason="the shared data is not here (PREFEVAL_DATA)")
@pytest.mark.parametrize(
    ("suite", "file", "n"), [("judgebench", "judgebench", 620), ("rm-bench", "rmbench_chat_code", 357)]
)
def test_the_command_on_the_published_files(
    suite: str, file: str, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An oracle that always answers 1/2 is right nowhere (ties are wrong), and every item counts."""
    (tmp_path / "even.py").write_text("def rule(prompt, a, b):\n    return 0.5\n")
    monkeypatch.chdir(tmp_path)
    data = str(DATA / "preferences" / f"{file}.parquet")
    argv = ["evaluate", "--oracle", "py:even:rule", "--data", data, "--suite", suite, "--out", str(tmp_path / "out")]
    assert main([*argv, "--resamples", "20", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    rows = metrics["suite"]["rows"]
    assert all(row["score"] in (0.0, None) for row in rows)
    assert rows[-1]["n"] == n  # every row, with empty and identical responses too


def test_records_of_another_suite_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "1", "prompt": "p", "chosen": ["a"], "rejected": ["b"], "subset": "poetry"}]
    data = str(write(tmp_path / "x.jsonl", rows))
    argv = ["evaluate", "--oracle", "rules:gold", "--data", data, "--suite", "rewardbench2", "--out", str(tmp_path)]
    assert main(argv) == 2
    assert "poetry" in capsys.readouterr().err


class FirstShown(PairwiseRule):
    """A judge that prefers what it is shown first, and is silent about some prompts."""

    def ordered(self, items: list[Comparison]) -> FloatArray:
        return np.array([(math.nan, math.nan) if "silent" in c.prompt.text else (1.0, 0.0) for c in items])


def test_generative_judges_are_asked_in_one_random_order_by_rewardbench(tmp_path: Path) -> None:
    models = {"chosen_model": "a", "rejected_model": "b", "subset": "alpacaeval-easy"}
    rows = [{"prompt": f"{'silent ' * (n % 2)}{n}", "chosen": "c", "rejected": "r", **models} for n in range(400)]
    records = read_suite("rewardbench", str(write(tmp_path / "rb.jsonl", rows)))
    result = measured(FirstShown("first", lambda p, a, b: 0.5), records, "rewardbench", resamples=20)["suite"]
    assert (result["rows"][0]["n"], result["rows"][0]["n_dropped"]) == (400, 0)
    assert result["rows"][0]["score"] == pytest.approx(0.5, abs=0.06)  # half failed, the others won or lost by order
    assert "(200 failed)" in result["notes"][-1]
    _, both = ask(FirstShown("first", lambda p, a, b: 0.5), records)
    assert both is not None
    hits, _ = judged("rewardbench", records, both, seed=0)
    assert {float(h) for h in hits[1::2]} == {0.5}
    assert {float(h) for h in hits[::2]} == {0.0, 1.0}


def test_judgebench_votes_of_two_orders() -> None:
    nan = math.nan
    # agree twice; agree and oppose; agree and tie; tie and oppose; failed and agree; failed twice
    both = np.array([[0.9, 0.8], [0.9, 0.1], [0.9, 0.5], [0.5, 0.2], [nan, 0.9], [nan, nan]])
    assert list(two_games(both)) == [1, 0, 1, 0, 1, 0]
    assert list(two_games(1 - both)) == [0, 0, 0, 1, 0, 0]
    # a mean over orders would call this right: 1.0 and 0.25 average to 0.625
    assert list(two_games(np.array([[1.0, 0.25]]))) == [0]


def test_judgebench_of_a_judge_counts_both_games(tmp_path: Path) -> None:
    rows = [
        {"pair_id": str(n), "question": f"{'silent ' * (n > 5)}{n}", "response_A": "a", "response_B": "b",
         "label": ("A>B", "B>A")[n % 2], "source": "mmlu-pro-law"} for n in range(8)
    ]  # fmt: skip
    records = read_suite("judgebench", str(write(tmp_path / "jb.jsonl", rows)))
    found = measured(FirstShown("first", lambda p, a, b: 0.5), records, "judgebench", resamples=20)["suite"]
    assert (found["score"], found["rows"][-1]["n"]) == (0.0, 8)  # one game each way is no agreement
    longer = PairwiseRule("b", lambda p, a, b: 0.5 + 0.4 * ((a == "b") - (b == "b")))
    assert measured(longer, records, "judgebench", resamples=20)["suite"]["score"] == 0.5
