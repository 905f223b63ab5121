"""What a row of a fit's log averages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Window:
    """Sums over the steps since the last row of the log."""

    loss: float = 0.0
    units: float = 0.0
    weight: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, ranks: Sequence[Mapping[str, Any]], units: float, tokens: int, seconds: float) -> None:
        """One step: what each process counted (`losses`, `weight`, `metrics`), and the step's own sums."""
        self.loss += math.fsum(loss for r in ranks for loss in r["losses"])
        self.weight += math.fsum(r["weight"] for r in ranks)
        self.metrics = add([self.metrics, *(r["metrics"] for r in ranks)])
        self.units, self.tokens, self.seconds = self.units + units, self.tokens + tokens, self.seconds + seconds

    def values(self) -> dict[str, float]:
        return {
            "loss": self.loss / self.units,
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            **{name: value / (self.weight or 1.0) for name, value in self.metrics.items()},
        }


def add(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum by name."""
    sums: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """JSON has no NaN: it was written as null."""
    return {name: math.nan if value is None else float(value) for name, value in values.items()}
