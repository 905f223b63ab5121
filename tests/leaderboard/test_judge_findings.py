"""What a table says of its judges: against published multi-judge tables, scikit-learn and judges of known faults."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from leaderboard_data import needs_data, parquet, table, write_lines

from leaderboard import cli
from leaderboard.benchmarks.alpaca_eval import is_switched
from leaderboard.diagnostics import order_effect_apart
from leaderboard.human import read_votes
from leaderboard.judge_findings import with_judges
from leaderboard.report import board_page
from leaderboard.rulings import read_material
from leaderboard.table import as_dict, make_table
from prefeval.errors import DataError

Judge = dict[str, Any]


def judges(protocol: str, files: Sequence[Path], **options: Any) -> dict[str, Judge]:
    """The entries by judge, with their measures by name."""
    found = with_judges(make_table("b", protocol, []), read_material(protocol, files), **options).judges
    assert found is not None
    return {j["judge"]: {**j, **{m["name"]: m for m in j["measures"]}} for j in found["judges"]}


def alpaca_row(question: str, preference: float | None, **more: Any) -> dict[str, Any]:
    row = {
        "instruction": question,
        "output_1": "short",
        "generator_1": "base",
        "output_2": "much longer",
        "dataset": "d",
    }
    return {**row, "generator_2": "m", "annotator": "gpt-4", "preference": preference, **more}


def grade_row(question: int, model: str, score: float, judge: str = "judge", **more: Any) -> dict[str, Any]:
    return {"question_id": question, "model": model, "judge": [judge, "single-v1"], "turn": 1, "score": score, **more}


def pair_row(question: int, winners: str, judge: str = "gpt-4", names: tuple[str, str] = ("a", "b")) -> dict[str, Any]:
    """`winners` in two letters: 1, 2, t(ie) or e(rror) by order."""
    said = {"1": "model_1", "2": "model_2", "t": "tie", "e": "error"}
    row = {"question_id": question, "model_1": names[0], "model_2": names[1], "judge": [judge, "pair-v2"], "turn": 1}
    return {**row, "g1_winner": said[winners[0]], "g2_winner": said[winners[1]]}


@needs_data
def test_pairs_in_both_orders_give_the_published_numbers(tmp_path: Path) -> None:
    name = "qwen/judge_32B"
    shown = {"A": "model_1", "B": "model_2"}, {"A": "model_2", "B": "model_1"}
    rows = [
        {"question_id": r["question_id"], "model_1": r["model_a"], "model_2": r["model_b"], "judge": [name, "pair"],
         "turn": 1, "g1_winner": shown[0].get(r["winner_ab"], r["winner_ab"]),
         "g2_winner": shown[1].get(r["winner_ba"], r["winner_ba"])}
        for r in parquet("mt_bench/multi_judge/pairwise_dev.parquet") if (r["judge"], r["lang"]) == (name, "en")
    ]  # fmt: skip
    found = judges("mt_bench", [write_lines(tmp_path / "qwen_pair.jsonl", rows)])[name]
    published = {r["judge"]: r for r in table("mt_bench/multi_judge/published_table5_pairwise_inconsistency.csv")}
    swap = found["swap_consistency"]
    assert swap["n"] == int(float(published["Qwen-32B"]["en_valid"]))
    assert round((1 - swap["point"]) * swap["n"]) == int(float(published["Qwen-32B"]["en_inconsistent"]))
    assert found["first_wins"]["point"] == pytest.approx(0.58, abs=0.005)  # reference/benchmarks.md 3.6
    assert found["order_effect"]["low"] > 0
    assert found["verdicts"] == 2400
    assert found["longer_wins"]["why"] == "the answers are not among the files"


def test_a_judge_of_the_first_place_is_seen_with_one_order_a_question(tmp_path: Path) -> None:
    """AlpacaEval asks one order; preference 2 is the model's win, and switched questions show the model first."""
    questions = [f"question {i}" for i in range(60)]
    rows = [alpaca_row(q, 2.0 if is_switched(q) else 1.0, price_per_example=0.01) for q in questions]
    rows += [alpaca_row("the same", 1.5, output_2="short"), alpaca_row("no call", None)]
    rows.append(alpaca_row("not read", None, preference_raw_completion="what?"))
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows))
    found = judges("alpaca_eval", [path])["gpt-4"]
    assert (found["first_wins"]["point"], found["first_wins"]["n"], found["first_wins"]["n_failed"]) == (1.0, 60, 2)
    assert found["order_effect"]["point"] == pytest.approx(0.5)
    assert found["swap_consistency"]["why"] == "every pair was asked in one order only"
    assert (found["verdicts"], found["reasons"]) == (62, {"failed call": 1, "unreadable verdict": 1})
    assert found["cost"] == {"dollars": pytest.approx(0.6), "verdicts": 60}
    switched = sum(map(is_switched, questions))
    assert found["longer_wins"]["point"] == pytest.approx(switched / 60)  # the model's answer is the longer one
    assert "human_kappa" not in found


