"""What we write, read as the originals read it: their own package, or their readers redone here from the formats'
description (reference: benchmarks.md 1.3-1.5, 2.2-2.3, 3.1-3.2) with pandas and nothing of ours.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from leaderboard_data import DATA, needs_data, read_csv
from upstream import length_controlled_winrate, package

from leaderboard import cli
from leaderboard.answering import write_answers
from leaderboard.answers import Answer, Answers
from leaderboard.benchmarks import open_benchmark
from leaderboard.benchmarks.base import Benchmark, Judged
from leaderboard.verdicts import write_native
from prefeval.judges.base import JudgeTask, Verdict
from prefeval.judges.parse import ARENA_P

JUDGE = "org/judge-1"


def answers(benchmark: Benchmark, model: str) -> Answers:
    """Texts of very different length, with marks, line separators and unusual characters in them."""
    draw = random.Random(model)
    items = {}
    for p in benchmark.prompts():
        turns = tuple(f"# {model}\n- {t[:40]}\u2028**x** \U0001f600 " + "word " * draw.randint(1, 400) for t in p.turns)
        items[p.key] = Answer(p.key, turns, p.turns[0], p.category)
    return Answers(model, items)


def verdict(task: JudgeTask, draw: random.Random) -> Verdict:
    """A verdict of the task's protocol by chance; one in eight fails."""
    if draw.random() < 0.125:
        return Verdict(task.id, JUDGE, error="HTTP 500: down", reason="server error")
    if task.second is None:
        grade = float(draw.choice([1, 2, 5, 7.5, 9, 10]))
        return Verdict(task.id, JUDGE, grade=grade, label=f"{grade}", raw=f"Rating: [[{grade}]]")
    if task.parser.startswith("arena"):
        label = draw.choice(list(ARENA_P))
        return Verdict(task.id, JUDGE, p_first=ARENA_P[label], label=label, raw=f"So [[{label}]]")
    p = draw.choice([0.0, 1.0, 0.5, draw.random()])
    return Verdict(task.id, JUDGE, p_first=p, label="m" if p >= 0.5 else "M", raw="m")


def judged_files(benchmark: Benchmark, folder: Path, models: Sequence[str], baseline: str = "base") -> list[Path]:
    """Answer and verdict files of a whole run, as a bench writes them; the verdict files are returned."""
    base, rows = answers(benchmark, baseline), {}
    write_answers(benchmark, folder, base)
    for model in models:
        own = answers(benchmark, model)
        write_answers(benchmark, folder, own)
        draw = random.Random(model)
        judged = [Judged(task, verdict(task, draw)) for task in benchmark.tasks(own, [base])]
        rows[model] = benchmark.native(own, [base], judged, JUDGE)
    return write_native(benchmark, folder, JUDGE, rows)


def ours(benchmark: str, folder: Path, files: Sequence[Path], *more: str) -> dict[str, dict[str, str]]:
    argv = ["--benchmark", benchmark, "--out", str(folder), "--compare", "0", "--resamples", "20", *more]
    assert cli.leaderboard([*argv, "--annotations", *(str(f) for f in files)]) == 0
    return read_csv(folder / "leaderboard.csv")


WEIGHTED = {
    **{"A>B": [1.0], "A>>B": [1.0] * 3, "A=B": [0.5], "B=A": [0.5], "B<A": [1.0], "B<<A": [1.0] * 3},
    **{"A<B": [0.0], "B>A": [0.0], "A<<B": [0.0] * 3, "B>>A": [0.0] * 3},
}


def arena_show_result(folder: Path, judge: str) -> dict[str, float]:
    """Arena-Hard v2: the mean outcome of each model; a question with a null game or score is dropped."""
    means: dict[str, list[float]] = {}
    for file in sorted((folder / "model_judgment" / judge).glob("*.jsonl")):
        for row in pd.read_json(file, lines=True).to_dict("records"):
            games = row["games"]
            if games[0] is None or games[1] is None or None in (games[0]["score"], games[1]["score"]):
                continue
            outcomes = WEIGHTED[games[1]["score"]] + [1 - s for s in WEIGHTED[games[0]["score"]]]
            means.setdefault(row["model"], []).extend(outcomes)
    return {model: 100 * sum(values) / len(values) for model, values in means.items()}


