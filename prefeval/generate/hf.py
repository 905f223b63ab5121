"""Sampling from a transformers model in this process, batched, with the log-probabilities of what was sampled.

The k replies to a prompt share one pass over it, and where the decoder allows it also its keys and values; a reply that
ended makes room for the next prompt's. One uniform number per token, drawn from (seed, prompt id, index) and inverted
through the distribution's CDF, picks the token: draws do not depend on batch size or neighbours, only on the logits.
Kernels round by batch shape, and a draw that falls within that rounding of a boundary goes the other way: in fp32 none
in the tests' small models and about one token in 200 of a flat vocabulary of 49,000, in bf16 several times as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prefeval import chat
from prefeval.generate.base import SamplingParams
from prefeval.generate.decoding import open_decoder
from prefeval.generate.drawing import draw
from prefeval.log import Progress, progress
from prefeval.seeds import rng
from prefeval.types import Prompt, Response

_REFILL = 4  # new prompts join when one in so many places is free: a pass over few prompts is dear
_PROMPT_TOKENS = 32768  # padded tokens of the prompts under way: one long prompt widens every row beside it


@dataclass(eq=False)
class _Row:
    """One reply in the making."""

    prompt: int
    index: int
    uniforms: np.ndarray[Any, np.dtype[np.float64]]
    tokens: list[int]
    logprob: float = 0.0
    stopped: bool = False

    def ended(self) -> bool:
        return self.stopped or len(self.tokens) == len(self.uniforms)


class HFGenerator:
    """The Generator protocol over a causal language model and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "hf", batch_rows: int = 96) -> None:
        """`batch_rows`: how many replies are decoded side by side."""
        self.model, self.tokenizer, self.name, self.batch_rows = model, tokenizer, name, batch_rows
        self._ends = set(chat.end_token_ids(tokenizer))
        self._pad = chat.safe_pad_id(tokenizer)

    def sample(
        self,
        prompts: Sequence[Prompt],
        k: int,
        params: SamplingParams,
        seed: int,
        *,
        begun: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Response]]:
        """k replies a prompt. `Response.logprob` is under the model at temperature 1, whatever the sampling was.

        `begun`: for each prompt the ids that its replies begin with; what comes back is what follows them.
        """
        encoded = [chat.encode_prompt(self.tokenizer, p) for p in prompts]
        if begun is not None:
            encoded = [[*head, *ids] for head, ids in zip(encoded, begun, strict=True)]
        groups = [
            [_Row(i, j, self._uniforms(seed, prompts[i], j, params), []) for j in indices]
            for i, indices in self._groups([len(ids) for ids in encoded], k)
        ]
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), progress(f"sampling from {self.name}", len(prompts) * k) as bar:
                self._decode(encoded, groups, params, bar)
        finally:
            self.model.train(was_training)
        rows = sorted((row for group in groups for row in group), key=lambda row: (row.prompt, row.index))
        return [[self._response(row) for row in rows[n * k : (n + 1) * k]] for n in range(len(prompts))]

    def first_batch(self, prompts: Sequence[Prompt], k: int) -> list[Prompt]:
        """The prompts that `sample` would start together first, in the given order."""
        lengths = [len(chat.encode_prompt(self.tokenizer, p)) for p in prompts]
        groups = self._groups(lengths, k)
        count = _fitting([len(indices) for _, indices in groups], [lengths[i] for i, _ in groups], self.batch_rows)
        first = groups[:count]
        return [prompts[i] for i in sorted({i for i, _ in first})]

    def _groups(self, lengths: Sequence[int], k: int) -> list[tuple[int, range]]:
        """(prompt, indices of its replies) that start together, at most `batch_rows` of them; short prompts first."""
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        starts = range(0, k, self.batch_rows)
        return [(i, range(first, min(first + self.batch_rows, k))) for i in order for first in starts]

    def _uniforms(self, seed: int, prompt: Prompt, index: int, params: SamplingParams) -> Any:
        key = prompt.id or repr(prompt.as_dicts())
        return rng(seed, "sample", key, index).random(params.max_new_tokens)

    def _decode(
        self, encoded: list[list[int]], groups: list[list[_Row]], params: SamplingParams, bar: Progress
    ) -> None:
        """Fill the rows of all groups, token by token; rows that ended leave the batch, and waiting groups join it."""
        places = min(self.batch_rows, sum(len(group) for group in groups))
        decoder = open_decoder(self.model, pad=self._pad, rows=places, tokens=params.max_new_tokens)
        live: list[_Row] = []
        logits: list[torch.Tensor] = []
        while groups or live:
            free = places - len(live)
            if groups and (not live or (decoder.refills and free * _REFILL >= places)):
                waiting = groups[:free]  # each has a row at least
                lengths = [len(encoded[group[0].prompt]) for group in waiting]
                count = _fitting([len(group) for group in waiting], lengths, free, len({row.prompt for row in live}))
                joining, groups = groups[:count], groups[count:]
                if joining:
                    repeats = [len(group) for group in joining]
                    logits.append(decoder.admit([encoded[group[0].prompt] for group in joining], repeats))
                    live += [row for group in joining for row in group]
            tokens = self._append(live, torch.cat(logits), params)
            order = _closed_up([not row.ended() for row in live])
            if len(order) < len(live):
                bar.advance(len(live) - len(order))
                live, tokens = [live[n] for n in order], tokens[order]
                decoder.keep(order)
            logits = [decoder.step(tokens)] if live else []

    def _append(self, live: list[_Row], logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
        """Draw one token for each row."""
        uniforms = [row.uniforms[len(row.tokens)] for row in live]
        drawn = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)
        tokens, logprobs = draw(logits.float(), drawn, params)
        for row, token, logprob in zip(live, tokens.tolist(), logprobs.tolist(), strict=True):
            row.tokens.append(token)
            row.logprob += logprob
            row.stopped = token in self._ends
        return tokens

    def _response(self, row: _Row) -> Response:
        # not every tokenizer calls its end of turn special, so decoding alone might leave it in the text
        text = chat.decode(self.tokenizer, row.tokens[:-1] if row.stopped else row.tokens)
        return Response(text, tuple(row.tokens), "stop" if row.stopped else "length", row.logprob)


def _fitting(rows: Sequence[int], lengths: Sequence[int], places: int, others: int = 0) -> int:
    """How many of the first groups join: their rows have places, and their prompts, padded, room beside `others`.

    `lengths` are those of the groups' prompts, ascending. Where nothing is under way, one always fits.
    """
    together = np.cumsum(rows) <= places
    padded = (others + np.arange(1, len(lengths) + 1)) * np.array(lengths) <= _PROMPT_TOKENS
    count = int((together & padded).sum())
    return count if count or others else 1


def _closed_up(going: Sequence[bool]) -> list[int]:
    """The rows that go on, in an order in which the last ones fill the holes: nothing else has to move."""
    count = sum(going)
    movers = iter([n for n in range(count, len(going)) if going[n]])
    return [n if going[n] else next(movers) for n in range(count)]