def test_order_effect_apart_cancels_what_the_better_model_wins() -> None:
    """b beats a in 80% of either order, 10 points more when shown first; the orders are not equally frequent."""
    p = [1.0] * 9 + [0.0] + [1.0] * 9 + [0.0] * 21
    cells = [("b", "a")] * 10 + [("a", "b")] * 30
    found = order_effect_apart([*p, math.nan, 1.0], [*cells, ("b", "a"), ("c", "d")], range(42))
    assert found.point == pytest.approx((0.9 + 0.3) / 2 - 0.5)
    assert (found.n, found.n_failed) == (40, 1)
    assert math.isnan(order_effect_apart([1.0], [("a", "b")], [0]).point)
    assert math.isnan(order_effect_apart([1.0, math.nan], [("a", "b"), ("b", "a")], [0, 1]).point)


def test_grades_have_no_order_but_a_length(tmp_path: Path) -> None:
    """Of four decided questions the longer answer has the higher grade on three."""
    from leaderboard.answers import Answer, Answers

    rows = [grade_row(q, m, s) for q, (x, y) in enumerate([(7, 4), (8, 2), (9, 5), (3, 6), (5, 5), (4, -1)])
            for m, s in (("long", x), ("brief", y))]  # fmt: skip
    files = [write_lines(tmp_path / "judge_single.jsonl", rows)]
    answers = [Answers(m, {str(q): Answer(str(q), (m * n,)) for q in range(6)}) for m, n in (("long", 9), ("brief", 1))]
    material = read_material("mt_bench", files, answers)
    found = with_judges(make_table("b", "mt_bench", []), material).judges
    assert found is not None
    one = {m["name"]: m for m in found["judges"][0]["measures"]}
    assert (
        one["first_wins"]["why"] == one["swap_kappa"]["why"] == "one answer is graded at a time, so there is no order"
    )
    assert (one["longer_wins"]["point"], one["longer_wins"]["n"], one["longer_wins"]["n_failed"]) == (0.75, 4, 1)
    assert one["more_lists_wins"]["why"] == "no decided verdict on a pair in which one answer has more list items"
    assert one["list_slope"]["why"] == "the two answers differ by the same everywhere"
    assert found["judges"][0]["reasons"] == {"unreadable verdict": 1}


def test_what_is_read_is_bounded_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leaderboard import rulings
    from leaderboard.answers import Answer, Answers

    monkeypatch.setattr(rulings, "MOST", 3)
    monkeypatch.setattr(rulings, "_TEXTS", 10)
    files = [write_lines(tmp_path / f"{i}.jsonl", [grade_row(q, f"m{i}", 5) for q in (1, 2)]) for i in range(4)]
    answers = [Answers(f"m{i}", {"1": Answer("1", ("eleven long",))}) for i in range(3)]
    material = read_material("mt_bench", files, iter(answers))
    assert (len(material.rulings), material.left_out) == (4, 2)  # whole files
    assert (sorted(material.texts), material.texts_left_out) == ([("m0", "1", 1)], True)
    found = with_judges(make_table("b", "mt_bench", []), material).judges
    assert found is not None
    assert "2 files are left out" in found["notes"][0]
    assert "only those of the first models" in found["notes"][1]


def test_a_task_judged_twice_tells_repeatability(tmp_path: Path) -> None:
    rows = [grade_row(1, "m", s, user_prompt="p1") for s in (7, 7, 6)] + [grade_row(2, "m", 5, user_prompt="p2")] * 2
    rows += [grade_row(3, "m", 5, user_prompt="old answer"), grade_row(3, "m", 9, user_prompt="new answer")]
    found = judges("mt_bench", [write_lines(tmp_path / "j_single.jsonl", rows)])["judge"]["repeatability"]
    assert (found["point"], found["n"]) == (pytest.approx((1 / 3 + 1) / 2), 2)  # the third question's answers differ


