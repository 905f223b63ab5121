"""The report's part on preference models: how good they are on held-out pairs, on cycles, and how they learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from leaderboard.report_read import RunRecord, fit_series
from leaderboard.report_svg import SLOTS, Axes, Series, bars, line_panel, smoothed, thinned
from leaderboard.report_text import Cell, Column, Figure, Grid, Legend, Section, cell, estimate, known, plain, show
from prefeval.stats import Estimate

SCALAR_CEILING = 2.0 / 3.0  # of any scalar model on the three edges of one 3-cycle: it can get two of them right
SCALAR_HEADS = ("bt", "regression")
_HEADS = {
    "bt": "Bradley–Terry (scalar)",
    "regression": "regression (scalar)",
    "gpm": "general preference",
    "hybrid": "hybrid: scalar + general preference",
}
_SMOOTH = 12  # points of the moving mean


@dataclass(frozen=True)
class Quality:
    """What is known of one preference model: metrics on a split, and on the triples whose labels run in a circle."""

    run: RunRecord
    split: str
    metrics: Mapping[str, Any]
    cycles: Mapping[str, Any]

    @property
    def accuracy(self) -> Estimate:
        return estimate(self.metrics, "accuracy", self.metrics.get("n"), self.metrics.get("n_dropped"))

    @property
    def on_cycles(self) -> Estimate:
        return estimate(self.cycles, "accuracy", self.cycles.get("n"), self.cycles.get("n_dropped"))

    @property
    def ceiling(self) -> float:
        from leaderboard.report_text import real

        value = real(self.cycles.get("ceiling_scalar"))
        return SCALAR_CEILING if math.isnan(value) else value


def quality(run: RunRecord) -> Quality:
    """The test split's metrics where a step left them, else those on the validation pairs."""
    test = _mapping(run.files.get("test.json"))
    cycles = next((c for c in (_mapping(run.files.get("cycles.json")), _mapping(test.get("cycles"))) if c), {})
    if known(estimate(test, "accuracy")):
        return Quality(run, "test", test, cycles)
    rows = [row for row in run.of_kind("evaluation") if row.stage == "evaluate"]
    metrics = rows[-1].values if rows else _mapping(run.files.get("evaluation.json"))
    return Quality(run, "validation", metrics, cycles)


def head_of(run: RunRecord) -> str:
    """The head in words."""
    kind = str(_mapping(run.config.get("head")).get("kind", "hybrid"))
    return _HEADS.get(kind, kind)


def training_section(runs: list[RunRecord]) -> Section | None:
    """Table, bars and learning curves of the train runs; None without any."""
    if not runs:
        return None
    found = [quality(run) for run in runs]
    measured = [q for q in found if known(q.accuracy)]
    intro = (
        "A preference model reads a prompt and two replies and says how probable it is that the first beats the "
        "second. A scalar model gives every reply one number; a general preference model can also say that A beats B, "
        "B beats C and C beats A."
    )
    blocks: list[str | Grid | Figure] = [intro]
    if measured:
        blocks += [_bars(measured), _table(found)]
    else:
        blocks.append("No preference model has been evaluated yet.")
    curves = learning_curves(runs, "train")
    if curves is not None:
        blocks.append(curves)
    return Section("preference-models", "Preference models", tuple(blocks))


def learning_curves(runs: list[RunRecord], only: str = "") -> Figure | None:
    """Loss (and training accuracy where it is logged) a step, one panel a run; rounds of a run follow each other."""
    plots = [p for run in runs for name in ("loss", "accuracy") for p in _curve(run, name, only)]
    if not plots:
        return None
    legend = [Legend(0, "logged value", "thin" if only else "plain")]
    if only:
        legend += [Legend(0, f"mean of the last {_SMOOTH} points", "plain"), Legend(1, "held-out pairs", "line")]
    caption = (
        "Learning curves: what was logged at each optimiser step; long curves are thinned to means of neighbouring "
        "steps. Held-out values are shown where they were computed."
        if only
        else "Learning curves: the loss of every optimiser step, the rounds one after the other. It is that of the "
        "algorithm on fresh samples: a lower one does not mean a better policy, neither between rounds nor between "
        "algorithms."
    )
    return Figure(tuple(plots), caption, tuple(legend))


