"""AlpacaEval's table: raw and length-controlled win rates from verdict rows (reference/benchmarks.md 1.4-1.8)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from leaderboard import length_control as lc
from leaderboard.lc_bootstrap import LengthControlled, length_controlled
from leaderboard.preferences import IntArray, PreferencePool, Preferences
from leaderboard.scoring import ScoreOptions, warn_of_judges
from leaderboard.side_files import BASELINE, SideFiles
from leaderboard.table import Table, TableRow, make_table
from prefeval.errors import DataError
from prefeval.log import logger, progress
from prefeval.stats import Estimate, bootstrap_mean, resample_counts
from prefeval.types import FloatArray

FIRST_BASELINE = "text_davinci_003"  # of AlpacaEval 1, whose score is the raw win rate
KNOWN_BASELINES = (BASELINE, FIRST_BASELINE)
NO_LENGTHS = "No length control: the files hold no answers (or no verdict) of these models, so the score is raw: "


@dataclass(frozen=True)
class _Setting:
    """What all models are scored with. `counts` (R, questions of the pool) are the resamples that they share; None for
    a pool whose models answered different questions, so that each is resampled on its own and none are compared."""

    pool: PreferencePool
    side: SideFiles | None
    controlled: bool
    options: ScoreOptions
    keys: tuple[str, ...]
    counts: FloatArray | None


def score_preferences(
    pool: PreferencePool, side: SideFiles | None, options: ScoreOptions, *, benchmark: str = "alpaca_eval"
) -> Table:
    """AlpacaEval: LC win rate (score) and raw win rate in percent. Raises DataError for mixed or exchanged baselines.

    With side files and the official baseline the published formula is used; other data sets have no difficulty and no
    gamed rows and get the length term and the constant only. The official benchmark without side files has no LC, and
    neither has AlpacaEval 1, which never had it. All models are resampled alike, so that their draws can be compared.
    """
    baseline = _one_baseline(pool, options.baseline)
    known = KNOWN_BASELINES if benchmark == "alpaca_eval" else ()
    custom = baseline not in known
    if baseline == BASELINE and side is not None and side.index and not any(q in side.index for q in pool.questions):
        custom = True  # another question set against the same baseline
    first = not custom and baseline == FIRST_BASELINE
    notes = []
    if first:
        notes.append("AlpacaEval 1 (baseline text_davinci_003): the score is the raw win rate, as its protocol has it.")
    elif custom:
        notes.append("Length control without instruction difficulty and gamed rows: this is not the published set-up.")
    elif side is None:
        notes.append("No length control: the side files were not given (--data); the score is the raw win rate.")
        logger.warning(notes[-1])
    warn_of_judges({g.judge for g in pool.groups})
    controlled = custom or (not first and side is not None)
    keys = tuple(question_key(q) for q in pool.questions)
    counts = _shared_counts(pool, options) if controlled else None
    setting = _Setting(pool, None if custom or first else side, controlled, options, keys, counts)
    table_rows = []
    with progress("length control", len(pool.groups)) as bar:
        for group in pool.groups:
            table_rows.append(_preference_row(group, setting))
            bar.advance()
    raw = [r.name for r in table_rows if controlled and "lc_win_rate" not in r.extra]
    notes += [NO_LENGTHS + ", ".join(raw)] if raw else []
    extreme = [r.name for r in table_rows if r.breakdown.get("lc_extreme")]
    if extreme:
        notes.append(f"Length control moves these scores unusually far: {', '.join(extreme)}.")
    return make_table(benchmark, "alpaca_eval", table_rows, notes, level=options.level)


def _preference_row(group: Preferences, setting: _Setting) -> TableRow:
    options, side = setting.options, setting.side
    raw, extra, breakdown = _raw_columns(group, setting)
    score, draws = raw, {}
    found = _length_controlled(group, setting) if setting.controlled else None
    if found is not None:
        extra |= {"lc_win_rate": found.rate, "lc_low": found.low, "lc_high": found.high, "lc_c": found.c}
        score = Estimate(found.rate, found.low, found.high, raw.n, raw.n_failed)
        draws = {"lc_win_rate": found.draws} if setting.counts is not None else {}
        low, high = min(0.75 * raw.point, raw.point - 10), max(raw.point + (100 - raw.point) / 4, raw.point + 10)
        breakdown |= {
            "lc_standard_error": found.spread,
            "lc_weights": found.weights.tolist(),
            "lc_violation": found.violation,
            "lc_extreme": not low <= found.rate <= high,
        }
    lengths = group.length_model[~np.isnan(group.length_model)]
    return TableRow(
        name=group.model,
        score=score,
        judge=group.judge,
        avg_length=float(int(lengths.mean())) if len(lengths) else None,
        template_hash=options.template_hash,
        data_revision=options.data_revision or (side.revision if side else ""),
        extra=extra,
        outcomes={setting.keys[q]: w for q, w in zip(group.question.tolist(), group.win.tolist(), strict=True)},
        breakdown=breakdown,
        draws=draws,
    )


def _raw_columns(group: Preferences, setting: _Setting) -> tuple[Estimate, dict[str, float | None], dict[str, Any]]:
    """The raw win rate in percent with its interval, the columns that go with it, and the counts behind it."""
    options = setting.options
    raw = bootstrap_mean(group.win, resamples=options.resamples, level=options.level, seed=options.seed).scaled(100.0)
    y = group.win[~np.isnan(group.win)]
    n, draws, won = len(y), int((y == 0.5).sum()), int((y > 0.5).sum())
    extra: dict[str, float | None] = {
        "win_rate": raw.point,
        "standard_error": float(100 * y.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        "discrete_win_rate": 100 * (won + 0.5 * draws) / n if n else None,
    }
    counts = {"n_wins": won, "n_wins_base": n - won - draws, "n_draws": draws}
    return raw, extra, {"win_rate": raw.as_dict(), **counts, "datasets": _by_dataset(group, setting.pool)}


def question_key(instruction: str) -> str:
    """A short name of an instruction, the same in every run."""
    return sha256(instruction.encode("utf-8")).hexdigest()[:12]


def _length_controlled(group: Preferences, setting: _Setting) -> LengthControlled | None:
    """None when the files hold no texts (no lengths, no length control) or no verdict."""
    options, side = setting.options, setting.side
    kept = np.flatnonzero(~np.isnan(group.win))
    gap = (group.length_baseline - group.length_model)[kept]
    if not len(kept) or np.isnan(gap).any():
        return None
    y = group.win[kept]
    difficulty = _difficulty(group, kept, setting.pool, side, options.align) if side else np.zeros(len(kept))
    gamed = side.gamed if side else lc.GamedRows()
    c = _choose_c(group.model, lc.build_problem(y, gap, difficulty, gamed), side, options)
    counts = setting.counts
    if counts is None:
        counts = resample_counts(len(kept), options.resamples, options.seed)
    elif len(kept) < counts.shape[1] or np.any(group.question[kept] != np.arange(len(kept))):
        counts = counts[:, group.question[kept]]
    return length_controlled(y, gap, difficulty, gamed, counts, c=c, level=options.level)


def _shared_counts(pool: PreferencePool, options: ScoreOptions) -> FloatArray | None:
    """The resamples of all questions, unless most models answered only a small part of them."""
    sizes = [len(group.question) for group in pool.groups]
    if 2 * float(np.median(sizes)) < len(pool.questions):
        return None
    return resample_counts(len(pool.questions), options.resamples, options.seed)


def _difficulty(group: Preferences, kept: IntArray, pool: PreferencePool, side: SideFiles, align: str) -> FloatArray:
    """Difficulty of each row: of its instruction, or (as upstream does) of the instruction at its position."""
    known = len(side.difficulty)
    file = pool.files[group.file[kept[0]]]
    if align == "instruction" and side.index:
        texts = [pool.questions[q] for q in group.question[kept]]
        missing = next((i for i, text in enumerate(texts) if text not in side.index), None)
        if missing is not None:
            raise DataError(
                f"not one of the benchmark: {texts[missing][:60]!r}; --align position looks difficulty up by row",
                file=pool.files[group.file[kept[missing]]],
                row=int(group.row[kept[missing]]),
                field="instruction",
            )
        places = np.array([side.index[text] for text in texts])
    else:
        places = group.position[kept]
        if align == "instruction" and not np.array_equal(places, np.arange(known)):
            raise DataError(
                f"{group.model}: {len(places)} of {known} rows, and the side files list no instructions to align "
                "them by; --align position looks difficulty up by row",
                file=file,
            )
    if places.max() >= known:
        message = f"{group.model}: row {places.max() + 1} has no difficulty; the side files hold {known} values"
        raise DataError(message, file=file)
    return np.asarray(side.difficulty[places], dtype=np.float64)


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


def _one_baseline(pool: PreferencePool, wanted: str) -> str:
    """The baseline of all rows. Exchanged outputs would give a plausible but wrong score: they stop here."""
    expected = wanted or next((b for b in KNOWN_BASELINES if b in pool.baselines), pool.baselines[0])
    for group in pool.groups:
        first = next((i for i, b in enumerate(group.baseline) if pool.baselines[b] != expected), None)
        if first is not None:
            baseline = pool.baselines[group.baseline[first]]
            flipped = group.model == expected or (not wanted and group.model in KNOWN_BASELINES)
            hint = "the outputs are in exchanged places" if flipped else "score each baseline separately"
            message = f"is '{baseline}', not the baseline '{expected}'; {hint}"
            raise _named(message, pool, group, first, "generator_1")
        if not wanted and group.model in KNOWN_BASELINES and expected not in KNOWN_BASELINES:
            message = (
                f"is the baseline '{group.model}' and '{expected}' stands in its place: the outputs are in exchanged "
                "places (or name the baseline with --baseline)"
            )
            raise _named(message, pool, group, 0, "generator_2")
    return expected


def _named(message: str, pool: PreferencePool, group: Preferences, place: int, field: str) -> DataError:
    return DataError(message, file=pool.files[group.file[place]], row=int(group.row[place]), field=field)


def _by_dataset(group: Preferences, pool: PreferencePool) -> dict[str, dict[str, float]]:
    kept = ~np.isnan(group.win)
    n = np.bincount(group.dataset[kept], minlength=len(pool.datasets))
    won = np.bincount(group.dataset[kept], group.win[kept], len(pool.datasets))
    return {
        name: {"win_rate": 100 * float(won[i] / n[i]), "n": int(n[i])}
        for i, name in enumerate(pool.datasets)
        if name and n[i]
    }
