"""Hidden states kept on disk: equal to the backbone's own, computed once, exact after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer

from prefeval.errors import ConfigError
from prefeval.files import write_jsonl
from reward_models import features
from reward_models.config import HeadConfig
from reward_models.evaluate_cli import evaluate
from reward_models.features import fingerprint, pooled_states
from reward_models.modeling import PreferenceModel

SEQUENCES = [tuple(range(5, 5 + n)) for n in range(2, 14)] + [(7, 7, 7), (9, 8, 7, 6)]


def new_model(seed: int = 0) -> PreferenceModel:
    tokenizer = make_tiny_tokenizer()
    return PreferenceModel.from_base(make_tiny_model(seed), tokenizer, HeadConfig("bt"), max_length=64)


@pytest.fixture
def model() -> PreferenceModel:
    return new_model()


class Counted:
    """Counts the sequences that a model's backbone reads; raises when `limit` is passed."""

    def __init__(self, model: PreferenceModel, limit: int | None = None) -> None:
        self.read, self.limit, self._features = 0, limit, model.features
        model.features = self  # type: ignore[method-assign,assignment]

    def __call__(self, ids: Any, lengths: Any) -> Any:
        self.read += len(ids)
        if self.limit is not None and self.read > self.limit:
            raise KeyboardInterrupt
        return self._features(ids, lengths)


def test_states_are_those_of_the_last_token_and_are_read_back_bit_for_bit(
    model: PreferenceModel, tmp_path: Path
) -> None:
    first = pooled_states(model, SEQUENCES, tmp_path)
    for ids in SEQUENCES:
        alone = model.classifier.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]
        torch.testing.assert_close(first[ids], alone.detach(), atol=1e-5, rtol=0)
    count = Counted(model)
    again = pooled_states(model, SEQUENCES, tmp_path)
    assert count.read == 0
    assert all(torch.equal(first[ids], again[ids]) for ids in SEQUENCES)


def test_an_interrupted_pass_goes_on_and_equals_an_uninterrupted_one(
    model: PreferenceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_SHARD_TOKENS", 20)
    whole = pooled_states(model, SEQUENCES, tmp_path / "whole", half=True)
    killed = new_model()
    Counted(killed, limit=6)
    with pytest.raises(KeyboardInterrupt):
        pooled_states(killed, SEQUENCES, tmp_path / "cut", half=True)
    resumed = new_model()
    count = Counted(resumed)
    states = pooled_states(resumed, SEQUENCES, tmp_path / "cut", half=True)
    assert 0 < count.read < len(SEQUENCES)
    assert all(torch.equal(whole[ids], states[ids]) for ids in SEQUENCES)


def test_other_weights_precisions_and_damaged_shards_are_computed_anew(model: PreferenceModel, tmp_path: Path) -> None:
    pooled_states(model, SEQUENCES, tmp_path)
    other = new_model(seed=1)
    assert len({fingerprint(model, False), fingerprint(model, True), fingerprint(other, False)}) == 3
    assert fingerprint(model, False) == fingerprint(new_model(), False)
    count = Counted(other)
    pooled_states(other, SEQUENCES, tmp_path)
    assert count.read == len(SEQUENCES)
    (shard,) = (tmp_path / fingerprint(model, False)).glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-7])
    count = Counted(model)
    pooled_states(model, SEQUENCES, tmp_path)
    assert count.read == len(SEQUENCES)


def test_models_with_one_backbone_are_evaluated_in_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second head finds every hidden state; its metrics are those that it has without the folder."""
    read: list[int] = []
    plain = PreferenceModel.features

    def counted(model: PreferenceModel, ids: Any, lengths: Any) -> Any:
        read.append(len(ids))
        return plain(model, ids, lengths)

    monkeypatch.setattr(PreferenceModel, "features", counted)
    rows = [{"prompt": f"q {n}", "chosen": f"the sky {n}", "rejected": "fox " * (n + 1)} for n in range(5)]
    data = write_jsonl(tmp_path / "pairs.jsonl", rows)
    found = []
    for seed, kind in enumerate(("bt", "hybrid")):
        head = HeadConfig(kind)  # type: ignore[arg-type]
        model = PreferenceModel.from_base(make_tiny_model(0), make_tiny_tokenizer(), head, seed=seed, max_length=64)
        path = model.save_pretrained(tmp_path / kind)
        for keep in (["--features", str(tmp_path / "states")], []):
            argv = ["--oracle", f"model:{path}", "--data", str(data), "--out", str(tmp_path / "m"), "--json"]
            assert evaluate([*argv, *keep, "--resamples", "10"]) == 0
            found.append((json.loads(capsys.readouterr().out), sum(read)))
            read.clear()
    assert [count for _, count in found] == [10, 10, 0, 10]
    for kept, fresh in (found[:2], found[2:]):
        assert kept[0]["nll"] == pytest.approx(fresh[0]["nll"], abs=2e-3)  # kept states may be those of bf16
    with pytest.raises(ConfigError, match="no causal backbone"):
        evaluate(["--oracle", "rules:shorter", "--data", str(data), "--out", str(tmp_path / "m"), "--features", "x"])
