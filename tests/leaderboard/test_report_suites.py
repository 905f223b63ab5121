"""RewardBench-style tables in the report: the published sections, and what `prefeval evaluate --suite` leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leaderboard_data import DATA, needs_data, parquet, table, write_lines
from test_report import Page

from leaderboard.report import report
from leaderboard.report_read import read_evidence
from prefeval.cli import main
from prefeval.errors import ConfigError
from prefeval.files import write_json


def suite(name: str, score: float | None, **sections: float) -> dict[str, Any]:
    """A metrics.json as evaluate writes it, with invented numbers."""
    parts = [("sub", "subset", 0.25), *((n, "section", v) for n, v in sections.items()), ("overall", "overall", score)]
    rows = []
    for part, level, v in parts:
        low, high = (None, None) if v is None else (v - 0.1, v + 0.1)
        counts = {"n": 8, "n_dropped": 2}
        rows.append({"name": part, "level": level, "score": v, "score_low": low, "score_high": high, **counts})
    return {"oracle": name, "data": "d.jsonl", "seed": 3, "accuracy": 0.5,
            "suite": {"suite": "rm-bench", "score": score, "rows": rows, "notes": ["A <note>."]}}  # fmt: skip


@needs_data
def test_published_sections_stand_in_the_table(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from reward_models.suites import rewardbench_parts

    published = table("rewardbench/published_subset.csv")[:2]
    subsets = {r["item_id"]: r["subset"] for r in parquet("rewardbench/items.parquet")}
    columns = ["item_id", *(model["model"] for model in published)]
    matrix = pq.read_table(DATA / "rewardbench/correct_matrix.parquet", columns=columns).to_pylist()
    for i, model in enumerate(published):
        hits: dict[str, list[float]] = {}
        for row in matrix:
            value = row[model["model"]]
            hits.setdefault(subsets[row["item_id"]], []).append(np.nan if value is None else float(value))
        parts = rewardbench_parts({s: np.array(v) for s, v in hits.items()}, resamples=50)
        found = {"suite": "rewardbench", "score": parts[-1].point, "rows": [p.row() for p in parts], "notes": []}
        write_json(tmp_path / f"m{i}" / "metrics.json", {"oracle": f"hf:{model['model']}", "suite": found})
    assert report([str(tmp_path / "m1"), str(tmp_path / "m0"), "--out", str(tmp_path / "r.html")]) == 0
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    first = html[html.index("rewardbench: scores by section</span>") :]
    rows = re.findall(r"<tr>(.*?)</tr>", first[: first.index("</table>")], re.S)[-2:]
    for row, model in zip(rows, published, strict=True):  # the better one first, whatever the order of the folders
        shown = [float(v) for v in re.findall(r"<td>([\d.]+)%", row)]
        assert model["model"] in row
        assert shown == pytest.approx([float(model[c]) for c in ("Score", "Chat", "Chat Hard", "Safety", "Reasoning")],
                                      abs=0.1001)  # fmt: skip
    assert "math-prm" in html


def test_suites_are_found_in_and_beside_runs(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "metrics.json", suite("model:<b>x</b>", 0.5, chat=0.6))
    write_json(tmp_path / "a" / "inner" / "metrics.json", suite("other", None, math=0.7))
    write_json(tmp_path / "a" / "pairs" / "metrics.json", {"accuracy": 0.5})  # of labelled pairs: not a suite
    assert [(r.kind, r.name) for r in read_evidence([tmp_path / "a"]).runs] == [
        ("evaluate", "a"),
        ("evaluate", "inner"),
    ]
    assert report([str(tmp_path / "a"), "--out", str(tmp_path / "r.html")]) == 0
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.crossed == page.stack == []
    assert "<b>x" not in html
    assert (
        "model:<b>x</b>a 50.0% [40.0, 60.0]n = 8 items, 2 dropped 60.0% [50.0, 70.0]n = 8 items, 2 dropped –"
        in page.words
    )
    assert "otherinner – – 70.0% [60.0, 80.0]n = 8 items, 2 dropped" in page.words
    assert "A <note>." in page.words
    with pytest.raises(ConfigError, match="not a run directory"):
        read_evidence([tmp_path / "a" / "pairs"])


def test_the_command_and_the_report_fit(tmp_path: Path) -> None:
    models = {"chosen_model": "a", "rejected_model": "b", "subset": "alpacaeval-easy"}
    rows = [{"prompt": f"p{n}", "chosen": "an answer of some length", "rejected": f"r{n}", **models} for n in range(4)]
    argv = ["evaluate", "--oracle", "py:leaderboard_toys:longer", "--suite", "rewardbench", "--resamples", "20"]
    data = write_lines(tmp_path / "rb.jsonl", rows)
    assert main([*argv, "--data", str(data), "--out", str(tmp_path / "run" / "rb")]) == 0
    assert report([str(tmp_path / "run"), "--out", str(tmp_path / "r.html")]) == 0
    words = Page((tmp_path / "r.html").read_text(encoding="utf-8")).words
    assert "100.0% [100.0, 100.0]n = 4 items" in words
    assert "rewardbench: scores by subset" in words
    assert json.loads((tmp_path / "run" / "rb" / "metrics.json").read_text())["suite"]["score"] is None
