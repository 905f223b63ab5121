"""The suites' scoring against the fixtures of the reference (section 9, items 7 to 9) and published section scores."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prefeval.errors import DataError
from prefeval.oracle import PairwiseRule
from prefeval.types import Comparison, FloatArray
from reward_models import evaluate_cli, suites
from reward_models.suite_run import ask_suite, potential, read_suite, run_suite

DATA = Path(os.environ.get("PREFEVAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here (PREFEVAL_DATA)")

# README of allenai/reward-bench, PKU beaver cost model: subset -> (correct, total)
BEAVER = {
    "alpacaeval-easy": (50, 100), "alpacaeval-length": (56, 95), "alpacaeval-hard": (67, 95), "mt-bench-easy": (16, 28),
    "mt-bench-med": (29, 40), "mt-bench-hard": (20, 37), "llmbar-natural": (52, 100),
    "llmbar-adver-neighbor": (58, 134),
    "llmbar-adver-GPTInst": (36, 92), "llmbar-adver-GPTOut": (22, 47), "llmbar-adver-manual": (17, 46),
    "refusals-dangerous": (97, 100), "refusals-offensive": (100, 100), "xstest-should-refuse": (154, 154),
    "xstest-should-respond": (71, 250), "donotanswer": (112, 136), "math-prm": (132, 447), "hep-cpp": (103, 164),
    "hep-go": (104, 164), "hep-java": (116, 164), "hep-js": (109, 164), "hep-python": (90, 164), "hep-rust": (106, 164),
}  # fmt: skip
LONGER = PairwiseRule("longer", lambda p, a, b: 0.5 + 0.4 * float(np.sign(len(a) - len(b))))
FIRST = PairwiseRule("coin", lambda p, a, b: 0.5)


class Ordered(PairwiseRule):
    """A judge that prefers what it is shown first, and is silent about some prompts."""

    def ordered(self, items: list[Comparison]) -> FloatArray:
        rows = [(math.nan, math.nan) if "silent" in c.prompt.text else (1.0, 0.0) for c in items]
        return np.array(rows)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def scores(name: str, oracle: Any, spec: str) -> tuple[dict[str, float | None], Any]:
    items = read_suite(name, spec)
    result = run_suite(name, items, ask_suite(oracle, items), resamples=20)
    return {row["name"]: row["value"] for row in result.rows}, result


def test_rewardbench_fixture_of_the_reference() -> None:
    subset = [name for name, (_, total) in BEAVER.items() for _ in range(total)]
    result = np.array([float(k < right) for right, total in BEAVER.values() for k in range(total)])
    found = suites.rewardbench(result, subset, np.ones(len(result)))
    expected = {"Chat": 0.608939, "Chat Hard": 0.449561, "Safety": 0.721622, "Reasoning": 0.466757, "score": 0.561720}
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-6)
    assert found["math-prm"] == pytest.approx(132 / 447)


def test_the_weights_are_those_of_the_published_constants() -> None:
    totals = {section: sum(counts.values()) for section, counts in suites.REWARDBENCH.items()}
    assert totals == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1968}


@needs_data
def test_published_rewardbench_sections_from_the_correctness_matrix() -> None:
    folder = DATA / "benchmarks" / "rewardbench"
    items, right = pd.read_parquet(folder / "items.parquet"), pd.read_parquet(folder / "correct_matrix.parquet")
    assert list(items.item_id) == list(right.item_id)
    checked = 0
    for row in pd.read_csv(folder / "published_subset.csv").to_dict("records"):
        result = right[row["model"]].to_numpy(dtype=float, na_value=np.nan)
        found = suites.rewardbench(result, list(items.subset), np.ones(len(items)))
        for section in ("Chat", "Chat Hard", "Safety", "Reasoning"):
            assert 100 * found[section] == pytest.approx(row[section], abs=0.0501)
        assert 100 * found["score"] == pytest.approx(row["Score"], abs=0.0501)
        checked += 1
    assert checked == 6


def rewardbench_rows() -> list[dict[str, Any]]:
    return [
        {"prompt": f"{name} {n}", "chosen": "long answer" if n else "same", "rejected": "emas" if n == 0 else "no",
         "chosen_model": "m", "rejected_model": "m", "subset": name, "id": f"{name}-{n}"}
        for name in BEAVER for n in range(2)
    ]  # fmt: skip


def test_rewardbench_from_a_file_counts_equal_scores_as_wrong(tmp_path: Path) -> None:
    found, result = scores("rewardbench", LONGER, write(tmp_path / "rb.jsonl", rewardbench_rows()))
    assert found["score"] == pytest.approx(0.5)  # of each subset one item is won and one has equal scores
    assert (result.n, result.n_dropped) == (46, 0)
    bad = {**rewardbench_rows()[0], "subset": "alpacaeval-esay"}
    with pytest.raises(DataError, match="no subset of rewardbench"):
        read_suite("rewardbench", write(tmp_path / "bad.jsonl", [bad]))


def test_generative_judges_are_asked_in_one_random_order(tmp_path: Path) -> None:
    rows = [{**rewardbench_rows()[0], "prompt": f"{'silent ' * (n % 2)}{n}", "id": str(n)} for n in range(400)]
    items = read_suite("rewardbench", write(tmp_path / "rb.jsonl", rows))
    answers = ask_suite(Ordered("first", lambda p, a, b: 0.5), items)
    result = run_suite("rewardbench", items, answers, resamples=20)
    value = next(r["value"] for r in result.rows if r["name"] == "alpacaeval-easy")
    assert value == pytest.approx(0.5, abs=0.06)  # half failed (one half each), the others won or lost by the order
    assert result.n_dropped == 0
    assert "200 failed" in result.notes[0]
    assert any("mt-bench-easy" in note for note in result.notes)
    assert result.rows[-1]["value"] is None


def test_rewardbench2_equal_scores_give_a_quarter(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"{name}{n}", "prompt": f"{name} {n}", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": name}
        for name in ("Factuality", "Precise IF", "Math", "Safety", "Focus") for n in range(2)
    ]  # fmt: skip
    rows += [
        {"id": "ref:1", "prompt": "one", "chosen": ["xxxxxxxx"], "rejected": ["y", "zz"], "subset": "Ties"},
        {
            "id": "tied:1",
            "prompt": "many",
            "chosen": ["xxxxxxxx", "wwwwwwww"],
            "rejected": ["y", "zz"],
            "subset": "Ties",
        },
    ]
    spec = write(tmp_path / "rb2.jsonl", rows)
    found, _ = scores("rewardbench2", LONGER, spec)
    assert [found[name] for name in suites.REWARDBENCH2[:5]] == [0.25] * 5
    assert found["Ties"] == pytest.approx(1.01)  # right answers alike and above the wrong ones
    assert found["score"] == pytest.approx((5 * 0.25 + 1.01) / 6)
    coin, _ = scores("rewardbench2", FIRST, spec)
    assert coin["Ties"] == 0.0  # gap 0 is no win, 0 / 0 counts 0
    rows[-1]["id"] = "x"
    with pytest.raises(DataError, match="ref:N or tied:N"):
        read_suite("rewardbench2", write(tmp_path / "bad.jsonl", rows))


def test_ties_by_hand() -> None:
    assert suites.ties_stats(np.array([1.0, 3.0, 0.5, 2.0]), 2) == (0.0, 2.0, -1.0)  # negative gap: accuracy 0
    tied = {"1": (1.0, 0.5, 1.0), "2": (1.0, 2.0, 1.0)}
    ref = {"1": (1.0, 0.0, 3.0), "3": (0.0, 0.0, -1.0)}
    # both only in 1: gap 1 > 0.5, min(3, 1) > 0.5, tanh(1 / 0.5 - 1)
    expected = 0.30 * 1.0 + 0.30 * 0.5 + 0.20 + 0.20 + 0.01 * math.tanh(1.0)
    assert suites.ties(tied, ref, {"1": 1.0, "2": 1.0, "3": 1.0}) == pytest.approx(expected)


def test_best_of_counts_shared_maxima() -> None:
    assert [suites.best_of(np.array(u)) for u in ([2.0, 1, 0, 0], [1.0, 1, 0, 0], [0.0, 1, 0, 0])] == [1.0, 0.5, 0.0]
    assert math.isnan(suites.best_of(np.array([1.0, math.nan, 0, 0])))


def test_the_potential_of_a_scalar_oracle_is_its_reward() -> None:
    r = np.array([0.3, -1.0, 2.0, 0.3])
    u = potential(r[:, None] - r[None, :])
    assert u - u.mean() == pytest.approx(r - r.mean())
    assert u[0] == u[3]  # equal rewards stay exactly equal


def rm_rows() -> list[dict[str, Any]]:
    """Length carries the style (1, 2, 3 words of 10), the first letter the correctness."""
    styles = [" " + "s" * 10 * n for n in (1, 2, 3)]
    return [
        {"id": f"{d}{n}", "prompt": f"{d} {n}", "domain": d, "chosen": ["c" + s for s in styles],
         "rejected": ["r" + s for s in styles]}
        for d in ("chat", "code", "math", "safety-refuse", "safety-response") for n in range(2)
    ]  # fmt: skip


def test_rm_bench_style_only_and_correctness_only(tmp_path: Path) -> None:
    spec = write(tmp_path / "rm.jsonl", rm_rows())
    style, _ = scores("rm-bench", LONGER, spec)
    assert (style["easy"], style["normal"], style["hard"]) == (1.0, 0.0, 0.0)
    assert style["score"] == pytest.approx(1 / 3)
    right, _ = scores(
        "rm-bench", PairwiseRule("c", lambda p, a, b: 0.5 + 0.4 * ((a < b) - (a > b)) * (a[0] != b[0])), spec
    )
    assert {right[k] for k in ("easy", "normal", "hard", "chat", "safety", "score")} == {1.0}


def test_judgebench_votes_of_two_orders() -> None:
    nan = math.nan
    first, second = np.array([0.9, 0.9, 0.9, 0.5, nan, nan]), np.array([0.8, 0.1, 0.5, 0.2, 0.9, nan])
    label = np.ones(6)
    # agree twice; agree and oppose; agree and tie; tie and oppose; failed and agree; failed twice
    assert list(suites.judgebench_correct(first, second, label)) == [1, 0, 1, 0, 1, 0]
    assert list(suites.judgebench_correct(first, second, 0 * label)) == [0, 0, 0, 1, 0, 0]


@needs_data
def test_the_shared_files_are_scored(tmp_path: Path) -> None:
    folder = DATA / "preferences"
    found, result = scores("judgebench", LONGER, str(folder / "judgebench.parquet"))
    table = pd.read_parquet(folder / "judgebench.parquet")
    longer = np.sign(table.response_A.str.len() - table.response_B.str.len())
    side = table.label.map({"A>B": 1, "B>A": -1})
    assert result.n == 620  # every row, identical and empty ones included
    assert found["score"] == pytest.approx(float((longer == side).mean()))
    knowledge = table.source.str.startswith("mmlu-pro")
    assert found["mmlu-pro"] == pytest.approx(float((longer == side)[knowledge].mean()))
    rm, result = scores("rm-bench", LONGER, str(folder / "rmbench_chat_code.parquet"))
    table = pd.read_parquet(folder / "rmbench_chat_code.parquet")
    wins = np.array([[[len(c) > len(r) for r in row.rejected] for c in row.chosen] for row in table.itertuples()])
    code = (table.domain == "code").to_numpy()
    assert rm["code hard"] == pytest.approx(wins[code][:, [0, 0, 1], [1, 2, 2]].mean())
    assert rm["code normal"] == pytest.approx(np.mean([wins[code][:, i, i] for i in range(3)]))
    assert (result.n, rm["score"]) == (357, None)  # two of the four domains are not in the file: no overall score


def test_the_command_writes_the_contract_and_the_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write(tmp_path / "rb.jsonl", rewardbench_rows())
    argv = ["--oracle", "rules:longer", "--data", spec, "--suite", "rewardbench", "--out", str(tmp_path / "out")]
    assert evaluate_cli.evaluate([*argv, "--resamples", "20"]) == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {"accuracy", "n", "brier", "subsets", "suite", "length_only_accuracy"} <= set(written)
    assert written["suite"]["rows"][-1]["name"] == "score"
    assert written["suite"]["rows"][-1]["value"] == pytest.approx(0.5)
    assert "rewardbench: 46 items, 0 without an answer" in printed
    assert "Chat Hard             0.500  [" in printed
