"""What all three scorers share: the options, and the grouping of verdicts by model and judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

from prefeval.errors import ConfigError
from prefeval.log import logger

T = TypeVar("T")
ALIGNMENTS = ("instruction", "position")
FAILURES = ("dropped", "minus_one")


@dataclass(frozen=True)
class ScoreOptions:
    """How to score. `lc_c` is 'published', 'cv' or a positive number; `align` says how difficulty is looked up;
    `failures` whether MT-Bench ratings that could not be read are 'dropped' or count 'minus_one', as once published."""

    lc_c: str = "published"
    align: str = "instruction"
    failures: str = "dropped"
    baseline: str = ""
    resamples: int = 1000
    level: float = 0.95
    seed: int = 0
    template_hash: str = ""
    data_revision: str = ""

    def __post_init__(self) -> None:
        for name, known in (("align", ALIGNMENTS), ("failures", FAILURES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, not '{getattr(self, name)}'")
        if not 0 < self.level < 1:
            raise ConfigError(f"level must lie between 0 and 1, not {self.level}")
        if self.lc_c not in ("published", "cv"):
            try:
                value = float(self.lc_c)
            except ValueError:
                value = math.nan
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"lc-c must be 'published', 'cv' or a positive number, not '{self.lc_c}'")


def groups(rows: Iterable[T], key: Callable[[T], tuple[str, str]]) -> dict[tuple[str, str], list[T]]:
    """Rows by (model, judge), in order of appearance."""
    found: dict[tuple[str, str], list[T]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    warn_of_judges({judge for _, judge in found})
    return found


def warn_of_judges(judges: Collection[str]) -> None:
    """Say so where more than one judge gave the verdicts."""
    if len(judges) > 1:
        logger.warning(
            "verdicts of %d judges (%s): their scores do not compare", len(judges), ", ".join(sorted(judges))
        )
