"""What an alignment run pays, from the marks of its stages; its probes are not counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefeval.oracle import Oracle
from prefeval.runs import read_stages

KINDS = ("sample", "compare", "fit", "average")


def cost_of(path: Path, last: int | None = None) -> dict[str, float]:
    """Replies sampled, comparisons, tokens sampled and trained on (millions), optimiser steps, minutes and dollars.

    Of all rounds, or of those up to `last`.
    """
    names = ("replies", "sampled_tokens", "comparisons", "trained_tokens", "steps", "minutes", "dollars")
    cost = dict.fromkeys(names, 0.0)
    for name, record in read_stages(path).items():
        result, kind = record["result"], name.rpartition("/")[2]
        number = name.partition("/")[0].removeprefix("round")
        if kind not in KINDS or not number.isdigit() or (last is not None and int(number) > last):
            continue
        cost["minutes"] += record["seconds"] / 60.0
        if kind == "sample":
            cost["replies"] += result["replies"]
            cost["sampled_tokens"] += result["replies"] * result["length"] / 1e6
        elif kind == "compare":
            cost["comparisons"] += result["comparisons"]
            cost["dollars"] += result.get("dollars") or 0.0
        elif kind == "fit":
            cost["steps"] += result["steps"]
            cost["trained_tokens"] += _tokens(result) / 1e6
    return cost


def dollars(oracle: Oracle) -> float | None:
    """What the client behind an oracle has spent, None where nothing is paid for."""
    inside: Any = oracle
    for _ in range(8):  # wrappers around a judge around its client
        if hasattr(inside, "spent"):
            return float(inside.spent)
        inside = next((getattr(inside, n) for n in ("base", "judge", "client") if hasattr(inside, n)), None)
    return None


def _tokens(fit: dict[str, Any]) -> float:
    # runs of earlier versions kept the pace of the last steps alone
    return float(fit.get("tokens", fit["tokens_per_second"] * fit["seconds"]))
