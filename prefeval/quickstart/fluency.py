"""How likely the base model finds each sentence of a reply: the part of the gold judge that keeps word salad out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from prefeval import chat
from prefeval.batching import pad_right, token_batches
from prefeval.quickstart.data import POLICY_INSTRUCTION
from prefeval.quickstart.gold import Fluency, sentences
from prefeval.types import Prompt


@cache
def base_fluency() -> Fluency:
    """Fluency under the quickstart model in bf16 (fp32 where that is slow); loaded once a process, replies cached."""
    from prefeval.models import QUICKSTART, default_device, fast_dtype, load_causal, load_tokenizer

    model = load_causal(QUICKSTART, dtype=fast_dtype()).to(default_device())
    scorer = SentenceFluency(model, load_tokenizer(QUICKSTART))
    return scorer


class SentenceFluency:
    """Mean log-prob (nats a token) of each sentence of a reply, in its context, under a causal model."""

    def __init__(self, model: Any, tokenizer: Any, *, batch_tokens: int = 2048) -> None:
        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        self.pad = chat.safe_pad_id(tokenizer)
        self._known: dict[tuple[str, str], list[float]] = {}

    def __call__(self, prompt: Prompt, texts: Sequence[str]) -> list[list[float]]:
        asked = [(prompt.text, t) for t in texts]
        self.prepare([(prompt, t) for t in texts])
        return [self._known[key] for key in asked]

    def prepare(self, items: Sequence[tuple[Prompt, str]]) -> None:
        """Score many replies in batches, so that later calls are look-ups."""
        fresh = list({(p.text, t): (p, t) for p, t in items if (p.text, t) not in self._known}.values())
        encoded = [self._encode(p, t) for p, t in fresh]
        for chosen in token_batches([len(e[0]) for e in encoded], self.batch_tokens):
            ids, _ = pad_right([encoded[i][0] for i in chosen], self.pad)
            ids = ids.to(self.model.device)
            with torch.inference_mode():
                logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits
                for row, i in enumerate(chosen):
                    sequence, start, spans = encoded[i]
                    part = torch.log_softmax(logits[row, start - 1 : len(sequence) - 1].float(), dim=-1)
                    values = part.gather(1, ids[row, start : len(sequence), None])[:, 0].tolist()
                    prompt, text = fresh[i]
                    self._known[(prompt.text, text)] = _by_sentence(text, values, spans)

    def remember(self, prompt_text: str, text: str, values: Sequence[float]) -> None:
        """Take over values that were computed before."""
        self._known[(prompt_text, text)] = list(values)

    def _encode(self, prompt: Prompt, text: str) -> tuple[list[int], int, list[tuple[int, int]]]:
        head = chat.encode_prompt(self.tokenizer, chat.with_instruction(prompt, POLICY_INSTRUCTION))
        out = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [*head, *out["input_ids"]], len(head), [tuple(o) for o in out["offset_mapping"]]


def _by_sentence(text: str, values: Sequence[float], spans: Sequence[tuple[int, int]]) -> list[float]:
    """Each sentence's mean over the tokens that end inside it; a sentence of no token counts as fluent."""
    out = []
    for start, end in sentences(text):
        inside = [v for v, (_, stop) in zip(values, spans, strict=True) if start < stop <= end]
        out.append(sum(inside) / len(inside) if inside else 0.0)
    return out
