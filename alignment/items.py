"""What a policy fit batches: a prompt's replies with everything frozen about them, and the loss of some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from alignment.algorithm import Algorithm, Group, Phase
from alignment.logprobs import TokenSequence, summed, token_logprobs
from prefeval.batching import token_batches
from prefeval.errors import ConfigError
from prefeval.fit import LossOutput
from prefeval.seeds import rng
from prefeval.types import FloatArray


class Item:
    """A prompt's replies with everything frozen about them: what the fit loop batches.

    `opponents` are the lengths of the opponent's replies, which `table` compares with but nothing is computed for.
    `role` tells who wrote the replies and these; by default the policy wrote all that are computed for. `reward` is
    that of every reply, the opponent's included, where the method trains on rewards; `told` the instruction of each
    reply, where they differ.
    """

    def __init__(
        self,
        sequences: list[TokenSequence],
        table: FloatArray,
        anchors: dict[str, list[float]],
        key: str,
        opponents: Sequence[float] = (),
        token_anchors: Mapping[str, Sequence[Sequence[float]]] | None = None,
        role: Sequence[str] = (),
        reward: FloatArray | None = None,
        told: Sequence[str] = (),
    ) -> None:
        self.sequences, self.table, self.anchors, self.key = sequences, table, anchors, key
        self.opponents, self.token_anchors, self.reward = tuple(opponents), token_anchors or {}, reward
        self.role = tuple(role) or ("policy",) * len(sequences) + ("opponent",) * len(self.opponents)
        self.told = tuple(told)

    def cost(self) -> int:
        """Padded tokens of the whole group."""
        return len(self.sequences) * max(len(s.ids) for s in self.sequences)


def group_loss(model: Any, items: Sequence[Item], algorithm: Algorithm, phase: Phase, pad_id: int) -> LossOutput:
    """The algorithm's loss summed over the prompts of a micro-batch, with how far the policy has moved.

    `log_ratio` is the mean of log pi - log anchor (the phase's first) over the policy's replies. `kl` is minus that:
    where the anchor sampled the replies, the Monte Carlo estimate of KL(anchor || pi) in nats a reply.
    """
    flat = [s for item in items for s in item.sequences]
    tokens, owner = token_logprobs(model, flat, pad_id)
    logp = summed(tokens, owner, len(flat))
    total = logp.sum() * 0.0
    moved = 0.0
    first = 0
    for item in items:
        n = len(item.sequences)
        others = len(item.opponents)
        part = torch.cat([logp[first : first + n], logp.new_zeros(others)])
        first += n
        anchors = {
            k: torch.tensor([*v, *[0.0] * others], dtype=torch.float32, device=logp.device)
            for k, v in item.anchors.items()
        }
        lengths = [*(float(s.response_length) for s in item.sequences), *item.opponents]
        group = Group(
            logp=part,
            anchors=anchors,
            P=torch.from_numpy(item.table),
            length=torch.tensor(lengths, device=logp.device),
            role=item.role,
            token_logp=_padded(tokens, owner, range(first - n, first), others) if item.token_anchors else None,
            token_anchors={
                k: _stacked([torch.tensor(row) for row in v], others).to(logp) for k, v in item.token_anchors.items()
            }
            or None,
            reward=None if item.reward is None else torch.from_numpy(item.reward),
            key=item.key,
            told=item.told or None,
        )
        total = total + algorithm.loss(group, phase)
        reference = next(iter(anchors.values()), part.detach())
        own = [row for row, role in enumerate(item.role) if role == "policy"]
        moved += float((part.detach() - reference)[own].mean())
    return LossOutput(total, float(len(items)), {"log_ratio": moved, "kl": -moved})


def hold_out(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """(items to train on, items kept to see whether they gain): `share` of the prompts, at least one on either side.

    Raises ConfigError where there are not two prompts.
    """
    if not share:
        return list(items), []
    keys = sorted({item.key.partition("/")[2] for item in items})  # a prompt of a replayed round is the same prompt
    if len(keys) < 2:
        raise ConfigError("held_out: a fit needs at least two prompts, one of them to keep")
    count = min(max(1, round(share * len(keys))), len(keys) - 1)
    kept = {keys[i] for i in rng(seed, "held out").permutation(len(keys))[:count]}
    apart: tuple[list[Item], list[Item]] = ([], [])
    for item in items:
        apart[item.key.partition("/")[2] in kept].append(item)
    return apart


def mean_loss(model: Any, items: Sequence[Item], algorithm: Algorithm, phase: Phase, pad_id: int, tokens: int) -> float:
    """The algorithm's loss a prompt, without gradients in use, by micro-batches of at most `tokens` padded tokens."""
    parts = token_batches([item.cost() for item in items], tokens)
    losses = [group_loss(model, [items[i] for i in part], algorithm, phase, pad_id).loss_sum for part in parts]
    return float(torch.stack([loss.double() for loss in losses]).sum()) / len(items)


def _padded(tokens: torch.Tensor, owner: torch.Tensor, rows: range, empty: int) -> torch.Tensor:
    """Values (T,) of tokens as rows (N, L) padded with 0, followed by `empty` rows of nothing."""
    return _stacked([tokens[owner == row] for row in rows], empty)


def _stacked(rows: list[torch.Tensor], empty: int) -> torch.Tensor:
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return torch.cat([padded, padded.new_zeros(empty, padded.shape[1])])
