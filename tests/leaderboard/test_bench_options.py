"""A bench recipe's own baseline and limit for each benchmark, the dry run, the spending cap, both orders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_toys import Alphabet, Writer, answers_to, config
from fake_server import FakeServer, ok
from leaderboard_data import DATA, needs_data
from test_answer_command import Spy

from leaderboard import cli, dry_run
from leaderboard.answers import Answers, write_alpaca_outputs, write_arena_answers
from leaderboard.benchmarks import open_benchmark
from leaderboard.config import BenchConfig, ModelSpec
from leaderboard.dry_run import plan_bench, plan_text
from leaderboard.run import run_bench
from prefeval.api_types import ChatRequest
from prefeval.config import load_config
from prefeval.errors import ConfigError, DataError, RunError
from prefeval.files import read_json, read_jsonl, write_jsonl

ONE = (ModelSpec("ann", "x"),)


def run(setup: BenchConfig, judge: Alphabet | None = None) -> Any:
    return run_bench(setup, open_model=lambda m: Writer(m.name, []), judge=judge or Alphabet())


def baseline_files(folder: Path) -> dict[str, str]:
    """Published answers, as it were: 'early' is before every model in the alphabet on one benchmark, 'late' behind."""
    alpaca, arena = open_benchmark("mini-alpaca"), open_benchmark("mini-arena")
    files = {
        "mini-alpaca": write_alpaca_outputs(folder / "a.json", answers_to(alpaca, "aaa early")),
        "mini-arena": write_arena_answers(folder / "b.jsonl", answers_to(arena, "zzz late")),
    }
    return {name: f"answers:{path}" for name, path in files.items()}


def test_each_benchmark_has_its_own_baseline_and_limit(tmp_path: Path) -> None:
    """One run over three: against a file that beats the model, against one that loses, and graded without any."""
    setup = config(
        tmp_path, models=ONE, baseline="", baselines=baseline_files(tmp_path), limits={"mini-alpaca": 7}, limit=3
    )
    tables = run(setup).tables
    (alpaca,), (arena,), (mt,) = (tables[n].rows for n in ("mini-alpaca", "mini-arena", "mini-mt"))
    assert (alpaca.extra["win_rate"], alpaca.score.n) == (pytest.approx(10.0), 7)
    assert (arena.score.point, arena.score.n) == (100.0, 3)
    assert mt.score.n == 6
    rows = read_json(tmp_path / "run/annotations/mini-alpaca/ann/annotations.json")
    assert {r["generator_1"] for r in rows} == {"aaa early"}
    assert "Only the first 7 of 40 prompts were used." in tables["mini-alpaca"].notes
    assert "Only the first 3 of 20 prompts were used." in tables["mini-mt"].notes
    saved = (tmp_path / "run/config.yaml").read_text()
    assert "mini-alpaca: 7" in saved
    plain = config(tmp_path / "plain")
    assert not {"baselines", "limits", "orders", "price", "max_cost"} & set(plain.recorded)


def test_arena_hard_may_have_a_baseline_for_each_category(tmp_path: Path) -> None:
    """'mid' stands for the hard prompts, a file for the others; mid itself is compared on those others only."""
    rows = [
        {"uid": f"u{i}", "category": "hard_prompt" if i < 4 else "creative_writing", "prompt": f"Do {i}."}
        for i in range(7)
    ]
    file = write_jsonl(tmp_path / "q.jsonl", rows)
    benchmark = open_benchmark(f"mine=arena_hard:{file}")
    every = answers_to(benchmark, "other")
    part = Answers("other", {k: v for k, v in every.items.items() if int(k[1:]) >= 4})
    late = f"answers:{write_arena_answers(tmp_path / 'late.jsonl', part)}"
    own = {"hard_prompt": "mid", "creative_writing": late}
    setup = config(tmp_path, benchmarks=(f"mine=arena_hard:{file}",), baseline="", baselines={"mine": own})
    table = run(setup).tables["mine"]
    assert {r.name: (r.score.point, r.score.n) for r in table.rows} == {
        "ann": (100.0, 7), "mid": (100.0, 3), "zoe": (0.0, 7),
    }  # fmt: skip
    (judged,) = (tmp_path / "run/annotations/mine").rglob("ann.jsonl")
    assert [r["baseline"] for r in read_jsonl(judged)] == ["mid"] * 4 + ["other"] * 3
    for wrong, message in (
        ({"hard_promt": "mid"}, "baselines.mine.hard_promt: no such name in this run; did you mean 'hard_prompt'"),
        ({"hard_prompt": "mid"}, "baselines.mine: no baseline for category 'creative_writing'"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(config(tmp_path / "no", benchmarks=setup.benchmarks, baseline="", baselines={"mine": wrong}))


@needs_data
def test_the_real_three_against_published_answers_in_one_run(tmp_path: Path) -> None:
    """Published baselines and original templates; a category with another baseline than the published is named."""
    real = {
        "alpaca_eval": f"answers:{DATA / 'alpaca_eval/model_outputs/gpt4_1106_preview.json.gz'}",
        "arena_hard_v2.0": f"answers:{DATA / 'arena_hard/v2.0/model_answer/o3-mini-2025-01-31.jsonl.gz'}",
    }
    setup = config(
        tmp_path, models=ONE, benchmarks=(*real, "mt_bench"), baseline="", baselines=real, data=str(DATA),
        limits={"alpaca_eval": 5, "arena_hard_v2.0": 4, "mt_bench": 3},
    )  # fmt: skip
    tables = run(setup).tables
    assert {n: t.rows[0].score.n for n, t in tables.items()} == {"alpaca_eval": 5, "arena_hard_v2.0": 4, "mt_bench": 6}
    rows = read_json(tmp_path / "run/annotations/alpaca_eval/ann/annotations.json")
    published = {
        r["instruction"]: r["output"] for r in read_json(DATA / "alpaca_eval/model_outputs/gpt4_1106_preview.json.gz")
    }
    assert all(r["output_1"] == published[r["instruction"]] for r in rows)
    whole = open_benchmark("arena_hard_v2.0", DATA)
    names = {"hard_prompt": "o3-mini-2025-01-31", "creative_writing": "o3-mini-2025-01-31"}
    only = answers_to(whole, "o3-mini-2025-01-31")
    assert whole.baseline_names([only]) == names
    assert whole.notes([only]) == [
        "creative_writing is compared with o3-mini-2025-01-31, not with gemini-2.0-flash-001: its scores are not the "
        "published benchmark's."
    ]
    both = [only, answers_to(whole, "gemini-2.0-flash-001")]
    assert whole.baseline_names(both) == {**names, "creative_writing": "gemini-2.0-flash-001"}
    assert whole.notes(both) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baselines": {"mini-alpacca": "mid"}}, "baselines.mini-alpacca: no such name .* mean 'mini-alpaca'"),
        ({"limits": {"mini_arenas": 3}}, "limits.mini_arenas: no such name .* mean 'mini-arena'"),
        ({"limits": {"mini-mt": 0}}, "limits.mini-mt must be at least 1"),
        ({"baseline": "midd"}, "baseline 'midd': none of the models; did you mean 'mid'"),
        ({"baselines": {"mini-alpaca": {"x": "mid"}}}, "only Arena-Hard may have one a category"),
        ({"max_cost": 3.0}, "max_cost needs a price"),
        ({"requests_per_minute": -1.0}, "requests-per-minute must be positive"),
        ({"benchmarks": ("mini-mt", "mini-mt")}, "benchmarks: the names must differ"),
        ({"orders": "both", "benchmarks": ("mini-mt",)}, "orders: only AlpacaEval asks in one order"),
        ({"models": (ModelSpec("mid", "z"),)}, "mini-arena: the only model is the baseline"),
    ],
)
def test_unusable_options(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(config(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_a_baseline_file_is_read_before_anything_is_sampled(tmp_path: Path) -> None:
    file = write_alpaca_outputs(tmp_path / "few.json", answers_to(open_benchmark("mini-alpaca", None, 3), "few"))
    calls: list[Any] = []
    setup = config(tmp_path, baselines={"mini-alpaca": f"answers:{file}"})
    with pytest.raises(DataError, match=r"few\.json: model 'few' has no answer to prompt"):
        run_bench(setup, open_model=lambda m: Writer(m.name, calls), judge=Alphabet())
    assert not calls
    assert not (tmp_path / "run").exists()


def test_options_on_the_command_line(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("limits: {mini-alpaca: 3}\nbaselines: {arena_hard_v2.0: mid}\n")
    found = load_config(BenchConfig, recipe, ["--limits.mini-alpaca", "9", "--baselines.arena_hard_v2.0", "ann"])
    assert (found.limit_of("mini-alpaca"), found.limit_of("mini-mt")) == (9, None)
    assert found.baseline_of("arena_hard_v2.0") == "ann"


def test_a_dry_run_counts_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, in the middle of and after a run; it opens nothing, writes nothing and is right about the rest."""
    monkeypatch.setattr("leaderboard.run.open_answerer", lambda *_: pytest.fail("opened a model"))
    monkeypatch.setattr("leaderboard.run.open_judge", lambda *_: pytest.fail("opened a judge"))
    setup = config(tmp_path, limit=6, benchmarks=("mini-alpaca", "mini-mt"), judge="judge:big@http://k:s@h/v1")
    plan = plan_bench(setup)
    assert plan.replies == {"mini-alpaca": dict.fromkeys(("ann", "zoe", "mid"), 6),
                            "mini-mt": dict.fromkeys(("ann", "zoe", "mid"), 12)}  # fmt: skip
    assert {n: c.calls for n, c in plan.calls.items()} == {"mini-alpaca": 12, "mini-mt": 36}
    assert not (tmp_path / "run").exists()
    text = plan_text(plan)
    assert "mini-alpaca: ann 6, zoe 6, mid 6" in text
    assert "ask of judge:big@http://***@h/v1" in text
    assert "in all: 48 calls" in text
    assert "cost unknown" in text
    spies = [Spy(Writer(n, []), calls=c) for n, c in (("ann", 99), ("zoe", 2))]
    with pytest.raises(KeyboardInterrupt):
        run_bench(setup, open_model=lambda m: spies.pop(0), judge=Alphabet())
    before = sorted(p for p in (tmp_path / "run").rglob("*") if p.is_file())
    plan = plan_bench(setup)
    assert plan.replies["mini-alpaca"] == {"ann": 0, "zoe": 0, "mid": 6}
    assert plan.replies["mini-mt"]["ann"] == 0
    assert 0 < plan.replies["mini-mt"]["zoe"] < 12
    assert sorted(p for p in (tmp_path / "run").rglob("*") if p.is_file()) == before
    judge = Alphabet(["mini-mt/zoe/2"])
    run(setup, judge)
    plan = plan_bench(setup)
    assert not any(n for models in plan.replies.values() for n in models.values())
    assert {n: c.calls for n, c in plan.calls.items()} == {"mini-alpaca": 0, "mini-mt": 2}
    with pytest.raises(ConfigError, match="started with another configuration"):
        plan_bench(config(tmp_path, limit=5, benchmarks=("mini-alpaca", "mini-mt")))


