"""The leaderboard table: one row a model, best first, as CSV, Markdown and JSON.

Numbers that were not measured are empty cells, never zeros. In the Markdown, models whose intervals overlap share a
rank: a model's rank is one more than the number of models that are above it beyond doubt.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.measures import judge_markdown
from leaderboard.quality import separability
from leaderboard.safe_cells import csv_cell
from prefeval.files import write_json, write_text
from prefeval.stats import Estimate
from prefeval.types import FloatArray

MT_CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
ARENA_CATEGORIES = ("hard_prompt", "coding", "math", "creative_writing")  # v2.0
ANSWERS = "answers.json"  # a bounded choice of answers with their verdicts, which the report shows
COMMON = (
    "name",
    "score",
    "score_low",
    "score_high",
    "n",
    "n_failed",
    "avg_length",
    "judge",
    "template_hash",
    "data_revision",
)
EXTRA: Mapping[str, tuple[str, ...]] = {
    "alpaca_eval": (
        "win_rate",
        "standard_error",
        "discrete_win_rate",
        "lc_win_rate",
        "lc_low",
        "lc_high",
        "lc_c",
    ),
    "arena_hard": (
        "length_controlled",
        "markdown_controlled",
        "style_controlled",
        "style_low",
        "style_high",
        "style_at_zero",
        "style_at_zero_low",
        "style_at_zero_high",
        *ARENA_CATEGORIES,
        "hard_prompt_style",
        "creative_writing_style",
    ),
    "mt_bench": (
        "turn_1",
        "turn_2",
        "average",
        "average_failures_minus_one",
        *MT_CATEGORIES,
        "pair_wins",
        "pair_losses",
        "pair_ties",
        "win_rate_adjusted",
        "win_rate_low",
        "win_rate_high",
    ),
}


@dataclass(frozen=True)
class TableRow:
    """One model under one judge. `extra` holds the protocol's own columns; `outcomes` one number a question (NaN where
    no verdict was obtained), which is what paired comparisons use; `breakdown` whatever else belongs in the JSON.

    `draws` are refitted columns in each resample, (R,) by column: the same resamples for all rows of a table, so that
    differences between models can be formed draw by draw. They are not written."""

    name: str
    score: Estimate
    judge: str = ""
    avg_length: float | None = None
    template_hash: str = ""
    data_revision: str = ""
    extra: Mapping[str, float | None] = field(default_factory=dict)
    outcomes: Mapping[str, float] = field(default_factory=dict)
    breakdown: Mapping[str, Any] = field(default_factory=dict)
    draws: Mapping[str, FloatArray] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Table:
    """The rows of one benchmark, best first, with intervals of one `level`; `notes` are what a reader must know."""

    benchmark: str
    protocol: str
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()
    level: float = 0.95
    social: Mapping[str, Any] | None = None  # of leaderboard.findings
    judges: Mapping[str, Any] | None = None  # of leaderboard.judge_findings
    inputs: Mapping[str, Any] | None = None  # of leaderboard.enrich: the files that were read, and the seed
    showcase: Mapping[str, Any] | None = None  # of leaderboard.showcase; kept in answers.json, not in leaderboard.json

    @property
    def columns(self) -> tuple[str, ...]:
        return (*COMMON, *EXTRA[self.protocol])


def make_table(
    benchmark: str, protocol: str, rows: Sequence[TableRow], notes: Sequence[str] = (), *, level: float = 0.95
) -> Table:
    """Sort best first (rows without a score last, then by name)."""
    order = sorted(rows, key=lambda r: (math.isnan(r.score.point), -_number(r.score.point), r.name))
    return Table(benchmark, protocol, tuple(order), tuple(notes), level)


def ranks(table: Table) -> list[int]:
    """1 + the number of models whose interval lies wholly above: models that cannot be told apart share a rank."""
    lows = np.sort([r.score.low for r in table.rows if not math.isnan(r.score.low)])
    highs = [r.score.high for r in table.rows]
    above = len(lows) - np.searchsorted(lows, highs, side="right")
    return [1 if math.isnan(high) else 1 + int(n) for high, n in zip(highs, above, strict=True)]


def cells(table: Table, row: TableRow) -> dict[str, Any]:
    """The row's values by column; None where nothing was measured."""
    values: dict[str, Any] = {
        "name": row.name,
        "score": row.score.point,
        "score_low": row.score.low,
        "score_high": row.score.high,
        "n": row.score.n,
        "n_failed": row.score.n_failed,
        "avg_length": row.avg_length,
        "judge": row.judge,
        "template_hash": row.template_hash,
        "data_revision": row.data_revision,
        **{name: row.extra.get(name) for name in EXTRA[table.protocol]},
    }
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def to_csv(table: Table) -> str:
    """The values by column. A text that a spreadsheet would run as a formula gets an apostrophe in front."""
    out = io.StringIO()
    writer = csv.DictWriter(out, table.columns, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        writer.writerow({k: csv_cell(v) for k, v in cells(table, row).items()})
    return out.getvalue()


def to_latex(table: Table) -> str:
    """A booktabs table: rank, model, score with its interval, n, length and the protocol's measured columns."""
    extra = [c for c in EXTRA[table.protocol] if any(r.extra.get(c) is not None for r in table.rows)]
    head = [
        "",
        "model",
        f"score [{100 * table.level:g}\\%]",
        "$n$",
        "length",
        *(_latex(c.replace("_", " ")) for c in extra),
    ]
    lines = [f"\\begin{{tabular}}{{rl{'r' * (len(head) - 2)}}}", "\\toprule", " & ".join(head) + " \\\\", "\\midrule"]
    for rank, row in zip(ranks(table), table.rows, strict=True):
        c = cells(table, row)
        place, score = _place(rank, c)
        middle = [_show(c[name], 0 if name.startswith("pair_") else 2) for name in extra]
        parts = [place, _latex(row.name), score, str(c["n"]), _show(c["avg_length"], 0), *middle]
        lines.append(" & ".join(parts) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def to_markdown(table: Table) -> str:
    """A table for people: rank, score with its interval, n, what was dropped, then the protocol's measured columns."""
    extra = [c for c in EXTRA[table.protocol] if any(r.extra.get(c) is not None for r in table.rows)]
    head = ["rank", "model", f"score [{100 * table.level:g}% interval]", "n", "failed", "length", *extra, "judge"]
    lines = [f"# {table.benchmark}", "", _line(head), _line(["---"] * len(head))]
    for rank, row in zip(ranks(table), table.rows, strict=True):
        c = cells(table, row)
        place, interval = _place(rank, c)
        counts = [str(c["n"]), str(c["n_failed"]), _show(c["avg_length"], 0)]
        middle = [_show(c[name], 0 if name.startswith("pair_") else 2) for name in extra]
        lines.append(_line([place, row.name, interval, *counts, *middle, row.judge]))
    lines += ["", f"Models whose intervals overlap share a rank.{_separated(table)}"]
    lines += [f"\n{note}" for note in table.notes]
    if table.judges is not None:
        lines += judge_markdown(table.judges["judges"])
        lines += [f"\n{note}" for note in table.judges["notes"]]
    return "\n".join(lines) + "\n"


def as_dict(table: Table) -> dict[str, Any]:
    """What `leaderboard.json` holds: columns, rows with their breakdown and per-question outcomes, notes."""
    rows = []
    for rank, row in zip(ranks(table), table.rows, strict=True):
        place = None if math.isnan(row.score.point) else rank
        rows.append(
            {**cells(table, row), "rank": place, "breakdown": dict(row.breakdown), "outcomes": dict(row.outcomes)}
        )
    return {
        "benchmark": table.benchmark,
        "protocol": table.protocol,
        "columns": list(table.columns),
        "rows": rows,
        "notes": list(table.notes),
        "level": table.level,
        "separability": separability([row.score for row in table.rows]),
        **({"social": dict(table.social)} if table.social is not None else {}),
        **({"judges": dict(table.judges)} if table.judges is not None else {}),
        **({"inputs": dict(table.inputs)} if table.inputs is not None else {}),
    }


def write_table(table: Table, folder: str | Path) -> list[Path]:
    """Write `leaderboard.csv`, `.md`, `.tex` and `.json` into a folder, and `answers.json` where there are answers."""
    root = Path(folder)
    written = [
        write_text(root / "leaderboard.csv", to_csv(table)),
        write_text(root / "leaderboard.md", to_markdown(table)),
        write_text(root / "leaderboard.tex", to_latex(table)),
        write_json(root / "leaderboard.json", as_dict(table)),
    ]
    if table.showcase is None:
        (root / ANSWERS).unlink(missing_ok=True)  # of an earlier run
        return written
    return [*written, write_json(root / ANSWERS, dict(table.showcase))]


def _separated(table: Table) -> str:
    share = separability([row.score for row in table.rows])
    return "" if math.isnan(share) else f" Separability: {100 * share:.1f}% of the pairs of models do not overlap."


def _place(rank: int, values: Mapping[str, Any]) -> tuple[str, str]:
    """(rank, score with its interval) as printed; nothing for a model without a score."""
    if values["score"] is None:
        return "", ""
    return str(rank), f"{_show(values['score'])} [{_show(values['score_low'])}, {_show(values['score_high'])}]"


def _latex(text: str) -> str:
    """Text with LaTeX's ten special characters escaped and line breaks taken out."""
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special |= {c: f"\\{c}" for c in "&%$#_{}"}
    return "".join(special.get(c, " " if c in "\r\n" else c) for c in text)


def _line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(p.replace("|", "\\|").replace("\n", " ") for p in parts) + " |"


def _show(value: Any, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value
