"""How a (prompt, response) pair becomes token ids for a preference model, and what is cut when it is too long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from prefeval.chat import encode_pair, encode_prompt
from prefeval.types import Prompt

Encoding = Literal["chat", "stock"]


class PairEncoder:
    """Encodes pairs for one tokenizer and counts what it had to cut.

    `chat` is the project's own form: the conversation, the response and the end-of-turn token, which is pooled.
    `stock` is what the authors of published reward models document: the whole conversation through the chat template,
    or, for tokenizers without one (encoders), tokenizer(prompt, response).
    A sequence beyond `max_length` loses the beginning of the prompt but for its BOS token: the response and the token
    that is pooled stay.
    """

    def __init__(self, tokenizer: Any, max_length: int, encoding: Encoding = "chat") -> None:
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2, not {max_length}")
        self.tokenizer, self.max_length, self.encoding = tokenizer, max_length, encoding
        self.truncated = 0
        self.encoded = 0

    def __call__(self, prompt: Prompt, response: str) -> tuple[int, ...]:
        """Token ids, at most `max_length` of them and never empty."""
        if self.encoding == "chat":
            ids = encode_pair(self.tokenizer, prompt, response)[0]
        elif getattr(self.tokenizer, "chat_template", None):
            messages = [*prompt.as_dicts(), {"role": "assistant", "content": response}]
            ids = self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        else:
            ids = self.tokenizer(prompt.text, response)["input_ids"]
        self.encoded += 1
        self.truncated += len(ids) > self.max_length
        return self._cut(ids)

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of the `chat` form up to where the response begins, all turns and the header of the reply.

        Without truncation it is what every response's sequence begins with.
        """
        return self._cut(encode_prompt(self.tokenizer, prompt))

    def _cut(self, ids: Sequence[int]) -> tuple[int, ...]:
        if len(ids) > self.max_length:
            keep = 1 if ids[0] in (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id) else 0
            ids = [*ids[:keep], *ids[len(ids) - self.max_length + keep :]]
        return tuple(int(i) for i in ids)
