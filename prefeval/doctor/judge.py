"""A judge behind an OpenAI-compatible endpoint: does it answer, as asked, and alike in both orders?"""

from __future__ import annotations

import math
from collections.abc import Iterator

from prefeval.doctor.findings import Finding
from prefeval.errors import PrefevalError
from prefeval.types import Comparison, Prompt

_QUESTION = Prompt.from_text("What is the capital of France?")
_GOOD, _BAD = "The capital of France is Paris.", "I like turtles."


def examine_judge(spec: str) -> Iterator[Finding]:
    """Two paid requests: one obvious pair in both orders. `spec` is a chat judge's, with or without 'judge:'."""
    from prefeval.api import run_async
    from prefeval.judges.as_oracle import comparison_task
    from prefeval.judges.specs import open_chat_judge

    try:
        judge = open_chat_judge(spec)
    except PrefevalError as error:
        yield Finding("problem", "judge", str(error))
        return
    wins = []
    for first, second in ((_GOOD, _BAD), (_BAD, _GOOD)):
        verdict = run_async(judge.rule(comparison_task(Comparison(_QUESTION, first, second))))
        if verdict.error:
            yield Finding("problem", "judge", verdict.error, "check the endpoint, the model's name and OPENAI_API_KEY")
            return
        p = verdict.p_first if verdict.p_first is not None else math.nan
        wins.append(p if first == _GOOD else 1.0 - p)
    if any(math.isnan(p) for p in wins):
        yield Finding("problem", "judge", "it answers, but not in the verdict grammar", "use a stronger model")
        return
    text = f"prefers an answer to nonsense with P = {wins[0]:.2f} when shown first and {wins[1]:.2f} when shown second"
    good = min(wins) > 0.5
    remedy = "" if good else "a judge that fails this pair cannot tell better answers apart: use a stronger model"
    yield Finding("ok" if good else "problem", "judge", text, remedy)
