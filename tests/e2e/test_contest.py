"""A contest of tiny policies from prompts to contest.json, and its resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer, save_tiny

from alignment.contest import ContestConfig, hold_contest
from alignment.samples import read_samples
from prefeval.config import to_dict
from prefeval.errors import ConfigError
from prefeval.files import read_json, write_jsonl
from prefeval.runs import MetricsLog, RunDir


@pytest.fixture
def config(tmp_path: Path) -> ContestConfig:
    save_tiny(tmp_path / "base")
    eager = make_tiny_model()
    with torch.no_grad():
        eager.lm_head.weight[2] = 40 * eager.model.norm.weight.new_ones(32) * eager.lm_head.weight.std()
        eager.lm_head.weight[2] *= torch.sign(eager.model(torch.tensor([[1, 4, 5]])).last_hidden_state[0, -1])
    eager.save_pretrained(tmp_path / "short")
    make_tiny_tokenizer().save_pretrained(tmp_path / "short")
    write_jsonl(tmp_path / "prompts.jsonl", [{"id": f"p{i}", "prompt": f"Say {i}, please."} for i in range(6)])
    return ContestConfig(
        out=str(tmp_path / "run"),
        policies={"base": str(tmp_path / "base"), "short": str(tmp_path / "short"), "twin": str(tmp_path / "base")},
        oracle="rules:shorter",
        prompts=str(tmp_path / "prompts.jsonl"),
        limit=5,
        responses=3,
        max_new_tokens=8,
        shown=2,
    )


def hold(config: ContestConfig) -> dict[str, Any]:
    return hold_contest(config, RunDir(config.out, to_dict(config), command="test"))


def test_a_contest_from_prompts_to_rows(config: ContestConfig) -> None:
    result = hold(config)
    out = Path(config.out)
    assert read_json(out / "contest.json") == result
    rows = {r["policy"]: r for r in result["rows"]}
    assert list(rows) == result["names"] == ["base", "short", "twin"]
    assert result["prompts"] == 5
    base = read_samples(out / "samples-base.jsonl")
    assert [len(g.responses) for g in base] == [3] * 5
    # the base under itself: its sampler's own log-probs, so no divergence beyond the rounding of bf16
    assert abs(rows["base"]["kl"]) < 0.1
    assert rows["base"]["win_rate"] == 0.5
    assert rows["base"]["length_matched_win_rate"] == 0.5
    assert rows["twin"]["kl"] < 0.5 < rows["short"]["kl"]
    assert rows["short"]["length"] < rows["base"]["length"]
    assert rows["short"]["win_rate"] > 0.75
    assert rows["short"]["ended"] > rows["base"]["ended"]
    assert rows["base"]["gap"] > 0.4
    assert rows["short"]["gap"] < 0.2
    lengths = {n: [[len(r.text) for r in g.responses] for g in read_samples(out / f"samples-{n}.jsonl")] for n in rows}
    wins = [
        np.mean([0.5 + 0.5 * np.sign(b - a) for a in mine for b in theirs])
        for mine, theirs in zip(lengths["short"], lengths["base"], strict=True)
    ]
    assert rows["short"]["win_rate"] == pytest.approx(np.mean(wins)) == result["matrix"][1][0]
    assert [list(s["replies"]) for s in result["samples"]] == [["base", "short", "twin"]] * 2
    logged = [r for r in MetricsLog(out / "metrics.jsonl").rows() if r.kind == "evaluation"]
    assert [r.stage for r in logged] == ["contest/base", "contest/short", "contest/twin"]


def test_it_resumes_and_notices_another_model_under_the_same_path(config: ContestConfig, tmp_path: Path) -> None:
    small = replace(config, policies=dict(list(config.policies.items())[:2]), limit=2)
    first = hold(small)
    before = (Path(config.out) / "samples-base.jsonl").stat().st_mtime_ns
    assert hold(small) == first
    assert (Path(config.out) / "samples-base.jsonl").stat().st_mtime_ns == before
    save_tiny(tmp_path / "short", seed=3)
    assert hold(small)["rows"][1] != first["rows"][1]
    assert (Path(config.out) / "samples-base.jsonl").stat().st_mtime_ns == before


def test_mixtures_and_choices_take_part(config: ContestConfig, tmp_path: Path) -> None:
    base, short = config.policies["base"], config.policies["short"]
    policies = {
        "base": base,
        "mixed": f"mix:0.5*{base}+0.5*{short}",
        "best": f"best-of-4[rules:shorter]:{base}",
        "nash": f"nash-of-2[rules:shorter]:mix:0.9*{base}+0.1*{short}",
        "steered": f"linear:3[Be brief.]:{base}",
    }
    entered = replace(config, policies=policies, limit=3)
    rows = {r["policy"]: r for r in hold(entered)["rows"]}
    assert rows["best"]["win_rate"] > 0.7  # the shortest of four against one
    assert rows["best"]["length"] < rows["base"]["length"]
    assert rows["mixed"]["kl"] > 0.1  # under the mixture its replies are likelier than under the base
    assert rows["mixed"]["length"] < rows["base"]["length"]
    assert rows["best"]["kl"] is None  # how likely a choice is to keep a reply is not known
    assert rows["nash"]["entropy"] is None
    assert rows["steered"]["kl"] is not None
    before = (Path(config.out) / "samples-mixed.jsonl").stat().st_mtime_ns
    save_tiny(tmp_path / "short", seed=3)
    hold(entered)
    assert (Path(config.out) / "samples-mixed.jsonl").stat().st_mtime_ns > before  # a member has changed
    with pytest.raises(ConfigError, match="the base must be one model"):
        hold(replace(config, policies=dict(reversed(policies.items())), out=str(tmp_path / "other")))


def test_what_a_contest_needs(config: ContestConfig) -> None:
    with pytest.raises(ConfigError, match="at least two"):
        ContestConfig(policies={"base": "x"})
    for missing in ({"policies": {}}, {"prompts": ""}):
        with pytest.raises(ConfigError, match="needs policies"):
            hold_contest(replace(config, **missing), RunDir(config.out, {}, command="test"))
