"""The gate of a regression head: how much each attribute counts under this prompt (ArmoRM, arXiv 2406.12845).

R(x, y) = g(x)' r'(x, y), g(x) = scale * softmax(MLP(h_x) / T) with h_x the hidden state at the end of the prompt, and
r'_i = r_i - lam_i r_verbosity, which takes verbosity out of the other attributes. The regression head stays as it is;
only the gate is trained, on pairs. Its weights are kept in gate.safetensors beside the stock checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from prefeval.checkpoint import write_tensors
from prefeval.errors import ConfigError
from prefeval.log import logger
from prefeval.types import FloatArray
from reward_models.config import HeadConfig
from reward_models.forward import Encoded

if TYPE_CHECKING:
    from reward_models.items import Item
    from reward_models.modeling import PreferenceModel

_FILE = "gate.safetensors"
_GRID = np.arange(96) / 100  # penalties that are tried, smallest first; the published range is [0, 0.95]
_CORRELATION = 0.03  # with verbosity, at most
_REFERENCE = 20_000  # responses that the penalties are found on


class Gate(nn.Module):
    """ReLU layers, a softmax with temperature and a learned scale that starts at 1: (..., hidden) -> (..., n)."""

    def __init__(self, inputs: int, head: HeadConfig, seed: int = 0) -> None:
        super().__init__()
        sizes = (inputs, *head.gate.hidden, len(head.attributes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])
        self.scale = nn.Parameter(torch.ones(()))
        self.temperature = head.gate.temperature

    def forward(self, states: Tensor) -> Tensor:
        x = states.float()
        for n, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            x = nn.functional.linear(torch.relu(x) if n else x, layer.weight.float(), layer.bias.float())
        return self.scale.float() * torch.softmax(x / self.temperature, dim=-1)

    def save(self, folder: Path) -> None:
        write_tensors(folder / _FILE, {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()})


def gate_for(classifier: Any, head: HeadConfig, seed: int) -> Gate | None:
    """A fresh gate on a causal classifier where the head wants one. Raises ConfigError for an encoder."""
    if not head.gate.hidden:
        return None
    score = getattr(classifier, "score", None)
    if not isinstance(score, nn.Linear):
        raise ConfigError(f"{type(classifier).__name__}: a gate reads where a causal model has seen the prompt alone")
    return Gate(score.in_features, head, seed)


def load_gate(path: Path, classifier: Any, head: HeadConfig) -> Gate | None:
    """The saved gate, where the head has one. Raises ConfigError when its file is missing or of another shape."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    gate = gate_for(classifier, head, 0)
    if gate is not None:
        try:
            gate.load_state_dict(load_file(path / _FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ConfigError(f"model {path}: its {_FILE} cannot be loaded: {str(error).splitlines()[0]}") from None
    return gate


def find_penalties(ratings: FloatArray, verbosity: int, *, most: float = _CORRELATION) -> tuple[float, ...]:
    """lam_i of each attribute from ratings (n, attributes) of reference responses; 1 for verbosity itself.

    The smallest of 0, 0.01, ..., 0.95 with Spearman(r_i - lam_i r_verbosity, r_verbosity) <= `most`; 0.95 where none is
    enough.
    """
    from scipy.stats import rankdata

    target = _standard(rankdata(ratings[:, verbosity]))

    def first(column: FloatArray) -> float:
        for lam in _GRID:
            if float(_standard(rankdata(column - lam * ratings[:, verbosity])) @ target) <= most:
                return float(lam)
        return float(_GRID[-1])

    return tuple(1.0 if i == verbosity else first(column) for i, column in enumerate(ratings.T))


def adjust_for_verbosity(model: PreferenceModel, items: Sequence[Item], states: Mapping[Encoded, Tensor]) -> None:
    """Set the penalties of the model's gate by the ratings that it gives to the training responses itself."""
    head = model.head
    if not head.gate.verbosity:
        return
    distinct = sorted({ids for item in items for ids in item.responses(head)})
    chosen = [distinct[i] for i in np.linspace(0, len(distinct) - 1, min(len(distinct), _REFERENCE)).astype(int)]
    with torch.inference_mode():
        rows = model.head_outputs(torch.stack([states[ids] for ids in chosen]).to(model.device))
    ratings = rows[:, : len(head.attributes)].double().cpu().numpy()
    penalties = find_penalties(ratings, head.attributes.index(head.gate.verbosity))
    shown = ", ".join(f"{name} {lam:g}" for name, lam in zip(head.attributes, penalties, strict=True))
    logger.info("share of %s taken out, on %d responses: %s", head.gate.verbosity, len(chosen), shown)
    model.head = replace(head, gate=replace(head.gate, penalties=penalties))


def _standard(ranks: FloatArray) -> FloatArray:
    """Centred and of length 1, so that a product is a correlation; zeros where all are equal."""
    centred = ranks - ranks.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-12))
