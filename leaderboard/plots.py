"""Small inline SVG plots for reports: score bars with intervals, a heat map of win rates. Plain strings, no scripts.

Text uses the page's own colour (`currentColor`), so the plots work on light and dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from leaderboard.table import Table, ranks
from prefeval.types import FloatArray

_LABEL, _PLOT, _ROW, _CELL = 190, 420, 24, 44  # pixels
_BAR, _LINE = "#4c78a8", "#222"
_LOW, _MIDDLE, _HIGH = (178, 24, 43), (247, 247, 247), (33, 102, 172)  # loses, even, wins: readable when colour-blind


def score_bars(table: Table, *, unit: str = "") -> str:
    """One bar a model with its 95% interval as a whisker; models without a score are listed without a bar."""
    rows = table.rows
    ends = [v for r in rows for v in (r.score.high, r.score.point) if math.isfinite(v)]
    top = nice_limit(max([*ends, 0.0]))
    height = _ROW * len(rows) + 34
    parts = [_grid(top, height - 26)]
    for i, (row, rank) in enumerate(zip(rows, ranks(table), strict=True)):
        y = 4 + i * _ROW
        parts.append(_text(_LABEL - 8, y + 15, f"{rank}. {_short(row.name)}", anchor="end"))
        if not math.isfinite(row.score.point):
            parts.append(_text(_LABEL + 6, y + 15, "no score"))
            continue
        width = _PLOT * max(row.score.point, 0.0) / top
        note = f"{row.name}: {row.score.point:.2f} [{row.score.low:.2f}, {row.score.high:.2f}], n = {row.score.n}"
        parts.append(
            f'<rect x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 8}" fill="{_BAR}">'
            f"<title>{escape(note)}</title></rect>"
        )
        if math.isfinite(row.score.low) and math.isfinite(row.score.high):
            parts.append(_whisker(_LABEL + _PLOT * row.score.low / top, _LABEL + _PLOT * row.score.high / top, y + 11))
        parts.append(_text(_LABEL + _PLOT + 14, y + 15, f"{row.score.point:.1f}{unit}"))
    return _svg(_LABEL + _PLOT + 70, height, f"Scores on {table.benchmark}", parts)


def heat_map(names: Sequence[str], matrix: FloatArray, title: str = "Win rate of the row against the column") -> str:
    """A square matrix of probabilities (k, k): red below one half, blue above; NaN cells are empty."""
    k = len(names)
    head = 110
    parts = []
    for i, name in enumerate(names):
        y = head + i * _CELL
        parts.append(_text(_LABEL - 8, y + _CELL / 2 + 4, _short(name), anchor="end"))
        x = _LABEL + i * _CELL + _CELL / 2
        parts.append(
            f'<text x="{x:.1f}" y="{head - 8}" font-size="12" fill="currentColor" '
            f'transform="rotate(-40 {x:.1f} {head - 8})">{escape(_short(name, 18))}</text>'
        )
        cells = [_cell(_LABEL + j * _CELL, y, float(matrix[i, j]), f"{name} against {names[j]}") for j in range(k)]
        parts.extend(cells)
    return _svg(_LABEL + k * _CELL + 90, head + k * _CELL + 8, title, parts)


def nice_limit(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten at or above a positive value; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * power >= value * (1 - 1e-12))


def colour(p: float) -> str:
    """A colour between red (0), near white (0.5) and blue (1)."""
    share = min(abs(p - 0.5) * 2, 1.0)
    end = _HIGH if p > 0.5 else _LOW
    mixed = [round(m + share * (e - m)) for m, e in zip(_MIDDLE, end, strict=True)]
    return f"rgb({mixed[0]},{mixed[1]},{mixed[2]})"


def _cell(x: float, y: float, p: float, note: str) -> str:
    if math.isnan(p):
        return f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="none" stroke="#999" stroke-width="0.5"/>'
    ink = "#fff" if abs(p - 0.5) > 0.3 else "#111"
    middle = f'x="{x + _CELL / 2}" y="{y + _CELL / 2 + 4}"'
    return (
        f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="{colour(p)}" stroke="#999" stroke-width="0.5">'
        f"<title>{escape(note)}: {p:.3f}</title></rect>"
        f'<text {middle} font-size="12" text-anchor="middle" fill="{ink}">{p:.2f}</text>'
    )


def _grid(top: float, bottom: float) -> str:
    parts = []
    for i in range(5):
        x = _LABEL + _PLOT * i / 4
        parts.append(f'<line x1="{x}" y1="2" x2="{x}" y2="{bottom}" stroke="#999" stroke-width="0.5"/>')
        parts.append(_text(x, bottom + 16, f"{top * i / 4:g}", anchor="middle"))
    return "".join(parts)


def _whisker(left: float, right: float, y: float) -> str:
    ends = "".join(f'<line x1="{x:.1f}" y1="{y - 4}" x2="{x:.1f}" y2="{y + 4}"/>' for x in (left, right))
    line = f'<line x1="{left:.1f}" y1="{y}" x2="{right:.1f}" y2="{y}"/>'
    return f'<g stroke="{_LINE}" stroke-width="1.5">{line}{ends}</g>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="12" text-anchor="{anchor}" fill="currentColor">{escape(text)}</text>'


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" font-family="sans-serif">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
