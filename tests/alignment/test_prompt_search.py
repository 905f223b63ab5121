"""The search over system prompts on a policy and a proposer whose replies are known: beam, counts, resume, honesty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignment.prompt_search import Candidate, PromptSearch, PromptSearchConfig, one_line, rank, search_prompt, told
from prefeval.config import to_dict
from prefeval.errors import ConfigError
from prefeval.files import read_json, write_jsonl
from prefeval.generate import SamplingParams
from prefeval.oracle import PairwiseRule
from prefeval.runs import RunDir
from prefeval.types import Message, Prompt, Response

PROMPTS = [Prompt.from_text(f"question {i}", id=f"p{i}") for i in range(6)]
CONFIG = PromptSearchConfig(start="xxxx", depth=3, beam=2, width=2)


class Echo:
    """Answers with its system prompt: the instruction is the reply, so the oracle judges instructions."""

    name = "echo"

    def __init__(self) -> None:
        self.asked = 0

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        self.asked += k * len(prompts)
        return [[Response(next(m.content for m in p.messages if m.role == "system"))] * k for p in prompts]


class Shorten:
    """Rewrites an instruction without its last letter, or with one more; the rest of the reply is talk."""

    name = "shorten"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        out = []
        for prompt in prompts:
            self.seen.append(prompt.text)
            old = prompt.text.split("\n")[1]
            out.append([Response(f'\n"{old[:-1]}"\nThat is better.'), Response(old + "x")][:k])
        return out


class Dry:
    """Runs every stage at once, as a run directory that is new."""

    def stage(self, name: str, inputs: Any, fn: Callable[[], Any]) -> Any:
        return fn()


def brief(prompt: Prompt, first: str, second: str) -> float:
    return 1 / (1 + math.exp(len(first) - len(second)))


def search(config: PromptSearchConfig = CONFIG) -> tuple[PromptSearch, Echo, Shorten]:
    policy, proposer, oracle = Echo(), Shorten(), PairwiseRule("brief", brief)
    return PromptSearch(config, policy, proposer, oracle, PROMPTS[:4], PROMPTS[4:]), policy, proposer


def test_the_beam_goes_where_the_oracle_wants_it() -> None:
    found, policy, proposer = search()
    result = found.run(Dry())
    assert result["instruction"] == "x"  # a letter shorter at each depth
    assert result["win_rate"] == result["train_win_rate"] == pytest.approx(1 / (1 + math.exp(-3)))
    assert result["win_rate_n"] == 2
    by_depth = {n: [c["instruction"] for c in result["candidates"] if c["depth"] == n] for n in range(4)}
    assert by_depth == {0: ["xxxx"], 1: ["xxx", "xxxxx"], 2: ["xx"], 3: ["x"]}
    # what the policy was asked for and what the oracle was asked, counted by themselves
    spent = result["spent"]
    tried = len(result["candidates"]) - 1
    assert spent["replies"] == policy.asked == 4 + 4 * tried + 2 * 2
    assert spent["oracle_calls"] == 4 * tried + 2
    assert spent["failed"] == 0
    assert spent["proposals"] == 2 * len(proposer.seen)
    assert spent["unusable"] == spent["proposals"] - tried  # those known before
    assert "question 0" in proposer.seen[0]


def test_nothing_better_leaves_the_start() -> None:
    """What is measured at the end is then not asked for at all."""
    found, policy, _ = search(replace(CONFIG, depth=1, candidates=("xxxxx", "xxxx", "xxxxxx")))
    result = found.run(Dry())
    assert result["instruction"] == "xxx"
    found, policy, _ = search(replace(CONFIG, depth=0, candidates=("xxxxx", "xxxx", "xxxxxx")))
    result = found.run(Dry())
    assert result["instruction"] == "xxxx"
    assert result["win_rate"] == 0.5
    assert result["spent"]["oracle_calls"] == 2 * 4
    assert policy.asked == 4 + 2 * 4


def test_failed_verdicts_are_counted_and_win_nothing() -> None:
    policy = Echo()
    oracle = PairwiseRule(
        "half", lambda p, a, b: float("nan") if p.id in ("p0", "p1") or "y" in a + b else 1.0 * (a < b)
    )
    config = replace(CONFIG, depth=0, candidates=("aaaa", "yyyy"))
    result = PromptSearch(config, policy, Shorten(), oracle, PROMPTS[:4], PROMPTS[4:]).run(Dry())
    assert [c["instruction"] for c in result["candidates"]] == ["aaaa", "xxxx", "yyyy"]
    assert result["spent"]["failed"] == 2 + 4
    assert np.isnan(result["candidates"][2]["train_win_rate"])


def test_a_killed_search_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = search()[0].run(RunDir(tmp_path / "whole", {}, command="test"))

    class Killed(Exception):
        pass

    seen: set[str] = set()

    class Killing:
        def __init__(self) -> None:
            self.run = RunDir(tmp_path / "killed", {}, command="test")

        def stage(self, name: str, inputs: Any, fn: Callable[[], Any]) -> Any:
            result = self.run.stage(name, inputs, fn)
            if name not in seen:
                seen.add(name)
                raise Killed
            return result

    for _ in range(20):
        try:
            again = search()[0].run(Killing())
            break
        except Killed:
            continue
    assert len(seen) == 6  # start, four depths, measure
    assert again == whole


def test_where_the_candidate_stands() -> None:
    prompt = Prompt("p", (Message("system", "Own."), Message("user", "Hi")))
    assert told(prompt, "New.", "system").as_dicts() == [
        {"role": "system", "content": "New. Own."},
        {"role": "user", "content": "Hi"},
    ]
    assert told(prompt, "New.", "behind").text == "Hi New."
    assert one_line('<think>so</think>\n\n "Be kind."\nmore') == "Be kind."
    assert one_line(" \n''\n") == ""
    order = rank(
        [Candidate("a", 0.5, 0), Candidate("b", float("nan"), 0), Candidate("c", 0.7, 1), Candidate("d", 0.5, 1)]
    )
    assert [c.text for c in order] == ["c", "a", "d", "b"]


def test_as_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are parted, nobody is measured on what it was chosen on, and prompt.json holds the whole of it."""
    policies = []

    def opened(spec: str, **rest: Any) -> Echo:
        policies.append(Echo())
        return policies[-1]

    monkeypatch.setattr("prefeval.generate.open_generator", opened)
    write_jsonl(tmp_path / "q.jsonl", [{"prompt": f"q{i}"} for i in range(5)])
    config = replace(CONFIG, prompts=str(tmp_path / "q.jsonl"), oracle="rules:shorter", depth=0, candidates=("x",))
    run = RunDir(tmp_path / "run", to_dict(config), command="test")
    result = search_prompt(config, run)
    kept = read_json(tmp_path / "run" / "prompt.json")
    assert kept["instruction"] == result["instruction"] == "x"
    assert kept["win_rate_n"] == 2
    assert kept["oracle"] == "rules:shorter"
    assert len(policies) == 1  # who proposes is the policy itself unless another one is named
    with pytest.raises(ConfigError, match="which prompts"):
        search_prompt(CONFIG, run)
    for changes, message in (({"beam": 0}, "beam"), ({"share": 1.0}, "share"), ({"start": " "}, "start")):
        with pytest.raises(ConfigError, match=message):
            PromptSearchConfig(**changes)  # type: ignore[arg-type]
