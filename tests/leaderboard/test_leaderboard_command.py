"""`prefeval leaderboard` as a command: many files in one pass, AlpacaEval 1, pairs, comparisons, subcategories."""

from __future__ import annotations

import csv
import json
import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leaderboard_data import read_csv, write_lines

from leaderboard import cli
from leaderboard.annotations import PreferenceRow, read_preferences
from leaderboard.preferences import pool_of, read_pool
from leaderboard.scoring import ScoreOptions
from prefeval.errors import ConfigError, DataError


def annotations(model: str, n: int, seed: int, **changes: Any) -> list[dict[str, Any]]:
    """n AlpacaEval rows of one model against a custom baseline."""
    rng = np.random.default_rng(seed)
    return [
        {
            "instruction": f"Question {i}?",
            "dataset": "a" if i % 2 else "b",
            "output_1": "b" * int(rng.integers(10, 90)),
            "output_2": "m" * int(rng.integers(10, 90)),
            "generator_1": "base",
            "generator_2": model,
            "annotator": "judge",
            "preference": float(1 + rng.uniform()),
            **changes,
        }
        for i in range(n)
    ]


def run(tmp_path: Path, benchmark: str, files: list[Path], *arguments: str) -> dict[str, dict[str, str]]:
    argv = ["--benchmark", benchmark, "--out", str(tmp_path / "out"), "--resamples", "100", *arguments]
    assert cli.leaderboard([*argv, "--annotations", *(str(f) for f in files)]) == 0
    return read_csv(tmp_path / "out" / "leaderboard.csv")


def test_a_pool_is_the_rows_of_its_files(tmp_path: Path) -> None:
    """A model in two files, repeated questions: the last row counts, at the place of the first, with its position."""
    first = annotations("m", 4, 0) + annotations("k", 2, 1)
    second = [{**first[1], "preference": 1.75}, {**first[0], "preference": None}]
    files = []
    for name, rows in (("a.json", first), ("b.json", second)):
        (tmp_path / name).write_text(json.dumps(rows))
        files.append(tmp_path / name)
    pool = read_pool(files)
    m, k = pool.groups
    assert (m.model, k.model, pool.baselines) == ("m", "k", ("base",))
    assert [pool.questions[q] for q in m.question] == [f"Question {i}?" for i in range(4)]
    assert math.isnan(m.win[0])
    assert m.win[1] == 0.75
    assert m.position.tolist() == [1, 0, 2, 3]
    assert [pool.files[f].rsplit("/", 1)[1] for f in m.file] == ["b.json", "b.json", "a.json", "a.json"]
    rows = [r for r in read_preferences(files) if r.model == "m"]
    assert [r.win for r in rows][1:] == m.win.tolist()[1:]
    assert [(r.position, r.length_model, r.row) for r in rows] == list(
        zip(m.position.tolist(), m.length_model.tolist(), m.row.tolist(), strict=True)
    )


def test_a_pool_does_not_hold_the_texts() -> None:
    """20,000 verdicts on the same 100 long questions: about 72 bytes each, and each question once."""
    size = 20_000

    def rows() -> Any:
        for i in range(size):
            text = f"{i % 100} " + "question " * 200
            yield PreferenceRow(f"m{i // 100}", "base", "j", text, "d", 0.25, i % 100, 10.0, 20.0, "file", i)

    tracemalloc.start()
    pool = pool_of(rows())
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pool.groups) == 200
    assert len(pool.questions) == 100
    assert kept < size * 110 + 100 * 2500


