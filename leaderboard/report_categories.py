"""Scores by category with their intervals, a row a category and a mark a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from leaderboard.report_svg import SLOTS, marker, svg, ticks
from leaderboard.report_text import Figure, Legend, Style, clean, cut, esc, estimate, known, show, show_interval
from prefeval.stats import Estimate

_CATEGORIES = 16  # at most
_LEFT, _PLOT, _TOP, _LINE, _GAP = 104, 252, 30, 13, 14  # pixels: names, scale, title, a model, between categories


def category_figure(rows: Sequence[Mapping[str, Any]], style: Style, limits: tuple[float, float]) -> Figure | None:
    """The dots of the first models; None where no row tells scores by category."""
    told = [(clean(row["name"]), _categories(row)) for row in rows]
    shown = [(name, found) for name, found in told if found][:SLOTS]
    names = list(dict.fromkeys(c for _, found in shown for c in found))[:_CATEGORIES]
    if not names:
        return None
    plot = _dots(names, shown, style, limits)
    left = sum(1 for _, found in told if found) - len(shown)
    caption = "Scores by category; whiskers are 95% intervals over the category's questions, "
    caption += f"n = {_counts(names, shown)}."
    caption += f" The first {len(shown)} models; {left} more are in leaderboard.json." if left else ""
    return Figure((plot,), caption, tuple(Legend(i, name) for i, (name, _) in enumerate(shown)), layout="panels")


def _categories(row: Mapping[str, Any]) -> dict[str, Estimate]:
    """Category -> score of `breakdown.categories`; entries without an interval are left out."""
    breakdown = row.get("breakdown")
    found = breakdown.get("categories") if isinstance(breakdown, Mapping) else None
    values = {}
    for name, value in found.items() if isinstance(found, Mapping) else ():
        if isinstance(value, Mapping):
            limits = {"v": value.get("point"), "v_low": value.get("low"), "v_high": value.get("high")}
            one = estimate(limits, "v", value.get("n"), value.get("n_failed"))
            if known(one):
                values[clean(name).replace("_", " ")] = one
    return values


def _counts(names: Sequence[str], shown: Sequence[tuple[str, Mapping[str, Estimate]]]) -> str:
    counts = [found[c].n for _, found in shown for c in names if c in found]
    low, high = min(counts), max(counts)
    return (f"{low}" if low == high else f"{low} to {high}") + " a category"


def _dots(
    names: Sequence[str],
    shown: Sequence[tuple[str, Mapping[str, Estimate]]],
    style: Style,
    limits: tuple[float, float],
) -> Markup:
    low, high = limits
    row = _LINE * len(shown) + _GAP
    bottom = _TOP + row * len(names)

    def across(value: float) -> float:
        return _LEFT + (min(max(value, low), high) - low) / (high - low) * _PLOT

    parts = ['<text class="head" x="6" y="17">By category</text>']
    for tick in ticks(low, high, 5):
        x = across(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for i, name in enumerate(names):
        y = _TOP + i * row
        parts.append(f'<text x="{_LEFT - 10}" y="{y + row / 2 + 4:.1f}" text-anchor="end">{esc(cut(name, 16))}</text>')
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _PLOT}" y1="{y}" y2="{y}"/>')
        for slot, (model, found) in enumerate(shown):
            if name in found:
                middle = y + _GAP / 2 + _LINE * (slot + 0.5)
                parts += _dot(f"{model}, {name}", found[name], slot, style, middle, across)
    spoken = "; ".join(f"{m}: " + ", ".join(f"{c} {show(found[c].point, style)}" for c in names if c in found)
                       for m, found in shown)  # fmt: skip
    return svg(_LEFT + _PLOT + 16, bottom + 24, f"By category. {spoken}", parts)


def _dot(label: str, found: Estimate, slot: int, style: Style, y: float, across: Any) -> list[str]:
    note = f"{label}: {show(found.point, style)} {show_interval(found, style)}, n = {found.n:,}"
    parts = [f'<g class="s{slot % SLOTS}"><title>{esc(note)}</title>']
    if math.isfinite(found.low) and math.isfinite(found.high):
        a, b = across(found.low), across(found.high)
        parts.append(f'<line class="whisk" x1="{a:.1f}" x2="{b:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
    return [*parts, marker(slot, across(found.point), y), "</g>"]
