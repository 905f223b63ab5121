"""AlpacaEval's table: raw and length-controlled win rates from verdict rows (reference/benchmarks.md 1.4-1.8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from leaderboard import length_control as lc
from leaderboard.annotations import PreferenceRow
from leaderboard.scoring import ScoreOptions, groups
from leaderboard.side_files import BASELINE, SideFiles
from leaderboard.table import Table, TableRow, make_table
from prefeval.errors import DataError
from prefeval.log import logger, progress
from prefeval.stats import Estimate, bootstrap_mean
from prefeval.types import FloatArray

KNOWN_BASELINES = (BASELINE, "text_davinci_003")


def score_preferences(
    rows: Sequence[PreferenceRow], side: SideFiles | None, options: ScoreOptions, *, benchmark: str = "alpaca_eval"
) -> Table:
    """AlpacaEval: LC win rate (score) and raw win rate in percent. Raises DataError for mixed or exchanged baselines.

    With side files and the official baseline the published formula is used; other data sets have no difficulty and no
    gamed rows and get the length term and the constant only. The official benchmark without side files has no LC.
    """
    baseline = _one_baseline(rows, options.baseline)
    official = benchmark == "alpaca_eval" and baseline == BASELINE
    custom = not official
    if official and side is not None and side.index and not any(r.instruction in side.index for r in rows):
        custom = True  # another question set against the same baseline
    notes = []
    if custom:
        notes.append("Length control without instruction difficulty and gamed rows: this is not the published set-up.")
    elif side is None:
        notes.append("No length control: the side files were not given (--data); the score is the raw win rate.")
        logger.warning(notes[-1])
    by_model = groups(rows, lambda r: (r.model, r.judge))
    table_rows = []
    with progress("length control", len(by_model)) as bar:
        for (model, judge), group in by_model.items():
            table_rows.append(_preference_row(model, judge, group, None if custom else side, custom, options))
            bar.advance()
    extreme = [r.name for r in table_rows if r.breakdown.get("lc_extreme")]
    if extreme:
        notes.append(f"Length control moves these scores unusually far: {', '.join(extreme)}.")
    return make_table(benchmark, "alpaca_eval", table_rows, notes)


def _preference_row(
    model: str, judge: str, rows: Sequence[PreferenceRow], side: SideFiles | None, custom: bool, options: ScoreOptions
) -> TableRow:
    raw, extra, breakdown = _raw_columns(rows, options)
    score = raw
    if side is not None or custom:
        found = _length_controlled(model, rows, side, options)
        if found is not None:
            extra |= {"lc_win_rate": found.rate, "lc_low": found.low, "lc_high": found.high, "lc_c": found.c}
            score = Estimate(found.rate, found.low, found.high, raw.n, raw.n_failed)
            low, high = min(0.75 * raw.point, raw.point - 10), max(raw.point + (100 - raw.point) / 4, raw.point + 10)
            breakdown |= {
                "lc_standard_error": found.spread,
                "lc_weights": found.weights.tolist(),
                "lc_extreme": not low <= found.rate <= high,
            }
    lengths = [r.length_model for r in rows if not math.isnan(r.length_model)]
    return TableRow(
        name=model,
        score=score,
        judge=judge,
        avg_length=float(int(np.mean(lengths))) if lengths else None,
        template_hash=options.template_hash,
        data_revision=options.data_revision or (side.revision if side else ""),
        extra=extra,
        outcomes={question_key(r.instruction): r.win for r in rows},
        breakdown=breakdown,
    )


def _raw_columns(
    rows: Sequence[PreferenceRow], options: ScoreOptions
) -> tuple[Estimate, dict[str, float | None], dict[str, Any]]:
    """The raw win rate in percent with its interval, the columns that go with it, and the counts behind it."""
    wins = np.array([r.win for r in rows], dtype=np.float64)
    raw = bootstrap_mean(wins, resamples=options.resamples, level=options.level, seed=options.seed).scaled(100.0)
    y = wins[~np.isnan(wins)]
    n, draws, won = len(y), int((y == 0.5).sum()), int((y > 0.5).sum())
    extra: dict[str, float | None] = {
        "win_rate": raw.point,
        "standard_error": float(100 * y.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        "discrete_win_rate": 100 * (won + 0.5 * draws) / n if n else None,
    }
    counts = {"n_wins": won, "n_wins_base": n - won - draws, "n_draws": draws}
    return raw, extra, {"win_rate": raw.as_dict(), **counts, "datasets": _by_dataset(rows)}


def question_key(instruction: str) -> str:
    """A short name of an instruction, the same in every run."""
    return sha256(instruction.encode("utf-8")).hexdigest()[:12]


def _length_controlled(
    model: str, rows: Sequence[PreferenceRow], side: SideFiles | None, options: ScoreOptions
) -> lc.LengthControlled | None:
    """None when the files hold no texts (no lengths, no length control) or no verdict."""
    kept = [r for r in rows if not math.isnan(r.win)]
    if not kept or any(math.isnan(r.length_model + r.length_baseline) for r in kept):
        return None
    y = np.array([r.win for r in kept])
    gap = np.array([r.length_baseline - r.length_model for r in kept])
    difficulty = _difficulty(kept, side, options.align) if side else np.zeros(len(kept))
    gamed = side.gamed if side else lc.GamedRows()
    c = _choose_c(model, lc.build_problem(y, gap, difficulty, gamed), side, options)
    return lc.length_controlled(
        y, gap, difficulty, gamed, c=c, resamples=options.lc_resamples, level=options.level, seed=options.seed
    )


def _difficulty(rows: Sequence[PreferenceRow], side: SideFiles, align: str) -> FloatArray:
    """Difficulty of each row: of its instruction, or (as upstream does) of the instruction at its position."""
    known = len(side.difficulty)
    if align == "instruction" and side.index:
        missing = next((r for r in rows if r.instruction not in side.index), None)
        if missing is not None:
            raise DataError(
                f"not one of the benchmark: {missing.instruction[:60]!r}; --align position looks difficulty up by row",
                file=missing.file,
                row=missing.row,
                field="instruction",
            )
        places = [side.index[r.instruction] for r in rows]
    else:
        places = [r.position for r in rows]
        if align == "instruction" and places != list(range(known)):
            raise DataError(
                f"{rows[0].model}: {len(rows)} of {known} rows, and the side files list no instructions to align "
                "them by; --align position looks difficulty up by row",
                file=rows[0].file,
            )
    if max(places) >= known:
        message = f"{rows[0].model}: row {max(places) + 1} has no difficulty; the side files hold {known} values"
        raise DataError(message, file=rows[0].file)
    return np.asarray(side.difficulty[np.array(places)], dtype=np.float64)


def _choose_c(model: str, problem: lc.Problem, side: SideFiles | None, options: ScoreOptions) -> float:
    """The table's C, else the C that gives the model's published weights back, else the fallback of the grid."""
    if options.lc_c == "cv":
        return lc.choose_c(problem)
    if options.lc_c != "published":
        return float(options.lc_c)
    if side is not None and model in side.c:
        return side.c[model]
    if side is not None and model in side.weights and np.any(side.weights[model] != 0):
        return lc.nearest_c(problem, side.weights[model])
    return lc.FALLBACK_C


def _one_baseline(rows: Sequence[PreferenceRow], wanted: str) -> str:
    """The baseline of all rows. Exchanged outputs would give a plausible but wrong score: they stop here."""
    expected = wanted or next((b for b in KNOWN_BASELINES if any(r.baseline == b for r in rows)), rows[0].baseline)
    for row in rows:
        if row.baseline != expected:
            flipped = row.model == expected or (not wanted and row.model in KNOWN_BASELINES)
            hint = "the outputs are in exchanged places" if flipped else "score each baseline separately"
            message = f"is '{row.baseline}', not the baseline '{expected}'; {hint}"
            raise DataError(message, file=row.file, row=row.row, field="generator_1")
        if not wanted and row.model in KNOWN_BASELINES and row.baseline not in KNOWN_BASELINES:
            message = (
                f"is the baseline '{row.model}' and '{row.baseline}' stands in its place: the outputs are in exchanged "
                "places (or name the baseline with --baseline)"
            )
            raise DataError(message, file=row.file, row=row.row, field="generator_2")
    return expected


def _by_dataset(rows: Sequence[PreferenceRow]) -> dict[str, dict[str, float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.dataset and not math.isnan(row.win):
            found.setdefault(row.dataset, []).append(row.win)
    return {name: {"win_rate": 100 * float(np.mean(v)), "n": len(v)} for name, v in found.items()}
