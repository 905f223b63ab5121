"""Signs that a round will not do what its method promises, each as one line for the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignment.labels import UNBIASED, centred_win_rates, is_complete
from prefeval.games import cycle_rate
from prefeval.types import FloatArray

FAR = 30.0  # nats between the best and the worst reply of a prompt: e^30 in odds, out of reach of one round
LONGER = 1.5  # times the length of the first round's replies
_TRIPLES = 200  # fewer say little about cycles


def unreachable_targets(step: float, tables: Sequence[FloatArray]) -> str | None:
    """Regression targets far beyond what a fit can reach (section 0 of the algorithms reference)."""
    spreads = [np.ptp(rates[np.isfinite(rates)]) for t in tables if np.isfinite(rates := centred_win_rates(t)).any()]
    nats = step * float(np.median(spreads)) if spreads else 0.0
    if nats <= FAR:
        return None
    return (
        f"targets of about {nats:.0f} nats between best and worst reply (step {step:g}) are out of reach: the step "
        "acts as a scale of the loss, and how far the policy moves is set by learning rate and steps"
    )


def transitive_oracle(tables: Sequence[FloatArray]) -> str | None:
    """An oracle that ranks: Nash methods and DPO then aim at the same replies (13.5, bt10)."""
    rated = [t for t in tables if len(t) >= 3 and is_complete(t)]
    triples = sum(len(t) * (len(t) - 1) * (len(t) - 2) // 6 for t in rated)
    if triples < _TRIPLES or any(cycle_rate(t) > 0 for t in rated):
        return None
    return f"no circle among {triples} triples: this oracle ranks the replies, and Nash methods prefer what DPO prefers"


def running_lengths(first: float, now: float) -> str | None:
    """Replies that grow round by round, the usual sign of a gamed judge."""
    if now <= LONGER * first:
        return None
    return f"replies have grown from {first:.0f} to {now:.0f} tokens since the first round"


def fixed_point(algorithm: Any, replay: int, length_slope: float, pessimism: float = 0.0) -> list[str]:
    """What the options do to where the method ends, one line each (section 13.7 of the algorithms reference)."""
    labels, pairs = getattr(algorithm, "labels", "soft"), getattr(algorithm, "pairs", "all")
    lines = []
    if labels == "bernoulli":
        lines.append("labels bernoulli: one draw a pair keeps the fixed point, with more noise than soft labels")
    if labels == "hard":
        lines.append("labels hard: this is the game of the thresholded P, whose equilibrium is another one (13.7)")
    if pairs not in UNBIASED:
        rule = pairs.replace("_", " and ")
        lines.append(
            f"pairs {rule}: the replies of a pair are no longer independent draws, so the fixed point moves, much like "
            "a larger step over tau would move it (13.7); 'all' keeps it"
        )
    if replay:
        lines.append(
            f"replay {replay}: replies also face those of the last {replay} rounds' policies, so a round steps against "
            "their mixture. Where the policies have settled nothing changes; on the way there old replies lag behind"
        )
    if length_slope:
        lines.append(
            f"length_slope {length_slope:g}: the game is that of P with length taken out of its log-odds, for training "
            "alone; the probes ask the oracle as it is"
        )
    if pessimism:
        lines.append(
            f"pessimism {pessimism:g}: replies are trained on by what their win rates are at least, in a game in which "
            "doubt costs; the probes ask the oracle as it is"
        )
    return lines
