"""Benchmarks and bench runs: orders, conversations, failed verdicts, resuming."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from bench_toys import MINI, Alphabet, Writer, answers_to, config
from leaderboard_data import DATA, needs_data

from leaderboard import cli
from leaderboard.answer_cli import answer
from leaderboard.answers import Answers, read_answers, write_alpaca_outputs
from leaderboard.benchmarks import open_benchmark
from leaderboard.benchmarks.alpaca_eval import is_switched
from leaderboard.benchmarks.base import Benchmark, Judged
from leaderboard.benchmarks.rendering import fill
from leaderboard.config import BenchConfig, ModelSpec
from leaderboard.run import run_bench
from leaderboard.verdicts import Journal, task_key
from prefeval.config import from_dict
from prefeval.errors import ConfigError, DataError, RunError
from prefeval.judges.base import Judge, Verdict
from prefeval.judges.parse import parse
from prefeval.runs import read_run
from prefeval.types import Prompt


@needs_data
def test_shown_order_is_upstreams() -> None:
    """Real annotations hold the order: token probabilities give the preference only with the right switch."""
    with gzip.open(DATA / "alpaca_eval/annotations_raw/claude-2.1_concise.annotations.json.gz", "rt") as handle:
        rows = json.load(handle)
    checked = 0
    for row in rows:
        if row["output_1"] == row["output_2"] or not row.get("raw_completion"):
            continue
        first_token = row["raw_completion"]["logprobs"]["content"][0]
        logprobs = {t["token"]: t["logprob"] for t in first_token["top_logprobs"]}
        p = parse("alpaca_logprob", "", logprobs).p_first
        assert p is not None
        preference = 1 + p if is_switched(row["instruction"]) else 2 - p
        assert preference == pytest.approx(row["preference"], abs=1e-6)
        checked += 1
    assert checked > 780


def test_arena_shows_both_orders_and_mt_the_own_first_answer() -> None:
    arena = open_benchmark("mini-arena")
    tasks = arena.tasks(answers_to(arena, "m"), [answers_to(arena, "base")])
    assert len(tasks) == 2 * len(arena.prompts())
    assert tasks[0].first.startswith("base ")
    assert tasks[0].second == tasks[1].first
    assert tasks[0].first == tasks[1].second
    text = tasks[0].messages[1].content
    assert text.index(tasks[0].first) < text.index(str(tasks[0].second))
    mt = open_benchmark("mini-mt")
    turns = mt.tasks(answers_to(mt, "m"), [answers_to(mt, "base")])
    assert [m.role for m in turns[1].prompt.messages] == ["user", "assistant", "user"]
    assert turns[1].prompt.messages[1].content == turns[0].first
    assert turns[1].meta["references"] == [answers_to(mt, "base").items["1"].turns[1]]
    with_reference = next(t for t in turns if t.meta["category"] == "reasoning")
    reference = mt.prompts()[[p.key for p in mt.prompts()].index(with_reference.meta["key"])].reference[0]
    assert reference in with_reference.messages[1].content


@needs_data
@pytest.mark.parametrize(
    ("name", "folder", "count", "calls", "wording"),
    [
        ("alpaca_eval", "alpaca_eval", 805, 805, "unordered outputs from the models"),
        ("arena_hard_v0.1", "arena_hard", 500, 1000, "<|The Start of Assistant A's Answer|>"),
        ("arena_hard_v2.0", "arena_hard", 750, 1500, "<|The Start of Assistant A's Answer|>"),
        ("mt_bench", "mt_bench", 80, 160, "[The Start of Assistant's Answer]"),
    ],
)
def test_originals_are_read_from_the_data_folder(name: str, folder: str, count: int, calls: int, wording: str) -> None:
    benchmark = open_benchmark(name, DATA / folder)
    assert isinstance(benchmark, Benchmark)
    assert not benchmark.own_wording
    tasks = benchmark.tasks(answers_to(benchmark, "m"), [answers_to(benchmark, "base")])
    assert (len(benchmark.prompts()), len(tasks)) == (count, calls)
    assert wording in tasks[0].messages[-1].content
    assert not any("{answer" in m.content or "{output_" in m.content for t in tasks[:4] for m in t.messages)


@needs_data
def test_original_answer_files_fit_their_benchmarks() -> None:
    arena = open_benchmark("arena_hard_v2.0", DATA / "arena_hard")
    base = read_answers(DATA / "arena_hard/v2.0/model_answer/o3-mini-2025-01-31.jsonl.gz")
    own = read_answers(DATA / "arena_hard/v2.0/model_answer/llama3.1-8b-instruct.jsonl.gz")
    tasks = arena.tasks(own[0], base)
    assert len(tasks) == 1500
    creative = next(t for t in tasks if "creative" in str(arena.prompts()[tasks.index(t) // 2].category))
    assert "Begin your evaluation by generating your own answer" not in creative.messages[0].content


def test_templates_leave_braces_in_answers_alone() -> None:
    assert fill("{a} and {b}", {"a": "{b}", "b": "{x: 1}"}) == "{b} and {x: 1}"


def test_names_of_benchmarks_are_protected(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"instruction": "Hi", "dataset": "d"}\n')
    assert open_benchmark(f"mine=alpaca_eval:{file}").name == "mine"
    for name in ("AlpacaEval", "mt-bench", "Arena_Hard", "mini-mt"):
        with pytest.raises(ConfigError, match="another benchmark's"):
            open_benchmark(f"{name}=alpaca_eval:{file}")
    with pytest.raises(ConfigError, match="--data"):
        open_benchmark("alpaca_eval")
    file.write_text('{"instruction": "Hi"}\n{"instruction": ""}\n')
    with pytest.raises(DataError, match=r"p.jsonl, row 2, field 'instruction'"):
        open_benchmark(f"mine=alpaca_eval:{file}")


def test_bench_runs_and_resumes_without_asking_again(tmp_path: Path) -> None:
    calls: list[Prompt] = []
    judge = Alphabet()
    assert isinstance(judge, Judge)
    opened: list[str] = []

    def open_model(model: ModelSpec) -> Writer:
        opened.append(model.name)
        return Writer(model.name, calls)

    result = run_bench(config(tmp_path), open_model=open_model, judge=judge)
    assert opened == ["ann", "zoe", "mid"]
    assert len(calls) == 3 * (40 + 40 + 2 * 20)
    second_turns = [p for p in calls if p.id.endswith("/2")]
    assert all(p.messages[1].role == "assistant" and " on " in p.messages[1].content for p in second_turns)
    assert len(second_turns) == 60
    alpaca, arena, mt = (result.tables[name] for name in MINI)
    assert [r.name for r in alpaca.rows] == ["ann", "mid", "zoe"]
    assert [r.extra["win_rate"] for r in alpaca.rows] == pytest.approx([90, 50, 10])
    assert [(r.name, r.score.point) for r in arena.rows] == [("ann", 100.0), ("zoe", 0.0)]
    assert [r.score.point for r in mt.rows] == [8.0, 4.0, 4.0]
    assert {r.template_hash for r in alpaca.rows} == {open_benchmark("mini-alpaca").template_hash}
    asked = judge.asked
    assert asked == 2 * 40 + 2 * 80 + 3 * 40
    again = run_bench(config(tmp_path), open_model=lambda m: Writer(m.name, calls), judge=judge)
    assert (judge.asked, len(calls)) == (asked, 360)
    assert again.tables == result.tables
    rows = [r for r in read_run(tmp_path / "run")[1] if r.kind == "score"]
    assert len(rows) == 3 + 2 + 3
    answers = json.loads((tmp_path / "run/answers/mini-alpaca/ann/model_outputs.json").read_text())
    assert set(answers[0]) == {"instruction", "output", "generator", "dataset"}
    best = next(c for c in result.comparisons["mini-arena"] if (c.first, c.second) == ("ann", "zoe"))
    assert best.difference.point == 1.0
    assert best.p < 0.01


def test_failed_verdicts_are_not_scored_and_are_asked_again(tmp_path: Path) -> None:
    judge = Alphabet(["mini-arena/ann/ma01/1", "mini-alpaca/ann/3"])
    setup = config(tmp_path, benchmarks=("mini-alpaca", "mini-arena"))
    first = run_bench(setup, open_model=lambda m: Writer(m.name, []), judge=judge)
    arena = next(r for r in first.tables["mini-arena"].rows if r.name == "ann")
    alpaca = next(r for r in first.tables["mini-alpaca"].rows if r.name == "ann")
    assert (arena.score.n, arena.score.n_failed, arena.score.point) == (39, 1, 100.0)
    assert math.isnan(arena.outcomes["ma01"])
    assert alpaca.score.n_failed >= 1
    asked, failed = judge.asked, alpaca.score.n_failed
    judge.broken = []
    second = run_bench(setup, open_model=lambda m: Writer(m.name, []), judge=judge)
    assert judge.asked == asked + 1 + failed
    assert all(r.score.n_failed == 0 for t in second.tables.values() for r in t.rows)
    run_bench(setup, open_model=lambda m: Writer(m.name, []), judge=judge)
    assert judge.asked == asked + 1 + failed


def test_a_baseline_outside_the_table(tmp_path: Path) -> None:
    setup = config(tmp_path, models=(ModelSpec("ann", "x"),), baseline="mid", benchmarks=("mini-arena",))
    result = run_bench(setup, open_model=lambda m: Writer(m.name, []), judge=Alphabet())
    assert [(r.name, r.score.point) for r in result.tables["mini-arena"].rows] == [("ann", 100.0)]


def test_a_judge_that_never_answers_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no verdict was obtained: server said no"):
        run_bench(config(tmp_path), open_model=lambda m: Writer(m.name, []), judge=Alphabet(["mini"]))
    assert not list((tmp_path / "run").glob("scores/*/leaderboard.csv"))


def test_unusable_recipes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="judge"):
        run_bench(config(tmp_path, judge=""))
    with pytest.raises(ConfigError, match="must differ"):
        run_bench(config(tmp_path, models=(ModelSpec("a", "x"), ModelSpec("a", "y"))))
    with pytest.raises(ConfigError, match="baseline"):
        run_bench(config(tmp_path, baseline=""), open_model=lambda m: Writer(m.name, []), judge=Alphabet())
    with pytest.raises(ConfigError):
        from_dict(BenchConfig, {"models": [{"name": "a", "spce": "b"}]}, where="r.yaml")


def test_identical_answers_are_a_draw_that_nobody_is_asked_about() -> None:
    benchmark = open_benchmark("mini-alpaca")
    same = answers_to(benchmark, "base")
    assert benchmark.tasks(Answers("m", same.items), [same]) == []
    rows = benchmark.native(Answers("m", same.items), [same], [], "j")
    assert {r["preference"] for r in rows} == {1.5}


def test_native_preferences_follow_the_shown_order() -> None:
    benchmark = open_benchmark("mini-alpaca")
    own, base = answers_to(benchmark, "m"), answers_to(benchmark, "base")
    judged = [
        Judged(t, Verdict(t.id, "j", p_first=0.8 if t.first.startswith("m ") else 0.2))
        for t in benchmark.tasks(own, [base])
    ]
    assert {t.task.first.startswith("m ") for t in judged} == {True, False}
    assert {r["preference"] for r in benchmark.native(own, [base], judged, "j")} == {1.8}


def test_a_journal_survives_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    task = open_benchmark("mini-mt").tasks(answers_to(open_benchmark("mini-mt"), "m"), [])[0]
    key = task_key(Alphabet().id, task)
    with open(path, "a", encoding="utf-8") as handle:
        Journal(path).add(handle, key, Verdict(task.id, "j", grade=7.0))
        handle.write('{"key": "half')
    journal = Journal(path)
    assert journal.done(key)
    with open(path, "a", encoding="utf-8") as handle:
        journal.add(handle, "other", Verdict("t", "j", error="no"))
    again = Journal(path)
    assert (again.done(key), again.done("other"), again.failures) == (True, False, 1)


def test_answer_and_judge_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = open_benchmark("mini-alpaca")
    files = {m: write_alpaca_outputs(tmp_path / f"{m}.json", answers_to(benchmark, m)) for m in ("m", "base")}
    out = str(tmp_path / "out")
    assert answer(["--model", f"answers:{files['m']}", "--benchmark", "mini-alpaca", "--out", out]) == 0
    written = str(tmp_path / "out/m/model_outputs.json")
    shared = ["--benchmark", "mini-alpaca", "--answers", written, "--baseline", str(files["base"]), "--out", out]
    assert cli.judge([*shared, "--judge", "judge:x@http://127.0.0.1:9/v1", "--dry-run", "--price", "1", "2"]) == 0
    assert capsys.readouterr().out.startswith("40 calls, about ")
    assert cli.judge([*shared, "--judge", "py:leaderboard_toys:longer"]) == 0
    annotations = str(tmp_path / "out/m/annotations.json")
    assert cli.leaderboard(["--benchmark", "mini-alpaca", "--annotations", annotations, "--out", out, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["name"], row["n"], row["win_rate"]) == ("m", 40, pytest.approx(10.0))
    files["m"].write_text(json.dumps(json.loads(files["m"].read_text())[:5]))
    with pytest.raises(DataError, match="has no answer to prompt"):
        cli.judge([*shared[:2], "--answers", str(files["m"]), *shared[4:], "--judge", "py:leaderboard_toys:longer"])


def test_a_language_model_judges_all_three_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that always prefers what it sees first: 50 in two games; in one game, the share of switched orders."""
    from fake_server import FakeServer, Step, ok

    def reply(body: dict[str, Any]) -> Step:
        text = body["messages"][-1]["content"]
        if body.get("logprobs"):
            return ok("m", logprobs={"m": -0.1, "M": -2.4, "x": -5.0})
        if "assistant A" in text:
            return ok("A is a little better. [[A>B]]")
        return ok("I cannot say." if "postcard" in text else "Good enough. Rating: [[6.5]]")

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with FakeServer(reply) as server:
        setup = config(
            tmp_path, judge=f"judge:fake@{server.base_url}", models=(ModelSpec("ann", "x"), ModelSpec("mid", "z"))
        )
        result = run_bench(setup, open_model=lambda m: Writer(m.name, []))
    p = math.exp(-0.1) / (math.exp(-0.1) + math.exp(-2.4))
    instructions = [q.key for q in open_benchmark("mini-alpaca").prompts()]
    expected = sum(p if is_switched(i) else 1 - p for i in instructions) / len(instructions)
    alpaca, arena, mt = (next(r for r in result.tables[n].rows if r.name == "ann") for n in MINI)
    assert alpaca.extra["win_rate"] == pytest.approx(100 * expected)
    assert (arena.score.point, arena.score.n, arena.judge) == (50.0, 40, "fake")
    assert (mt.score.point, mt.score.n, mt.score.n_failed) == (6.5, 38, 2)
    assert mt.extra["average_failures_minus_one"] == pytest.approx((6.5 * 38 - 2) / 40)
    rows = json.loads((tmp_path / "run/annotations/mini-alpaca/ann/annotations.json").read_text())
    assert all(1 < r["preference"] < 2 and r["raw_completion"] == "m" for r in rows)