def test_many_files_in_one_pass_and_a_bad_one_among_them(tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    for i in range(25):
        (folder / f"{i:03}.json").write_text(json.dumps(annotations(f"m{i}", 20, i)))
    board = run(tmp_path, "alpaca_eval", [folder], "--compare", "3")
    assert len(board) == 25
    for i in (0, 17):
        wins = [row["preference"] - 1 for row in annotations(f"m{i}", 20, i)]
        assert float(board[f"m{i}"]["win_rate"]) == pytest.approx(100 * float(np.mean(wins)))
    compared = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    assert [(c["first"], c["second"]) for c in compared] == [
        (a, b) for i, a in enumerate(list(board)[:3]) for b in list(board)[i + 1 : 3]
    ]
    bad = annotations("m22", 20, 22)
    bad[13]["preference"] = 2.5
    (folder / "022.json").write_text(json.dumps(bad))
    with pytest.raises(DataError, match=r"022\.json, row 14, field 'preference'"):
        run(tmp_path, "alpaca_eval", [folder])
    (folder / "022.json").write_text('[{"instruction": "cut')
    with pytest.raises(DataError, match=r"022\.json: not valid JSON"):
        run(tmp_path, "alpaca_eval", [folder])


def test_alpaca_eval_1_is_scored_by_its_raw_win_rate(tmp_path: Path) -> None:
    """Verdicts of 1, 2 and 0 (an old draw) against text_davinci_003; no length control in that protocol."""
    rows = annotations("m", 10, 0, generator_1="text_davinci_003", annotator="alpaca_eval_gpt4")
    for i, row in enumerate(rows):
        row["preference"] = (2, 2, 2, 1, 0)[i % 5]
    path = tmp_path / "v1.json"
    path.write_text(json.dumps(rows))
    found = run(tmp_path, "alpaca_eval", [path])["m"]
    assert float(found["score"]) == float(found["win_rate"]) == pytest.approx(70.0)
    assert float(found["discrete_win_rate"]) == pytest.approx(70.0)
    assert found["lc_win_rate"] == ""
    assert float(found["standard_error"]) == pytest.approx(100 * np.std([1, 1, 1, 0, 0.5] * 2, ddof=1) / math.sqrt(10))
    assert "AlpacaEval 1" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_refitted_scores_are_compared_too(tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 1), ("b", 2)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(annotations(name, 60, seed)))
        files.append(path)
    board = run(tmp_path, "alpaca_eval", files)
    best, other = board.values()
    (refitted,) = json.loads((tmp_path / "out" / "comparisons_refitted.json").read_text())
    assert (refitted["first"], refitted["measure"]) == (best["name"], "lc_win_rate")
    expected = float(best["lc_win_rate"]) - float(other["lc_win_rate"])
    assert refitted["difference"]["point"] == pytest.approx(expected)
    (outcome,) = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    assert outcome["measure"] == "outcome"
    assert abs(100 * outcome["difference"]["point"]) == pytest.approx(
        abs(float(best["win_rate"]) - float(other["win_rate"]))
    )
    run(tmp_path / "none", "alpaca_eval", files, "--compare", "0")
    assert not (tmp_path / "none" / "out" / "comparisons.json").exists()


def test_models_are_compared_under_one_judge_only(tmp_path: Path) -> None:
    """The same questions, judged by two judges: what one says of a does not compare with what the other says of c."""
    files = []
    for name, judge in (("a", "strict"), ("b", "strict"), ("c", "mild"), ("d", "mild")):
        rows = [{**row, "annotator": judge} for row in annotations(name, 30, ord(name))]
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(rows))
    board = run(tmp_path, "alpaca_eval", files)
    assert {name: row["judge"] for name, row in board.items()} == {
        "a": "strict",
        "b": "strict",
        "c": "mild",
        "d": "mild",
    }
    for kind in ("comparisons", "comparisons_refitted"):
        found = json.loads((tmp_path / "out" / f"{kind}.json").read_text())
        pairs = {(*sorted((c["first"], c["second"])), c["judge"]) for c in found}
        assert pairs == {("a", "b", "strict"), ("c", "d", "mild")}


def test_models_of_different_questions_are_resampled_on_their_own(tmp_path: Path) -> None:
    """Three models, no question in common: each interval is the one that the model has alone, and none is compared."""
    files = []
    for i in range(3):
        rows = annotations(f"m{i}", 40, i)
        for row in rows:
            row["instruction"] += f" ({i})"
        files.append(tmp_path / f"{i}.json")
        files[-1].write_text(json.dumps(rows))
    board = run(tmp_path, "alpaca_eval", files)
    assert json.loads((tmp_path / "out" / "comparisons.json").read_text()) == []
    assert not (tmp_path / "out" / "comparisons_refitted.json").exists()
    for i, file in enumerate(files):
        alone = run(tmp_path / "alone", "alpaca_eval", [file])[f"m{i}"]
        for column in ("lc_win_rate", "lc_low", "lc_high"):
            assert float(board[f"m{i}"][column]) == pytest.approx(float(alone[column]))


def test_a_model_without_texts_is_said_to_be_uncontrolled(tmp_path: Path) -> None:
    rows = annotations("bare", 12, 3)
    for row in rows:
        del row["output_1"], row["output_2"]
    path = tmp_path / "bare.json"
    path.write_text(json.dumps(rows))
    found = run(tmp_path, "alpaca_eval", [path])["bare"]
    assert found["score"] == found["win_rate"]
    assert "so the score is raw: bare" in (tmp_path / "out" / "leaderboard.md").read_text()