def _curve(run: RunRecord, name: str, only: str) -> list[Markup]:
    stages = [s for s in dict.fromkeys(r.stage for r in run.of_kind("fit")) if not only or s == only]
    fits = run.of_kind("fit")
    joined: list[tuple[float, float]] = []
    for stage in stages:
        before = joined[-1][0] if joined else 0.0
        joined += [(before + step, value) for step, value in fit_series(fits, stage, name)]
    if not joined:
        return []
    points = thinned(joined)
    smooth = len(points) >= 2 * _SMOOTH and len(stages) == 1
    series = [Series("logged", 0, points, "raw" if smooth else "line")]
    if smooth:
        series.append(Series("smoothed", 0, smoothed(points, _SMOOTH), "line"))
    held_out = fit_series(run.of_kind("evaluation"), only, f"valid_{name}") if only else []
    if held_out:
        series.append(Series("held-out pairs", 1, thinned(held_out), "line"))
    style = "percent" if name == "accuracy" else "three"
    where = "" if len(stages) < 2 else f", {len(stages)} fits"
    return [line_panel(Axes(f"{run.name}: {name}{where}", "optimiser step", style), series)]  # type: ignore[arg-type]


def _bars(found: list[Quality]) -> Figure:
    right = [(q.run.name, q.accuracy, i % SLOTS) for i, q in enumerate(found)]
    splits = " and ".join(sorted({q.split for q in found}))
    plots = [bars(f"Accuracy on held-out pairs ({splits})", right, "percent", (0.0, 1.0), [(0.5, "coin 50%")])]
    cyclic = [(q.run.name, q.on_cycles, i % SLOTS) for i, q in enumerate(found) if known(q.on_cycles)]
    if cyclic:
        ceiling = next(q.ceiling for q in found if known(q.on_cycles))
        levels = [(ceiling, f"scalar ceiling {show(ceiling, 'percent')}")]
        plots.append(bars("Accuracy on cyclic triples", cyclic, "percent", (0.0, 1.0), levels))
    caption = "Share of labelled pairs that the model gets right, with 95% intervals. "
    if cyclic:
        caption += (
            "On the pairs of triples whose labels run in a circle no scalar model can be right on more than two of "
            "three (dashed line); what lies beyond it was learned about cycles."
        )
    return Figure(tuple(plots), caption, layout="wide")


def _table(found: list[Quality]) -> Grid:
    columns = (
        Column("Model"),
        Column("Head"),
        Column("Split", "which labelled pairs"),
        Column("Accuracy", "share of decided pairs right", "held-out pairs"),
        Column("ECE", "expected calibration error, 0 is best", "held-out pairs"),
        Column("NLL", "nats a pair", "held-out pairs"),
        Column("Brier", "mean squared error of P", "held-out pairs"),
        Column("τ", "temperature that would calibrate it here, 1 is calibrated", "held-out pairs"),
        Column("longer one wins", "accuracy where the label prefers the longer reply", "length"),
        Column("shorter one wins", "accuracy where the label prefers the shorter reply", "length"),
        Column("Accuracy", f"pairs of cyclic triples; scalar ceiling {show(SCALAR_CEILING, 'percent')}", "cycles"),
        Column("Own cycles", "share of triples on which the model itself is cyclic", "cycles"),
    )
    rows = tuple(_row(q) for q in found)
    notes = ["No interval is computed for ECE and τ; n is that of the accuracy."]
    if any(q.split == "validation" and q.metrics for q in found):
        notes.append(
            "Validation pairs also set the model's temperature: their NLL, Brier score and ECE are slightly "
            "optimistic, accuracies are not affected."
        )
    if any(known(estimate(q.metrics, "length_only_accuracy")) for q in found):
        told = [f"{show(estimate(q.metrics, 'length_only_accuracy').point, 'percent')} ({q.run.name}, {q.split})"
                for q in found if known(estimate(q.metrics, "length_only_accuracy"))]  # fmt: skip
        notes.append(f"Preferring the longer reply alone would be right on {', '.join(told)} of the pairs.")
    return Grid("Preference models on pairs that they were not trained on", columns, rows, tuple(notes))


def _row(q: Quality) -> tuple[Cell, ...]:
    m = q.metrics
    scalar = _mapping(q.run.config.get("head")).get("kind") in SCALAR_HEADS
    cyclic = cell(q.on_cycles, "percent", unit="edges")
    if cyclic.interval and math.isfinite(q.on_cycles.low):
        triples = plain(q.cycles.get("n_triples"), "count").text
        tone = "good" if q.on_cycles.low > q.ceiling and not scalar else ""
        cyclic = Cell(cyclic.text, cyclic.interval, f"{cyclic.note} of {triples} triples", tone)  # type: ignore[arg-type]
    return (
        Cell(q.run.name),
        Cell(head_of(q.run)),
        Cell(q.split if m else "not evaluated yet", tone="" if m else "quiet"),
        cell(q.accuracy, "percent", unit="pairs"),
        plain(m.get("ece"), "three"),
        cell(estimate(m, "nll"), "three"),
        cell(estimate(m, "brier"), "three"),
        plain(m.get("tau"), "two"),
        cell(estimate(m, "accuracy_longer"), "percent"),
        cell(estimate(m, "accuracy_shorter"), "percent"),
        cyclic,
        cell(estimate(m, "cycle_rate", m.get("n_cycle_records")), "percent", unit="prompts"),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
