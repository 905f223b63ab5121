"""A generator whose replies come without their reasoning traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prefeval.chat import strip_reasoning
from prefeval.generate.base import Generator, SamplingParams
from prefeval.types import Prompt, Response


@dataclass(frozen=True)
class WithoutReasoning:
    """Takes the trace out of each text; `token_ids` and `logprob` stay those of what was sampled, trace included."""

    generator: Generator

    @property
    def name(self) -> str:
        return self.generator.name

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        drawn = self.generator.sample(prompts, k, params, seed)
        return [[replace(r, text=strip_reasoning(r.text)) for r in group] for group in drawn]