def pair(question: int, first: str, second: str, winners: tuple[str, str]) -> dict[str, Any]:
    return {"question_id": question, "model_1": first, "model_2": second, "g1_winner": winners[0],
            "g2_winner": winners[1], "judge": ["gpt-4", "pair-v2"], "turn": 1}  # fmt: skip


def test_mt_bench_pairs_have_columns(tmp_path: Path) -> None:
    """A win needs both orders; everything else that was judged is a tie; an error drops the row."""
    rows = [
        pair(81, "a", "b", ("model_1", "model_1")),
        pair(82, "a", "b", ("model_1", "model_2")),
        pair(83, "a", "b", ("tie", "model_1")),
        pair(84, "a", "b", ("model_2", "model_2")),
        pair(85, "a", "b", ("model_1", "model_1")),
        pair(86, "a", "b", ("error", "model_1")),
    ]
    board = run(tmp_path, "mt_bench", [write_lines(tmp_path / "x_pair.jsonl", rows)])
    a, b = board["a"], board["b"]
    assert [a[f"pair_{k}"] for k in ("wins", "losses", "ties")] == ["2", "1", "2"]
    assert [b[f"pair_{k}"] for k in ("wins", "losses", "ties")] == ["1", "2", "2"]
    assert float(a["win_rate_adjusted"]) == float(a["score"]) == pytest.approx(60.0)
    assert (a["n"], a["n_failed"]) == ("5", "1")
    assert float(a["win_rate_low"]) < 60 < float(a["win_rate_high"])
    (compared,) = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    assert compared["difference"]["point"] == pytest.approx(0.2)
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "gpt-4: share of pairs on which its two orders agree 0.600" in text
    assert "| 2 | 1 | 2 | 60.00 |" in text


def test_subcategories_come_from_the_question_file(tmp_path: Path) -> None:
    games = [
        {"uid": f"u{i}", "category": "hard_prompt", "judge": "j", "model": "m", "baseline": "b",
         "games": [{"score": "B>A" if i < 4 else "A>B"}, {"score": "A>B" if i < 4 else "B>A"}]} for i in range(6)
    ]  # fmt: skip
    questions = [
        {"uid": f"u{i}", "category": "hard_prompt", "subcategory": "coding" if i < 3 else "math", "prompt": "?"}
        for i in range(6)
    ]
    (tmp_path / "data" / "arena_hard" / "v2.0").mkdir(parents=True)
    write_lines(tmp_path / "data" / "arena_hard" / "v2.0" / "question.jsonl", questions)
    files = [write_lines(tmp_path / "m.jsonl", games)]
    found = run(tmp_path, "arena_hard", files, "--data", str(tmp_path / "data"))["m"]
    assert float(found["score"]) == pytest.approx(100 * 4 / 6)
    assert float(found["coding"]) == pytest.approx(100.0)
    assert float(found["math"]) == pytest.approx(100 / 3)
    assert found["creative_writing"] == ""
    with pytest.raises(ConfigError, match="failures"):
        ScoreOptions(failures="zero")


def test_the_tables_escape_what_programs_would_run(tmp_path: Path) -> None:
    """A model's name is data: no formula in a spreadsheet, no command in LaTeX, no markup in the page."""
    name = '=HYPERLINK("x") & 5% of $m_1$ <script>alert(1)</script>'
    rows = [
        {
            "instruction": f"q{n}",
            "output_1": "a" * (n + 1),
            "generator_1": "base",
            "output_2": "b" * 3,
            "generator_2": name,
            "annotator": "judge",
            "preference": 1 + (n % 2),
        }
        for n in range(6)
    ]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(rows))
    out = tmp_path / "board"
    argv = ["leaderboard", "--benchmark", "mini-alpaca", "--annotations", str(file), "--out", str(out)]
    assert cli.leaderboard([*argv[1:], "--resamples", "20"]) == 0
    with open(out / "leaderboard.csv", newline="", encoding="utf-8") as handle:
        (row,) = csv.DictReader(handle)
    assert row["name"] == f"'{name}"
    tex = (out / "leaderboard.tex").read_text()
    assert r'=HYPERLINK("x") \& 5\% of \$m\_1\$' in tex
    assert tex.count(r"\\") == 2  # the header and one row
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|url\(\s*["']?(?:https?:)?//""", page)