def test_the_price_of_a_dry_run_is_that_of_its_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With all answers at hand the tokens are those of the very questions, and the command prints them."""
    benchmark = open_benchmark("mini-alpaca", None, 8)
    names = ("m", "base")
    files = {m: write_alpaca_outputs(tmp_path / f"{m}.json", answers_to(benchmark, m)) for m in names}
    models = tuple(ModelSpec(m, f"answers:{files[m]}") for m in names)
    setup = config(
        tmp_path, models=models, baseline="base", benchmarks=("mini-alpaca",), limit=8, judge="judge:x",
        price=(2.0, 8.0), max_cost=1e-5,
    )  # fmt: skip
    tasks = benchmark.tasks(answers_to(benchmark, "m"), [answers_to(benchmark, "base")])
    tokens = sum(ChatRequest(t.messages).prompt_tokens() for t in tasks)
    total = plan_bench(setup).total
    assert (total.calls, total.prompt_tokens, total.completion_tokens) == (8, tokens, 8)
    assert total.cost == total.most == pytest.approx((2 * tokens + 8 * 8) / 1e6)
    recipe = tmp_path / "r.json"
    recipe.write_text(json.dumps({**setup.recorded, "price": [2, 8], "max_cost": 1e-5}))
    assert cli.bench([str(recipe), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out == plan_text(plan_bench(setup))
    assert "The spending cap of 1e-05 dollars will stop it on the way." in out
    assert dry_run.cost_text(total) in out


def test_a_bench_stops_at_its_spending_cap_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1,000 dollars a million prompt tokens: some verdicts under 3 dollars, the others later, none of them twice."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with FakeServer(lambda body: ok("m", logprobs={"m": -0.1, "M": -2.4})) as server:
        changes: dict[str, Any] = {
            "models": (ModelSpec("ann", "x"), ModelSpec("mid", "z")), "benchmarks": ("mini-alpaca",), "limit": 30,
            "judge": f"judge:fake@{server.base_url}", "price": (1000.0, 0.0), "concurrency": 2,
        }  # fmt: skip
        with pytest.raises(RunError, match=r"spending cap of 2 dollars was reached while judging ann .* of 30 .* kept"):
            run_bench(config(tmp_path, **changes, max_cost=2.0), open_model=lambda m: Writer(m.name, []))
        first = len(server.requests)
        assert 2 <= first < 30
        left = plan_bench(config(tmp_path, **changes)).calls["mini-alpaca"].calls
        assert left == 30 - first
        result = run_bench(config(tmp_path, **changes, max_cost=1000.0), open_model=lambda m: pytest.fail("opened"))
        assert len(server.requests) == 30
        assert server.peak <= 2
    assert result.tables["mini-alpaca"].rows[0].score.n_failed == 0


def test_both_orders_are_asked_and_averaged(tmp_path: Path) -> None:
    """A judge that likes what it sees first a little, and the alphabet more: the liking cancels."""

    class Biased(Alphabet):
        async def rule(self, task: Any) -> Any:
            verdict = await super().rule(task)
            return (
                verdict if verdict.error else type(verdict)(**{**vars(verdict), "p_first": verdict.p_first * 0.8 + 0.2})
            )

    judge = Biased(["mini-alpaca/ann/3/2"])
    setup = config(tmp_path, models=ONE, baseline="mid", benchmarks=("mini-alpaca",), limit=6, orders="both")
    table = run(setup, judge).tables["mini-alpaca"]
    assert judge.asked == 12
    rows = read_json(tmp_path / "run/annotations/mini-alpaca/ann/annotations.json")
    first, second = 0.1 * 0.8 + 0.2, 0.9 * 0.8 + 0.2  # P(first shown) with the baseline first, with the model first
    for number, row in enumerate(rows):
        if number == 3:
            assert (row["preferences"], row["preference"]) == ([pytest.approx(2 - first), None], None)
        else:
            assert row["preferences"] == pytest.approx([2 - first, 1 + second])
            assert row["preference"] == pytest.approx((2 - first + 1 + second) / 2)
        assert (row["annotator"], len(row["raw_completion"])) == ("alphabet (both orders)", 2)
    assert (table.rows[0].score.n, table.rows[0].score.n_failed) == (5, 1)
    assert table.rows[0].extra["win_rate"] == pytest.approx(100 * (1 - first + second) / 2)
    assert any("asked in both orders" in note for note in table.notes)
