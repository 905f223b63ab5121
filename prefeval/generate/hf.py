"""Sampling from a transformers model in this process, batched, with the log-probabilities of what was sampled.

The k replies to a prompt share one prefill. One uniform number per token, drawn from (seed, prompt id, index) and
inverted through the distribution's CDF, picks the token: draws do not depend on batch size or neighbours, so fp32 on a
CPU gives identical tokens whatever the batches; in bf16 matrix kernels round by batch shape and a few samples differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prefeval import chat
from prefeval.generate.base import SamplingParams
from prefeval.generate.cache import growing_cache
from prefeval.log import Progress, progress
from prefeval.seeds import rng
from prefeval.types import Prompt, Response


@dataclass
class _Row:
    """One reply in the making."""

    prompt: int
    index: int
    uniforms: np.ndarray[Any, np.dtype[np.float64]]
    tokens: list[int]
    logprob: float = 0.0
    stopped: bool = False


class HFGenerator:
    """The Generator protocol over a causal language model and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "hf", batch_rows: int = 96) -> None:
        """`batch_rows`: how many replies are decoded side by side."""
        self.model, self.tokenizer, self.name, self.batch_rows = model, tokenizer, name, batch_rows
        self._ends = set(chat.end_token_ids(tokenizer))
        self._pad = chat.safe_pad_id(tokenizer)

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        """k replies a prompt. `Response.logprob` is under the model at temperature 1, whatever the sampling was."""
        encoded = [chat.encode_prompt(self.tokenizer, p) for p in prompts]
        out: list[list[Response | None]] = [[None] * k for _ in prompts]
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), progress(f"sampling from {self.name}", len(prompts) * k) as bar:
                for chosen, indices in self._batches([len(ids) for ids in encoded], k):
                    rows = [
                        _Row(i, j, self._uniforms(seed, prompts[i], j, params), []) for i in chosen for j in indices
                    ]
                    self._decode([encoded[i] for i in chosen], len(indices), rows, params, bar)
                    for row in rows:
                        out[row.prompt][row.index] = self._response(row)
        finally:
            self.model.train(was_training)
        return [[r for r in group if r is not None] for group in out]

    def first_batch(self, prompts: Sequence[Prompt], k: int) -> list[Prompt]:
        """The prompts that `sample` would decode together first, in the given order: sampled alone, the same batch."""
        chosen, _ = next(self._batches([len(chat.encode_prompt(self.tokenizer, p)) for p in prompts], k))
        return [prompts[i] for i in sorted(chosen)]

    def _batches(self, lengths: Sequence[int], k: int) -> Iterator[tuple[list[int], range]]:
        """(prompts, indices of their replies) that are decoded together: at most `batch_rows` replies, short first."""
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        together = max(1, self.batch_rows // k)
        for start in range(0, len(order), together):
            for first in range(0, k, self.batch_rows):
                yield order[start : start + together], range(first, min(first + self.batch_rows, k))

    def _uniforms(self, seed: int, prompt: Prompt, index: int, params: SamplingParams) -> Any:
        key = prompt.id or repr(prompt.as_dicts())
        return rng(seed, "sample", key, index).random(params.max_new_tokens)

    def _decode(
        self, prompts: list[list[int]], k: int, rows: list[_Row], params: SamplingParams, bar: Progress
    ) -> None:
        """Fill `rows`, k of each prompt in order, token by token; rows that stopped leave the batch."""
        cache, logits, mask, position = self._prefill(prompts, k, params)
        padded = bool((mask == 0).any())
        live = list(range(len(rows)))
        for t in range(params.max_new_tokens):
            uniforms = torch.tensor([rows[i].uniforms[t] for i in live], dtype=torch.float64, device=mask.device)
            tokens, logprobs = draw(logits.float(), uniforms, params)
            if self._record(rows, live, tokens.tolist(), logprobs.tolist(), bar):
                keep = [n for n, i in enumerate(live) if not rows[i].stopped]
                live = [live[n] for n in keep]
                if not live:
                    return
                index = torch.tensor(keep, device=mask.device)
                cache.batch_select_indices(index)
                tokens, mask, position = tokens[index], mask[index], position[index]
            if t + 1 == params.max_new_tokens:
                break
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            position = position + 1
            logits = self.model(
                input_ids=tokens[:, None],
                attention_mask=mask if padded else None,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
        bar.advance(len(live))

    def _prefill(self, prompts: list[list[int]], k: int, params: SamplingParams) -> tuple[Any, Any, Any, Any]:
        """One pass over left-padded prompts, then k rows of each: cache, last logits, mask and last position."""
        width = max(len(p) for p in prompts)
        ids = torch.full((len(prompts), width), self._pad, dtype=torch.long)
        mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for r, prompt in enumerate(prompts):
            ids[r, width - len(prompt) :] = torch.tensor(prompt)
            mask[r, width - len(prompt) :] = 1
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        cache = growing_cache(self.model, capacity=width + params.max_new_tokens)
        position = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        cache.batch_repeat_interleave(k)
        return (
            cache,
            logits.repeat_interleave(k, 0),
            mask.repeat_interleave(k, 0),
            position[:, -1:].repeat_interleave(k, 0),
        )

    def _record(
        self, rows: list[_Row], live: list[int], tokens: list[int], logprobs: list[float], bar: Progress
    ) -> int:
        finished = 0
        for i, token, logprob in zip(live, tokens, logprobs, strict=True):
            rows[i].tokens.append(token)
            rows[i].logprob += logprob
            if token in self._ends:
                rows[i].stopped = True
                finished += 1
        bar.advance(finished)
        return finished

    def _response(self, row: _Row) -> Response:
        # not every tokenizer calls its end of turn special, so decoding alone might leave it in the text
        text = chat.decode(self.tokenizer, row.tokens[:-1] if row.stopped else row.tokens)
        return Response(text, tuple(row.tokens), "stop" if row.stopped else "length", row.logprob)


def draw(logits: torch.Tensor, uniforms: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B,) drawn from fp32 logits (B, V) with uniforms (B,), and their log-probs (B,) at temperature 1."""
    logprobs = torch.log_softmax(logits, dim=-1)
    if params.temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        probs = truncate(logits, params)
        cdf = probs.cumsum(dim=-1, dtype=torch.float64)
        target = (uniforms * cdf[:, -1])[:, None]
        tokens = torch.searchsorted(cdf, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def truncate(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Probabilities (B, V) after temperature, top-k and top-p (the smallest set whose mass reaches top_p)."""
    scaled = logits if params.temperature == 1 else logits / params.temperature
    if params.top_k and params.top_k < logits.shape[-1]:
        threshold = scaled.topk(params.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < threshold, float("-inf"))
    probs = torch.softmax(scaled, dim=-1)
    if params.top_p < 1:
        ordered, index = probs.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= params.top_p
        probs = probs.masked_fill(torch.zeros_like(outside).scatter(1, index, outside), 0.0)
    return probs
