"""Any judge as an oracle: both orders are asked and averaged, so that a preference for a position cancels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from prefeval.api import map_async
from prefeval.judges.base import Judge, JudgeTask, Verdict
from prefeval.oracle import Group, MatrixOracle
from prefeval.types import Comparison, FloatArray, Message, Prompt

TaskBuilder = Callable[[Comparison], JudgeTask]

SYSTEM = (
    "You compare two replies to the same conversation. Weigh correctness first, then how well each reply does what was "
    "asked, then clarity. Neither the order of the replies nor their length is a merit. Explain your decision in a few "
    "sentences, then end with exactly one of these labels on a line of its own:\n"
    "[[A>>B]] reply A is clearly better\n[[A>B]] reply A is slightly better\n[[A=B]] they are about equal\n"
    "[[B>A]] reply B is slightly better\n[[B>>A]] reply B is clearly better"
)


@dataclass(frozen=True)
class Consistency:
    """How a judge behaved under exchange of the two replies, over the pairs that it was asked in both orders.

    `flipped`: the two orders named different winners (a tie and a winner differ too). `ties`, `decided` and
    `decided_first` (the reply shown first won) count single verdicts of the pairs that were answered in both orders.
    """

    pairs: int = 0
    failed: int = 0
    flipped: int = 0
    ties: int = 0
    decided: int = 0
    decided_first: int = 0

    @property
    def consistent(self) -> float:
        """Share of the answered pairs with the same winner in both orders; NaN without any."""
        answered = self.pairs - self.failed
        return 1.0 - self.flipped / answered if answered else math.nan

    @property
    def first_shown(self) -> float:
        """Share of all verdicts that went to the reply shown first; NaN without any."""
        answered = self.ties + self.decided
        return self.decided_first / answered if answered else math.nan

    def as_dict(self) -> dict[str, float | int | None]:
        """Counts and shares; a share without anything behind it is None."""
        shares = {
            "consistent": self.consistent,
            "first_shown": self.first_shown,
            "first_of_decided": self.first_of_decided,
        }
        known = {name: None if math.isnan(value) else value for name, value in shares.items()}
        return {**asdict(self), **known}

    @property
    def first_of_decided(self) -> float:
        """The same among the verdicts that were no tie: 0.5 without a position bias."""
        return self.decided_first / self.decided if self.decided else math.nan


class JudgeOracle(MatrixOracle):
    """P(i beats j) = (P(first wins | i, j) + 1 - P(first wins | j, i)) / 2; NaN where either order failed.

    Pairs of identical texts are 0.5 without a call. `consistency` tells of all the calls made so far. Raises what the
    judge raises (a missing key, an unusable address), not what it reports as a verdict's error.
    """

    def __init__(self, judge: Judge, *, build: TaskBuilder | None = None, concurrency: int = 8) -> None:
        self.judge, self.concurrency = judge, concurrency
        self.name = f"judge:{judge.id}"
        self.consistency = Consistency()
        self._build = build or comparison_task

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        pairs: dict[tuple[Prompt, str, str], int] = {}
        for prompt, group in zip(prompts, groups, strict=True):
            for a, b in _text_pairs(group):
                pairs.setdefault((prompt, a, b), len(pairs))
        both = self._both([Comparison(*key) for key in pairs])
        p = [_average(one, other) for one, other in both]
        return [self._table(prompt, group, pairs, p) for prompt, group in zip(prompts, groups, strict=True)]

    def ordered(self, items: Sequence[Comparison]) -> FloatArray:
        """P(first beats second) with `first` shown first, then with it shown second: (n, 2), NaN where it failed."""
        return _ordered(self._both(items))

    def _both(self, items: Sequence[Comparison]) -> list[tuple[Verdict, Verdict]]:
        tasks = [self._build(c) for item in items for c in (item, item.swap())]
        title = f"judging with {self.judge.id}"
        verdicts = map_async(self.judge.rule, tasks, concurrency=self.concurrency, title=title)
        both = [(verdicts[2 * i], verdicts[2 * i + 1]) for i in range(len(items))]
        self.consistency = tally_orders(self.consistency, _ordered(both))
        return both

    def _table(
        self, prompt: Prompt, group: Group, pairs: dict[tuple[Prompt, str, str], int], p: list[float]
    ) -> FloatArray:
        table = np.full((len(group), len(group)), 0.5)
        for i in range(len(group)):
            for j in range(i + 1, len(group)):
                if group[i] == group[j]:
                    continue
                a, b = sorted((group[i], group[j]))
                value = p[pairs[(prompt, a, b)]]
                table[i, j] = value if group[i] == a else 1.0 - value
                table[j, i] = 1.0 - table[i, j]
        return table


def comparison_task(item: Comparison) -> JudgeTask:
    """The question that `judge:` oracles ask: five labels, so that a verdict is one of 1, 0.75, 0.5, 0.25, 0."""
    turns = "\n\n".join(f"<|{m.role}|>\n{m.content}" for m in item.prompt.messages)
    body = (
        f"<|The Conversation|>\n{turns}\n<|End of the Conversation|>\n\n"
        f"<|Reply A|>\n{item.first}\n<|End of Reply A|>\n\n<|Reply B|>\n{item.second}\n<|End of Reply B|>"
    )
    messages = (Message("system", SYSTEM), Message("user", body))
    digest = hashlib.sha256(f"{item.first}\x1f{item.second}".encode()).hexdigest()[:12]
    return JudgeTask(f"{item.prompt.id}/{digest}", item.prompt, item.first, item.second, messages, "arena_v2")


def _text_pairs(group: Group) -> list[tuple[str, str]]:
    """The unordered pairs of different texts, each in sorted order: one question whatever order a group has."""
    texts = sorted(set(group))
    return [(a, b) for i, a in enumerate(texts) for b in texts[i + 1 :]]


def _ordered(both: Sequence[tuple[Verdict, Verdict]]) -> FloatArray:
    one = np.array([a.p_first for a, _ in both], dtype=np.float64)  # None becomes NaN
    other = np.array([b.p_first for _, b in both], dtype=np.float64)
    return np.stack([one, 1.0 - other], axis=1)


def _average(one: Verdict, other: Verdict) -> float:
    if one.p_first is None or other.p_first is None:
        return math.nan
    return 0.5 * (one.p_first + 1.0 - other.p_first)


def tally_orders(before: Consistency, ordered: FloatArray) -> Consistency:
    """`before` with the pairs of `ordered` (n, 2) counted in: what `TwoOrders.ordered` gives, NaN where it failed."""
    known = ordered[~np.isnan(ordered).any(axis=1)]
    sides = np.sign(known - 0.5) * np.array([1.0, -1.0])  # +1: the reply shown first won
    return Consistency(
        pairs=before.pairs + len(ordered),
        failed=before.failed + len(ordered) - len(known),
        flipped=before.flipped + int(np.sum(sides[:, 0] != -sides[:, 1])),
        ties=before.ties + int(np.sum(sides == 0)),
        decided=before.decided + int(np.sum(sides != 0)),
        decided_first=before.decided_first + int(np.sum(sides > 0)),
    )
