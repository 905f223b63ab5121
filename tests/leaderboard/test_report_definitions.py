"""Every number that the report prints is defined in it, and what it rests on is told."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path

import pytest
import report_toys as toys
from leaderboard_data import write_lines
from test_judge_findings import alpaca_row, grade_row, pair_row
from test_report import Page
from test_report_suites import suite

from leaderboard import cli
from leaderboard.measures import MEANINGS
from leaderboard.report import report
from leaderboard.table import EXTRA
from prefeval.files import write_json

# names and places, which need no definition
PLAIN = {"model", "measure", "benchmark", "run", "policy", "round", "subset", "first", "second", "judge"}
PROVENANCE = {"kind", "state", "time", "command", "seed", "started", "commit", "machine", "files read (sha-256)"}
PROVENANCE |= {"template hash", "data revision", "baseline", "intervals", "verdict and answer files (sha-256)"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline, a board of each protocol, and a suite, with every kind of table that the report has."""
    root = tmp_path_factory.mktemp("all")
    toys.pipeline(root / "toy")
    write_json(root / "toy" / "suite" / "metrics.json", suite("m", 0.5, chat=0.6))
    alpaca = [alpaca_row(f"q{i}", p, generator_2=m) for m in "abc" for i, p in enumerate((1.2, 1.9, 2.0, 1.0, 1.4))]
    (root / "a.json").write_text(json.dumps(alpaca))
    grades = [grade_row(q, m, s, turn=t) for q in (81, 82, 91) for t in (1, 2) for s, m in enumerate("abc", 3)]
    mt = write_lines(root / "mt.jsonl", [*grades, *(pair_row(q, "1t", names=("a", "c")) for q in (81, 82, 91))])
    arena, answers = [], []
    for i, category in enumerate(("hard_prompt", "hard_prompt", "creative_writing", "creative_writing")):
        for m in "abc":
            games = [{"score": s, "judgment": {"answer": s}} for s in ("A>B", "B>>A")]
            arena.append({"uid": str(i), "category": category, "judge": "gpt-4", "model": m, "baseline": "base",
                          "subcategory": "coding" if i == 0 else category, "games": games})  # fmt: skip
        for m in ("a", "b", "c", "base"):
            said = [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": {"answer": f"{m} - x\n" * (i + 1)}},
            ]
            answers.append({"uid": str(i), "model": m, "messages": said})
    files = [write_lines(root / "judgment.jsonl", arena), write_lines(root / "answers.jsonl", answers)]
    human = [{"uid": "0", "model_a": "a", "model_b": "base", "winner": "model_a", "judge": r} for r in "xy"]
    people = ["--human", str(write_lines(root / "human.jsonl", human))]
    for name, given, more in (("mini-alpaca", [root / "a.json"], []), ("mt_bench", [mt], []),
                              ("arena-hard-v2.0", files, people)):  # fmt: skip
        argv = ["--benchmark", name, "--annotations", *map(str, given), "--out", str(root / name), "--resamples", "20"]
        assert cli.leaderboard([*argv, *more]) == 0
    boards = [str(root / n) for n in ("mini-alpaca", "mt_bench", "arena-hard-v2.0")]
    assert report([str(root / "toy"), *boards, "--out", str(root / "r.html")]) == 0
    return root


def test_every_column_is_defined(folder: Path) -> None:
    html = (folder / "r.html").read_text(encoding="utf-8")
    methods = html[html.index('<section id="methods"') : html.index('<section id="reproducibility"')]
    text = " ".join(Page(methods).text.lower().split())
    titles = re.findall(r'<th scope="col">(.*?)(?:<small>.*?)?</th>', html, re.S)
    columns = {" ".join(Page(t).text.lower().split()) for t in titles}
    assert {"style at zero", "ece", "borda", "rank correlation", "lc win rate"} <= columns  # the tables are all there
    named = {"a", "b", "c", "m", "gpt-4", "judge", "chat"}  # models, judges and sections
    versions = set(json.loads((folder / "mt_bench" / "manifest.json").read_text())["versions"]) | {"python"}
    free = PLAIN | PROVENANCE | named | versions
    assert sorted(c for c in columns - free if c not in text) == []


def test_every_measure_and_protocol_column_is_defined(folder: Path) -> None:
    html = (folder / "r.html").read_text(encoding="utf-8")
    methods = html[html.index('<section id="methods"') : html.index('<section id="reproducibility"')]
    text = " ".join(Page(methods).text.lower().split())
    assert {m.title for m in MEANINGS.values() if m.title not in text} == set()
    shown = (c for columns in EXTRA.values() for c in columns if not c.endswith(("_low", "_high")))
    assert {c for c in shown if c.replace("_", " ") not in text} == set()


def test_provenance_names_what_the_scores_rest_on(folder: Path) -> None:
    words = Page((folder / "r.html").read_text(encoding="utf-8")).words
    for name in ("judgment.jsonl", "answers.jsonl", "human.jsonl"):
        digest = sha256((folder / name).read_bytes()).hexdigest()[:12]
        assert f"{name}:{digest}" in words
    assert "prefeval leaderboard --benchmark mt_bench" in words  # the command, from the folder's own manifest
    inputs = json.loads((folder / "arena-hard-v2.0" / "leaderboard.json").read_text())["inputs"]
    assert (inputs["count"], inputs["seed"], inputs["human"][0]) == (2, 0, "human.jsonl")


def test_definitions_stand_only_where_their_numbers_do(tmp_path: Path, folder: Path) -> None:
    assert report([str(folder / "mt_bench"), "--out", str(tmp_path / "r.html")]) == 0
    words = Page((tmp_path / "r.html").read_text(encoding="utf-8")).words
    assert "Swap consistency" in words or "swap consistency" in words
    assert "Reward-model suites" not in words
    assert "Restricted duality gap" not in words
