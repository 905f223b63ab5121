"""When a fit ends before its steps are over: it has moved far enough, or held-out items no longer gain.

Decisions rest on numbers that a checkpoint keeps, so that a resumed fit ends at the same step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefeval.errors import ConfigError, nearest


@dataclass(frozen=True)
class FitStop:
    """Two signs, each off at 0. The weights stay as they are at the step that shows one.

    `kl` (nats an item): the loss's own metric `kl`, averaged over `window` steps, is above it. `patience`: so many
    evaluations in a row, one every `every` steps, brought no lower value of `by` on held-out items.
    """

    kl: float = 0.0
    window: int = 8
    patience: int = 0
    every: int = 10
    by: str = "loss"

    def __post_init__(self) -> None:
        if not (0 <= self.kl < math.inf and self.window >= 1 and self.patience >= 0 and self.every >= 1):
            raise ConfigError("fit.stop: kl and patience must be at least 0, window and every at least 1")


class Stopper:
    """Follows one fit. `reason` is empty until it is to stop."""

    def __init__(self, config: FitStop, stage: str) -> None:
        self.config, self.stage = config, stage
        self.reason = ""
        self.recent: list[float] = []
        self.best, self.waited = math.inf, 0

    def see_step(self, metrics: Mapping[str, float]) -> None:
        """Take in the means of a step's metrics."""
        if not self.config.kl:
            return
        value = _known(metrics, "kl", f"{self.stage}: fit.stop.kl: the loss")
        self.recent = [*self.recent, value][-self.config.window :]
        mean = math.fsum(self.recent) / len(self.recent)
        if len(self.recent) == self.config.window and mean > self.config.kl:
            self.reason = f"kl {mean:.3g} over {self.config.window} steps is above {self.config.kl:g}"

    def see_evaluation(self, values: Mapping[str, float]) -> None:
        """Take in what held-out items gave."""
        if not self.config.patience:
            return
        value = _known(values, self.config.by, f"{self.stage}: fit.stop.by: the evaluation")
        if value < self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.config.patience:
            self.reason = f"{self.waited} evaluations without a {self.config.by} below {self.best:.4g}"

    def state(self) -> dict[str, Any]:
        """JSON-able; `best` is null as long as there is none."""
        best = self.best if math.isfinite(self.best) else None
        return {"reason": self.reason, "recent": self.recent, "best": best, "waited": self.waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.reason, self.waited = state["reason"], state["waited"]
        self.recent = [math.nan if v is None else v for v in state["recent"]]
        self.best = math.inf if state["best"] is None else state["best"]


def _known(values: Mapping[str, float], name: str, where: str) -> float:
    if name not in values:
        raise ConfigError(f"{where} reports no '{name}'{nearest(name, list(values))}")
    return values[name]
