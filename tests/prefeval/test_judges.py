"""Parsers against published judgments, and the judges that use them."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_server import FakeServer, Step, empty, ok, status

from prefeval.api import ChatClient, map_async, run_async
from prefeval.errors import ConfigError
from prefeval.files import read_json
from prefeval.judges.as_oracle import JudgeOracle, comparison_task
from prefeval.judges.base import Judge, JudgeTask, Verdict
from prefeval.judges.from_oracle import OracleJudge
from prefeval.judges.llm import LLMJudge
from prefeval.judges.parse import PARSERS, label_of, parse
from prefeval.oracle import Group, MatrixOracle, Oracle, check_complementary, symmetrise
from prefeval.store import Store
from prefeval.types import Comparison, FloatArray, Message, Prompt

DATA = Path(os.environ.get("PREFEVAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "benchmarks"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"no benchmark data at {DATA}")
LP = {"m": -0.2, "M": -1.8}
P_M = math.exp(-0.2) / (math.exp(-0.2) + math.exp(-1.8))


def task(parser: str = "mt_pair", *, text: str = "which?", second: str | None = "b", **fields: Any) -> JudgeTask:
    return JudgeTask("t1", Prompt.from_text("q", id="p1"), "a", second, (Message("user", text),), parser, **fields)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as handle:
        for line in handle:
            yield json.loads(line)


# --- parsers: the rules of benchmarks.md 1.2, 2.1, 2.2, 3.2, 3.3 ---


def test_alpaca_logprobs() -> None:
    both = parse("alpaca_logprob", "m", {**LP, "The": -3.0, " m": -0.1})
    assert both.p_first == pytest.approx(P_M)
    assert both.label == "m"
    assert parse("alpaca_logprob", "M", {"M": -0.01, "The": -5.0}).p_first == 0.0  # an absent token has no probability
    assert parse("alpaca_logprob", "m", {"m": -700.0, "x": -1.0}).p_first == 1.0
    assert parse("alpaca_logprob", "m", {"m": -1000.0, "M": -1001.0}).p_first == pytest.approx(1 / (1 + math.exp(-1)))
    for candidates in (None, {}, {" m": -0.1, "Model": -0.2}):
        failed = parse("alpaca_logprob", "m", candidates)
        assert failed.p_first is None
        assert failed.error


@pytest.mark.parametrize(
    ("text", "label"),
    [("m", "m"), (" M\n", "M"), ("Model m", "m"), ('"M"', "M"), ("**m**", "m"), ("I'm sure: M. M!", "M")],
)
def test_alpaca_text(text: str, label: str) -> None:
    found = parse("alpaca_text", text)
    assert (found.label, found.p_first) == (label, {"m": 1.0, "M": 0.0}[label])


@pytest.mark.parametrize("text", ["m or M", "Model", "", "5mm M1"])
def test_alpaca_text_without_a_verdict(text: str) -> None:
    found = parse("alpaca_text", text)
    assert found.p_first is None
    assert found.error


@pytest.mark.parametrize(
    ("text", "v01", "v2"),
    [
        ("My final verdict is [[A>>B]].", "A>>B", "A>>B"),
        ("[[A>B]] ... so [[A>B]]", "A>B", "A>B"),
        ("[[A>B]] but on reflection [[B>A]]", None, "B>A"),  # v0.1 wants one label, v2.0 takes the last
        ("verdict: [A=B]", None, "A=B"),  # single brackets only in v2.0
        ("verdict: [[a>b]]", None, "A>B"),  # upper-cased only in v2.0
        ("[B>A] and then [[A>B]]", "A>B", "A>B"),  # double brackets come first
        ("[[B<<A]]", "B<<A", "B<<A"),
        ("[[A]]", None, None),
        ("no verdict", None, None),
        ("", None, None),
    ],
)
def test_arena(text: str, v01: str | None, v2: str | None) -> None:
    assert parse("arena_v01", text).label == v01
    assert parse("arena_v2", text).label == v2


def test_arena_probabilities() -> None:
    scale = {"A>>B": 1.0, "A>B": 0.75, "A=B": 0.5, "B=A": 0.5, "B>A": 0.25, "B>>A": 0.0}
    scale |= {"B<<A": 1.0, "B<A": 0.75, "A<B": 0.25, "A<<B": 0.0}
    assert {label: parse("arena_v2", f"[[{label}]]").p_first for label in scale} == scale


@pytest.mark.parametrize(
    ("text", "grade"),
    [("Rating: [[7]]", 7.0), ("[[7.5]] then [[9]]", 7.5), ("Rating: [6]", 6.0), ("[3] [[8]]", 8.0), ("[[15]]", 15.0)],
)
def test_mt_grade(text: str, grade: float) -> None:
    assert parse("mt_grade", text).grade == grade


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("mt_grade", "Rating: 8"),
        ("mt_grade", "[[eight]]"),
        ("mt_grade", "$ERROR$"),
        ("mt_pair", "[A]"),
        ("mt_pair", "[[a]]"),
        ("ab_text", "A long reply"),
        ("ab_text", "Response A, not response B"),
        ("ab_text", ""),
    ],
)
def test_no_verdict_is_an_error(parser: str, text: str) -> None:
    found = parse(parser, text)
    assert (found.grade, found.p_first, found.label) == (None, None, None)
    assert found.error


@pytest.mark.parametrize(
    ("text", "label"),
    [("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "C"), ("'[[B]]' is wrong, [[A]]", "A"), ("not [[A]] but [[B]]", "A")],
)
def test_mt_pair_is_a_substring_test_in_order(text: str, label: str) -> None:
    assert parse("mt_pair", text).label == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A", "A"),
        (" **B**.", "B"),
        ("not [[A]] but [[B]]", "B"),
        ("[[tie]]", "C"),
        ("Long.\nAnswer: A", "A"),
        ("I think Assistant B", "B"),
    ],
)
def test_ab_text(text: str, label: str) -> None:
    assert parse("ab_text", text).label == label


def test_reasoning_is_not_read() -> None:
    assert parse("mt_grade", "<think>maybe [[3]]</think>\nRating: [[8]]").grade == 8.0
    assert parse("mt_grade", "maybe [[3]]\n</think>\nRating: [[8]]").grade == 8.0  # the template opened the trace
    assert parse("mt_grade", "<think>maybe [[3]], or").grade is None  # cut inside the trace
    quoting = "Assistant A wrote <think> in its answer. [[B]]"
    assert parse("mt_pair", quoting).label == "B"


def test_exactly_one_outcome() -> None:
    texts = ["m", "M", "[[A]]", "[[A>>B]]", "[[7]]", "A", "", "nothing", "[[A>B]] [[B>A]]"]
    for name in PARSERS:
        for text in texts:
            found = parse(name, text, LP if name == "alpaca_logprob" else None)
            assert sum(x is not None for x in (found.p_first, found.grade, found.error)) == 1, (name, text)
            assert (found.label is None) == (found.error is not None)


def test_unknown_parser() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mt_grade'"):
        parse("mt_grades", "x")


def test_labels_of_probabilities() -> None:
    assert [label_of("arena_v01", p) for p in (1.0, 0.8, 0.5, 0.3, 0.01)] == ["A>>B", "A>B", "A=B", "B>A", "B>>A"]
    assert [label_of("alpaca_logprob", p) for p in (0.9, 0.1)] == ["m", "M"]
    assert [label_of("mt_pair", p) for p in (0.9, 0.5, 0.1)] == ["A", "C", "B"]


@needs_data
def test_published_alpaca_annotations_are_reproduced() -> None:
    """claude-2.1_concise: the preference in the file from its raw log-probabilities and the seeded order."""
    rows = read_json(DATA / "alpaca_eval/annotations_raw/claude-2.1_concise.annotations.json.gz")
    worst, count = 0.0, 0
    for row in rows:
        if not row["raw_completion"]:
            continue
        candidates = row["raw_completion"]["logprobs"]["content"][0]["top_logprobs"]
        found = parse("alpaca_logprob", row["raw_completion"]["text"], {c["token"]: c["logprob"] for c in candidates})
        assert found.p_first is not None
        switched = random.Random("is_switched_outputs" + row["instruction"] + "0").choices([False, True], k=1)[0]
        preference = 1 + found.p_first if switched else 2 - found.p_first
        worst, count = max(worst, abs(preference - row["preference"])), count + 1
    assert count == 804
    assert worst < 1e-9  # the file rounds to ten decimals


@needs_data
def test_published_mt_bench_judgments_are_reproduced() -> None:
    graded = 0
    for path in sorted((DATA / "mt_bench/full_judgments").glob("*_single.jsonl.gz")):
        for row in rows_of(path):
            grade = parse("mt_grade", row["judgment"]).grade
            assert (-1 if grade is None else grade) == row["score"]
            graded += 1
    assert graded == 480 + 320 + 160
    names = {"A": 0, "B": 1}
    for row in rows_of(DATA / "mt_bench/full_judgments/phi3_dpo.gpt-4_pair.jsonl.gz"):
        for game, shown in (("g1", ("model_1", "model_2")), ("g2", ("model_2", "model_1"))):
            label = parse("mt_pair", row[f"{game}_judgment"]).label
            winner = "error" if label is None else "tie" if label == "C" else shown[names[label]]
            assert winner == row[f"{game}_winner"]


@needs_data
def test_published_gpt_4o_mini_judgments_are_reproduced() -> None:
    winner = {"A": "A", "B": "B", "C": "tie", None: "error"}
    pairs = grades = 0
    for row in rows_of(DATA / "mt_bench/multi_judge/judgment_texts_en_sample.jsonl.gz"):
        if row["kind"] == "pairwise":
            for order in ("ab", "ba"):
                assert winner[parse("mt_pair", row[f"judgment_{order}"]).label] == row[f"winner_{order}"]
                pairs += 1
            continue
        for turn in (1, 2):
            if row[f"judgment_turn{turn}"] is not None:
                grade = parse("mt_grade", row[f"judgment_turn{turn}"]).grade
                assert (-1 if grade is None else grade) == row[f"score_turn{turn}"]
                grades += 1
    assert (pairs, grades) == (2400, 1308)


# --- the language model as judge ---


def judge_at(server: FakeServer, store: Store | None = None, **settings: Any) -> LLMJudge:
    client = ChatClient("j", server.base_url, "k", backoff_seconds=0.001, max_retries=1, **settings)
    return LLMJudge(client, store)


def rule(judge: Judge, *tasks: JudgeTask) -> list[Verdict]:
    return map_async(judge.rule, tasks, concurrency=8)


def test_a_verdict_carries_reply_usage_and_cost() -> None:
    with FakeServer("I prefer [[B]]") as server:
        (found,) = rule(judge_at(server, price_per_million=(10.0, 30.0)), task())
    assert found == Verdict(
        "t1", "j", p_first=0.0, label="B", raw="I prefer [[B]]", prompt_tokens=100, completion_tokens=10, cost=0.0013
    )


def test_stored_replies_are_read_again_by_another_parser(tmp_path: Path) -> None:
    with FakeServer("first [[A]], then [[B]]") as server, Store(tmp_path / "s") as store:
        first = rule(judge_at(server, store), task("mt_pair"))[0]
        again = rule(judge_at(server, store), task("ab_text"))[0]
    assert (first.label, again.label) == ("A", "B")
    assert server.calls == 1


def test_failures_are_errors_and_are_asked_again(tmp_path: Path) -> None:
    script = [status(500, "down"), status(500, "down"), empty(), ok("no verdict here")]
    with FakeServer("[[A]]", script) as server, Store(tmp_path / "s") as store:
        judge = judge_at(server, store)
        found = [rule(judge, task())[0] for _ in range(3)]
    assert (found[0].error, found[0].reason) == ("HTTP 500: down after 2 attempts", "server error")
    # the empty reply is asked for once more, at once
    assert found[1].error == "unreadable verdict (mt_pair): none of [[A]], [[B]], [[C]]"
    assert (found[1].raw.strip(), found[1].reason) == ("no verdict here", "unreadable verdict")
    assert found[2] == found[1]  # these replies were paid for: they are kept, and read the same
    assert all(v.p_first is None and v.grade is None and v.label is None for v in found)
    assert server.calls == 4


def test_log_probabilities_are_used_where_given(tmp_path: Path) -> None:
    tasks = [task("alpaca_logprob", text=str(i), max_tokens=1, temperature=1.0, top_logprobs=5) for i in range(6)]
    with FakeServer(lambda body: ok("m", logprobs=LP, finish_reason="length")) as server:
        found = rule(judge_at(server), *tasks)
    assert [v.p_first for v in found] == pytest.approx([P_M] * 6)
    assert server.calls == 6  # finding out costs no call of its own
    assert all((b["logprobs"], b["top_logprobs"], b["max_tokens"]) == (True, 5, 1) for b in server.requests)


@pytest.mark.parametrize("refusal", [ok("m"), status(400, "logprobs is not supported")], ids=["left out", "refused"])
def test_endpoints_without_log_probabilities_are_found_out_once(tmp_path: Path, refusal: Step) -> None:
    def answer(body: dict[str, Any]) -> str | Step:
        return refusal if body.get("logprobs") else "Model M"

    tasks = [task("alpaca_logprob", text=str(i), max_tokens=1, temperature=1.0, top_logprobs=5) for i in range(6)]
    with FakeServer(answer) as server, Store(tmp_path / "s") as store:
        found = rule(judge_at(server, store), *tasks)
        assert server.calls == 7 + 4  # one with log-probabilities, six in words, one a dialect of guided choice
        assert sum(bool(b.get("logprobs")) for b in server.requests) == 1
        rule(judge_at(server, store), *tasks)  # another run: what was found out is remembered
        assert server.calls == 7 + 4
    assert [(v.p_first, v.label) for v in found] == [(0.0, "M")] * 6


def test_a_dead_endpoint_teaches_nothing_about_log_probabilities(tmp_path: Path) -> None:
    logprob_task = task("alpaca_logprob", max_tokens=1, top_logprobs=5)
    with FakeServer(lambda body: ok("m", logprobs=LP), [status(500)] * 2) as server, Store(tmp_path / "s") as store:
        judge = judge_at(server, store)
        assert rule(judge, logprob_task)[0].error
        assert rule(judge, logprob_task)[0].p_first == pytest.approx(P_M)


def test_arena_v01_asks_once_more_for_a_missing_label() -> None:
    with FakeServer("So: [[A>B]]", [ok("I need more room")]) as server:
        (found,) = rule(judge_at(server), task("arena_v01"))
    assert found.label == "A>B"
    assert found.raw == "I need more room\nSo: [[A>B]]"
    assert [m["role"] for m in server.requests[1]["messages"]] == ["user", "assistant", "user"]
    assert found.prompt_tokens == 200
    with FakeServer("[[A>B]] or [[B>A]]") as server:  # different labels: none, and no second question
        assert rule(judge_at(server), task("arena_v01"))[0].error
    assert server.calls == 1


def test_a_cut_verdict_gets_more_room_once() -> None:
    def answer(body: dict[str, Any]) -> Step:
        return ok("[[8]]") if body["max_tokens"] > 1000 else ok("Let me see", finish_reason="length")

    with FakeServer(answer) as server:
        (found,) = rule(judge_at(server), task("mt_grade", second=None, max_tokens=1000))
    assert (found.grade, found.raw) == (8.0, "[[8]]")
    assert [b["max_tokens"] for b in server.requests] == [1000, 4000]
    assert found.completion_tokens == 20  # both were paid for
    with FakeServer(script=[ok("no", finish_reason="length")] * 2) as server:
        (found,) = rule(judge_at(server), task("mt_grade", second=None, max_tokens=1000))
    assert "cut by its token limit" in (found.error or "")
    assert server.calls == 2


def test_a_reply_never_gets_more_tokens_than_the_cap_allows() -> None:
    with FakeServer(ok("Let me see", finish_reason="length")) as server:
        judge = LLMJudge(ChatClient("j", server.base_url, "key", reply_tokens=300))
        (found,) = rule(judge, task("mt_grade", second=None, max_tokens=1000))
        rule(judge, task("mt_grade", second=None, max_tokens=200))
    assert [b["max_tokens"] for b in server.requests][:2] == [300, 200]
    assert "cut by its token limit" in (found.error or "")
    assert judge.id == "j-max300"


def test_judge_identity() -> None:
    plain = LLMJudge(ChatClient("j", "http://host/v1"))
    assert plain.id == "j"
    assert LLMJudge(ChatClient("j", "http://host/v1", extra_body={"a": 1})).id.startswith("j+")
    assert isinstance(plain, Judge)


# --- an oracle as judge ---


class Lengths(MatrixOracle):
    """P(i beats j) = len_i / (len_i + len_j), from the texts; counts its batches. Text 'fail' has no probability."""

    name = "lengths"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        self.batches.append(len(groups))
        out = []
        for group in groups:
            n = np.array([len(t) for t in group], dtype=np.float64)
            table = n[:, None] / (n[:, None] + n[None, :])
            bad = np.array([t == "fail" for t in group])
            table[bad[:, None] | bad[None, :]] = np.nan
            out.append(symmetrise(table))
        return out


def pair(first: str, second: str | None, parser: str = "mt_pair", **meta: Any) -> JudgeTask:
    return JudgeTask(f"{first}/{second}", Prompt.from_text("q", id="p"), first, second, (), parser, meta=meta)


def test_an_oracle_rules_pairs_in_one_batch() -> None:
    oracle = Lengths()
    judge = OracleJudge(oracle)
    tasks = [pair("aaa", "b"), pair("a", "bbb", "arena_v2"), pair("same", "same"), pair("fail", "b"), pair("aa", "b")]
    found = map_async(judge.rule, tasks, concurrency=16)
    assert oracle.batches == [4]  # the identical texts are not asked
    assert [v.p_first for v in found[:3]] == [0.75, 0.25, 0.5]
    assert [v.label for v in found[:3]] == ["A", "B>A", "C"]
    assert found[3].p_first is None
    assert "gave no probability" in (found[3].error or "")
    assert found[4].p_first == pytest.approx(2 / 3)
    assert [v.task_id for v in found] == [t.id for t in tasks]
    assert {v.judge for v in found} == {"lengths"}


def test_an_oracle_grades_against_references() -> None:
    judge = OracleJudge(Lengths())
    found = judge.rule_all(
        [
            pair("aaa", None, "mt_grade", references=["b"]),  # P = 3/4
            pair("aaa", None, "mt_grade", references=["b", "aaa", "c" * 9]),  # mean of 3/4, 1/2, 1/4
            pair("aaa", None, "mt_grade"),
            pair("aaa", None, "mt_grade", references=["b", "fail"]),
            pair("x", None, "mt_grade", references=["x"]),
        ]
    )
    assert [v.grade for v in found] == [pytest.approx(1 + 9 * 0.75), pytest.approx(5.5), None, None, 5.5]
    assert "no reference answers" in (found[2].error or "")
    assert "gave no probability" in (found[3].error or "")


def test_an_oracle_that_breaks_stops_the_run() -> None:
    class Broken(Lengths):
        def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
            raise ConfigError("no such model")

    with pytest.raises(ConfigError, match="no such model"):
        map_async(OracleJudge(Broken()).rule, [pair("a", "b"), pair("aa", "b")])


# --- a judge as oracle ---


class Stub:
    """Rules pairs by a function of (prompt, first, second) -> p_first or None, and counts."""

    id = "stub"

    def __init__(self, p_first: Callable[[str, str, str], float | None]) -> None:
        self.p_first, self.calls = p_first, 0

    async def rule(self, task: JudgeTask) -> Verdict:
        self.calls += 1
        await asyncio.sleep(0)
        p = self.p_first(task.prompt.id, task.first, task.second or "")
        return Verdict(task.id, self.id, p_first=p, error="failed" if p is None else None)


def test_both_orders_are_averaged() -> None:
    table = {("x", "y"): 1.0, ("y", "x"): 0.75, ("x", "z"): 0.75, ("z", "x"): 0.0, ("y", "z"): 0.5, ("z", "y"): None}
    stub = Stub(lambda _, a, b: table[a, b])
    oracle = JudgeOracle(stub)
    (p,) = oracle.matrix([Prompt.from_text("q", id="p")], [["x", "y", "z", "x"]])
    assert p[0, 1] == pytest.approx((1.0 + 1 - 0.75) / 2)
    assert p[0, 2] == pytest.approx((0.75 + 1 - 0.0) / 2)
    assert np.isnan(p[1, 2])
    assert np.isnan(p[2, 1])
    assert p[0, 3] == 0.5
    check_complementary(p, "stub")
    assert stub.calls == 6  # each pair of texts in both orders, once
    assert oracle.consistency.pairs == 3
    assert oracle.consistency.failed == 1
    assert oracle.consistency.consistent == 0.5  # x beats y only when shown first
    assert isinstance(oracle, Oracle)


def test_nothing_to_ask_is_no_call() -> None:
    stub = Stub(lambda *_: 1.0)
    oracle = JudgeOracle(stub)
    blocks = oracle.matrix([Prompt.from_text("q"), Prompt.from_text("r")], [["x", "x"], ["y"]])
    assert [b.tolist() for b in blocks] == [[[0.5, 0.5], [0.5, 0.5]], [[0.5]]]
    assert stub.calls == 0
    assert math.isnan(oracle.consistency.consistent)


@needs_data
@pytest.mark.parametrize(
    ("judge", "inconsistent", "valid", "first_shown", "consistent"),
    [
        ("gpt/judge_gpt4omini", 399, 1193, 0.60, 0.67),
        ("exaone/judge_32B", 506, 1200, 0.67, 0.58),
        ("qwen/judge_32B", 371, 1198, 0.58, 0.69),
        ("qwen/judge_7B", 951, 1200, 0.73, 0.21),
    ],
)
def test_published_position_consistency(
    judge: str, inconsistent: int, valid: int, first_shown: float, consistent: float
) -> None:
    """benchmarks.md 3.6: six models on 80 questions, every pair in both orders, replayed through the oracle."""
    import pandas as pd

    rows = pd.read_parquet(DATA / "mt_bench/multi_judge/pairwise_dev.parquet")
    rows = rows[(rows.lang == "en") & (rows.judge == judge)]
    p_first = {"A": 1.0, "B": 0.0, "tie": 0.5, "error": None}
    said: dict[tuple[str, str, str], float | None] = {}
    for q, a, b, ab, ba in zip(
        rows.question_id, rows.model_a, rows.model_b, rows.winner_ab, rows.winner_ba, strict=True
    ):
        said[str(q), a, b] = p_first[ab]
        # winner_ba is relative to the shown order, in which model_b comes first
        said[str(q), b, a] = p_first[ba]
    models = sorted({*rows.model_a, *rows.model_b})
    prompts = [Prompt.from_text("q", id=str(q)) for q in sorted(set(rows.question_id))]
    oracle = JudgeOracle(Stub(lambda *key: said[key]), concurrency=64)
    blocks = oracle.matrix(prompts, [models] * len(prompts))
    found = oracle.consistency
    assert (found.pairs, found.flipped, found.pairs - found.failed) == (1200, inconsistent, valid)
    assert found.first_shown == pytest.approx(first_shown, abs=0.005)
    assert found.consistent == pytest.approx(consistent, abs=0.005)
    assert sum(int(np.isnan(b).sum()) for b in blocks) == 2 * (1200 - valid)


def test_a_real_judge_behind_the_oracle(tmp_path: Path) -> None:
    """A judge that always says the first is slightly better has no opinion left after averaging."""
    prompt = Prompt.from_text("What is 2 + 2?", id="p")
    with FakeServer("It is close.\n[[A>B]]") as server, Store(tmp_path / "s") as store:
        oracle = JudgeOracle(judge_at(server, store))
        assert oracle.matrix([prompt], [["4", "5"]])[0].tolist() == [[0.5, 0.5], [0.5, 0.5]]
        assert oracle.consistency.first_of_decided == 1.0
        oracle.compare([Comparison(prompt, "5", "4")])
    assert server.calls == 2  # the other order was among the questions already asked
    assert oracle.name == "judge:j"


def test_the_question_shows_the_whole_conversation() -> None:
    turns = (Message("user", "one"), Message("assistant", "two"), Message("user", "three {x}"))
    asked = comparison_task(Comparison(Prompt("p", turns), "first {0}", "second"))
    body = asked.messages[1].content
    assert all(text in body for text in ("one", "two", "three {x}", "first {0}", "second"))
    assert body.index("first {0}") < body.index("second")
    assert parse(asked.parser, "[[B>>A]]").p_first == 0.0


def test_oracle_judges_may_wrap_judge_oracles() -> None:
    """The inner judge needs the event loop while the outer one waits on it: neither may block the other."""
    inner = JudgeOracle(Stub(lambda _, a, b: 1.0 if a > b else 0.0))
    (found,) = rule(OracleJudge(inner), pair("y", "x"))
    assert found.p_first == 1.0
    assert run_async(OracleJudge(inner).rule(pair("x", "y"))).p_first == 0.0
