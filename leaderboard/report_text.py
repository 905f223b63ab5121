"""How a report writes text and numbers: model text made safe, estimates with their intervals, tables of cells.

Whatever a model or a file says is data. `clean` takes out control, direction-changing and unpaired characters; the
template and the plots escape the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup, escape

from prefeval.stats import Estimate

MISSING = "–"
Style = Literal["percent", "score", "two", "three", "count"]
Tone = Literal["", "good", "bad", "warn", "quiet"]

# C0 without tab and newline, DEL and C1, lone surrogates, and the characters that turn the direction of text around
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)
_SECRET = re.compile(
    r"(?i)(//)[^/@\s'\"]+@|\b((?:api[_-]?)?key|token|secret|password)(\s*[=:]\s*)[^\s,;&'\"]+|\bsk-[\w-]{8,}"
)


@dataclass(frozen=True)
class Cell:
    """One cell of a table: the number, its interval, n and what was dropped, and a tone that marks it."""

    text: str
    interval: str = ""
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Column:
    """A column's heading; `about` explains it to a newcomer, `group` stands above neighbouring columns."""

    title: str
    about: str = ""
    group: str = ""


@dataclass(frozen=True)
class Grid:
    """A table of the report; the first cell of a row names it."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Runs of equal column groups: (name, columns); empty when there are none."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found if any(name for name, _ in found) else []


@dataclass(frozen=True)
class Legend:
    """A colour slot (0 to 5) and what it stands for."""

    slot: int
    label: str
    mark: Literal["line", "plain", "dash", "thin"] = "line"


@dataclass(frozen=True)
class Figure:
    """Plots that belong together, with one caption and one legend."""

    plots: tuple[Markup, ...]
    caption: str
    legend: tuple[Legend, ...] = ()
    layout: Literal["panels", "wide", "natural"] = "panels"


@dataclass(frozen=True)
class Samples:
    """Replies to the same prompts side by side: (prompt, ((policy, reply), ...)) each."""

    items: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True)
class Said:
    """A verdict on an answer: in short, the judge's words, and a tone."""

    text: str
    words: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Reply:
    """One model's answer, a text a turn, with what judges said; `slot` is the model's place in the browser."""

    slot: int
    name: str
    turns: tuple[str, ...]
    verdicts: tuple[Said, ...]


@dataclass(frozen=True)
class Question:
    """A question of the browser: what the list shows, its category's place (0 for none), and everything else."""

    title: str
    category: str
    slot: int
    brief: str
    turns: tuple[str, ...]
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class Browser:
    """Answers side by side with verdicts; models and categories are picked without a script."""

    id: str
    models: tuple[str, ...]
    categories: tuple[str, ...]
    questions: tuple[Question, ...]


Block = str | Grid | Figure | Samples | Browser


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in order. `parts` are subsections."""

    id: str
    title: str
    blocks: tuple[Block, ...] = ()
    parts: tuple[Section, ...] = ()


def clean(text: object) -> str:
    """Text without control characters, unpaired surrogates and direction overrides; line ends become "\\n"."""
    return _CONTROL.sub("", str(text).replace("\r\n", "\n").replace("\r", "\n"))


def redact(text: object) -> str:
    """`clean`, and without what looks like a credential in a URL or a setting."""

    def hide(match: re.Match[str]) -> str:
        if match.group(1):
            return "//***@"
        return f"{match.group(2)}{match.group(3)}***" if match.group(2) else "***"

    return _SECRET.sub(hide, clean(text))


def esc(text: object) -> str:
    """Cleaned and escaped for HTML and SVG."""
    return str(escape(clean(text)))


def cut(text: str, limit: int) -> str:
    """At most `limit` characters; the last becomes an ellipsis when some are left out."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def real(value: object) -> float:
    """A finite number as float, NaN for everything else (None, text, booleans, infinities)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return math.nan
    return float(value)


def estimate(values: Mapping[str, Any], name: str, n: object = None, failed: object = None) -> Estimate:
    """`name`, `name_low`, `name_high` of a row as an Estimate; n from `name_n` or as given, 0 where it is not known."""
    count, dropped = real(values.get(f"{name}_n", n)), real(failed)
    return Estimate(
        real(values.get(name)),
        real(values.get(f"{name}_low")),
        real(values.get(f"{name}_high")),
        0 if math.isnan(count) else int(count),
        0 if math.isnan(dropped) else int(dropped),
    )


def known(found: Estimate) -> bool:
    return math.isfinite(found.point)


def show(value: float, style: Style) -> str:
    """A number in its style; shares are given between 0 and 1 and shown in percent."""
    if not math.isfinite(value):
        return MISSING
    if style == "percent":
        return _minus(f"{100 * value:.1f}%")
    digits = {"score": 1, "two": 2, "three": 3, "count": 0}[style]
    return _minus(f"{value:,.{digits}f}")


def show_interval(found: Estimate, style: Style) -> str:
    """[low, high] or nothing."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return ""
    return f"[{show(found.low, style).rstrip('%')}, {show(found.high, style).rstrip('%')}]"


def cell(found: Estimate, style: Style, tone: Tone = "", unit: str = "") -> Cell:
    """An estimate with its interval; `unit` says what n counts (nothing is said where n is not known)."""
    if not known(found):
        return Cell(MISSING, tone="quiet")
    note = f"n = {found.n:,}{' ' + unit if unit else ''}" if found.n else ""
    note += f", {found.n_failed:,} dropped" if found.n_failed else ""
    return Cell(show(found.point, style), show_interval(found, style), note, tone)


def plain(value: object, style: Style, tone: Tone = "") -> Cell:
    """A number that comes without an interval."""
    text = show(real(value), style)
    return Cell(text, tone="quiet" if text == MISSING else tone)


def in_words(found: Estimate, style: Style, unit: str = "") -> str:
    """64.3% [58.1, 70.2] (n = 120 prompts, 3 dropped), for a sentence."""
    note = cell(found, style, unit=unit).note
    interval = show_interval(found, style)
    return show(found.point, style) + (f" {interval}" if interval else "") + (f" ({note})" if note else "")


def listed(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else list(parts))


def _minus(text: str) -> str:
    return text.replace("-", "−") if float(text.rstrip("%").replace(",", "")) != 0 else text.replace("-", "")
