"""The model on disk and in batches: stock layout, bit-equal reload, pooling, one line for every broken checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer, save_tiny

from prefeval.batching import pad_right
from prefeval.errors import ConfigError
from prefeval.types import Message, Prompt
from reward_models.config import HeadConfig
from reward_models.modeling import PreferenceModel

PROMPT = Prompt.from_text("Why is the sky blue?")
TEXTS = ("Because light scatters.", "Sorry, I cannot help with that; please ask something else.", "Blue.")
HEADS = [
    HeadConfig("bt"),
    HeadConfig("regression", attributes=("helpfulness", "verbosity"), weights=(1.0, -0.5)),
    HeadConfig("gpm", blocks=2, tau=0.1),
    HeadConfig("hybrid", blocks=2, unit_norm=True, tau=0.7),
    HeadConfig("gpm", blocks=2, prompt_scales=True),
]


def build(head: HeadConfig = HEADS[0], seed: int = 0) -> PreferenceModel:
    return PreferenceModel.from_base(make_tiny_model(), make_tiny_tokenizer(), head, seed=seed, max_length=128)


def run(model: Any, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = model(*pad_right(sequences, model.pad_id))
    return out


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(HEADS[3]).save_pretrained(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize("head", HEADS)
def test_reload_is_bit_equal_and_stock_class_agrees(head: HeadConfig, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = build(head, seed=3)
    encoded = model.encode(PROMPT, TEXTS)
    before = run(model, encoded)
    model.save_pretrained(tmp_path / "m")
    again = PreferenceModel.from_pretrained(tmp_path / "m")
    assert again.head == head
    assert again.encode(PROMPT, TEXTS) == encoded
    assert torch.equal(run(again, encoded), before)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
    batch = AutoTokenizer.from_pretrained(tmp_path / "m").pad(
        {"input_ids": [list(e) for e in encoded]}, return_tensors="pt"
    )
    with torch.inference_mode():
        torch.testing.assert_close(stock(**batch).logits, before, atol=1e-6, rtol=1e-5)
    if head.attributes:
        assert list(stock.config.id2label.values()) == list(head.attributes)


def test_directory_holds_what_the_contract_says(saved: Path) -> None:
    names = {p.name for p in saved.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    mapping = json.loads((saved / "config.json").read_text())["preference"]
    fields = "format_version kind blocks attributes weights tau unit_norm template_hash pooling max_length"
    assert set(fields.split()) <= set(mapping)
    assert (mapping["kind"], mapping["blocks"], mapping["tau"], mapping["max_length"]) == ("hybrid", 2, 0.7, 128)


def test_neighbours_in_the_batch_and_padding_do_not_change_outputs() -> None:
    model = build(HEADS[3])
    encoded = model.encode(PROMPT, TEXTS)
    together = run(model, encoded)
    alone = torch.cat([run(model, [e]) for e in encoded])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    ids, lengths = pad_right(encoded, model.pad_id)
    other = ids.clone()
    for row, n in enumerate(lengths):
        other[row, n:] = 77  # what stands in the padding is never looked at
    with torch.inference_mode():
        assert torch.equal(model(ids, lengths), model(other, lengths))


def test_a_padding_id_inside_the_text_does_not_move_the_pooled_token() -> None:
    model = build()
    ids = (1, 4, 50, model.pad_id, 60, 2)
    with torch.inference_mode():
        hidden = model.classifier.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        expected = model.classifier.score(hidden)
    torch.testing.assert_close(run(model, [ids, ids[:3]])[0], expected, atol=1e-6, rtol=1e-5)


def test_head_is_seeded_and_small() -> None:
    a, b, c = (build(HEADS[2], seed).classifier.score.weight for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.std().item() == pytest.approx(1 / 33, rel=0.25)


def test_padding_is_not_the_end_token_even_if_the_base_says_so() -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    model = PreferenceModel.from_base(make_tiny_model(), tokenizer, HEADS[0])
    assert model.pad_id != tokenizer.eos_token_id
    assert model.tokenizer.pad_token_id == model.classifier.config.pad_token_id == model.pad_id


def test_bf16_backbone_keeps_a_float32_head() -> None:
    model = build()
    model.set_backbone_dtype(torch.bfloat16)
    assert model.classifier.score.weight.dtype == torch.float32
    assert run(model, model.encode(PROMPT, TEXTS)).dtype == torch.float32


def test_long_pairs_keep_bos_response_and_end() -> None:
    model = build()
    prompt = Prompt("", (Message("user", "blue sky " * 200),))
    (ids,) = model.encode(prompt, TEXTS[:1])
    assert len(ids) == 128
    assert ids[0] == model.tokenizer.bos_token_id
    tail = model.encode(PROMPT, TEXTS[:1])[0][-8:]
    assert ids[-8:] == tail
    assert model.encoder.truncated == 1


def test_trainable_parts() -> None:
    model = build(HEADS[0])
    layer = sum(p.numel() for p in model.classifier.model.layers[1].parameters())
    assert model.set_trainable("head") == 32
    assert model.set_trainable("top:1") == layer + 32 + 32  # one layer, the final norm, the head
    assert not model.classifier.model.embed_tokens.weight.requires_grad
    assert model.set_trainable("full") == sum(p.numel() for p in model.parameters())
    for bad in ("top:9", "top:0", "lora", "top:x"):
        with pytest.raises(ConfigError, match="trainable"):
            model.set_trainable(bad)


def test_base_by_path_and_second_stage_with_its_head(saved: Path, tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    by_path = PreferenceModel.from_base(str(base), make_tiny_tokenizer(), HEADS[0], seed=3, max_length=128)
    encoded = by_path.encode(PROMPT, TEXTS)
    assert torch.equal(run(by_path, encoded), run(build(HEADS[0], seed=3), encoded))
    first = PreferenceModel.from_pretrained(saved)
    second = PreferenceModel.from_base(str(saved), make_tiny_tokenizer(), HEADS[3], seed=9, keep_head=True)
    fresh = PreferenceModel.from_base(str(saved), make_tiny_tokenizer(), HEADS[0], seed=9)  # another width
    assert torch.equal(second.classifier.score.weight, first.classifier.score.weight)
    assert fresh.classifier.score.weight.shape == (1, 32)
    with pytest.raises(ConfigError, match="keep_head"):
        PreferenceModel.from_base(str(base), make_tiny_tokenizer(), HEADS[0], keep_head=True)


def one_line(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        PreferenceModel.from_pretrained(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_tokenizer(copy: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    assert "no tokenizer" in one_line(copy)


def test_missing_head(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert "score.weight" in one_line(copy)


def test_changed_template(copy: Path) -> None:
    path = copy / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|end|>", "<|end|>\n"))
    assert "template hash" in one_line(copy)


def test_pickled_and_broken_weights(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"\x10\x00\x00\x00")
    assert "cannot be loaded" in one_line(copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "pickled" in one_line(copy)


def test_other_directories(tmp_path: Path) -> None:
    assert "no such" in one_line(tmp_path / "nothing")
    assert "not a preference model" in one_line(save_tiny(tmp_path / "lm"))


def test_unusable_head_in_the_config(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["preference"]["tau"] = -1
    (copy / "config.json").write_text(json.dumps(config))
    assert "tau" in one_line(copy)


def test_encoder_backbones_get_a_mask(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    model = PreferenceModel.from_base(str(tmp_path / "bert"), make_tiny_tokenizer(), HEADS[3])
    assert model.encoder.max_length == 64
    encoded = model.encode(PROMPT, TEXTS)
    alone = torch.cat([run(model, [e]) for e in encoded])
    torch.testing.assert_close(run(model, encoded), alone, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(run(PreferenceModel.from_pretrained(tmp_path / "saved"), encoded), run(model, encoded))
    with pytest.raises(ConfigError, match="prompt_scales are read where a causal model"):
        PreferenceModel.from_base(str(tmp_path / "bert"), make_tiny_tokenizer(), HEADS[4])


def test_a_cut_backbone_equals_the_first_layers_and_stays_stock(tmp_path: Path) -> None:
    """Its features are the normed hidden states of the whole model after that many layers."""
    from transformers import AutoModelForSequenceClassification

    whole = make_tiny_model()
    model = PreferenceModel.from_base(make_tiny_model(), make_tiny_tokenizer(), HEADS[0], max_length=128, layers=1)
    encoded = model.encode(PROMPT, TEXTS)
    ids, lengths = pad_right(encoded, model.pad_id)
    with torch.inference_mode():
        states = whole(input_ids=ids, output_hidden_states=True).hidden_states[1]
        wanted = whole.model.norm(states)[torch.arange(len(ids)), lengths - 1]
        torch.testing.assert_close(model.features(ids, lengths), wanted)
    assert model.classifier.config.num_hidden_layers == 1
    model.save_pretrained(tmp_path / "m")
    assert torch.equal(run(PreferenceModel.from_pretrained(tmp_path / "m"), encoded), run(model, encoded))
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    assert len(stock.model.layers) == 1
    with pytest.raises(ConfigError, match="has 2 layers, not 3"):
        PreferenceModel.from_base(make_tiny_model(), make_tiny_tokenizer(), HEADS[0], layers=3)
