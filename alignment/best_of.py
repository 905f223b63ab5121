"""A policy against a best-of-n of itself: what choosing among its own replies would still gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefeval.generate.select import complete_part
from prefeval.oracle import win_rates
from prefeval.stats import bootstrap_mean
from prefeval.types import FloatArray


def against_best_of_itself(tables: Sequence[FloatArray], replies: int, seed: int) -> dict[str, Any]:
    """Win rate of a reply over the best of the policy's other replies to its prompt, as the oracle ranks those.

    `tables` (n, n) end with the policy's own `replies` replies. Each reply in turn meets the favourite of the
    `best_of` = replies - 1 others (highest mean P among themselves): a best-of-n that costs no sample. NaN below three.
    """
    values = [_one_prompt(t[-replies:, -replies:]) if replies >= 3 else float("nan") for t in tables]
    found = bootstrap_mean(values, seed=seed)
    return {
        "best_of": replies - 1,
        "win_rate_best": found.point,
        "win_rate_best_low": found.low,
        "win_rate_best_high": found.high,
    }


def _one_prompt(table: FloatArray) -> float:
    met = []
    for mine in range(len(table)):
        others = np.delete(np.arange(len(table)), mine)
        others = others[complete_part(table[np.ix_(others, others)])]
        if len(others) >= 2:
            met.append(table[mine, others[np.argmax(win_rates(table[np.ix_(others, others)]))]])
    return float(np.nanmean(met)) if np.isfinite(met).any() else float("nan")
