"""Batch files: what is written, what is read back, and that nothing is asked or paid for twice."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_batches import FakeBatches, Row, expired_line, lines, output_line
from fake_server import FakeServer, Step, ok, status

import prefeval.api_batch as api_batch
from leaderboard import batches, cli
from leaderboard.answers import Answer, Answers, write_mt_answers
from leaderboard.batches import missing_requests, run_batch
from leaderboard.benchmarks import open_benchmark
from leaderboard.judge_specs import open_judge
from prefeval.api import ChatClient, map_async
from prefeval.api_batch import read_outputs, write_requests
from prefeval.errors import ConfigError, DataError, RunError
from prefeval.files import read_json
from prefeval.judges.base import Judge, JudgeTask
from prefeval.judges.llm import LLMJudge
from prefeval.store import Store
from prefeval.types import Message, Prompt

NOBODY = "http://127.0.0.1:9/v1"  # nothing listens there: a call that is made after all fails


def question(number: int, parser: str = "mt_pair", **fields: Any) -> JudgeTask:
    messages = (Message("user", f"which\u2028? {number}"),)
    return JudgeTask(str(number), Prompt.from_text("q"), "a", "b", messages, parser, **fields)


TASKS = [question(i) for i in range(6)]


def judge_of(store: Store, url: str = NOBODY, **settings: Any) -> LLMJudge:
    client = ChatClient("org/j", url, "sk-secret", max_retries=0, backoff_seconds=0.001, **settings)
    return LLMJudge(client, store)


def rows_of(judge: Judge, tasks: Sequence[JudgeTask], folder: Path) -> list[Row]:
    files = write_requests(folder, missing_requests(judge, tasks))
    return [row for file in files for row in lines(file.read_text(encoding="utf-8"))]


def write_lines(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_input_file_is_what_would_have_been_sent(tmp_path: Path) -> None:
    """Body by body the same as the calls of a live run, joined by keys that a live run stores its replies under."""
    with FakeServer("[[A]]") as server, Store(tmp_path / "s") as store, Store(tmp_path / "live") as live:
        settings: dict[str, Any] = {"extra_body": {"seed_mode": 1}}
        rows = rows_of(judge_of(store, server.base_url, **settings), TASKS, tmp_path)
        assert server.calls == 0
        map_async(judge_of(live, server.base_url, **settings).rule, TASKS)
        assert {r["custom_id"] for r in rows} == {k for (k,) in live._query("SELECT key FROM entries", [])}
    by_text = {b["messages"][0]["content"]: b for b in server.requests}
    assert len(rows) == len(by_text) == 6
    for row in rows:
        assert (set(row), row["method"]) == ({"custom_id", "method", "url", "body"}, "POST")
        assert row["url"] == "/v1/chat/completions"
        assert row["body"] == by_text[row["body"]["messages"][0]["content"]]
    assert "sk-secret" not in json.dumps(rows)


def test_files_keep_to_the_limits_and_to_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_batch, "_MOST_REQUESTS", 4)
    judge = open_judge(f"panel:judge:org/a@{NOBODY}+judge:b@{NOBODY}", tmp_path / "s")
    requests = missing_requests(judge, TASKS)
    files = write_requests(tmp_path / "out", requests)
    rows = {file.name: lines(file.read_text(encoding="utf-8")) for file in files}
    assert sorted(len(r) for r in rows.values()) == [2, 2, 4, 4]
    assert all(len({row["body"]["model"] for row in part}) == 1 for part in rows.values())
    assert sorted(row["custom_id"] for part in rows.values() for row in part) == sorted(requests)
    assert set(write_requests(tmp_path / "out", requests)) == set(files)  # the same requests, the same files
    monkeypatch.setattr(api_batch, "_MOST_BYTES", 1)
    assert len(write_requests(tmp_path / "one", requests)) == 12


def test_an_output_is_read_and_the_next_run_finds_it(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        judge = judge_of(store, price_per_million=(10.0, 100.0))
        rows = rows_of(judge, TASKS, tmp_path)
        answered = [output_line(row, ok("[[B]]")) for row in rows[:3]]
        answered.append(output_line(rows[3], status(429, "too many, key sk-secret")))
        answered.append(output_line(rows[4], Step(broken="shapeless", text=None)))
        answered[-1]["response"]["body"] = {"object": "x"}
        answered.append(expired_line(rows[5]))
        answered.append({**answered[0], "custom_id": "elsewhere"})
        file = write_lines(tmp_path / "out.jsonl", [*reversed(answered), answered[0]])
        with open(file, "a", encoding="utf-8") as handle:
            handle.write('{"custom_id": "cut')  # a download that broke off
        reading = read_outputs([file], missing_requests(judge, TASKS), store)
        assert (reading.read, reading.already, reading.unknown) == (3, 1, ["elsewhere"])
        assert reading.failed == {"rate limit": 1, "malformed reply": 1, "batch expired": 1}
        told = reading.text(3)
        assert "HTTP 429: too many, key ***" in told
        assert "3 requests are without a reply" in told
        assert len(missing_requests(judge, TASKS)) == 3  # a partial output: only the rest is left
        verdicts = map_async(judge.rule, TASKS)
    by_id = {row["body"]["messages"][0]["content"]: i for i, row in enumerate(rows)}
    for task, verdict in zip(TASKS, verdicts, strict=True):
        there = by_id[task.messages[0].content] < 3
        assert (verdict.label, verdict.reason) == (("B", None) if there else (None, "connection"))
        # 100 prompt and 10 completion tokens at half of $10 and $100 a million
        assert verdict.cost == pytest.approx(0.001 if there else 0.0)


def test_what_is_no_output_is_refused_by_row(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        file = write_lines(tmp_path / "x.jsonl", [expired_line({"custom_id": "a"}), {"id": "b"}])
        with pytest.raises(DataError, match=r"x.jsonl, row 2, field 'custom_id'"):
            read_outputs([file], {}, store)


def test_second_questions_come_with_the_next_batch(tmp_path: Path) -> None:
    """No log-probabilities, then words; a judgment without a label, then the nudge."""
    tasks = [question(0, "alpaca_logprob", max_tokens=1, top_logprobs=5), question(1, "arena_v01")]
    with Store(tmp_path / "s") as store:
        judge = judge_of(store)
        for said in (["m", "no label yet"], ["Model M", "[[A>B]]"]):
            rows = rows_of(judge, tasks, tmp_path)
            by_prompt = sorted(rows, key=lambda r: r["body"]["messages"][0]["content"])
            answered = [output_line(r, ok(text)) for r, text in zip(by_prompt, said, strict=True)]
            read_outputs([write_lines(tmp_path / "o.jsonl", answered)], missing_requests(judge, tasks), store)
        assert missing_requests(judge, tasks) == {}
        found = map_async(judge.rule, tasks)
    assert [v.label for v in found] == ["M", "A>B"]


def submit(server: FakeBatches, folder: Path, store: Store, **settings: Any) -> None:
    options = argparse.Namespace(batch_write=None, batch_read=None, batch_submit=folder)
    judge = judge_of(store, server.base_url, price_per_million=(1.0, 1.0))
    run_batch(options, judge, TASKS, store, poll_seconds=0.001, **settings)


def test_submit_waits_reads_and_asks_nothing_twice(tmp_path: Path) -> None:
    with FakeBatches(lambda body: ok("[[A]]"), looks=2) as server, Store(tmp_path / "s") as store:
        submit(server, tmp_path / "b", store)
        assert [len(rows) for rows in server.started] == [6]
        submit(server, tmp_path / "b", store)
        assert len(server.started) == 1
        assert [v.label for v in map_async(judge_of(store, server.base_url).rule, TASKS)] == ["A"] * 6
        assert server.live == 0
    text = "".join(f.read_text(encoding="utf-8") for f in (tmp_path / "b").iterdir())
    assert "sk-secret" not in text


@pytest.mark.parametrize("lost", [False, True], ids=["noted", "note lost"])
def test_a_killed_wait_goes_on_with_the_same_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    with FakeBatches(lambda body: ok("[[A]]"), looks=1) as server, Store(tmp_path / "s") as store:
        fetch = batches.Batches.fetch
        calls: list[int] = []

        def killed(self: batches.Batches, clients: Sequence[ChatClient]) -> list[Path]:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return fetch(self, clients)

        monkeypatch.setattr(batches.Batches, "fetch", killed)
        with pytest.raises(KeyboardInterrupt):
            submit(server, tmp_path / "b", store)
        if lost:
            (tmp_path / "b" / "batches.json").unlink()
        submit(server, tmp_path / "b", store)
        assert len(server.started) == 1
        assert store.count("reply") == 6


def test_an_expired_batch_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    with FakeBatches(lambda body: ok("[[A]]"), expire=2) as server, Store(tmp_path / "s") as store:
        with pytest.raises(RunError, match="no reply to 2 requests"):
            submit(server, tmp_path / "b", store)
        assert [len(rows) for rows in server.started] == [6, 2]  # the second brought nothing
        server.expire = 0
        submit(server, tmp_path / "b", store)
        assert [len(rows) for rows in server.started] == [6, 2, 2]
        assert store.count("reply") == 6


def test_refused_fields_are_learned_from_the_batch(tmp_path: Path) -> None:
    def reasoning(body: Row) -> Step:
        if "max_tokens" in body:
            return status(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.", param="max_tokens")
        return ok("[[B]]")

    with FakeBatches(reasoning) as server, Store(tmp_path / "s") as store:
        submit(server, tmp_path / "b", store)
        assert [sorted({*rows[0]["body"]} & {"max_tokens", "max_completion_tokens"}) for rows in server.started] == [
            ["max_tokens"],
            ["max_completion_tokens"],
        ]
        assert store.count("reply") == 6


def test_the_cap_comes_before_the_upload(tmp_path: Path) -> None:
    with FakeBatches(lambda body: ok("[[A]]")) as server, Store(tmp_path / "s") as store:
        with pytest.raises(RunError, match=r"may cost 0\.01 dollars, more than --max-cost 0\.005: not submitted"):
            submit(server, tmp_path / "b", store, max_cost=0.005)  # 6 x 2048 tokens at half of $1 a million
        assert not server.files


def test_another_judges_batch_is_not_taken(tmp_path: Path) -> None:
    with FakeBatches(lambda body: ok("[[A]]"), looks=10**6) as server, Store(tmp_path / "s") as store:
        (tmp_path / "b").mkdir()
        note = {"requests-x.jsonl": {"id": "batch-0", "model": "x", "status": "in_progress"}}
        (tmp_path / "b" / "batches.json").write_text(json.dumps(note))
        with pytest.raises(ConfigError, match="submitted for 'x'"):
            submit(server, tmp_path / "b", store)


def command(folder: Path, out: str, *more: str) -> None:
    answers = folder / "ann.jsonl"
    if not answers.exists():
        items = {p.key: Answer(p.key, ("one", "two")) for p in open_benchmark("mini-mt").prompts()}
        write_mt_answers(answers, Answers("ann", items))
    argv = ["--benchmark", "mini-mt", "--limit", "3", "--answers", str(answers), "--out", str(folder / out), *more]
    assert cli.judge(argv) == 0


def test_the_judge_command_by_batch(tmp_path: Path) -> None:
    spec = ("--judge", f"judge:gpt@{NOBODY}")
    command(tmp_path, "out", *spec, "--batch-write", str(tmp_path / "b"))
    (file,) = (tmp_path / "b").iterdir()
    rows = lines(file.read_text(encoding="utf-8"))
    assert len(rows) == 6
    done = write_lines(tmp_path / "done.jsonl", [output_line(row, ok("Rating: [[8]]")) for row in rows])
    command(tmp_path, "out", *spec, "--batch-read", str(done))
    command(tmp_path, "out", *spec)
    judged = tmp_path / "out" / "model_judgment" / "gpt_single.jsonl"
    assert [row["score"] for row in lines(judged.read_text(encoding="utf-8"))] == [8.0] * 6
    with pytest.raises(ConfigError, match="choose one"):
        command(tmp_path, "out", *spec, "--batch-write", "x", "--batch-submit", "y")
    with pytest.raises(ConfigError, match="calls no endpoint"):
        command(tmp_path, "out", "--judge", "rules:longer", "--batch-write", "x")


def test_a_bench_by_batch(tmp_path: Path, write: Callable[[str], str]) -> None:
    recipe = tmp_path / "r.yaml"
    models = ", ".join(f"{{name: {n}, spec: 'answers:{write(n)}'}}" for n in ("ann", "zoe"))
    recipe.write_text(
        f"models: [{models}]\nbenchmarks: [mini-mt]\nlimit: 2\nout: {tmp_path / 'run'}\nresamples: 10\n"
        f"judge: judge:gpt@{NOBODY}\n",
        encoding="utf-8",
    )
    assert cli.bench([str(recipe), "--batch-write", str(tmp_path / "b")]) == 0
    rows = [row for file in (tmp_path / "b").iterdir() for row in lines(file.read_text(encoding="utf-8"))]
    assert len(rows) == 8
    done = write_lines(tmp_path / "done.jsonl", [output_line(row, ok("[[7]]")) for row in rows])
    assert cli.bench([str(recipe), "--batch-read", str(done)]) == 0
    assert cli.bench([str(recipe)]) == 0
    scores = read_json(tmp_path / "run" / "scores" / "mini-mt" / "leaderboard.json")
    assert [row["average"] for row in scores["rows"]] == [7.0, 7.0]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def writer(name: str) -> str:
        items = {p.key: Answer(p.key, (f"{name} one", f"{name} two")) for p in open_benchmark("mini-mt").prompts()}
        return str(write_mt_answers(tmp_path / f"{name}.jsonl", Answers(name, items)))

    return writer
