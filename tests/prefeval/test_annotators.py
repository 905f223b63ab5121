"""alpaca_eval's annotator configs as judges: the package's own examples of its parsers, its configs as files, calls."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from annotator_replies import DOCUMENTED, UNREADABLE
from fake_server import FakeServer, Step, ok, status

from leaderboard.judge_specs import open_judge
from prefeval.api import map_async
from prefeval.errors import ConfigError, DataError, PrefevalError
from prefeval.judges.annotator import choose, read_annotators
from prefeval.judges.annotator_parsers import Completion, json_parser, read_completion_with, regex_parser
from prefeval.judges.base import Judge, JudgeTask, Verdict
from prefeval.types import Message, Prompt


@pytest.mark.parametrize(("name", "keywords", "text", "value"), DOCUMENTED)
def test_documented_examples(name: str, keywords: Mapping[str, Any], text: str, value: float) -> None:
    assert read_completion_with(name, keywords, Completion(text)) == value


@pytest.mark.parametrize(("name", "keywords", "text"), UNREADABLE)
def test_no_verdict_is_an_error(name: str, keywords: Mapping[str, Any], text: str) -> None:
    with pytest.raises(ValueError):
        read_completion_with(name, keywords, Completion(text))


def test_several_values() -> None:
    text = "\n(b)\n\n### Best output for example 8:\n(a)\n\n### Best output for example 9:\n(b)"
    assert regex_parser(text, {1: r"\n\(a\)", 2: r"\n\(b\)"}) == [2, 1, 2]
    listed = '[{"why": "x", "is_incorporated": true}, {"is_incorporated": false}]'
    assert json_parser(listed, "is_incorporated") == [True, False]


def test_log_probabilities() -> None:
    soft = {"numerator_token": "m", "denominator_tokens": ["m", "M"], "is_binarize": False}
    first, last = {"m": -0.2, "M": -1.8, "x": -3.0}, {"M": -0.1}
    odds = math.exp(-0.2) / (math.exp(-0.2) + math.exp(-1.8))
    reply = Completion("m", first, first)
    assert read_completion_with("logprob_parser", soft, reply) == pytest.approx(2 - odds, abs=1e-12)
    assert read_completion_with("logprob_parser", {**soft, "is_binarize": True}, reply) == 1
    long = Completion("so M", first, last, positions=2)
    assert read_completion_with("logprob_parser", {**soft, "log_prob_index": -1}, long) == 2  # p(m) = 0
    assert read_completion_with("logprob_parser", {**soft, "log_prob_index": 0}, long) == pytest.approx(2 - odds)
    for broken in (long, Completion("m"), Completion("x", {"x": -0.1})):  # a batch of two, none, neither token
        with pytest.raises(ValueError):
            read_completion_with("logprob_parser", soft, broken)


def test_the_packages_configs_are_read_or_refused_with_the_reason() -> None:
    imported = "alpaca_eval" in sys.modules
    folder = read_annotators("weighted_alpaca_eval_gpt4_turbo")
    (found,) = folder[1]
    assert (folder[0], found.model, found.max_tokens) == (found.name, "gpt-4-1106-preview", 1)
    assert (found.temperature, found.top_p, found.top_logprobs, found.parser) == (1, 1.0, 5, "logprob_parser")
    assert [m.role for m in found.template] == ["system", "user"]
    (ranked,) = read_annotators("alpaca_eval_cot_gpt4_turbo_fn")[1]
    assert set(ranked.extra) == {"tool_choice", "tools"}
    (llama,) = read_annotators("alpaca_eval_llama3_70b_fn")[1]
    assert (llama.base_url, llama.price_per_token) == ("https://api.together.xyz/v1", 9e-7)
    refused = {}
    root = Path(importlib.util.find_spec("alpaca_eval").submodule_search_locations[0])  # type: ignore[union-attr, index]
    for config in sorted((root / "evaluators_configs").glob("*/configs.yaml")):
        try:
            read_annotators(config.parent.name)
        except PrefevalError as error:
            refused[config.parent.name] = str(error)
    assert len(refused) < 25
    assert "batch_size" in refused["alpaca_farm_greedy_gpt4"]
    assert "no chat model" in refused["text_davinci_003"]
    assert "'anthropic_completions' is no chat endpoint" in refused["claude"]
    assert ("alpaca_eval" in sys.modules) == imported  # read as files: none of its code ran


def test_texts_with_braces_stay_as_they_are() -> None:
    (found,) = read_annotators("weighted_alpaca_eval_gpt4_turbo")[1]
    body = found.messages("say {output_1}", "first {output_2} {}", "second")[1].content
    assert all(text in body for text in ("say {output_1}", "first {output_2} {}", "second"))


def task(text: str = "What is 2 + 2?", second: str | None = "four", parser: str = "alpaca_logprob") -> JudgeTask:
    return JudgeTask("t", Prompt.from_text(text, id="p"), "4", second, (Message("user", "not this"),), parser)


def rule(judge: Judge, *tasks: JudgeTask) -> list[Verdict]:
    return map_async(judge.rule, tasks)


def test_a_call_is_the_configs_own(tmp_path: Path) -> None:
    with FakeServer(lambda _: ok("m", logprobs={"m": math.log(0.6), "M": math.log(0.2)})) as server:
        judge = open_judge(f"judge:alpaca_eval:weighted_alpaca_eval_gpt4_turbo@{server.base_url}", tmp_path / "s")
        found = [rule(judge, task())[0] for _ in range(2)]
    assert found[0].p_first == pytest.approx(0.75)
    assert (found[0].label, found[1], server.calls) == ("m", found[0], 1)
    sent = server.requests[0]
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["top_p"]) == ("gpt-4-1106-preview", 1, 1, 1.0)
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 5)
    assert "What is 2 + 2?" in sent["messages"][1]["content"]
    assert judge.id.startswith("alpaca_eval:weighted_alpaca_eval_gpt4_turbo+")


def test_the_last_token_counts_after_a_chain_of_thought() -> None:
    step = Step(text="4 is right: M", logprobs={"x": -0.1}, last_logprobs={"M": math.log(0.3), "m": math.log(0.1)})
    with FakeServer(lambda _: step) as server:
        judge = open_judge(f"judge:alpaca_eval:weighted_alpaca_eval_cot_gpt4_turbo@{server.base_url}")
        (found,) = rule(judge, task())
    assert found.p_first == pytest.approx(0.25)


def test_a_tools_arguments_are_the_reply() -> None:
    ranks = '{"concise_explanation": "m", "ordered_models": [{"model": "M", "rank": 1}, {"model": "m", "rank": 2}]}'
    with FakeServer(lambda _: Step(tool_arguments=ranks)) as server:
        judge = open_judge(f"judge:alpaca_eval:alpaca_eval_cot_gpt4_turbo_fn@{server.base_url}")
        (found,) = rule(judge, task(parser="arena_v2"))
    assert (found.p_first, found.label) == (0.0, "B>>A")  # the label of the task's own protocol
    assert server.requests[0]["tool_choice"]["function"]["name"] == "make_partial_leaderboard"


def test_failures_are_counted_by_reason() -> None:
    script = [status(400, "no"), ok("neither"), ok("neither", finish_reason="length")]
    with FakeServer(script=script) as server:
        judge = open_judge(f"judge:alpaca_eval:alpaca_eval_gpt4@{server.base_url}")
        found = [rule(judge, task())[0] for _ in range(3)]
    assert [v.reason for v in found] == ["bad request", "unreadable verdict", "cut by the token limit"]
    assert (found[1].error or "").startswith("unreadable verdict (ranking_parser): ")
    assert all(v.p_first is None and v.label is None for v in found)
    for wrong in (task(second=None), JudgeTask("t", _two_turns(), "a", "b", (), "mt_pair")):
        with pytest.raises(ConfigError, match="two answers to one instruction"):
            rule(judge, wrong)


def _two_turns() -> Prompt:
    return Prompt("p", (Message("user", "a"), Message("assistant", "b"), Message("user", "c")))


CONFIG = """
one: &one
  prompt_template: "own/t.txt"
  fn_completions: openai_completions
  completions_kwargs: {{model_name: a, {kwargs}}}
  completion_parser_kwargs: {{outputs_to_match: {{1: "first", 2: "second"}}}}
  {more}
