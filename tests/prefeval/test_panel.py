"""Panels of judges: the combined verdict against sums done by hand, the quorum, what is kept and what is spent."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_server import FakeServer, ok, status

from leaderboard.benchmarks.base import Judged
from leaderboard.judge_specs import open_judge
from leaderboard.verdicts import Journal, judge_tasks, member_failures
from prefeval.api import map_async
from prefeval.api_faults import SPENDING_CAP
from prefeval.api_types import Limits
from prefeval.errors import ConfigError
from prefeval.files import dumps
from prefeval.judges.base import Judge, JudgeTask, Verdict
from prefeval.judges.panel import PanelJudge, combine
from prefeval.judges.parse import label_of
from prefeval.types import Message, Prompt


def task(parser: str = "mt_pair", second: str | None = "b") -> JudgeTask:
    return JudgeTask("t", Prompt.from_text("q", id="p"), "a", second, (Message("user", "which?"),), parser)


def said(*ps: float | None) -> list[Verdict]:
    return [
        Verdict("t", f"j{i}", p_first=p, label=None if p is None else "x", error="HTTP 500" if p is None else None)
        for i, p in enumerate(ps)
    ]


@pytest.mark.parametrize(
    ("parser", "votes", "p", "label"),
    [
        ("alpaca_logprob", (0.9, 0.2, 0.1), 0.4, "M"),  # a soft protocol: the mean decides
        ("alpaca_logprob", (0.9, 0.4, 0.4), 1.7 / 3, "m"),
        ("mt_pair", (1.0, 1.0, 0.0), 2 / 3, "A"),
        ("mt_pair", (1.0, 0.0), 0.5, "C"),  # no majority: what lies nearest to the mean
        ("mt_pair", (1.0, 0.5, 0.5), 2 / 3, "C"),
        ("arena_v2", (1.0, 0.25, 0.25), 0.5, "B>A"),  # the majority stands, although the mean is a tie
        ("arena_v2", (1.0, 0.75, 0.25), 2 / 3, "A>B"),
        ("arena_v2", (1.0, 0.25), 0.625, "A>B"),  # half-way: away from the tie, whichever was shown first
        ("arena_v2", (0.0, 0.75), 0.375, "B>A"),
    ],
)
def test_the_combined_verdict(parser: str, votes: tuple[float, ...], p: float, label: str) -> None:
    found = combine(task(parser), "panel", said(*votes))
    assert found.p_first == pytest.approx(p)
    assert (found.label, found.error, len(found.members)) == (label, None, len(votes))


def test_half_way_labels_favour_no_position() -> None:
    mirror = {"A>>B": "B>>A", "A>B": "B>A", "A=B": "A=B", "B>A": "A>B", "B>>A": "A>>B"}
    for eighths in range(9):
        assert mirror[label_of("arena_v2", eighths / 8)] == label_of("arena_v2", 1 - eighths / 8)


def test_grades_are_averaged() -> None:
    grades = [Verdict("t", "a", grade=7.0), Verdict("t", "b", grade=8.5), Verdict("t", "c", error="refused")]
    found = combine(task("mt_grade", None), "panel", grades)
    assert (found.grade, found.label, found.p_first) == (7.75, "7.75", None)


@pytest.mark.parametrize(
    ("votes", "p"),
    [((1.0, None), None), ((1.0, None, None), None), ((1.0, 0.5, None), 0.75), ((1.0, 0.5, None, None), None)],
)
def test_more_than_half_must_have_ruled(votes: tuple[float | None, ...], p: float | None) -> None:
    found = combine(task(), "panel", said(*votes))
    assert found.p_first == p
    assert (found.reason == "no quorum") == (p is None)
    if p is None:
        assert found.label is None
        assert "HTTP 500" in (found.error or "")


def test_a_member_that_was_not_asked_leaves_the_verdict_missing() -> None:
    capped = Verdict("t", "c", error="not sent: the cap", reason=SPENDING_CAP)
    assert combine(task(), "panel", [*said(1.0, 1.0), capped]).reason == SPENDING_CAP


class Stub:
    def __init__(self, id: str, verdict: Mapping[str, Any]) -> None:
        self.id, self.verdict = id, verdict

    async def rule(self, task: JudgeTask) -> Verdict:
        return Verdict(task.id, self.id, **self.verdict)


def test_the_journal_keeps_the_members_and_failed_ones_are_counted(tmp_path: Path) -> None:
    broken = Stub("c", {"error": "HTTP 500: down", "reason": "server error"})
    panel = PanelJudge([Stub("a", {"p_first": 1.0, "label": "A"}), Stub("b", {"p_first": 0.5, "label": "C"}), broken])
    assert isinstance(panel, Judge)
    judged = judge_tasks(panel, [task()], Journal(tmp_path / "j.jsonl"))
    assert member_failures(judged) == {"c": {"server error": 1}}
    again = Journal(tmp_path / "j.jsonl").verdicts
    assert list(again.values()) == [judged[0].verdict]
    assert [v.p_first for v in judged[0].verdict.members] == [1.0, 0.5, None]
    assert Verdict.from_json(json.loads(dumps(asdict(judged[0].verdict)))) == judged[0].verdict
    assert member_failures([Judged(task(), Verdict("t", "j", p_first=1.0))]) == {}


def test_a_panel_of_two_servers_and_a_rule(tmp_path: Path) -> None:
    with FakeServer("[[A]]") as one, FakeServer(script=[status(400, "no")] * 2) as other:
        spec = f"panel:judge:x+y@{one.base_url}+judge:z@{other.base_url}+rules:longer"
        judge = open_judge(spec, tmp_path / "s.sqlite")
        assert judge.id == "panel:x+y+z+rules:longer"
        (found,) = map_async(judge.rule, [task()])
    assert [(v.judge, v.label) for v in found.members] == [("x+y", "A"), ("z", None), ("rules:longer", "C")]
    assert found.p_first == 0.75
    assert "[x+y] A\n[[A]]" in found.raw
    assert "[z] HTTP 400: no" in found.raw


def test_members_share_the_spending_cap(tmp_path: Path) -> None:
    """Each call is held at 2048 tokens of $1 a million and costs 10: one member alone would never reach the cap."""
    limits = Limits(concurrency=1, max_cost=0.0045, price=(0.0, 1.0))
    with FakeServer(lambda body: ok("[[A]]")) as server:
        judge = open_judge(f"panel:judge:a@{server.base_url}+judge:b@{server.base_url}", None, limits)
        assert isinstance(judge, PanelJudge)
        budgets = {id(m.client._budget) for m in judge.members}  # type: ignore[attr-defined]
        map_async(judge.rule, [task()])
        assert [m.client.spent for m in judge.members] == [2e-5, 2e-5]  # type: ignore[attr-defined]
    assert len(budgets) == 1


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("panel:judge:a@http://h/v1", "SPEC\\+SPEC"),
        ("panel:rules:longer+rules:longer", "named twice"),
        ("panel:rules:longer+panel:rules:shorter", "single judges"),
        ("panel:ensemble:rules:longer+rules:shorter", "single judges"),
        ("panel:rules:longer+ruels:shorter", "did you mean 'rules'"),
    ],
)
def test_unusable_panels(spec: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        open_judge(spec)


def test_long_names_make_a_short_id() -> None:
    panel = PanelJudge([Stub("a" * 80, {}), Stub("b" * 80, {})])
    assert len(panel.id) < 40
    assert panel.id != PanelJudge([Stub("a" * 80, {}), Stub("c" * 80, {})]).id