def test_arena_hard_files(tmp_path: Path) -> None:
    benchmark = open_benchmark("mini-arena")
    files = judged_files(benchmark, tmp_path, ["ann", "org/zoe"])
    theirs = arena_show_result(tmp_path, "org_judge-1")
    scored = ours("mini-arena", tmp_path / "out", files)
    assert set(theirs) == {"ann", "org/zoe"} <= set(scored)
    for model, score in theirs.items():
        assert float(scored[model]["score"]) == pytest.approx(score, abs=1e-9)
        assert int(scored[model]["n_failed"]) > 0
    # gen_judgment and show_result look up answers by uid, and style control needs every record
    for name in ("ann", "org_zoe", "base"):
        lines = (tmp_path / "model_answer" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
        rows = {row["uid"]: row for row in map(json.loads, filter(None, lines))}
        model = name.replace("org_", "org/")
        for prompt in benchmark.prompts():
            row = rows[prompt.key]
            assert row["messages"][-1]["content"]["answer"] == answers(benchmark, model).items[prompt.key].turns[0]
            assert row["metadata"]["token_len"] > 0
            assert sum(row["metadata"]["header_count"].values()) == sum(row["metadata"]["bold_count"].values()) == 1
            assert row["model"] == model


def fastchat_show_result(file: Path) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """FastChat's single mode: rows of -1 go, then means by model and turn, and by model."""
    frame = pd.read_json(file, lines=True)[["model", "score", "turn"]]
    frame = frame[frame["score"] != -1]
    return frame.groupby(["turn", "model"])["score"].mean().unstack(0), frame.groupby("model")["score"].mean()


def test_mt_bench_files(tmp_path: Path) -> None:
    benchmark = open_benchmark("mini-mt")
    files = judged_files(benchmark, tmp_path, ["ann", "org/zoe"])
    assert files == [tmp_path / "model_judgment" / "org_judge-1_single.jsonl"]
    turns, average = fastchat_show_result(files[0])
    scored = ours("mini-mt", tmp_path / "out", files)
    for model in ("ann", "org/zoe"):
        found = scored[model]
        expected = [turns.loc[model, 1], turns.loc[model, 2], average[model]]
        assert [float(found[k]) for k in ("turn_1", "turn_2", "average")] == pytest.approx(expected, abs=1e-9)
        assert int(found["n_failed"]) == 2 * len(benchmark.prompts()) - int(found["n"]) > 0
    # gen_judgment knows a model by its file and an answer by its question id
    for model in ("ann", "org/zoe"):
        file = tmp_path / "model_answer" / f"{model.replace('/', '_')}.jsonl"
        rows = {str(r["question_id"]): r for r in pd.read_json(file, lines=True).to_dict("records")}
        for prompt in benchmark.prompts():
            own = answers(benchmark, model).items[prompt.key]
            assert tuple(rows[prompt.key]["choices"][0]["turns"]) == own.turns


@needs_data
@pytest.mark.slow
@pytest.mark.parity
def test_alpaca_eval_scores_our_annotations(tmp_path: Path) -> None:
    """The installed package on our files: win rates to 1e-9, length-controlled (its own C) to 0.02 points."""
    upstream, folder = package(), DATA / "alpaca_eval"
    benchmark = open_benchmark("alpaca_eval", folder)
    files = judged_files(benchmark, tmp_path, ["ann", "org/zoe"], baseline="gpt4_1106_preview")
    options = ("--data", str(folder), "--lc-c", "cv", "--align", "position")
    scored = ours("alpaca_eval", tmp_path / "out", files, *options)
    controlled = length_controlled_winrate(folder)
    for file, model in zip(files, ("ann", "org/zoe"), strict=True):
        frame = upstream.utils.load_or_convert_to_dataframe(file)
        assert set(frame["generator_2"]) == {model}
        assert frame["preference"].isna().sum() > 50
        theirs, found = upstream.metrics.get_winrate(frame), scored[model]
        for key in ("win_rate", "standard_error", "discrete_win_rate"):
            assert float(found[key]) == pytest.approx(theirs[key], abs=1e-9), key
        assert int(found["n"]) == theirs["n_total"]
        rows = json.loads(file.read_text(encoding="utf-8"))
        kept = [row for row in rows if row["preference"] is not None]  # the package's own runs leave failures out
        assert not math.isnan(float(found["lc_win_rate"]))
        lc_file = tmp_path / f"{file.parent.name}-kept.json"
        lc_file.write_text(json.dumps(kept), encoding="utf-8")
        same = ours(
            "alpaca_eval", tmp_path / "o", [lc_file], "--data", str(folder), "--lc-c", "cv", "--align", "position"
        )
        theirs_lc = controlled(kept)["length_controlled_winrate"]
        assert float(same[model]["lc_win_rate"]) == pytest.approx(theirs_lc, abs=0.02)
        outputs = upstream.utils.load_or_convert_to_dataframe(tmp_path / file.parent.name / "model_outputs.json")
        assert list(outputs["output"]) == [r["output_2"] for r in rows]
        assert int(outputs["output"].str.len().mean()) == int(float(found["avg_length"]))
