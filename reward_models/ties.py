"""The tie parameter of tie-aware losses, from the share of ties in the training pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prefeval.errors import ConfigError
from prefeval.log import logger
from prefeval.types import PreferenceRecord
from reward_models.config import TrainConfig


def with_tie_parameter(config: TrainConfig, training: Sequence[PreferenceRecord]) -> TrainConfig:
    """The config with `loss.tie` set from the share of ties among the training pairs, where it is asked for.

    Raises ConfigError when there are no ties, or nothing else: then the tie-aware losses say nothing.
    """
    if config.loss.kind not in ("rao_kupper", "davidson") or config.loss.tie:
        return config
    labels = [pair.p for record in training for pair in record.pairs]
    share = sum(p == 0.5 for p in labels) / max(1, len(labels))
    if not 0 < share < 1:
        raise ConfigError(
            f"loss {config.loss.kind}: {share:.0%} of the training pairs are ties; set loss.tie or use soft"
        )
    tie = tie_parameter(config.loss.kind, share)
    logger.info("%.1f%% of the training pairs are ties: loss.tie %.4g", 100 * share, tie)
    return replace(config, loss=replace(config.loss, tie=tie))


def tie_parameter(kind: str, share: float) -> float:
    """theta of Rao-Kupper or nu of Davidson at which two equal responses tie with probability `share` < 1.

    At d = 0 P(tie) is (theta - 1) / (theta + 1), or nu / (2 + nu).
    """
    return (1 + share) / (1 - share) if kind == "rao_kupper" else 2 * share / (1 - share)
