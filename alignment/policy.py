"""The weights of a run by name: slots such as 'start', 'policy' and 'aux', each a checkpoint or a mixture of some.

A mixture is the log-space average of checkpoints (section 4 of the algorithms reference): it is only ever an anchor,
whose log-probs are the weighted sum of its members'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignment.algorithm import Phase
from alignment.logprobs import TokenSequence, frozen_logprobs, frozen_token_logprobs
from prefeval.log import progress
from prefeval.models import default_device, load_causal

if TYPE_CHECKING:
    import torch

Mixture = list[tuple[float, str]]  # (weight, checkpoint directory)


@dataclass(frozen=True)
class Slots:
    """Slot name -> mixture of checkpoints. A slot that was never written holds the start's weights."""

    members: Mapping[str, Mixture] = field(default_factory=dict)

    @classmethod
    def from_start(cls, directory: str) -> Slots:
        return cls({"start": [(1.0, directory)], "policy": [(1.0, directory)]})

    @classmethod
    def from_json(cls, data: Mapping[str, Sequence[Sequence[Any]]]) -> Slots:
        return cls({slot: [(float(w), str(d)) for w, d in mixture] for slot, mixture in data.items()})

    def as_json(self) -> dict[str, list[list[Any]]]:
        return {slot: [[w, d] for w, d in mixture] for slot, mixture in self.members.items()}

    def mixture(self, slot: str) -> Mixture:
        return self.members.get(slot, self.members["start"])

    def checkpoint(self, slot: str) -> str:
        """The directory of a slot that is one checkpoint. Raises ValueError for a mixture: it has no weights."""
        mixture = self.mixture(slot)
        if len(mixture) != 1:
            raise ValueError(
                f"slot '{slot}' is a mixture of {len(mixture)} checkpoints and cannot be played or trained"
            )
        return mixture[0][1]

    def with_checkpoint(self, slot: str, directory: str) -> Slots:
        return self.with_mixture(slot, [(1.0, directory)])

    def with_mixture(self, slot: str, mixture: Mixture) -> Slots:
        """`slot` takes what another slot holds."""
        if slot == "start":
            raise ValueError("the slot 'start' is the reference and is never overwritten")
        return Slots({**self.members, slot: list(mixture)})

    def averaged(self, slot: str, directory: str, weight: float) -> Slots:
        """`slot` becomes (1 - weight) itself + weight `directory`, in log space."""
        merged: dict[str, float] = {}
        for w, d in [*((w * (1 - weight), d) for w, d in self.mixture(slot)), (weight, directory)]:
            merged[d] = merged.get(d, 0.0) + w
        return Slots({**self.members, slot: [(w, d) for d, w in merged.items()]})


def sampler_mixture(slots: Slots, phase: Phase) -> Mixture:
    """Checkpoints and weights of who samples in a phase; several are mixed token by token."""
    return _mixed(slots, phase.sample_from, None if phase.opponent else phase.mix)


def opponent_mixture(slots: Slots, phase: Phase) -> Mixture:
    """The same of the opponent."""
    return _mixed(slots, phase.opponent or phase.sample_from, phase.mix)


def _mixed(slots: Slots, slot: str, mix: tuple[str, float] | None) -> Mixture:
    if mix is None or slots.checkpoint(slot) == slots.checkpoint(mix[0]):
        return [(1.0, slots.checkpoint(slot))]
    return [(1.0 - mix[1], slots.checkpoint(slot)), (mix[1], slots.checkpoint(mix[0]))]


def load_policy(directory: str, dtype: torch.dtype) -> Any:
    """A policy on the default device, in eval mode (no dropout, also while it is trained)."""
    return load_causal(directory, dtype=dtype).to(default_device())


def load_sampler(mixture: Sequence[tuple[float, str]], dtype: torch.dtype) -> Any:
    """What samples token by token from checkpoints with weights: one policy, or a geometric mixture of several."""
    from prefeval.generate.mixture import MixtureModel

    if len(mixture) == 1:
        return load_policy(mixture[0][1], dtype)
    return MixtureModel([(weight, load_policy(directory, dtype)) for weight, directory in mixture])


def average_parameters(weighted: Sequence[tuple[float, str]]) -> Any:
    """A policy in fp32 whose parameters are the weighted mean of those of checkpoints; the weights sum to 1."""
    import torch

    (first, directory), *others = weighted
    model = load_policy(directory, torch.float32)
    with torch.no_grad():
        for mine in model.parameters():
            mine.mul_(first)
        for weight, other in others:
            for mine, theirs in zip(model.parameters(), load_policy(other, torch.float32).parameters(), strict=True):
                mine.add_(theirs, alpha=weight)
    return model


def mixture_logprobs(
    mixture: Mixture, sequences: Sequence[TokenSequence], pad_id: int, dtype: torch.dtype, title: str
) -> list[float]:
    """Summed response log-probs of `sequences` under the log-space mixture, up to a constant per prompt."""
    total = [0.0] * len(sequences)
    with progress(title, len(mixture) * len(sequences)) as bar:
        for weight, directory in mixture:
            values = frozen_logprobs(load_policy(directory, dtype), sequences, pad_id, bar=bar)
            total = [t + weight * v for t, v in zip(total, values, strict=True)]
    return total


def mixture_token_logprobs(
    mixture: Mixture, sequences: Sequence[TokenSequence], pad_id: int, dtype: torch.dtype
) -> list[list[float]]:
    """The same for every response token."""
    total = [[0.0] * s.response_length for s in sequences]
    for weight, directory in mixture:
        values = frozen_token_logprobs(load_policy(directory, dtype), sequences, pad_id)
        total = [[t + weight * v for t, v in zip(a, b, strict=True)] for a, b in zip(total, values, strict=True)]
    return total