"""


def write_config(folder: Path, kwargs: str = "max_tokens: 5", more: str = "batch_size: 1", second: str = "") -> Path:
    home = folder / "own"
    home.mkdir(exist_ok=True)
    text = "<|im_start|>user\n{instruction}\n1: {output_1}\n2: {output_2}\n<|im_end|>"
    (home / "t.txt").write_text(text, encoding="utf-8")
    (home / "configs.yaml").write_text(CONFIG.format(kwargs=kwargs, more=more) + second, encoding="utf-8")
    return home


def test_a_config_by_path_and_a_pool(tmp_path: Path) -> None:
    home = write_config(tmp_path, second="two: {<<: *one, completions_kwargs: {model_name: b}}\n")
    name, pool = read_annotators(str(home))
    assert (name, [a.name for a in pool]) == ("own", ["one", "two"])
    assert pool[1].temperature == 0.7  # the package's default
    # the package draws with random.Random("annotator" + instruction + "0"): golden values of Python's generator
    assert [choose(pool, text).name for text in ("a", "b", "c", "d", "e", "f")] == DRAWN
    with FakeServer("the second") as server:
        (found,) = rule(open_judge(f"judge:alpaca_eval:{home}@{server.base_url}"), task("a"))
    assert found.p_first == 0.0
    assert server.requests[0]["model"] == {"one": "a", "two": "b"}[DRAWN[0]]
    assert server.requests[0]["messages"] == [{"role": "user", "content": "a\n1: 4\n2: four"}]


DRAWN = ["two", "two", "two", "two", "one", "one"]


@pytest.mark.parametrize(
    ("kwargs", "more", "why"),
    [
        ("tokens_to_avoid: [x]", "batch_size: 1", "needs the judge's tokenizer"),
        ("openai_api_keys: [x]", "batch_size: 1", "read from the environment"),
        ("client_kwargs: {api_key: x}", "batch_size: 1", "only base_url"),
        ("max_tokens: 5", "batch_size: 4", "one example a prompt"),
        ("max_tokens: 5", "batchsize: 4", "did you mean 'batch_size'"),
        ("max_tokens: 5", "fn_completion_parser: ranking", "did you mean 'ranking_parser'"),
        ("max_tokens: 5", "completion_parser_kwargs: {outputs_to_match: {1: '('}}", "outputs_to_match.1"),
        ("max_tokens: 5", "prompt_template: own/none.txt", "no such file"),
        ("max_tokens: 5", "prompt_template: <|im_start|>user\\n{instruction}<|im_end|>", "prompt_template"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(tmp_path: Path, kwargs: str, more: str, why: str) -> None:
    with pytest.raises(PrefevalError, match=why):
        read_annotators(str(write_config(tmp_path, kwargs, more)))


def test_unknown_names_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'alpaca_eval_gpt4'"):
        read_annotators("alpaca_eval_gpt5")
    with pytest.raises(ConfigError, match=r"no configs\.yaml"):
        read_annotators(str(tmp_path))
    (tmp_path / "configs.yaml").write_text("- a", encoding="utf-8")
    with pytest.raises(DataError, match="annotators by name"):
        read_annotators(str(tmp_path))
