"""Documented rule-based judges, opened as `rules:NAME`."""

from __future__ import annotations

from collections.abc import Callable

from prefeval.errors import ConfigError, nearest
from prefeval.oracle import Oracle, PairwiseRule


def _gold() -> Oracle:
    from prefeval.quickstart.gold import GoldOracle

    return GoldOracle()


def _shorter() -> Oracle:
    return PairwiseRule("rules:shorter", lambda _, a, b: 0.5 + 0.5 * ((len(a) < len(b)) - (len(a) > len(b))))


def _longer() -> Oracle:
    return PairwiseRule("rules:longer", lambda _, a, b: 0.5 + 0.5 * ((len(a) > len(b)) - (len(a) < len(b))))


RULES: dict[str, tuple[Callable[[], Oracle], str]] = {
    "gold": (_gold, "three readers with different tastes in sentence and word length; majorities run in circles"),
    "shorter": (_shorter, "the reply with fewer characters wins; a baseline"),
    "longer": (_longer, "the reply with more characters wins; the baseline that reward models must beat"),
}


def open_rule(name: str) -> Oracle:
    """The rule of that name. Raises ConfigError with the nearest name."""
    if name not in RULES:
        raise ConfigError(f"oracle 'rules:{name}': no such rule{nearest(name, RULES)} (known: {', '.join(RULES)})")
    return RULES[name][0]()