def test_a_spending_cap_stops_cleanly_and_a_higher_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1,000 dollars a million prompt tokens some of 40 calls fit under 3 dollars; the rest come later, once."""
    from fake_server import FakeServer, ok

    benchmark = open_benchmark("mini-alpaca")
    files = {m: write_alpaca_outputs(tmp_path / f"{m}.json", answers_to(benchmark, m)) for m in ("m", "base")}
    shared = ["--benchmark", "mini-alpaca", "--answers", str(files["m"]), "--baseline", str(files["base"])]
    shared += ["--out", str(tmp_path / "out"), "--price", "1000", "0", "--concurrency", "2"]
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with FakeServer(lambda body: ok("m", logprobs={"m": -0.1, "M": -2.4})) as server:
        argv = [*shared, "--judge", f"judge:fake@{server.base_url}", "--max-cost"]
        with pytest.raises(RunError, match=r"spending cap of 3 dollars .* kept, .* not asked for"):
            cli.judge([*argv, "3"])
        first = len(server.requests)
        assert 2 <= first < 40
        assert server.peak <= 2
        assert cli.judge([*argv, "1000"]) == 0
        assert len(server.requests) == 40
    rows = json.loads((tmp_path / "out/m/annotations.json").read_text())
    assert len(rows) == 40
    assert all(row["preference"] is not None for row in rows)
    with pytest.raises(ConfigError, match="max-cost must be positive"):
        cli.judge([*argv, "-1"])
