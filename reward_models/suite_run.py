"""Running an oracle through a published suite: rows of its own files to items, answers, scores with intervals.

Every row is a test item: nothing is dropped for being empty or repeated, as the published counts include it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefeval.data.tables import Row, read_tables
from prefeval.games import hodge_split
from prefeval.oracle import Oracle, TwoOrders, logit
from prefeval.seeds import rng
from prefeval.stats import percentile_interval, resample_counts
from prefeval.types import Comparison, FloatArray, PairLabel, PreferenceRecord, Prompt
from reward_models import suites

SUITES = ("rewardbench", "rewardbench2", "rm-bench", "judgebench")
_RB1_SUBSETS = {name for section in suites.REWARDBENCH.values() for name in section}
_RB2_SUBSETS = {name.lower() for name in suites.REWARDBENCH2}
_SIZES = {"rm-bench": 3}


@dataclass(frozen=True)
class SuiteAnswers:
    """Log-odds of each item's responses, (k, k); of oracles that answer by order also P(right beats wrong), (n, 2).

    `both` has the right response shown first, then second; None for other oracles and for items of more than two.
    """

    tables: list[FloatArray]
    both: FloatArray | None = None


@dataclass(frozen=True)
class SuiteResult:
    """`rows` of (name, value, low, high), the score last; `notes` say what a reader must know about them."""

    rows: list[dict[str, Any]]
    n: int
    n_dropped: int
    notes: list[str]


def read_suite(name: str, spec: str, columns: dict[str, str] | None = None) -> list[PreferenceRecord]:
    """The items of a suite from its own files: right responses first, every right one beats every wrong one.

    `meta` holds subset and, for the first `correct` responses, their number. Raises DataError naming row and field.
    """
    rows = [row for table in read_tables(spec, columns) for row in table]
    return [_item(name, row) for row in rows]


def ask_suite(oracle: Oracle, items: Sequence[PreferenceRecord]) -> SuiteAnswers:
    """The oracle's answers to every item, each asked once."""
    if isinstance(oracle, TwoOrders) and all(len(item.responses) == 2 for item in items):
        both = oracle.ordered([Comparison(item.prompt, *item.responses) for item in items])
        p = both.mean(axis=1)  # NaN where either order failed
        return SuiteAnswers([logit(np.array([[0.5, q], [1.0 - q, 0.5]])) for q in p], both)
    return SuiteAnswers(oracle.scores([item.prompt for item in items], [item.responses for item in items]))


