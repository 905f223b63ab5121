"""`prefeval answer`: resume, samples, choosing among candidates, temperatures, reasoning traces, the side file."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, refusing
from tiny import make_tiny_tokenizer, save_tiny

import prefeval.generate
from leaderboard import sampling
from leaderboard.answer_cli import answer
from leaderboard.benchmarks import open_benchmark
from leaderboard.sampling import identity
from prefeval.chat import template_hash
from prefeval.errors import ConfigError, DataError, RunError
from prefeval.files import read_jsonl
from prefeval.generate import Generator, SamplingParams, open_generator
from prefeval.seeds import derive_seed
from prefeval.types import Prompt, Response

SHORT = ["--max-new-tokens", "6"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("tiny")))


@dataclass
class Spy:
    """Passes calls on to a generator, remembers them, and dies when asked once more than `calls` times."""

    generator: Generator
    calls: int = 10**6
    asked: list[Prompt] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.generator.name

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        self.asked += prompts
        return self.generator.sample(prompts, k, params, seed)


@dataclass
class Scripted:
    """Thinks, then names its temperature; every third reply is cut inside the trace."""

    name: str = "scripted"
    temperatures: dict[str, float] = field(default_factory=dict)
    seen: list[Prompt] = field(default_factory=list)

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        out = []
        for prompt in prompts:
            self.temperatures[prompt.id] = params.temperature
            self.seen.append(prompt)
            cut = len(self.seen) % 3 == 0
            text = "<think>hm" if cut else f"<think>hm</think>at {params.temperature:g}"
            out.append([Response(text, finish_reason="length" if cut else "stop")] * k)
        return out


def use(monkeypatch: pytest.MonkeyPatch, generator: Generator) -> None:
    monkeypatch.setattr(prefeval.generate, "open_generator", lambda spec, name="", **_: generator)


def run(out: Path, model: str, benchmark: str, *arguments: str) -> None:
    assert answer(["--model", model, "--name", "m", "--benchmark", benchmark, "--out", str(out), *arguments]) == 0


def choices(out: Path) -> dict[int, list[list[str]]]:
    return {r["question_id"]: [c["turns"] for c in r["choices"]] for r in read_jsonl(out / "model_answer/m.jsonl")}


def outputs(out: Path, model: str = "m") -> list[str]:
    return [row["output"] for row in json.loads((out / model / "model_outputs.json").read_text())]


def test_a_killed_run_goes_on_and_says_the_same(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second turn, a line half written: nothing that was said is sampled again."""
    arguments = ["mini-mt", "--limit", "6", "--seed", "3", "--temperature", "0.9", *SHORT]
    run(tmp_path / "whole", tiny, *arguments)
    model = open_generator(tiny)
    monkeypatch.setattr(sampling, "TOGETHER", 2)
    first, second, third = Spy(model, calls=4), Spy(model), Spy(model)
    use(monkeypatch, first)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", tiny, *arguments)
    assert not (tmp_path / "killed/model_answer").exists()
    (journal,) = (tmp_path / "killed/replies").iterdir()
    with open(journal, "a", encoding="utf-8") as handle:
        handle.write('{"key": "half')
    use(monkeypatch, second)
    run(tmp_path / "killed", tiny, *arguments)
    ids = [f"{p.key}/{turn}" for p in open_benchmark("mini-mt", None, 6).prompts() for turn in (1, 2)]
    assert len(first.asked) == 8
    assert sorted(p.id for p in first.asked + second.asked) == sorted(ids)
    assert choices(tmp_path / "killed") == choices(tmp_path / "whole")
    use(monkeypatch, third)
    run(tmp_path / "killed", tiny, *arguments)
    assert not third.asked
    run(tmp_path / "killed", tiny, *arguments[:4], "4", *arguments[5:])
    assert len(third.asked) == 12  # another seed is another question


def test_a_server_is_asked_again_only_for_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    bad = open_benchmark("mini-alpaca", None, 5).prompts()[3].turns[0]
    failing = [True]
    with FakeServer(refusing(bad, failing)) as server:
        spec = f"server:x@{server.base_url}"
        with pytest.raises(RunError, match="no reply to prompt"):
            run(tmp_path, spec, "mini-alpaca", "--limit", "5")
        assert len(server.requests) == 5
        failing.clear()
        run(tmp_path, spec, "mini-alpaca", "--limit", "5")
        assert [r["messages"][-1]["content"] for r in server.requests[5:]] == [bad]
    assert outputs(tmp_path) == [f"to {p.turns[0]}" for p in open_benchmark("mini-alpaca", None, 5).prompts()]


def test_samples_are_choices_or_files(tiny: str, tmp_path: Path) -> None:
    arguments = ["--limit", "3", "--temperature", "1", *SHORT]
    run(tmp_path / "one", tiny, "mini-mt", *arguments)
    run(tmp_path / "three", tiny, "mini-mt", "--samples", "3", *arguments)
    one, three = choices(tmp_path / "one"), choices(tmp_path / "three")
    assert {q: c[:1] for q, c in three.items()} == one
    for question in three.values():
        assert len({tuple(turns) for turns in question}) == 3
    run(tmp_path / "files", tiny, "mini-alpaca", "--samples", "2", *arguments)
    first, second = outputs(tmp_path / "files", "m-s1"), outputs(tmp_path / "files", "m-s2")
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert (tmp_path / "files/m-s2/m-s2.meta.json").is_file()


