"""Last-layer Laplace for any head of a causal preference model: a spread for each score, kept beside the checkpoint.

The scores are linearised in the rows W of the linear head (a Bradley-Terry head is linear in them): with o = W h
the gradient of s(i > j) is x = ds/do_i h_i' + ds/do_j h_j'. The posterior of W is taken as normal around the trained
head with precision H = ridge I + sum over pairs of p (1 - p) x x', so var s = x' H^-1 x (the generalised Gauss-Newton
form of Laplace; arXiv 2106.14806). What the prompt weighs with, scales or a gate, is taken as known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefeval.checkpoint import write_tensors
from prefeval.errors import ConfigError, DataError
from prefeval.files import read_json, write_json
from prefeval.oracle import Group
from prefeval.types import FloatArray, PreferenceRecord, Prompt, all_pairs
from reward_models.calibrate import expit
from reward_models.config import HeadConfig
from reward_models.heads import pair_logits
from reward_models.modeling import PreferenceModel
from reward_models.oracles import ModelOracle
from reward_models.uncertainty import averaged, squared_norms

_MOST = 8192  # weights: the precision then needs half a GiB
_CHUNK = 512  # pairs, or prompts, at a time
_TENSORS, _FACTS = "laplace.safetensors", "laplace.json"


def gradients(outputs: Tensor, states: Tensor, pairs: Sequence[tuple[int, int]], head: HeadConfig) -> FloatArray:
    """The gradient of each pair's log-odds in the own rows of W: (n, rows * hidden) float64.

    outputs (K, columns) and states (K, hidden) of the responses to one prompt.
    """
    own = head.width() - (head.blocks if head.prompt_scales else 0)
    i, j = (torch.tensor(side) for side in zip(*pairs, strict=True))
    first, second = (outputs[side].double().requires_grad_() for side in (i, j))
    with torch.enable_grad():
        total = pair_logits(first, second, head).sum()
        slopes = torch.autograd.grad(total, (first, second))
    h = states.double()
    x = slopes[0][:, :own, None] * h[i][:, None] + slopes[1][:, :own, None] * h[j][:, None]
    return np.asarray(x.flatten(1).numpy())


def information(oracle: ModelOracle, records: Sequence[PreferenceRecord]) -> tuple[FloatArray, int]:
    """(sum over labelled pairs of p (1 - p) x x' with the model's own p, number of pairs)."""
    total, count = np.zeros((0, 0)), 0
    for start in range(0, len(records), _CHUNK):
        for x, score, _ in labelled(oracle, records[start : start + _CHUNK]):
            total = total if len(total) else np.zeros((x.shape[1],) * 2)
            p = expit(score)
            total += (x * (p * (1.0 - p))[:, None]).T @ x
            count += len(x)
    if not count:
        raise DataError("no labelled pairs to fit the Laplace approximation on")
    return total, count


def labelled(
    oracle: ModelOracle, records: Sequence[PreferenceRecord]
) -> list[tuple[FloatArray, FloatArray, FloatArray]]:
    """(gradients (n, D), log-odds (n,), labels (n,)) of the labelled pairs of each record that has some."""
    records = [r for r in records if r.pairs]
    head = oracle.model.head
    rows = oracle.outputs_and_states([r.prompt for r in records], [r.responses for r in records])
    out = []
    for record, (outputs, states) in zip(records, rows, strict=True):
        pairs = [(p.i, p.j) for p in record.pairs]
        i, j = (list(side) for side in zip(*pairs, strict=True))
        score = pair_logits(outputs[i], outputs[j], head).numpy()
        out.append((gradients(outputs, states, pairs, head), score, np.array([p.p for p in record.pairs])))
    return out


def check_size(model: PreferenceModel) -> None:
    """Raise ConfigError for an encoder, or a head with too many weights for a dense precision."""
    if not model.is_causal:
        raise ConfigError("Laplace needs a causal model with a linear head; use ensemble:SPEC+SPEC for encoders")
    count = model.head.width() * model.classifier.score.in_features
    if count > _MOST:
        raise ConfigError(f"Laplace: {count} weights in the head, at most {_MOST} fit; use ensemble:SPEC+SPEC instead")


def save_laplace(path: Path, model: PreferenceModel, precision: FloatArray, facts: dict[str, Any]) -> None:
    """Write laplace.safetensors and laplace.json beside the checkpoint; `facts` go into the latter."""
    write_tensors(path / _TENSORS, {"precision": torch.from_numpy(np.ascontiguousarray(precision))})
    write_json(path / _FACTS, {**facts, "head": head_hash(model)})


class LaplaceOracle(ModelOracle):
    """A preference model with its Laplace approximation: P averaged over the posterior, and `lower()` beside it."""

    def __init__(self, model: PreferenceModel, name: str, precision: FloatArray) -> None:
        super().__init__(model, name)
        check_size(model)
        self._precision = precision

    @classmethod
    def from_pretrained(cls, model: PreferenceModel, path: str, name: str) -> LaplaceOracle:
        """With the approximation stored at `path`. Raises ConfigError when there is none, or another head's."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            facts, precision = read_json(Path(path) / _FACTS), load_file(Path(path) / _TENSORS)["precision"]
        except (OSError, DataError, SafetensorError, KeyError) as error:
            advice = f"fit it with: prefeval uncertainty --model {path} --data PAIRS"
            raise ConfigError(f"model {path}: no Laplace approximation there ({error}); {advice}") from None
        if facts.get("head") != head_hash(model):
            raise ConfigError(f"model {path}: its Laplace approximation is another head's; fit it again")
        return cls(model, name, precision.numpy())

    def spread(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[tuple[FloatArray, FloatArray]]:
        """(log-odds, their standard deviations) of each group: (k, k), antisymmetric and symmetric."""
        out = []
        for outputs, states in self.outputs_and_states(prompts, groups):
            k, pairs = len(outputs), all_pairs(len(outputs))
            score, deviation = np.zeros((k, k)), np.zeros((k, k))
            if pairs:
                i, j = (list(side) for side in zip(*pairs, strict=True))
                s = pair_logits(outputs[i], outputs[j], self.model.head).numpy()
                d = np.sqrt(squared_norms(self._precision, gradients(outputs, states, pairs, self.model.head)))
                score[i, j], score[j, i] = s, -s
                deviation[i, j] = deviation[j, i] = d
            out.append((score, deviation))
        return out

    def scores(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        """The log-odds of P averaged over the posterior."""
        return [averaged(s, d**2) for s, d in self.spread(prompts, groups)]

    def lower(self, prompts: Sequence[Prompt], groups: Sequence[Group], width: float = 1.0) -> list[FloatArray]:
        """sigmoid(s - width standard deviations): a bound for the row's side, (k, k), not complementary."""
        return [expit(s - width * d) for s, d in self.spread(prompts, groups)]


def head_hash(model: PreferenceModel) -> str:
    """Sixteen hex digits of the head's weights and temperature."""
    weight = model.classifier.score.weight.detach().float().cpu().contiguous()
    digest = hashlib.sha256(weight.numpy().tobytes())
    digest.update(repr(model.head).encode())
    return digest.hexdigest()[:16]