def run_suite(
    name: str,
    items: Sequence[PreferenceRecord],
    answers: SuiteAnswers,
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> SuiteResult:
    """The suite's published scores, with percentile intervals that resample prompts.

    Of oracles that answer by order (judges, pair models) JudgeBench takes both orders and RewardBench 1, by its rule
    for generative judges, one random order, where a tie or a failed answer is one half.
    """
    tables, both = answers.tables, answers.both
    subset = [str(item.meta["subset"]) for item in items]
    notes: list[str] = []
    statistic: Callable[[FloatArray], suites.Scores]
    if name == "rewardbench":
        result = _rewardbench_results(items, tables, both, seed, notes)
        statistic = lambda counts: suites.rewardbench(result, subset, counts)  # noqa: E731
    elif name == "rewardbench2":
        potentials = [potential(table) for table in tables]
        result = np.array([suites.best_of(u) for u in potentials])
        chosen = [n for n, s in enumerate(subset) if s.lower() == "ties"]
        stats = [(*_tie_id(items[n]), suites.ties_stats(potentials[n], int(items[n].meta["correct"]))) for n in chosen]
        statistic = lambda counts: suites.rewardbench2(result, subset, stats, counts)  # noqa: E731
        notes.append("a response's score is its Hodge potential, the mean log-odds over the responses of its item")
    elif name == "rm-bench":
        wins = np.array([np.where(np.isnan(t[:3, 3:]), np.nan, t[:3, 3:] > 0) for t in tables], dtype=np.float64)
        result = wins.mean(axis=(1, 2))
        statistic = lambda counts: suites.rm_bench(wins, subset, counts)  # noqa: E731
    else:
        result = _judgebench_results(tables, both, notes)
        statistic = lambda counts: suites.judgebench(result, subset, counts)  # noqa: E731
    rows = _with_intervals(statistic, items, resamples, seed)
    absent = [row["name"] for row in rows if row["value"] is None and row["name"] != "score"]
    if absent:
        notes.append(f"no items or answers for {', '.join(absent)}: means that need them are empty")
    return SuiteResult(rows, len(items), int(np.isnan(result).sum()), notes)


def potential(table: FloatArray) -> FloatArray:
    """The Hodge potential u (k,) of log-odds; with all entries known the row means, so that equal rows stay equal."""
    if np.isnan(table).any():
        u, _, _ = hodge_split(table)
        return np.where(np.isnan(table).sum(axis=1) >= len(table) - 1, np.nan, u)
    return np.asarray(table.mean(axis=1), dtype=np.float64)


def _item(name: str, row: Row) -> PreferenceRecord:
    if name == "judgebench":
        right, wrong, subset = _judgebench_row(row)
    else:
        right, wrong = _texts(row, "chosen"), _texts(row, "rejected")
        subset = row.text("domain" if name == "rm-bench" else "subset")
    known = {"rewardbench": _RB1_SUBSETS, "rewardbench2": _RB2_SUBSETS}.get(name)
    if known is not None and (subset if name == "rewardbench" else subset.lower()) not in known:
        raise row.fail(f"'{subset}' is no subset of {name}", "subset")
    if name == "rm-bench" and subset.removesuffix("-refuse").removesuffix("-response") not in suites.RM_BENCH:
        raise row.fail(f"'{subset}' is no domain of RM-Bench", "domain")
    size = _SIZES.get(name, None if name == "rewardbench2" else 1)
    if size is not None and (len(right), len(wrong)) != (size, size):
        raise row.fail(f"needs {size} chosen and {size} rejected, not {len(right)} and {len(wrong)}", "chosen")
    if name == "rewardbench2" and subset.lower() != "ties" and len(right) != 1:
        raise row.fail(f"best-of-n items have one chosen response, not {len(right)}", "chosen")
    k = len(right)
    pairs = tuple(PairLabel(i, k + j) for i in range(k) for j in range(len(wrong)))
    if name == "rm-bench":  # pairs of the same style alone: the other six are easy or hard by construction
        pairs = tuple(PairLabel(i, k + i) for i in range(k))
    messages = row.messages("question" if name == "judgebench" else "prompt")
    id = row.record_id()
    item = PreferenceRecord(id, Prompt(id, messages), (*right, *wrong), pairs, meta={"subset": subset, "correct": k})
    if name == "rewardbench2" and subset.lower() == "ties":
        try:
            _tie_id(item)
        except ValueError:
            raise row.fail(f"a Ties item is called ref:N or tied:N, not {id!r}", "id") from None
    return item


def _texts(row: Row, name: str) -> list[str]:
    value = row.get(name)
    if isinstance(value, list) and value and isinstance(value[0], str):
        if not all(isinstance(text, str) for text in value):
            raise row.fail("must be a list of texts", name)
        return list(value)
    return [row.response(name)]


def _judgebench_row(row: Row) -> tuple[list[str], list[str], str]:
    label = row.text("label")
    if label not in ("A>B", "B>A"):
        raise row.fail(f"must be 'A>B' or 'B>A', not {label!r}", "label")
    a, b = [row.response("response_A")], [row.response("response_B")]
    return (a, b, row.text("source")) if label == "A>B" else (b, a, row.text("source"))


def _tie_id(item: PreferenceRecord) -> tuple[str, str]:
    kind, colon, number = item.id.partition(":")
    if kind not in ("ref", "tied") or not colon or not number:
        raise ValueError(item.id)
    return kind, number


def _rewardbench_results(
    items: Sequence[PreferenceRecord],
    tables: Sequence[FloatArray],
    both: FloatArray | None,
    seed: int,
    notes: list[str],
) -> FloatArray:
    if both is None:
        return np.array([math.nan if np.isnan(t[0, 1]) else float(t[0, 1] > 0) for t in tables])
    column = np.array([rng("one order", seed, item.id).random() < 0.5 for item in items]).astype(int)
    p = both[np.arange(len(items)), column]
    failed = int(np.isnan(p).sum())
    notes.append(f"one random order an item; ties and failed answers are one half, as published ({failed} failed)")
    return np.where(np.isnan(p), 0.5, 0.5 * (1.0 + np.sign(p - 0.5)))


def _judgebench_results(tables: Sequence[FloatArray], both: FloatArray | None, notes: list[str]) -> FloatArray:
    if both is None:
        notes.append("one game an item: this oracle's answer does not depend on the order")
        return np.array([math.nan if np.isnan(t[0, 1]) else float(t[0, 1] > 0) for t in tables])
    failed = int(np.isnan(both).sum())
    notes.append(
        f"two orders an item, right if they together side with the label; {failed} failed orders count as ties"
    )
    return suites.judgebench_correct(both[:, 0], both[:, 1], np.ones(len(both)))


def _with_intervals(
    statistic: Callable[[FloatArray], suites.Scores], items: Sequence[PreferenceRecord], resamples: int, seed: int
) -> list[dict[str, Any]]:
    codes: dict[Any, int] = {}
    index = np.array([codes.setdefault(_cluster(item), len(codes)) for item in items])
    point = statistic(np.ones(len(items)))
    draws = [statistic(counts[index]) for counts in resample_counts(len(codes), resamples, seed)]
    rows = []
    for name, value in point.items():
        values = np.array([draw[name] for draw in draws])
        low, high = percentile_interval(values[~np.isnan(values)]) if math.isfinite(value) else (math.nan, math.nan)
        rows.append({"name": name, "value": _number(value), "low": _number(low), "high": _number(high)})
    return rows


def _cluster(item: PreferenceRecord) -> Any:
    """The prompt; for Ties the number that a prompt with one and a prompt with many right answers share."""
    if str(item.meta["subset"]).lower() == "ties":
        return ("ties", _tie_id(item)[1])
    return item.prompt.messages


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
