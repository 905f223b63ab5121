"""The nouns of the project. Plain frozen dataclasses; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `role` is 'system', 'user' or 'assistant'."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Prompt:
    """A conversation up to, and without, the reply that is asked for."""

    id: str
    messages: tuple[Message, ...]
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @classmethod
    def from_text(cls, text: str, *, id: str = "", system: str | None = None, **meta: Any) -> Prompt:
        """A single user turn, optionally behind a system message."""
        head = (Message("system", system),) if system else ()
        return cls(id, (*head, Message("user", text)), meta)

    @property
    def text(self) -> str:
        """The last user message: what judges and rules quote."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    def as_dicts(self) -> list[dict[str, str]]:
        return [m.as_dict() for m in self.messages]


@dataclass(frozen=True)
class Response:
    """A reply. Sampled replies keep the token ids they were sampled as: these, not a re-encoding, are trained on.

    `finish_reason` is 'stop' (the model ended it; its end token is the last of `token_ids`) or 'length' (cut).
    `logprob` is the sum over `token_ids` of the sampler's log-probability in nats at temperature 1.
    """

    text: str
    token_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    logprob: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The question an oracle answers: P(first beats second | prompt)."""

    prompt: Prompt
    first: str
    second: str

    def swap(self) -> Comparison:
        return Comparison(self.prompt, self.second, self.first)


@dataclass(frozen=True)
class PairLabel:
    """Response i against j of one record: `p` = P(i beats j) in [0, 1]; `margin` >= 0 is the strength of the label.

    `votes` is how many labels p averages.
    """

    i: int
    j: int
    p: float = 1.0
    margin: float | None = None
    source: str = ""
    votes: int = field(default=1, compare=False)


@dataclass(frozen=True)
class PreferenceRecord:
    """The canonical row of preference data: one prompt, its distinct responses and whatever is known about them.

    `ratings` maps an attribute to one value a response (NaN where missing). `split` is the data set's own split name.
    """

    id: str
    prompt: Prompt
    responses: tuple[str, ...]
    pairs: tuple[PairLabel, ...] = ()
    ratings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)


def all_pairs(count: int) -> Sequence[tuple[int, int]]:
    """The pairs (i, j) with i < j of `count` items, in lexicographic order."""
    return [(i, j) for i in range(count) for j in range(i + 1, count)]
