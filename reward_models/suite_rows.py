"""The rows of the suites' own files, every one of them, and the suites' rules for judges.

Readers of preference data drop empty and identical responses; published scores count these rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prefeval.data.tables import Row, read_tables
from prefeval.oracle import Oracle, TwoOrders, logit
from prefeval.seeds import rng
from prefeval.types import Comparison, FloatArray, PairLabel, PreferenceRecord, Prompt

_SIZES = {"rewardbench": 1, "rm-bench": 3, "judgebench": 1}  # responses on either side of a row


def read_suite(suite: str, spec: str, columns: Mapping[str, str] | None = None) -> list[PreferenceRecord]:
    """The items of a suite from a file, a directory or a hub id, right responses first; equal texts stay apart.

    `meta` holds subset (rewardbench, rewardbench2), domain (rm-bench) or source (judgebench), and `chosen` and
    `rejected`, the indices of either side. RM-Bench's pairs are those of the same style. Raises DataError naming
    row and field.
    """
    return [_item(suite, row) for table in read_tables(spec, columns) for row in table]


def ask(oracle: Oracle, items: Sequence[PreferenceRecord]) -> tuple[list[FloatArray], FloatArray | None]:
    """Log-odds (k, k) of every item; of oracles that answer by order, for items of two, also both orders (n, 2).

    The second is P(right beats wrong) with the right response shown first, then second. Each question is asked once.
    """
    if isinstance(oracle, TwoOrders) and all(len(item.responses) == 2 for item in items):
        both = oracle.ordered([_question(item) for item in items])
        p = both.mean(axis=1)  # NaN where either order failed
        return [_table(item, q) for item, q in zip(items, p, strict=True)], both
    return oracle.scores([item.prompt for item in items], [item.responses for item in items]), None


def judged(suite: str, items: Sequence[PreferenceRecord], both: FloatArray, seed: int) -> tuple[list[FloatArray], str]:
    """What a judge's two orders are worth by the suite's rule, one number an item, and a note that says so."""
    if suite == "rewardbench":
        column = np.array([rng("one order", seed, item.id).random() < 0.5 for item in items]).astype(int)
        p = both[np.arange(len(items)), column]
        hits = np.where(np.isnan(p), 0.5, 0.5 * (1.0 + np.sign(p - 0.5)))
        note = f"Judges: one random order an item; ties and failures are one half ({int(np.isnan(p).sum())} failed)."
    else:
        hits = two_games(both)
        failed = int(np.isnan(both).sum())
        note = (
            f"Judges: two orders an item, right if together they side with the label ({failed} failed count as ties)."
        )
    return [np.asarray(hit) for hit in hits], note


def two_games(both: FloatArray) -> FloatArray:
    """JudgeBench's rule: +1 for a game that agrees with the label, -1 opposite, 0 tie or failure; right if sum > 0.

    `both` (n, 2) is P(the labelled winner beats the other) in either order (arXiv 2410.12784).
    """
    return np.asarray((np.nan_to_num(np.sign(both - 0.5)).sum(axis=1) > 0).astype(np.float64))


def _question(item: PreferenceRecord) -> Comparison:
    label = item.pairs[0]
    first, second = (label.i, label.j) if label.p > 0.5 else (label.j, label.i)
    return Comparison(item.prompt, item.responses[first], item.responses[second])


def _table(item: PreferenceRecord, p: float) -> FloatArray:
    label = item.pairs[0]
    table = logit(np.array([[0.5, p], [1.0 - p, 0.5]]))
    return table if (label.i == 0) == (label.p > 0.5) else table.T


def _item(suite: str, row: Row) -> PreferenceRecord:
    if suite == "judgebench":
        right, wrong = _judgebench_sides(row)
    else:
        right, wrong = _texts(row, "chosen"), _texts(row, "rejected")
    size = _SIZES.get(suite)
    if size is not None and (len(right), len(wrong)) != (size, size):
        raise row.fail(f"{suite} has {size} chosen and {size} rejected, not {len(right)} and {len(wrong)}", "chosen")
    k, m = len(right), len(wrong)
    pairs = [PairLabel(i, k + j) for i in range(k) for j in range(m) if suite != "rm-bench" or i == j]
    group = {"rm-bench": "domain", "judgebench": "source"}.get(suite, "subset")
    meta = {group: row.text(group), "chosen": list(range(k)), "rejected": list(range(k, k + m))}
    messages = row.messages("question" if suite == "judgebench" else "prompt")
    id = row.record_id()
    return PreferenceRecord(id, Prompt(id, messages), (*right, *wrong), tuple(pairs), meta=meta)


def _texts(row: Row, name: str) -> list[str]:
    value = row.get(name)
    if isinstance(value, list) and value and isinstance(value[0], str):
        if not all(isinstance(text, str) for text in value):
            raise row.fail("must be a list of texts", name)
        return list(value)
    return [row.response(name)]


def _judgebench_sides(row: Row) -> tuple[list[str], list[str]]:
    label = row.text("label")
    if label not in ("A>B", "B>A"):
        raise row.fail(f"must be 'A>B' or 'B>A', not {label!r}", "label")
    a, b = [row.response("response_A")], [row.response("response_B")]
    return (a, b) if label == "A>B" else (b, a)
