"""A panel of judges: all of them rule a task, and what they say becomes one verdict that keeps theirs."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from prefeval.api_faults import INTERRUPTED, SPENDING_CAP
from prefeval.errors import ConfigError
from prefeval.files import sha256_json
from prefeval.judges.base import NO_QUORUM, Judge, JudgeTask, Verdict
from prefeval.judges.from_oracle import OracleJudge
from prefeval.judges.parse import label_of

PANEL = "panel:"
_SOFT = ("alpaca_logprob", "alpaca_text")  # protocols that score the probability itself; the others score the label
_LONGEST_ID = 100  # characters: the judge's id becomes a file name
# not asked is not failed: the verdict is left for the next run, which asks the whole panel
_NOT_ASKED = (SPENDING_CAP, INTERRUPTED)


class PanelJudge:
    """Several judges as one (the rules are those of `combine`). Members are asked at the same time."""

    def __init__(self, members: Sequence[Judge]) -> None:
        if len(members) < 2:
            raise ConfigError(f"a panel needs at least two judges, not {len(members)}")
        self.members = tuple(members)

    @property
    def id(self) -> str:
        ids = [member.id for member in self.members]
        joined = f"{PANEL}{'+'.join(ids)}"
        return joined if len(joined) <= _LONGEST_ID else f"{PANEL}{len(ids)}-judges+{sha256_json(ids)[:8]}"

    async def rule(self, task: JudgeTask) -> Verdict:
        """One verdict of the whole panel; a member's exception (an unusable key) stops it."""
        return combine(task, self.id, await asyncio.gather(*(member.rule(task) for member in self.members)))


def combine(task: JudgeTask, judge: str, members: Sequence[Verdict]) -> Verdict:
    """The members' verdicts as one, over those that gave one:

        p_first, grade   the mean
        label            where the protocol scores a label: the one with the most votes (A>B and B<A are one); where
                         several have as many, the one nearest to the mean p_first. Else that of the mean.

    Quorum: more than half of the members must have given a verdict, otherwise there is none. Failed members count for
    nothing but stay in `members` with their error. A member that was not asked (spending cap, Ctrl-C) leaves the
    verdict missing.
    """
    given = [v for v in members if v.error is None]
    whole = Verdict(
        task.id,
        judge,
        raw="\n\n".join(f"[{v.judge}] {v.label or v.error}\n{v.raw}".rstrip() for v in members),
        prompt_tokens=sum(v.prompt_tokens for v in members),
        completion_tokens=sum(v.completion_tokens for v in members),
        cost=sum(v.cost for v in members),
        members=tuple(members),
    )
    waiting = next((v for v in members if v.reason in _NOT_ASKED), None)
    if waiting is not None:
        return replace(whole, error=waiting.error, reason=waiting.reason)
    quorum = len(members) // 2 + 1
    if len(given) < quorum:
        why = "; ".join(f"{v.judge}: {v.error}" for v in members if v.error is not None)
        error = f"{len(given)} of {len(members)} judges gave a verdict and {quorum} are needed ({why})"
        return replace(whole, error=error, reason=NO_QUORUM)
    if task.second is None:
        grade = sum(v.grade or 0.0 for v in given) / len(given)
        return replace(whole, grade=grade, label=f"{grade:.2f}")
    p = sum(v.p_first or 0.0 for v in given) / len(given)
    return replace(whole, p_first=p, label=_label(task.parser, [v.p_first or 0.0 for v in given], p))


def _label(parser: str, votes: Sequence[float], mean: float) -> str:
    if parser in _SOFT:
        return label_of(parser, mean)
    counts = Counter(label_of(parser, p) for p in votes).most_common()
    alone = len(counts) == 1 or counts[0][1] > counts[1][1]
    return counts[0][0] if alone else label_of(parser, mean)


def open_panel(spec: str, open_member: Callable[[str], Judge]) -> PanelJudge:
    """The panel of 'panel:SPEC+SPEC...', each SPEC a judge or an oracle spec. Raises ConfigError.

    A plus sign splits in front of another kind only, so that names and addresses may hold one. The same spec twice
    would be one reply counted twice, and an ensemble's members cannot be told from the panel's: both are refused.
    """
    specs = re.split(r"\+(?=[a-z]+:(?!//))", spec.removeprefix(PANEL))
    for kind in (PANEL, "ensemble:"):
        if any(s.startswith(kind) for s in specs):
            raise ConfigError(f"'{spec}': a panel's members are single judges, not {kind}...")
    if len(set(specs)) < len(specs):
        raise ConfigError(f"'{spec}': a judge is named twice")
    if len(specs) < 2:
        raise ConfigError(f"'{spec}': write {PANEL}SPEC+SPEC, such as panel:judge:A@URL+judge:B@URL")
    return PanelJudge([open_member(s) for s in specs])


def rules_in_batches(judge: Judge) -> bool:
    """Whether the judge, or a member of the panel, is a preference model: it rules what waits together in one batch."""
    return isinstance(judge, OracleJudge) or (
        isinstance(judge, PanelJudge) and any(isinstance(m, OracleJudge) for m in judge.members)
    )
