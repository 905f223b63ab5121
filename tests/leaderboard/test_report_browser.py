"""Answers side by side with verdicts: what is chosen, what is left out, and that model text stays data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_toys import EVIL
from test_report import Page

from leaderboard import cli
from leaderboard.report import report
from leaderboard.report_browser import browser
from leaderboard.rulings import Material, Ruling
from leaderboard.showcase import MODELS, QUESTIONS, showcase
from leaderboard.table import TableRow, make_table
from prefeval.stats import Estimate


def material(questions: int, models: int, length: int) -> tuple[Any, Material]:
    """Questions of two categories, three in four of the first; every model met the baseline m0."""
    found = Material("arena_hard", baselines={"m0"})
    for q in range(questions):
        found.categories[str(q)] = "b" if q % 4 == 3 else "a"
        found.texts |= {(f"m{m}", str(q), 1): "x" * length for m in range(models)}
        found.rulings += [Ruling("j", str(q), 1, "m0", f"m{m}", 0.25, "B>A") for m in range(1, models)]
    rows = [TableRow(f"m{m}", Estimate(float(m), m - 1.0, m + 1.0, questions)) for m in range(models)]
    return make_table("b", "arena_hard", rows), found


def test_the_choice_is_bounded_and_blind_to_outcomes() -> None:
    shown = showcase(*material(200, 9, 10))
    assert shown is not None
    assert (shown["questions"], len(shown["items"]), shown["models_left_out"]) == (200, QUESTIONS, 9 - MODELS)
    assert shown["models"] == ["m0", "m8", "m7", "m6", "m5", "m4"]  # the baseline, then the best
    categories = [item["category"] for item in shown["items"]]
    assert (categories.count("a"), categories.count("b")) == (30, 30)
    assert [int(i["question"]) for i in shown["items"]] == sorted(int(i["question"]) for i in shown["items"])
    long = showcase(*material(200, 6, 5000))
    assert long is not None
    assert len(json.dumps(long)) < 650_000
    assert 1 < len(long["items"]) < QUESTIONS
    assert "(2,000 characters more)" in long["items"][0]["answers"][0]["turns"][0]
    assert showcase(make_table("b", "arena_hard", []), Material("arena_hard")) is None


def test_verdicts_stand_beside_the_model_that_met_the_baseline() -> None:
    shown = showcase(*material(1, 3, 10))
    assert shown is not None
    base, best, other = shown["items"][0]["answers"]
    assert (base["model"], base["verdicts"]) == ("m0", [])
    assert [(a["model"], a["verdicts"][0]["share"], a["verdicts"][0]["shown"]) for a in (best, other)] == [
        ("m2", 0.75, "second"),
        ("m1", 0.75, "second"),
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """`prefeval leaderboard` of a model that writes markup, one of whose verdicts failed."""
    rows = [
        {"instruction": f"Say <i>{i}</i>", "output_1": "plain", "generator_1": "base", "output_2": f"{EVIL} {i}",
         "generator_2": "<m>", "annotator": "<judge>", "preference": p, "raw_completion": f"<b>M{i}</b>", "dataset": d}
        for i, (p, d) in enumerate([(1.75, "x"), (None, "x"), (1.0, "y")])
    ]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(rows))
    argv = ["--benchmark", "mini-alpaca", "--annotations", str(tmp_path / "a.json"), "--out", str(tmp_path / "out")]
    assert cli.leaderboard([*argv, "--resamples", "20"]) == 0
    return tmp_path / "out"


def test_model_and_judge_text_is_data(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.crossed == []
    assert page.stack == []
    assert "<script" not in html.lower()
    assert not set("\x07\x1b\u202e\ud800") & set(html)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "wins against base (75.0% of the win; 75% for <m>, shown" in page.words
    assert "no verdict of <judge>: unreadable verdict" in page.words
    assert "<b>M0</b>" in page.text  # the judge's words, as text
    assert "3 of 3 questions, taken in turn from each category" in page.words
    assert html.count('<details class="question') == 3
    picked = [a["class"] for t, a in page.tags if t == "input"]
    assert picked == ["pm0", "pm1", "pk0", "pk1", "pk2"]
    for name in picked:  # the style sheet has a rule for each
        assert f".{name}:" in html or name == "pk0"


def test_a_report_of_the_folder_shows_the_same_and_survives_damage(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    assert report([str(run), "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8").count('<details class="question') == 3
    for damaged in ("{broken", '{"items": [3, {"answers": [1, {"model": "base"}]}], "models": ["base", 4]}', "[]"):
        (run / "answers.json").write_text(damaged)
        assert report([str(run), "--out", str(out)]) == 0
    assert '<details class="question' not in out.read_text(encoding="utf-8")


def test_what_is_left_out_is_said() -> None:
    answers = [{"model": "m", "turns": ["one", "two"], "verdicts": [{"judge": "j", "turn": 2, "grade": 7.5}]}]
    item = {"question": "q", "category": "", "turns": ["t"], "answers": answers}
    section = browser("id", {"questions": 80, "models": ["m"], "models_left_out": 3, "items": [item]})
    assert section is not None
    told, block = section.blocks
    assert "1 of 80 questions" in str(told)
    assert "79 are left out to keep the page small. 3 more models are left out." in str(told)
    assert block.questions[0].replies[0].verdicts[0].text == "turn 2, grade 7.5, says j"  # type: ignore[union-attr]
    assert block.questions[0].brief == "m 7.5"  # type: ignore[union-attr]
