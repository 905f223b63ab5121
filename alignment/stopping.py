"""When a run ends early, by what its probes measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.config import StopConfig
from prefeval.errors import ConfigError, nearest


def criterion(probe: Mapping[str, Any], stop: StopConfig) -> float:
    """The probe's value of `stop.by`, NaN where it could not be measured. Raises ConfigError for an unknown name."""
    if stop.by not in probe:
        raise ConfigError(f"stop.by: the probes have no '{stop.by}'{nearest(stop.by, list(probe))}")
    value = probe[stop.by]
    return float("nan") if value is None else float(value)


def best_round(values: Sequence[float], stop: StopConfig) -> int:
    """The first round (from 1) that no later one beats by more than `stop.least`; the last where nothing is known."""
    sign, best = (-1.0 if stop.lower_is_better else 1.0), 0
    for number, value in enumerate(values, 1):
        if math.isfinite(value) and (not best or sign * value > sign * values[best - 1] + stop.least):
            best = number
    return best or len(values)


def has_stalled(values: Sequence[float], stop: StopConfig) -> bool:
    """Whether the last `stop.patience` rounds brought no new best."""
    return bool(stop.patience) and len(values) - best_round(values, stop) >= stop.patience
