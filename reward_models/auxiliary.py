"""What training learns beside the model: the tie parameter, and a classifier of how much of a response was deleted."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from prefeval.errors import ConfigError
from reward_models.config import TrainConfig
from reward_models.modeling import PreferenceModel

_STRIDE = 0.01  # how far the logarithm of a tie parameter moves in a step at the peak learning rate


class TieParameter(nn.Module):
    """theta > 1 of Rao-Kupper or nu > 0 of Davidson: floor + exp(t), with t learned from a start.

    Learning rates of backbones would never move t. So t is start + stride * raw: AdamW moves `raw` by about the
    learning rate, t by a hundredth. The gradient of `raw` is that of t over the stride, so that it takes no part in
    the clipping of the others.
    """

    def __init__(self, kind: str, start: float, learning_rate: float) -> None:
        super().__init__()
        self.kind, self.floor = kind, 1.0 if kind == "rao_kupper" else 0.0
        self.start, self.stride = math.log(start - self.floor), _STRIDE / max(learning_rate, 1e-12)
        self.raw = nn.Parameter(torch.zeros(()))

    def value(self) -> Tensor:
        """The parameter as a scalar with a graph."""
        raw, fixed = self.raw.float(), self.raw.detach().float()
        t = self.start + self.stride * fixed + (raw - fixed) / self.stride
        return self.floor + torch.exp(t)


class Auxiliary(nn.Module):
    """The parts that a config asks for; a model carries them while it is trained and is saved without them."""

    def __init__(self, tie: TieParameter | None, degrees: nn.Linear | None) -> None:
        super().__init__()
        self.tie, self.degrees = tie, degrees


def attach_auxiliary(model: PreferenceModel, config: TrainConfig) -> None:
    """Give the model what its loss learns beside it. Raises ConfigError for an encoder with a degree loss."""
    loss = config.loss
    degrees: nn.Linear | None = None
    if loss.degree:
        if not model.is_causal:
            raise ConfigError("loss.degree reads the hidden state of a causal model's last token; this is an encoder")
        degrees = nn.Linear(model.classifier.score.in_features, 1 + len(loss.degree_ratios), device=model.device)
        nn.init.zeros_(degrees.weight)  # all degrees equally likely
        nn.init.zeros_(degrees.bias)
    tie = TieParameter(loss.kind, loss.tie, config.fit.learning_rate) if loss.learn_tie else None
    model.auxiliary = Auxiliary(tie, degrees) if tie is not None or degrees is not None else None


def detach_auxiliary(model: PreferenceModel, config: TrainConfig) -> None:
    """Take the parts off again; the tie parameter stays with the model, and in its config.json."""
    if config.loss.kind in ("rao_kupper", "davidson"):
        learned = model.tie_value()
        value = config.loss.tie if learned is None else float(learned.detach())
        model.ties = {"rule": config.loss.kind, "value": value, "tau": config.head.tau}
    model.auxiliary = None
