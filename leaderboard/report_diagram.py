"""The chain of runs drawn as boxes and arrows, from data to leaderboard."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from leaderboard.report_svg import svg
from leaderboard.report_text import cut, esc

_BOX_W, _BOX_H, _GAP_X, _GAP_Y, _HEAD = 238, 106, 40, 18, 30  # pixels


@dataclass(frozen=True)
class Box:
    """A box of the chain: `column` from 0, `state` as in RunRecord, `after` indices of boxes that it is built on."""

    column: int
    title: str
    about: str
    key: str
    time: str
    state: str
    after: tuple[int, ...] = ()


def chain(boxes: Sequence[Box], heads: Sequence[str]) -> Markup:
    """The runs as boxes in columns, from data to leaderboard, with an arrow wherever one is built on another."""
    columns = [[i for i, b in enumerate(boxes) if b.column == c] for c in range(len(heads))]
    tallest = max((len(c) for c in columns), default=0)
    height = _HEAD + tallest * (_BOX_H + _GAP_Y)
    place: dict[int, tuple[float, float]] = {}
    for c, members in enumerate(columns):
        first = _HEAD + (tallest - len(members)) * (_BOX_H + _GAP_Y) / 2
        for row, index in enumerate(members):
            place[index] = (c * (_BOX_W + _GAP_X) + 1.0, first + row * (_BOX_H + _GAP_Y))
    parts = [
        f'<text class="col" x="{c * (_BOX_W + _GAP_X) + _BOX_W / 2:.0f}" y="16" text-anchor="middle">{esc(head)}</text>'
        for c, head in enumerate(heads)
    ]
    for index, box in enumerate(boxes):
        parts += [_arrow(place[earlier], place[index]) for earlier in box.after]
    parts += [_box(box, *place[index]) for index, box in enumerate(boxes)]
    width = len(heads) * (_BOX_W + _GAP_X) - _GAP_X + 2
    spoken = "; ".join(f"{b.title}: {b.about}, {b.key}, {b.time}" for b in boxes)
    return svg(width, height, f"The chain of runs. {spoken}", parts)


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x0, y0, x1, y1 = start[0] + _BOX_W, start[1] + _BOX_H / 2, end[0] - 2, end[1] + _BOX_H / 2
    bend = (x1 - x0) / 2
    line = f"M{x0:.0f} {y0:.0f}C{x0 + bend:.0f} {y0:.0f} {x1 - bend:.0f} {y1:.0f} {x1 - 7:.0f} {y1:.0f}"
    return f'<path class="edge" d="{line}"/><path class="tip" d="M{x1:.0f} {y1:.0f}l-9-5v10z"/>'


def _box(box: Box, x: float, y: float) -> str:
    state = "" if box.state == "finished" else " open"
    middle = x + 12
    lines = _lines(box.about, 32)
    parts = [f'<rect class="box{state}" x="{x:.0f}" y="{y:.0f}" width="{_BOX_W}" height="{_BOX_H}" rx="8"/>']
    parts.append(f'<text class="title" x="{middle:.0f}" y="{y + 21:.0f}">{esc(cut(box.title, 20))}</text>')
    right = f'x="{x + _BOX_W - 12:.0f}" y="{y + 21:.0f}" text-anchor="end"'
    parts.append(f'<text class="time" {right}>{esc(box.time)}</text>')
    parts += [
        f'<text class="about" x="{middle:.0f}" y="{y + 39 + 14 * i:.0f}">{esc(t)}</text>' for i, t in enumerate(lines)
    ]
    for i, line in enumerate(_lines(box.key, 30)):
        parts.append(f'<text class="fact" x="{middle:.0f}" y="{y + 74 + 16 * i:.0f}">{esc(line)}</text>')
    note = f"{box.title}: {box.about}; {box.key}; {box.time}"
    return f"<g><title>{esc(note)}</title>{''.join(parts)}</g>"


def _lines(text: str, width: int) -> list[str]:
    """Two lines at most; "; " in the text asks for a new line, and what does not fit ends in an ellipsis."""
    wanted = [line for part in text.split("; ") for line in textwrap.wrap(part, width, break_on_hyphens=False)]
    return wanted if len(wanted) <= 2 else [wanted[0], cut(f"{wanted[1]} {wanted[2]}", width)]
