"""Plots of a report as inline SVG: line panels with interval bands, bars with whiskers.

Colours are CSS classes (s0 to s5) of the page, so that light, dark and print each have their own; series differ by
marker and dash too. Each plot carries its numbers in words as aria-label and as tooltips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from leaderboard.report_text import Style, cut, esc, show, show_interval
from prefeval.stats import Estimate

SLOTS = 6
_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 236, 50, 12, 34, 36  # of a line panel, pixels
_BAR_W, _BAR_ROW = 460, 40
_POINTS = 240  # at most this many points a line


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Series:
    """A line; `look` is 'line' (with markers), 'dash' (a control) or 'raw' (thin, without markers)."""

    label: str
    slot: int
    points: tuple[Point, ...]
    look: Literal["line", "dash", "raw"] = "line"


@dataclass(frozen=True)
class Axes:
    """What a line panel shows: title, the x axis, the style of y, and levels to draw across (y, label)."""

    title: str
    x: str
    style: Style
    levels: tuple[tuple[float, str], ...] = ()
    y_range: tuple[float, float] | None = None


def line_panel(axes: Axes, series: Sequence[Series]) -> Markup:
    """One small plot; series without finite points are left out."""
    series = [s for s in series if any(_finite(p.x, p.y) for p in s.points)]
    points = [p for s in series for p in s.points if _finite(p.x, p.y)]
    x0, x1 = (min(p.x for p in points), max(p.x for p in points)) if points else (0.0, 1.0)
    y0, y1 = axes.y_range or y_range(series, [level for level, _ in axes.levels])
    x1 = x1 if x1 > x0 else x0 + 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x0) / (x1 - x0) * (_W - _LEFT - _RIGHT)
        return across, _H - _BOTTOM - (y - y0) / (y1 - y0) * (_H - _TOP - _BOTTOM)

    parts = [f'<text class="head" x="6" y="17">{esc(cut(axes.title, 46))}</text>']
    for tick in ticks(y0, y1, 5):
        y = place(x0, tick)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 4, _tick(tick, axes.style, y1 - y0), "end"))
    whole = [t for t in ticks(x0, x1, 5) if t == round(t)]
    parts += [_text(place(t, y0)[0], _H - _BOTTOM + 16, f"{t:,.0f}", "middle") for t in whole]
    parts.append(_text((_LEFT + _W - _RIGHT) / 2, _H - 5, axes.x, "middle"))
    for level, label in axes.levels:
        y = place(x0, level)[1]
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="levelname" x="{_W - _RIGHT}" y="{y + 12:.1f}" text-anchor="end">{esc(label)}</text>'
        )
    for one in series:
        parts += _drawn(one, place, axes.style)
    return svg(_W, _H, _spoken(axes, series), parts)


def y_range(series: Sequence[Series], levels: Sequence[float] = ()) -> tuple[float, float]:
    """Limits that hold all points, intervals and levels with a margin; panels to be compared share them."""
    values = [v for s in series for p in s.points for v in (p.y, p.low, p.high)] + list(levels)
    values = [v for v in values if math.isfinite(v)]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or max(abs(high) * 0.1, 0.05)
    bottom = 0.0 if low >= 0 and low - margin < 0 else low - margin
    return bottom, high + margin


def bars(
    title: str,
    rows: Sequence[tuple[str, Estimate, int]],
    style: Style,
    limits: tuple[float, float],
    levels: Sequence[tuple[float, str]] = (),
) -> Markup:
    """(label, estimate, slot) a row: its bar from the lower limit, and its 95% interval as a whisker."""
    low, high = limits
    height = 30 + _BAR_ROW * len(rows) + 40

    def across(value: float) -> float:
        return 8 + (min(max(value, low), high) - low) / (high - low) * (_BAR_W - 16)

    parts = [f'<text class="head" x="8" y="17">{esc(cut(title, 60))}</text>']
    bottom = 30 + _BAR_ROW * len(rows) + 4
    for tick in ticks(low, high, 5):
        parts.append(f'<line class="grid" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="30" y2="{bottom}"/>')
        anchor = "start" if tick == low else "end" if tick == high else "middle"
        parts.append(_text(across(tick), bottom + 15, _tick(tick, style, high - low), anchor))
    for row, (label, found, slot) in enumerate(rows):
        parts += _bar(label, found, slot, style, 30 + row * _BAR_ROW, across)
    for level, label in levels:
        x, anchor = across(level), "end" if level > (low + high) / 2 else "start"
        parts.append(f'<line class="level" x1="{x:.1f}" x2="{x:.1f}" y1="30" y2="{bottom + 20}"/>')
        shift = -4 if anchor == "end" else 4
        parts.append(
            f'<text class="levelname" x="{x + shift:.1f}" y="{bottom + 29}" text-anchor="{anchor}">{esc(label)}</text>'
        )
    spoken = "; ".join(f"{name} {show(e.point, style)} {show_interval(e, style)}".strip() for name, e, _ in rows)
    return svg(_BAR_W, height, f"{title}: {spoken}", parts)


def key(slot: int, mark: str) -> Markup:
    """The sample of a line for a legend."""
    shape = "" if mark != "line" else marker(slot, 14, 6)
    kind = {"line": "ln", "plain": "ln", "dash": "ln dash", "thin": "ln raw"}[mark]
    return Markup(
        f'<svg class="key s{slot % SLOTS}" width="28" height="12" viewBox="0 0 28 12" aria-hidden="true">'
        f'<line class="{kind}" x1="1" x2="27" y1="6" y2="6"/>{shape}</svg>'
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers between two limits, about `count` of them."""
    if not (_finite(low, high) and high > low):
        return []
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1.0, 2.0, 2.5, 5.0, 10.0) if s * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(points: Sequence[tuple[float, float]]) -> tuple[Point, ...]:
    """Means of equal runs of neighbouring points, so that a long curve stays small."""
    size = max(1, math.ceil(len(points) / _POINTS))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return tuple(Point(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups)


def smoothed(points: Sequence[Point], window: int) -> tuple[Point, ...]:
    """The mean of the last `window` points at each."""
    out = []
    for i, p in enumerate(points):
        part = points[max(0, i - window + 1) : i + 1]
        out.append(Point(p.x, sum(q.y for q in part) / len(part)))
    return tuple(out)


def svg(width: float, height: float, label: str, parts: Sequence[str]) -> Markup:
    body = "".join(parts)
    size = f'viewBox="0 0 {width:g} {height:g}" style="--w:{width:g}px"'
    return Markup(f'<svg class="plot" {size} role="img" aria-label="{esc(label)}">{body}</svg>')


def _drawn(series: Series, place: Callable[[float, float], tuple[float, float]], style: Style) -> list[str]:
    points = [p for p in series.points if _finite(p.x, p.y)]
    at = [place(p.x, p.y) for p in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    look = {"line": "ln", "dash": "ln dash", "raw": "ln raw"}[series.look]
    parts = []
    banded = [p for p in points if _finite(p.low, p.high)]
    if len(banded) > 1:
        edge = [place(p.x, p.high) for p in banded] + [place(p.x, p.low) for p in reversed(banded)]
        parts.append(f'<polygon class="band" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in edge)}"/>')
    for p in banded:
        (x, top), (_, bottom) = place(p.x, p.high), place(p.x, p.low)
        parts.append(f'<line class="whisk" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
    parts.append(f'<polyline class="{look}" points="{path}"/>')
    if series.look == "line" and len(points) <= 30:
        for p, (x, y) in zip(points, at, strict=True):
            note = (
                f"{series.label}, {p.x:g}: {show(p.y, style)} {show_interval(Estimate(p.y, p.low, p.high, 0), style)}"
            )
            parts.append(f"<g><title>{esc(note.strip())}</title>{marker(series.slot, x, y)}</g>")
    return [f'<g class="s{series.slot % SLOTS}">', *parts, "</g>"]


def _bar(label: str, found: Estimate, slot: int, style: Style, y: float, across: Callable[[float], float]) -> list[str]:
    value = f"{show(found.point, style)} {show_interval(found, style)}".strip()
    parts = [f'<text class="value" x="8" y="{y + 14}">{esc(cut(label, 40))}</text>']
    if not math.isfinite(found.point):
        return [*parts, _text(_BAR_W - 8, y + 14, "no score", "end")]
    parts.append(f'<text class="value" x="{_BAR_W - 8}" y="{y + 14}" text-anchor="end">{esc(value)}</text>')
    left, right = across(-math.inf), across(found.point)
    note = f"{label}: {value}, n = {found.n:,}"
    bar = f'<rect class="bar" x="{left:.1f}" y="{y + 19}" width="{max(right - left, 0.5):.1f}" height="13" rx="2"/>'
    parts.append(f'<g class="s{slot % SLOTS}"><title>{esc(note)}</title>{bar}</g>')
    if _finite(found.low, found.high):
        a, b, middle = across(found.low), across(found.high), y + 25.5
        ends = "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 4}" y2="{middle + 4}"/>' for x in (a, b))
        parts.append(f'<g class="ink"><line x1="{a:.1f}" x2="{b:.1f}" y1="{middle}" y2="{middle}"/>{ends}</g>')
    return parts


def marker(slot: int, x: float, y: float) -> str:
    """Circle, square, triangle or diamond, by slot."""
    shapes = (
        f'<circle class="pt" cx="{x:.1f}" cy="{y:.1f}" r="3.4"/>',
        f'<rect class="pt" x="{x - 3.2:.1f}" y="{y - 3.2:.1f}" width="6.4" height="6.4"/>',
        f'<path class="pt" d="M{x:.1f} {y - 4.2:.1f}l4.2 7.4h-8.4z"/>',
        f'<path class="pt" d="M{x:.1f} {y - 4.6:.1f}l4.6 4.6-4.6 4.6-4.6-4.6z"/>',
    )
    return shapes[slot % len(shapes)]


def _spoken(axes: Axes, series: Sequence[Series]) -> str:
    """The plot in words; long curves by their first and last values."""
    told = []
    for one in series:
        points = [p for p in one.points if _finite(p.x, p.y)]
        shown = points if len(points) <= 8 else [points[0], points[-1]]
        told.append(f"{one.label}: " + ", ".join(f"{show(p.y, axes.style)} at {axes.x} {p.x:g}" for p in shown))
    return f"{axes.title}. {'; '.join(told)}"


def _tick(value: float, style: Style, span: float) -> str:
    if style == "percent":
        return f"{100 * value:g}%".replace("-", "−")
    return f"{value:,.{0 if span >= 20 else 1 if span >= 2 else 2 if span >= 0.2 else 3}f}".replace("-", "−")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{esc(text)}</text>'


def _finite(*values: float) -> bool:
    return all(math.isfinite(v) for v in values)
