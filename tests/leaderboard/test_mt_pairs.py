"""MT-Bench against FastChat's published judgment files: prompts, templates, winners, references, pair scores."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from bench_toys import Alphabet, Writer, answers_to, config
from leaderboard_data import DATA, needs_data

from leaderboard.answers import Answer, Answers
from leaderboard.benchmarks import open_benchmark
from leaderboard.benchmarks.base import Benchmark, Judged
from leaderboard.config import ModelSpec
from leaderboard.dry_run import plan_bench
from leaderboard.from_files import score_files
from leaderboard.run import run_bench
from leaderboard.scoring import ScoreOptions
from leaderboard.verdicts import write_native
from prefeval.errors import ConfigError, DataError
from prefeval.files import read_jsonl
from prefeval.judges.base import JudgeTask, Verdict
from prefeval.judges.parse import parse
from prefeval.types import Prompt

PAIR = re.compile(
    r"\[The Start of Assistant A's Answer\]\n(.*)\n\[The End of Assistant A's Answer\]\n\n"
    r"\[The Start of Assistant B's Answer\]\n(.*)\n\[The End of Assistant B's Answer\]",
    re.DOTALL,
)
DIALOGUE = re.compile(
    r"<\|The Start of Assistant A's Conversation with User\|>\n\n### User:\n.*?"
    r"\n\n### Assistant A:\n(.*)\n\n### User:\n.*?\n\n### Assistant A:\n(.*)\n\n<\|The End of Assistant A's Conv",
    re.DOTALL,
)


def published(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / f"mt_bench/full_judgments/{name}.jsonl.gz", "rt", encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


def found(pattern: re.Pattern[str], text: str) -> tuple[str, str]:
    match = pattern.search(text)
    assert match is not None
    return match[1], match[2]


class FirstShown:
    """Prefers what it sees first, whatever it is; `silent` tasks get no verdict."""

    def __init__(self, silent: str = "-") -> None:
        self.silent = silent

    @property
    def id(self) -> str:
        return "first"

    async def rule(self, task: JudgeTask) -> Verdict:
        if self.silent in task.id:
            return Verdict(task.id, self.id, error="no")
        return Verdict(task.id, self.id, p_first=1.0, label="A", raw="[[A]]")


def verdict_of(task: JudgeTask, text: str) -> Verdict:
    read = parse(task.parser, text)
    return Verdict(task.id, "gpt-4", p_first=read.p_first, label=read.label, raw=text, error=read.error)


@needs_data
def test_pairs_are_asked_and_read_as_in_the_published_file(tmp_path: Path) -> None:
    """75 real pair judgments: the same prompts in both games, the same winners, errors included, the same score."""
    rows = {str(r["question_id"]): r for r in published("phi3_dpo.gpt-4_pair")}
    said = {key: found(PAIR, row["g1_user_prompt"]) for key, row in rows.items()}
    benchmark = open_benchmark("mt_bench_pair", DATA)
    assert isinstance(benchmark, Benchmark)
    empty = {p.key: ("", "") for p in benchmark.prompts()} | said
    own, base = (
        Answers(name, {k: Answer(k, (pair[side], "-")) for k, pair in empty.items()})
        for side, name in enumerate(("phi-3", "phi-3-dpo"))
    )
    tasks = [t for t in benchmark.tasks(own, [base]) if t.meta["turn"] == 1 and t.meta["key"] in rows]
    assert len(tasks) == 150
    judged = []
    for task in tasks:
        row, game = rows[task.meta["key"]], task.meta["game"]
        assert task.messages[-1].content == row[f"g{game}_user_prompt"]
        assert (task.meta["template"], task.max_tokens, task.temperature) == (row["judge"][1], 2048, 0.0)
        judged.append(Judged(task, verdict_of(task, row[f"g{game}_judgment"])))
    native = benchmark.native(own, [base], judged, "gpt-4")
    keys = ("model_1", "model_2", "g1_winner", "g2_winner", "judge", "g1_judgment", "g2_judgment", "turn")
    for row in native:
        assert {k: row[k] for k in keys} == {k: rows[str(row["question_id"])][k] for k in keys}
    (file,) = write_native(benchmark, tmp_path, "gpt-4", {"phi-3": native})
    assert file.name == "gpt-4_pair.jsonl"
    (only,) = score_files("mt_bench_pair", [file], None, ScoreOptions(baseline="phi-3-dpo", resamples=50)).rows
    assert (only.name, only.score.n, only.score.n_failed) == ("phi-3", 73, 2)
    assert (only.extra["pair_wins"], only.extra["pair_losses"], only.extra["pair_ties"]) == (18, 20, 35)
    assert only.score.point == pytest.approx(100 * (18 + 35 / 2) / 73)


@needs_data
def test_grades_are_asked_as_in_the_published_file() -> None:
    """160 real prompts: both turns, with and without reference; and the note names whose references they are."""
    rows = {(str(r["question_id"]), r["turn"]): r for r in published("phi3_dpo.gpt-4_single")}
    benchmark = open_benchmark("mt_bench", DATA)
    said = {key: found(DIALOGUE, row["user_prompt"]) for (key, turn), row in rows.items() if turn == 2}
    own = Answers("phi-3-dpo", {key: Answer(key, turns) for key, turns in said.items()})
    tasks = benchmark.tasks(own, [])
    assert len(tasks) == len(rows) == 160
    for task in tasks:
        row = rows[task.meta["key"], task.meta["turn"]]
        assert task.messages[-1].content == row["user_prompt"]
        assert [task.meta["template"], task.max_tokens] == [row["judge"][1], 2048]
    (note,) = benchmark.notes([])
    assert note == (
        "Reference answers: gpt-4's, 30 questions; 13 of them are known to be wrong in a turn (FastChat, pull request "
        "3158)."
    )


def test_a_judge_of_places_makes_ties_and_failures_are_dropped(tmp_path: Path) -> None:
    setup = config(tmp_path, benchmarks=("mini-mt-pair",), models=(ModelSpec("ann", "x"), ModelSpec("mid", "z")))
    judge = FirstShown("mini-mt-pair/ann/3/2/1")
    result = run_bench(setup, open_model=lambda m: Writer(m.name, []), judge=judge)
    (ann,) = result.tables["mini-mt-pair"].rows
    assert (ann.name, ann.score.point, ann.score.n, ann.score.n_failed) == ("ann", 50.0, 39, 1)
    rows = read_jsonl(tmp_path / "run/annotations/mini-mt-pair/ann/model_judgment/first_pair.jsonl")
    assert {(r["g1_winner"], r["g2_winner"]) for r in rows} == {("model_1", "model_2"), ("error", "model_2")}
    (failed,) = (r for r in rows if r["g1_winner"] == "error")
    assert (failed["question_id"], failed["turn"], failed["g1_judgment"]) == (3, 2, "$ERROR$")


def test_pairs_of_a_whole_run(tmp_path: Path) -> None:
    """The alphabet prefers ann to mid to zoe in both games and turns; the baseline has no row. What was sampled for the
    grades serves the pairs too, and the dry run knows it."""
    setup, calls = config(tmp_path, benchmarks=("mini-mt", "mini-mt-pair")), list[Prompt]()
    assert plan_bench(setup).replies["mini-mt-pair"] == {"ann": 0, "zoe": 0, "mid": 0}
    result = run_bench(setup, open_model=lambda m: Writer(m.name, calls), judge=Alphabet())
    assert len(calls) == 3 * 40
    table = result.tables["mini-mt-pair"]
    assert [(r.name, r.score.point) for r in table.rows] == [("ann", 100.0), ("zoe", 0.0)]
    assert "against mid in percent" in table.notes[0]


def test_the_second_turn_is_compared_as_whole_conversations() -> None:
    benchmark = open_benchmark("mini-mt-pair", None, 1)
    own, base = answers_to(benchmark, "own"), answers_to(benchmark, "base")
    tasks = benchmark.tasks(own, [base])
    assert [(t.meta["turn"], t.meta["game"]) for t in tasks] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    (prompt,) = benchmark.prompts()
    turns = own.items[prompt.key].turns
    assert (tasks[2].first, tasks[2].second) == (tasks[3].second, tasks[3].first)
    assert [tasks[2].first.index(text) for text in (turns[0], prompt.turns[1], turns[1])] == sorted(
        tasks[2].first.index(text) for text in (turns[0], prompt.turns[1], turns[1])
    )
    text = tasks[2].messages[1].content
    assert text.index(turns[1]) < text.index(base.items[prompt.key].turns[1])
    assert "{" not in text


def test_what_pairs_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mini-mt-pair compares with a baseline"):
        run_bench(config(tmp_path, benchmarks=("mini-mt-pair",), baseline=""))
    file = tmp_path / "q.jsonl"
    file.write_text('{"question_id": 1, "turns": ["a", "b", "c"]}\n')
    with pytest.raises(DataError, match=r"q\.jsonl, row 1, field 'turns': one or two turns are judged, not 3"):
        open_benchmark(f"mine=mt_bench_pair:{file}")
