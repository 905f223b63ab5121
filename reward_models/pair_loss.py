"""Which loss on pairs a config means: one of `losses`, or a function from outside of the package."""

from __future__ import annotations

from torch import Tensor

from prefeval.errors import ConfigError
from prefeval.plugins import PREFIX, load_object
from reward_models import losses
from reward_models.config import LossConfig


def pair_loss(d: Tensor, p: Tensor, margin: Tensor, config: LossConfig, tie: Tensor | None = None) -> Tensor:
    """The configured loss of each pair: (n,) log-odds, labels and margins -> (n,)."""
    if config.kind.startswith(PREFIX):
        return _own_loss(config.kind, d, losses.smoothed(p, config.smoothing))
    tie_value = config.tie if tie is None else tie
    if config.kind == "robust":
        return losses.robust_bce(d, p, config.smoothing)
    if config.kind == "rao_kupper":
        return losses.rao_kupper(d, p, tie_value)
    if config.kind == "davidson":
        return losses.davidson(d, p, tie_value)
    p = losses.smoothed(p, config.smoothing)
    if config.kind == "adaptive":
        return losses.adaptive_bce(d, p, config.rho)
    if config.kind == "margin":
        return losses.margin_bce(d, margin, p)
    if config.kind == "scaled":
        return losses.scaled_bce(d, margin, p)
    if config.kind == "hinge":
        return losses.hinge(d, margin, p)
    return losses.log_odds_mse(d, p) if config.kind == "log_odds" else losses.soft_bce(d, p)


def _own_loss(spec: str, d: Tensor, p: Tensor) -> Tensor:
    """What a function from outside of the package says: (n,) log-odds and labels -> (n,)."""
    loss = load_object(spec, "loss.kind")(d, p)
    if not isinstance(loss, Tensor) or loss.shape != d.shape:
        raise ConfigError(f"loss.kind '{spec}': must give one value a pair, a tensor of shape {tuple(d.shape)}")
    return loss
