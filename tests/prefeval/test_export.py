"""What `prefeval export` copies loads with stock classes and reads back; what it cannot copy it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import save_tiny

from prefeval.errors import ConfigError
from prefeval.export import export


@pytest.mark.parametrize("kind", ["hf", "gguf-ready"])
def test_a_policy_becomes_a_plain_directory(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_tiny(tmp_path / "run" / "final")
    assert export([str(tmp_path / "run"), "--to", str(tmp_path / "out" / "m"), "--format", kind]) == 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "m")
    AutoTokenizer.from_pretrained(tmp_path / "out" / "m")
    files = {p.name: p.read_bytes() for p in (tmp_path / "run" / "final").iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "out" / "m").iterdir()} == files
    with pytest.raises(ConfigError, match="exists already"):
        export([str(tmp_path / "run"), "--to", str(tmp_path / "out" / "m")])


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    save_tiny(tmp_path / "chain" / "align" / "final")
    with pytest.raises(ConfigError, match="models in its steps: align"):
        export([str(tmp_path / "chain"), "--to", str(tmp_path / "x")])
    config = tmp_path / "chain" / "align" / "final" / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"architectures": ["LlamaForSequenceClassification"]})
    )
    with pytest.raises(ConfigError, match="LlamaForSequenceClassification is no causal language model"):
        export([str(tmp_path / "chain" / "align"), "--to", str(tmp_path / "x"), "--format", "gguf-ready"])
    with pytest.raises(ConfigError, match="is it a run of prefeval bench"):
        export([str(tmp_path / "chain"), "--to", str(tmp_path / "x"), "--format", "mt_bench"])
    assert not (tmp_path / "x").exists()


def test_answers_by_protocol(tmp_path: Path) -> None:
    for name, file in (
        ("mini-alpaca", "ours/model_outputs.json"),
        ("mini-mt", "model_answer/ours.jsonl"),
        ("mini-arena", "model_answer/ours.jsonl"),
    ):
        path = tmp_path / "answers" / name / file
        path.parent.mkdir(parents=True)
        path.write_text(name)
    judged = tmp_path / "annotations" / "mini-mt" / "model_judgment" / "j_single.jsonl"
    judged.parent.mkdir(parents=True)
    judged.write_text("j")
    for kind, name in (("alpaca_eval", "mini-alpaca"), ("mt_bench", "mini-mt"), ("arena_hard", "mini-arena")):
        out = tmp_path / kind
        assert export([str(tmp_path), "--to", str(out), "--format", kind]) == 0
        assert [p.name for p in out.iterdir()] == [name]
    assert (tmp_path / "mt_bench" / "mini-mt" / "model_judgment" / "j_single.jsonl").read_text() == "j"
    assert (tmp_path / "alpaca_eval" / "mini-alpaca" / "ours" / "model_outputs.json").read_text() == "mini-alpaca"
