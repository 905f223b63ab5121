"""A token-level geometric mixture of language models, sampled like one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prefeval.generate.decoding import Decoder, open_decoder


class MixtureModel:
    """Next-token distribution ~ prod_k p_k^{w_k}, each member with its own decoder (Nash-MD, 2312.00886, section 7).

    The members share a vocabulary. This is the marginal approximation of the mixture of whole replies, which cannot be
    sampled. Takes and gives what `HFGenerator` uses of a transformers model.
    """

    def __init__(self, members: Sequence[tuple[float, Any]]) -> None:
        """`members` are (weight, model); the weights sum to 1."""
        if not members or abs(sum(w for w, _ in members) - 1.0) > 1e-9:
            raise ValueError("a mixture needs weights that sum to 1")
        self.members = [(w, m) for w, m in members if w != 0.0]

    @property
    def training(self) -> bool:
        return any(m.training for _, m in self.members)

    def eval(self) -> MixtureModel:
        return self.train(False)

    def train(self, mode: bool = True) -> MixtureModel:
        for _, member in self.members:
            member.train(mode)
        return self

    def open_decoder(self, *, pad: int, rows: int, tokens: int) -> Decoder:
        return _MixtureDecoder([(w, open_decoder(m, pad=pad, rows=rows, tokens=tokens)) for w, m in self.members])


class _MixtureDecoder:
    """One decoder a member, driven together.

    Logits are the weighted sum of the members' log-probs, fp32: not normalised, which no sampler needs.
    """

    def __init__(self, members: Sequence[tuple[float, Decoder]]) -> None:
        self.members = list(members)
        self.refills = all(decoder.refills for _, decoder in members)

    def admit(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> torch.Tensor:
        return self._mixed([decoder.admit(prompts, repeats) for _, decoder in self.members])

    def keep(self, order: Sequence[int]) -> None:
        for _, decoder in self.members:
            decoder.keep(order)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._mixed([decoder.step(tokens) for _, decoder in self.members])

    def _mixed(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        parts = [w * torch.log_softmax(x.float(), dim=-1) for (w, _), x in zip(self.members, logits, strict=True)]
        return torch.stack(parts).sum(dim=0)
