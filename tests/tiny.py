"""A tokenizer and a model small enough for any test: byte-level BPE trained on a few lines, a two-layer Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "Name three colours of the rainbow, and say why the sky is blue.",
    "I think that the answer is red, green and blue because light scatters.",
    "Sorry, I cannot help with that; please ask something else.",
]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tiny_tokenizer() -> Any:
    """Byte-level BPE, about 300 ids, any text encodable; <s> is BOS, <|end|> ends turns and is EOS, <pad> is apart."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_tiny_model(seed: int = 0, *, vocab: int = 300) -> Any:
    """A LlamaForCausalLM in float32 and eval mode: hidden 32, 2 layers, 4 heads, weights drawn by `seed`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.eval()


def save_tiny(path: str | Path, seed: int = 0) -> Path:
    """A tiny causal model and its tokenizer in Hugging Face layout; returns the path."""
    make_tiny_model(seed).save_pretrained(path)
    make_tiny_tokenizer().save_pretrained(path)
    return Path(path)
