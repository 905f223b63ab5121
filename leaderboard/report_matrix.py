"""A matrix of win rates as a heat map with a visible title, in the colours of leaderboard.plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from leaderboard.plots import colour
from leaderboard.report_svg import svg
from leaderboard.report_text import clean, cut, esc, real

_CELL, _HEIGHT, _LETTER, _TOP, _MOST = 52, 30, 7.4, 30, 24  # pixels; at most _MOST names


def matrix_plot(names: Sequence[str], value: Any, title: str) -> Markup | None:
    """The heat map of a square matrix of win rates, row against column; None for anything else or a very large one."""
    if not isinstance(value, list) or not 0 < len(names) <= _MOST or len(value) != len(names):
        return None
    if not all(isinstance(row, list) and len(row) == len(names) for row in value):
        return None
    shown = [cut(clean(n), 20) for n in names]
    left = 16 + _LETTER * max(len(n) for n in shown)
    slanted = any(_LETTER * len(n) > _CELL for n in shown)
    top = _TOP + (10 + 4.6 * max(len(n) for n in shown) if slanted else 24)
    parts = [f'<text class="head" x="0" y="15">{esc(cut(title, 60))}</text>']
    for i, name in enumerate(shown):
        y, x = top + i * _HEIGHT + _HEIGHT / 2 + 4, left + i * _CELL + _CELL / 2
        parts.append(f'<text x="{left - 8:.0f}" y="{y:.0f}" text-anchor="end">{esc(name)}</text>')
        turn = f' transform="rotate(-38 {x:.0f} {top - 7:.0f})"' if slanted else ' text-anchor="middle"'
        parts.append(f'<text x="{x:.0f}" y="{top - 7:.0f}"{turn}>{esc(name)}</text>')
        parts += [_cell(left + j * _CELL, top + i * _HEIGHT, real(v), f"{name} against {shown[j]}")
                  for j, v in enumerate(value[i])]  # fmt: skip
    spoken = "; ".join(
        f"{a} against {b} {real(value[i][j]):.2f}" for i, a in enumerate(shown) for j, b in enumerate(shown) if i > j
    )
    beyond = max(60, 0.8 * _LETTER * len(shown[-1])) if slanted else 6  # the last column's name leans out
    width = max(left + len(shown) * _CELL + beyond, 8 * len(title) + 10)
    return svg(width, top + len(shown) * _HEIGHT + 4, f"{title}: {spoken}", parts)


def _cell(x: float, y: float, p: float, note: str) -> str:
    frame = f'x="{x:.0f}" y="{y:.0f}" width="{_CELL}" height="{_HEIGHT}"'
    if math.isnan(p) or not 0 <= p <= 1:
        return f'<rect class="hole" {frame}/>'
    ink = "light" if abs(p - 0.5) > 0.3 else "dark"
    middle = f'x="{x + _CELL / 2:.0f}" y="{y + _HEIGHT / 2 + 4:.0f}" text-anchor="middle"'
    return (
        f'<g><title>{esc(note)}: {p:.3f}</title><rect {frame} fill="{colour(p)}"/>'
        f'<text class="{ink}" {middle}>{p:.2f}</text></g>'
    )
