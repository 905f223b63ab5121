"""Tokenizers, templates and checkpoints: what users report most (BOS, padding, end of turn)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefeval import chat
from prefeval.doctor.findings import Finding
from prefeval.errors import ConfigError
from prefeval.models import load_config, load_tokenizer, resolve
from prefeval.types import Message, Prompt

_PROMPT = Prompt.from_text("Name a colour.")


def examine_model(spec: str) -> Iterator[Finding]:
    """Tokenizer, template and weights of a base model, policy or preference model; nothing is downloaded twice."""
    try:
        tokenizer = load_tokenizer(spec)
    except ConfigError as error:
        yield Finding("problem", "tokenizer", str(error))
        return
    yield from _context(spec, tokenizer)
    try:
        for check in (_begin, _end, _padding, _template):
            yield from check(tokenizer)
    except ConfigError as error:  # our own code refuses to go on with this template or tokenizer
        yield Finding("problem", "template", str(error))
        return
    ref = resolve(spec)
    if ref.is_local:
        yield from _generation_config(Path(ref.source), tokenizer)


def _begin(tokenizer: Any) -> Iterator[Finding]:
    """Ids start with at most one BOS; and what happens to those who template first and tokenise afterwards."""
    ids = chat.encode_prompt(tokenizer, _PROMPT)
    bos = tokenizer.bos_token_id
    starts = bos is not None and ids[:1] == [bos]
    yield Finding("ok", "BOS", f"prompts start with {'one BOS' if starts else 'no BOS'} ({tokenizer.bos_token!r})")
    if not getattr(tokenizer, "chat_template", None):
        return
    text = tokenizer.apply_chat_template(_PROMPT.as_dicts(), tokenize=False, add_generation_prompt=True)
    again = list(tokenizer(text)["input_ids"])
    if bos is not None and again[:2] == [bos, bos]:
        yield Finding(
            "warning",
            "BOS",
            "this template as text, tokenised with special tokens, gets two BOS (many training scripts do that)",
            "prefeval encodes once; elsewhere pass add_special_tokens=False, or the scores will differ from these",
        )


def _end(tokenizer: Any) -> Iterator[Finding]:
    end, eos = chat.end_token_id(tokenizer), tokenizer.eos_token_id
    if end is None:
        yield Finding("problem", "end of turn", "neither template nor tokenizer has an end token", "set eos_token")
        return
    name = tokenizer.convert_ids_to_tokens(end)
    if end == eos:
        yield Finding("ok", "end of turn", f"{name} (id {end}), which is also EOS")
    else:
        text = f"turns end with {name} (id {end}), EOS is {tokenizer.eos_token!r}: both end a sampled reply here"
        yield Finding("note", "end of turn", text, "servers and other trainers may need it as a stop token")


def _padding(tokenizer: Any) -> Iterator[Finding]:
    safe = chat.safe_pad_id(tokenizer)
    used = f"prefeval pads with {tokenizer.convert_ids_to_tokens(safe)} (id {safe})"
    if tokenizer.pad_token_id is None:
        yield Finding("note", "padding", f"the tokenizer names no padding token; {used}")
    elif tokenizer.pad_token_id in chat.end_token_ids(tokenizer):
        yield Finding(
            "warning",
            "padding",
            f"the padding token {tokenizer.pad_token!r} also ends turns; {used}",
            "trainers that mask padding by id never learn to stop; pooling the last token before the padding is off",
        )
    else:
        yield Finding("ok", "padding", used)


def _template(tokenizer: Any) -> Iterator[Finding]:
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        text = "no chat template: prompts are plain text and a newline"
        yield Finding("note", "template", text, "a base model; instruct models need their own template")
        return
    yield Finding("ok", "template", f"hash {chat.template_hash(tokenizer)}")
    if "strftime_now" in str(template) or "date_string" in str(template):
        text = "the template writes a date into the prompt"
        yield Finding(
            "warning", "template", text, "prefeval fixes date_string; 'strftime_now' changes scores every day"
        )
    alone = chat.encode_prompt(tokenizer, _PROMPT)
    named = chat.encode_prompt(tokenizer, Prompt("", (Message("system", ""), *_PROMPT.messages)))
    if len(alone) > len(named) + 2:
        yield Finding(
            "note", "template", f"it adds a system message of its own ({len(alone) - len(named)} tokens more)"
        )
    yield from _split(tokenizer, alone)


def _split(tokenizer: Any, prompt_ids: list[int]) -> Iterator[Finding]:
    """The ids of the prompt are a prefix of the ids of the whole conversation; else masks are off by some tokens."""
    whole = [*_PROMPT.as_dicts(), {"role": "assistant", "content": "Red."}]
    ids = tokenizer.apply_chat_template(whole, tokenize=True, return_dict=True, date_string="01 Jan 2025")["input_ids"]
    if list(ids)[: len(prompt_ids)] != prompt_ids:
        yield Finding(
            "warning",
            "template",
            "the prompt with the assistant's header is no prefix of the templated conversation",
            "prefeval joins prompt and reply ids itself; trainers that cut by prompt length mask wrong tokens",
        )


def _context(spec: str, tokenizer: Any) -> Iterator[Finding]:
    try:
        config = load_config(spec)
    except ConfigError as error:
        yield Finding("problem", "config", str(error))
        return
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    yield Finding("ok", "context", f"{limit or 'unknown'} positions, {type(config).__name__}")
    if len(tokenizer) > text.vocab_size:
        yield Finding(
            "problem",
            "vocabulary",
            f"the tokenizer has {len(tokenizer)} tokens, the model {text.vocab_size}",
            "this tokenizer belongs to another model, or the embeddings were never resized",
        )


def _generation_config(folder: Path, tokenizer: Any) -> Iterator[Finding]:
    """generation_config.json ends replies where the template ends turns."""
    from prefeval.files import read_object

    path = folder / "generation_config.json"
    if not path.is_file() or not getattr(tokenizer, "chat_template", None):
        return
    stops = read_object(path).get("eos_token_id")
    stops = stops if isinstance(stops, list) else [stops]
    end = chat.end_token_id(tokenizer)
    if end not in stops:
        yield Finding(
            "warning",
            "generation config",
            f"eos_token_id {stops} does not hold the end of turn {end}",
            "servers that read this file will run on to the token limit; prefeval stops at both",
        )
