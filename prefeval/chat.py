"""Chat templates, in one place: how a conversation becomes token ids, once, with one BOS and a real end token.

Text is never templated first and tokenised with special tokens afterwards, so a double BOS cannot arise; ids that a
template itself starts with two BOS tokens are refused. A response is followed by the template's end-of-turn token,
and training, scoring and sampling all use the same ids: `encode_prompt(prompt) + completion ids`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from prefeval.errors import ConfigError
from prefeval.types import Message, Prompt

_REPLIES = ("b", "d")  # two replies that differ: what their conversations end with alike closes the turn
_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>\s*", re.DOTALL | re.IGNORECASE)
_UNCLOSED = re.compile(r"<(think|thinking|reasoning)>.*\Z", re.DOTALL | re.IGNORECASE)


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of the conversation followed by the header of the assistant's turn.

    A tokenizer without a chat template gets the plain text of the last user turn and a newline (base models).
    Raises ConfigError if the template doubles the BOS token.
    """
    if not getattr(tokenizer, "chat_template", None):
        ids = list(tokenizer(prompt.text + "\n", add_special_tokens=False)["input_ids"])
        bos = tokenizer.bos_token_id
        return [bos, *ids] if bos is not None and bos != tokenizer.eos_token_id else ids
    return _template_ids(tokenizer, prompt.as_dicts(), generation=True)


def encode_completion(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a response text and the end-of-turn token that closes it."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    end = end_token_id(tokenizer)
    return ids if end is None else [*ids, end]


def encode_pair(tokenizer: Any, prompt: Prompt, response: str) -> tuple[list[int], int]:
    """(ids of prompt and response up to the end-of-turn token, number of prompt ids)."""
    head = encode_prompt(tokenizer, prompt)
    return [*head, *encode_completion(tokenizer, response)], len(head)


def end_token_id(tokenizer: Any) -> int | None:
    """The token that closes an assistant turn: read off the template where it tells, else the tokenizer's EOS."""
    eos: int | None = tokenizer.eos_token_id
    if not getattr(tokenizer, "chat_template", None):
        return eos
    first, second = (
        _template_ids(
            tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": r}], generation=False
        )
        for r in _REPLIES
    )
    shared = 0
    while shared < min(len(first), len(second)) and first[-1 - shared] == second[-1 - shared]:
        shared += 1
    # The first token of its own behind the reply: a newline or the end of the whole text may follow it, and templates
    # that close nothing rely on EOS. Not every end of turn is among the tokenizer's named special tokens.
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    own = added | set(tokenizer.all_special_ids)
    if tokenizer.bos_token_id != eos:
        own.discard(tokenizer.bos_token_id)
    return next((i for i in first[len(first) - shared :] if i in own), eos)


def end_token_ids(tokenizer: Any) -> tuple[int, ...]:
    """Every token id that ends a sampled reply."""
    found = {i for i in (end_token_id(tokenizer), tokenizer.eos_token_id) if i is not None}
    return tuple(sorted(found))


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of sampled ids without the end token and other special tokens, stripped of outer white space."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip()


def safe_pad_id(tokenizer: Any) -> int:
    """A padding id that no end of turn can be mistaken for. Raises ConfigError if the tokenizer has none.

    Many chat models pad with EOS: to pool 'the last token that is not padding' would then pool the wrong one.
    """
    ends = {*end_token_ids(tokenizer), tokenizer.eos_token_id}
    named = (tokenizer.pad_token_id, tokenizer.unk_token_id, *tokenizer.all_special_ids)
    reserved = (i for i, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special)
    for candidate in (*named, *reserved):
        if candidate is not None and candidate not in ends and candidate != tokenizer.bos_token_id:
            return int(candidate)
    raise ConfigError(
        "the tokenizer has no special token that could serve as padding beside EOS; add a pad token to it"
    )


def template_hash(tokenizer: Any) -> str:
    """A short hash of what a conversation turns into, so that a model is never scored under another template."""
    probes = (Prompt("", (Message("user", "Hi?"),)), Prompt("", (Message("system", "S."), Message("user", "Hi?"))))
    ids = []
    for probe in probes:
        try:
            ids.append(encode_pair(tokenizer, probe, "Hello.")[0])
        except ConfigError:
            raise
        except Exception:  # a template may refuse a system message; that is part of what it is
            ids.append([])
    return hashlib.sha256(repr(ids).encode()).hexdigest()[:16]


def with_instruction(prompt: Prompt, instruction: str) -> Prompt:
    """The prompt with an instruction behind its last user turn. The id, and so the random draws, stay the same."""
    if not instruction:
        return prompt
    last = max(i for i, m in enumerate(prompt.messages) if m.role == "user")
    messages = list(prompt.messages)
    messages[last] = Message("user", f"{messages[last].content} {instruction}")
    return Prompt(prompt.id, tuple(messages), prompt.meta)


def strip_reasoning(text: str) -> str:
    """The reply without the reasoning trace in front of it (closed or cut off)."""
    return _UNCLOSED.sub("", _REASONING.sub("", text)).strip()


def _template_ids(tokenizer: Any, messages: list[dict[str, str]], *, generation: bool) -> list[int]:
    out = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=generation, return_dict=True, date_string="01 Jan 2025"
    )
    ids = [int(i) for i in out["input_ids"]]
    bos = tokenizer.bos_token_id
    if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos:
        raise ConfigError(
            "the chat template yields two BOS tokens; fix the template before training or scoring with it"
        )
    return ids
