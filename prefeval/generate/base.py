"""The Generator protocol: whatever can answer prompts, in process or behind an API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from prefeval.types import Prompt, Response


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. The defaults are the model's own distribution; nothing is read from a generation_config.

    `temperature` 0 is greedy decoding; `top_k` 0 and `top_p` 1 switch the truncations off.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"unusable sampling parameters: {self}")


@runtime_checkable
class Generator(Protocol):
    """Samples k replies to each prompt; the draws depend on (seed, prompt id, index) only, never on batch size."""

    @property
    def name(self) -> str: ...

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        """k responses a prompt, in the order of the prompts."""
        ...