def test_self_preference_needs_another_judge(tmp_path: Path) -> None:
    names = ("claude-2", "gpt-4")
    rows = [pair_row(q, "22" if q < 8 else "11", "gpt-4", names) for q in range(10)]
    alone = judges("mt_bench", [write_lines(tmp_path / "a.jsonl", rows)])["gpt-4"]["self_preference"]
    assert alone["why"] == "no judge of another family ruled on the same answers"
    rows += [pair_row(q, "22" if q < 5 else "11", "qwen-2", names) for q in range(10)]
    both = judges("mt_bench", [write_lines(tmp_path / "b.jsonl", rows)])
    assert both["gpt-4"]["self_preference"]["point"] == pytest.approx(0.8 - 0.5)
    assert both["qwen-2"]["self_preference"]["why"] == "no model of the judge's family meets one of another family"


def test_agreement_with_people_is_counted_by_vote(tmp_path: Path) -> None:
    """The judge: a, tie (its orders differ), b, failed. Seven votes; one pair was never judged."""
    from sklearn.metrics import cohen_kappa_score

    files = [write_lines(tmp_path / "pair.jsonl", [pair_row(i, w) for i, w in enumerate(("11", "12", "22", "1e"))])]
    votes = [(0, "a", "b", "model_a", "x"), (0, "b", "a", "model_b", "y"), (0, "a", "b", "tie", "z"),
             (1, "a", "b", "tie (inconsistent)", "x"), (2, "a", "b", "model_b", "x"), (2, "b", "a", "model_b", "y"),
             (3, "a", "b", "model_a", "x"), (4, "a", "b", "model_a", "x")]  # fmt: skip
    rows = [
        {"question_id": q, "model_a": a, "model_b": b, "winner": w, "judge": r, "turn": 1} for q, a, b, w, r in votes
    ]
    human = read_votes(write_lines(tmp_path / "human.jsonl", rows))
    found = judges("mt_bench", files, votes=human)["gpt-4"]
    judge, people = [1, 1, 1, 0, -1, -1], [1, 1, 0, 0, -1, 1]  # of a; which side comes first is arbitrary, so both do
    expected = cohen_kappa_score([*judge, *(-v for v in judge)], [*people, *(-v for v in people)])
    assert found["human_kappa"]["point"] == pytest.approx(expected)
    every, decided = found["human_agreement"], found["human_agreement_decided"]
    assert (every["point"], every["n"], every["n_failed"]) == (pytest.approx(4 / 6), 6, 1)
    assert (decided["point"], decided["n"]) == (pytest.approx(3 / 4), 4)
    # among people: x = y, x != z, y != z on the first pair, x != y on the third
    assert (found["human_human"]["point"], found["human_human"]["n"]) == (pytest.approx(1 / 4), 4)
    assert (found["human_human_decided"]["point"], found["human_human_decided"]["n"]) == (pytest.approx(1 / 2), 2)
    other = [{"uid": "q9", "model_1": "a", "model_2": "b", "winner": "model_1"}]
    none = judges("mt_bench", files, votes=read_votes(write_lines(tmp_path / "other.jsonl", other)))["gpt-4"]
    assert none["human_agreement"]["why"] == "no human vote is about a pair of answers that the judge ruled on"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"model_a": "a", "model_b": "b", "winner": "tie"}, r"row 1.*question_id"),
        ({"question_id": 1, "model_a": "a", "model_b": "b", "winner": "a"}, r"row 1.*winner.*'a'"),
        ({"question_id": 1, "model_a": "a", "model_b": "b", "winner": "tie", "turn": 3}, r"row 1.*turn"),
        ({"question_id": 1, "generator_1": "a", "generator_2": "b", "preference": 3}, r"row 1.*preference"),
        ({"question_id": 1, "generator_1": "a", "generator_2": "b"}, r"row 1.*winner or a preference"),
    ],
)
def test_bad_human_labels_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_votes(write_lines(tmp_path / "h.jsonl", [row]))


def test_alpaca_preferences_of_people_are_read(tmp_path: Path) -> None:
    rows = [{"instruction": "q", "generator_1": "a", "generator_2": "b", "preference": p, "annotator_index": 3}
            for p in (1, 2, 1.5, 0)]  # fmt: skip
    path = tmp_path / "human.json"
    path.write_text(json.dumps(rows))
    assert [(v.value, v.rater) for v in read_votes(path)] == [(1.0, "3"), (0.0, "3"), (0.5, "3"), (0.5, "3")]