@pytest.mark.parametrize("rule", ["best", "nash"])
def test_the_oracle_chooses_among_candidates(rule: str, tiny: str, tmp_path: Path) -> None:
    """By length the best candidate and the whole equilibrium are the longest of those that the model itself draws."""
    arguments = ["--best-of", "4", "--oracle", "rules:longer", "--select", rule]
    run(tmp_path, tiny, "mini-alpaca", "--limit", "4", "--seed", "5", "--temperature", "1", *arguments, *SHORT)
    prompts = [p.conversation([]) for p in open_benchmark("mini-alpaca", None, 4).prompts()]
    drawn = open_generator(tiny).sample(prompts, 4, SamplingParams(6, 1.0), derive_seed("select", 5))
    kept = outputs(tmp_path)
    for text, group in zip(kept, drawn, strict=True):
        texts = [r.text for r in group]
        assert text in texts
        assert len(text) == max(len(t) for t in texts)
    meta = json.loads((tmp_path / "m/m.meta.json").read_text())
    assert meta["selection"] == {"best_of": 4, "select": rule, "oracle": "rules:longer"}
    assert meta["chat_template_hash"] == template_hash(make_tiny_tokenizer())


def test_temperatures_are_the_protocols_own_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MT-Bench's table: writing and roleplay 0.7, stem and humanities 0.1, the others 0."""
    own = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
    category = {p.key: p.category for p in open_benchmark("mini-mt").prompts()}
    for given, out in (([], "own"), (["--temperature", "0.4"], "given")):
        model = Scripted()
        use(monkeypatch, model)
        run(tmp_path / out, "x", "mini-mt", *given)
        want = {p: 0.4 if given else own.get(category[p.split("/")[0]], 0.0) for p in model.temperatures}
        assert model.temperatures == want
        meta = json.loads((tmp_path / out / "model_answer/m.meta.json").read_text())
        assert meta["temperature"] == (0.4 if given else {c: own.get(c, 0.0) for c in set(category.values())})


def test_the_side_file_says_how_answers_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Scripted()
    use(monkeypatch, model)
    run(tmp_path, "x", "mini-alpaca", "--limit", "9", "--instruction", "Be brief.", "--seed", "2", "--strip-reasoning")
    assert all(p.messages[-1].content.endswith(" Be brief.") for p in model.seen)
    assert sorted(outputs(tmp_path)) == [""] * 3 + ["at 0"] * 6
    meta: dict[str, Any] = json.loads((tmp_path / "m/m.meta.json").read_text())
    assert meta.pop("versions")["torch"] == importlib.metadata.version("torch")
    revision = open_benchmark("mini-alpaca", None, 9).data_revision
    assert meta == {
        "name": "m", "model": "x", "benchmark": "mini-alpaca", "prompts": 9, "data_revision": revision,
        "chat_template_hash": None, "max_new_tokens": 512, "temperature": 0.0, "seed": 2, "instruction": "Be brief.",
        "samples": 1, "selection": None, "strip_reasoning": True, "replies": 9, "cut_replies": 3, "empty_replies": 3,
    }  # fmt: skip
    run(tmp_path / "raw", "x", "mini-alpaca", "--limit", "1")
    assert outputs(tmp_path / "raw") == ["<think>hm</think>at 0"]


def test_the_second_turn_sees_no_reasoning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, want in ((["--strip-reasoning"], "at 0"), ([], "<think>hm</think>at 0")):
        model = Scripted()
        use(monkeypatch, model)
        run(tmp_path / str(len(flags)), "x", "mini-mt", "--limit", "1", "--temperature", "0", *flags)
        first, second = model.seen
        assert [m.role for m in second.messages] == ["user", "assistant", "user"]
        assert (second.messages[0], second.messages[1].content) == (first.messages[0], want)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--best-of", "4"], "go together"),
        (["--oracle", "rules:longer"], "go together"),
        (["--best-of", "1", "--oracle", "rules:longer"], "at least 2"),
        (["--select", "nash"], "--best-of N"),
        (["--samples", "2"], "at temperature 0 all samples"),
        (["--temperature", "nan"], "--temperature"),
        (["--model", "answers:f.json", "--samples", "2"], "copied as it is"),
    ],
)
def test_options_that_cannot_be(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, "x", "mini-alpaca", *arguments)


def test_a_damaged_journal_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Scripted())
    (tmp_path / "replies").mkdir()
    (tmp_path / "replies/mini-alpaca.m.jsonl").write_text('{"key": "k"}\n')
    with pytest.raises(DataError, match=r"mini-alpaca\.m\.jsonl.*not a reply"):
        run(tmp_path, "x", "mini-alpaca")


def test_a_model_trained_anew_is_another(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("1")
    before = identity(f"model:{tmp_path}")
    assert identity(f"model:{tmp_path}") == before
    (tmp_path / "weights").write_text("22")
    assert identity(f"model:{tmp_path}") != before
    assert identity("hub/id") == ["hub/id"]
