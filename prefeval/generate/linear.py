"""Linear alignment (2401.11458): a model steered at decoding time towards what it says under an instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prefeval import chat
from prefeval.generate.base import SamplingParams
from prefeval.generate.decoding import Decoder, open_decoder
from prefeval.generate.hf import HFGenerator
from prefeval.types import Prompt, Response

Ids = tuple[int, ...]
_NEVER = -1e9  # stands for a logit of -inf, of which no difference can be taken


@dataclass(frozen=True)
class LinearGenerator:
    """Next-token logits l + gamma (l' - l), l' those of the same model with `instruction` behind the prompt.

    The direction is the paper's self-contrast. Its step comes from a closed form that could not be checked here, so
    gamma is the user's: 0 is the model, 1 the instructed model, more goes beyond it. Both readings see the reply so
    far, so a step costs two. `logprob` is that of the combination.
    """

    generator: HFGenerator
    gamma: float
    instruction: str

    @property
    def name(self) -> str:
        return self.generator.name

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        tokenizer = self.generator.tokenizer
        instructed: dict[Ids, list[int]] = {}
        for prompt in prompts:
            ids = chat.encode_prompt(tokenizer, prompt)
            instructed[tuple(ids)] = chat.encode_prompt(tokenizer, chat.with_instruction(prompt, self.instruction))
        model = _LinearModel(self.generator.model, self.gamma, instructed)
        combined = HFGenerator(model, tokenizer, name=self.name, batch_rows=self.generator.batch_rows)
        return combined.sample(prompts, k, params, seed)


class _LinearModel:
    """What `HFGenerator` uses of a model; `instructed` maps the ids of each prompt to those with the instruction."""

    def __init__(self, model: Any, gamma: float, instructed: Mapping[Ids, Sequence[int]]) -> None:
        self.model, self.gamma, self.instructed = model, gamma, instructed

    @property
    def training(self) -> bool:
        return bool(self.model.training)

    def eval(self) -> _LinearModel:
        return self.train(False)

    def train(self, mode: bool = True) -> _LinearModel:
        self.model.train(mode)
        return self

    def open_decoder(self, *, pad: int, rows: int, tokens: int) -> Decoder:
        plain, steered = (open_decoder(self.model, pad=pad, rows=rows, tokens=tokens) for _ in range(2))
        return _LinearDecoder(plain, steered, self.gamma, self.instructed)


class _LinearDecoder:
    """Two decoders of one model whose rows differ in the prompt alone. Logits are fp32."""

    def __init__(self, plain: Decoder, steered: Decoder, gamma: float, instructed: Mapping[Ids, Sequence[int]]) -> None:
        self.plain, self.steered, self.gamma, self.instructed = plain, steered, gamma, instructed
        self.refills = plain.refills and steered.refills

    def admit(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> torch.Tensor:
        behind = [self.instructed[tuple(p)] for p in prompts]
        return self._combined(self.plain.admit(prompts, repeats), self.steered.admit(behind, repeats))

    def keep(self, order: Sequence[int]) -> None:
        self.plain.keep(order)
        self.steered.keep(order)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._combined(self.plain.step(tokens), self.steered.step(tokens))

    def _combined(self, plain: torch.Tensor, steered: torch.Tensor) -> torch.Tensor:
        """l + gamma (l' - l), exactly l at 0 and l' at 1."""
        return torch.lerp(plain.float().clamp(min=_NEVER), steered.float().clamp(min=_NEVER), self.gamma)