def test_the_command_writes_and_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [pair_row(q, "12" if q % 4 else "11", "<b>evil</b>") for q in range(8)]
    labels = [{"question_id": 0, "model_a": "a", "model_b": "b", "winner": "model_a", "judge": "p", "turn": 1}]
    human = write_lines(tmp_path / "human.jsonl", labels)
    argv = ["--benchmark", "mt_bench", "--annotations", str(write_lines(tmp_path / "p.jsonl", rows)), "--human"]
    assert cli.leaderboard([*argv, str(human), "--out", str(tmp_path / "out"), "--resamples", "50"]) == 0
    assert "- swap consistency (same verdict in both orders): 25.0% [" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    words = " ".join(page.split())
    assert "&lt;b&gt;evil&lt;/b&gt;" in page
    assert "<b>evil" not in page
    assert "not measurable<small>the answers are not among the files</small>" in words
    assert "not known<small>the files hold no prices</small>" in words
    assert "kappa with people" in words
    assert "the verdicts of &lt;b&gt;evil&lt;/b&gt; show signs of bias: order effect 37.5% [" in words
    stored = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["judges"]["judges"][0]
    assert {"swap_consistency", "human_kappa"} <= {m["name"] for m in stored["measures"]}
    bare = board_page(as_dict(make_table("b", "mt_bench", [])), [], tmp_path, "prefeval leaderboard")
    assert "Judge diagnostics" not in bare


def test_a_bench_run_knows_reasons_and_cost(tmp_path: Path) -> None:
    """A judge of the smaller text rules alike in both orders; what failed and was paid is the run's own record."""
    from test_leaderboard_run import Alphabet, Writer, config

    from leaderboard.run import run_bench

    human = write_lines(
        tmp_path / "h.jsonl", [{"uid": "ma01", "model_a": "ann", "model_b": "mid", "winner": "model_a"}]
    )
    setup = config(tmp_path, benchmarks=("mini-arena",), limit=5, human=str(human))
    run_bench(setup, open_model=lambda spec: Writer(spec.name, []), judge=Alphabet(["ann/ma02/1"]))
    folder = tmp_path / "run" / "scores" / "mini-arena"
    judge = json.loads((folder / "leaderboard.json").read_text())["judges"]["judges"][0]
    found = {m["name"]: m for m in judge["measures"]}
    assert (judge["judge"], judge["verdicts"], judge["failed"]) == ("alphabet", 20, 1)
    assert judge["reasons"] == {"server said no": 1}
    assert judge["cost"] == {"dollars": 9.5, "verdicts": 20}
    assert (found["swap_consistency"]["point"], found["swap_consistency"]["n"]) == (1.0, 9)
    assert found["order_effect"]["point"] == 0
    assert (found["human_agreement"]["point"], found["human_agreement"]["n"]) == (1.0, 1)
    shown = json.loads((folder / "answers.json").read_text())
    assert shown["models"] == ["mid", "ann", "zoe"]
    first = shown["items"][0]
    assert first["turns"][0].startswith("I have chickpeas")
    assert [v["shown"] for v in first["answers"][1]["verdicts"]] == ["second", "first"]
    assert [v["share"] for v in first["answers"][1]["verdicts"]] == [1.0, 1.0]


def test_alpaca_rows_of_both_orders_are_two_verdicts_each(tmp_path: Path) -> None:
    """Shown first, then second: the model wins both, the first place wins both, a failure; by hand."""
    rows = [
        alpaca_row("q1", 1.9, preferences=[1.9, 1.9], raw_completion=["M", "m"]),
        alpaca_row("q2", 1.5, preferences=[1.1, 1.9], raw_completion=["m", "m"]),
        alpaca_row("q3", None, preferences=[None, 1.9], raw_completion=[None, "m"]),
        alpaca_row("q4", 1.2, preferences=[1.2, 1.2], raw_completion=["m", "M"]),
    ]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(rows))
    material = read_material("alpaca_eval", [file])
    assert [(r.first, round(r.value, 6)) for r in material.rulings[:4]] == [
        ("base", 0.1), ("m", 0.9), ("base", 0.9), ("m", 0.9)
    ]  # fmt: skip
    judge = judges("alpaca_eval", [file])["gpt-4"]
    assert (judge["verdicts"], judge["failed"]) == (8, 1)
    assert judge["swap_consistency"]["point"] == pytest.approx(2 / 3)
    # order effect: mean of (p_first of order 1 + of order 2) / 2 - 1/2 over q1, q2, q4: (0 + 0.4 + 0) / 3
    assert judge["order_effect"]["point"] == pytest.approx(0.4 / 3)
