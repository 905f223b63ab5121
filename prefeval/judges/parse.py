"""From a judge's raw reply to a verdict: pure functions, so that re-reading stored replies never costs a call.

Each parser follows one benchmark's own rule to the letter, including where that rule is odd: the published numbers
depend on it. Nothing here guesses; a reply that does not hold a verdict gives `Parsed(error=...)`, never a score.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prefeval.chat import strip_reasoning
from prefeval.errors import ConfigError, nearest

Logprobs = Mapping[str, float]  # candidates of the reply's first token -> log-probability in nats


@dataclass(frozen=True)
class Parsed:
    """What a reply says. Exactly one of `p_first`, `grade` and `error` is not None.

    `label` is as the protocol writes it: this is what benchmarks score. For graded labels (A>>B, A>B, ...) `p_first` is
    1, 0.75, 0.5, 0.25, 0, which is meant for oracles.
    """

    p_first: float | None = None
    grade: float | None = None
    label: str | None = None
    error: str | None = None


Parser = Callable[[str, Logprobs | None], Parsed]

ARENA_P = {
    **{"A>>B": 1.0, "B<<A": 1.0, "A>B": 0.75, "B<A": 0.75, "A=B": 0.5, "B=A": 0.5},
    **{"B>A": 0.25, "A<B": 0.25, "B>>A": 0.0, "A<<B": 0.0},
}
_ARENA_SCALE = {"A>>B": 1.0, "A>B": 0.75, "A=B": 0.5, "B>A": 0.25, "B>>A": 0.0}
_CHOICE = {"A": 1.0, "B": 0.0, "C": 0.5}
_MODEL = {"m": 1.0, "M": 0.0}
_DOUBLE, _SINGLE = re.compile(r"\[\[([AB<>=]+)\]\]"), re.compile(r"\[([AB<>=]+)\]")
_GRADE_DOUBLE, _GRADE_SINGLE = re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]")
_LONE_M = re.compile(r"(?<![A-Za-z0-9'’])[mM](?![A-Za-z0-9'’])")
_BRACKETED_CHOICE = re.compile(r"\[\[\s*([ABC]|tie)\s*\]\]", re.IGNORECASE)
_NAMED_CHOICE = re.compile(r"(?i:verdict|answer|winner|choice|assistant|response)\W{0,6}(?i:is\W+)?\b([AB])\b")
_TRACE_OPENS = re.compile(r"<(think|thinking|reasoning)>", re.IGNORECASE)
_TRACE_ENDS = re.compile(r"</(think|thinking|reasoning)>", re.IGNORECASE)


def parse(name: str, raw: str, logprobs: Logprobs | None = None) -> Parsed:
    """Read a raw reply with the parser of that name, behind the reasoning trace it may start with.

    Raises ConfigError for an unknown name.
    """
    if name not in PARSERS:
        hint = nearest(name, PARSERS) or f"; known: {', '.join(PARSERS)}"
        raise ConfigError(f"unknown verdict parser '{name}'{hint}")
    return PARSERS[name](verdict_text(raw), logprobs)


def verdict_text(raw: str) -> str:
    """The reply without a leading reasoning trace; templates that open the trace themselves leave only its end tag.

    A trace that the token limit cut off leaves nothing: whatever it weighed was not yet the verdict.
    """
    text = strip_reasoning(raw) if _TRACE_OPENS.match(raw.lstrip()) else raw
    ends = [found.end() for found in _TRACE_ENDS.finditer(text)]
    return text[ends[-1] :] if ends and not _TRACE_OPENS.search(text) else text


def alpaca_logprob(text: str, logprobs: Logprobs | None) -> Parsed:
    """AlpacaEval 2: p(m) / (p(m) + p(M)) among the candidates that are exactly the token m (first shown) or M."""
    found = {token: value for token, value in (logprobs or {}).items() if token in _MODEL}
    if not found:
        why = "neither token m nor M is among the first token's candidates" if logprobs else "no log-probabilities"
        return Parsed(error=why)
    first, second = found.get("m", -math.inf), found.get("M", -math.inf)
    top = max(first, second)
    if top == -math.inf:
        return Parsed(error="tokens m and M both have probability 0")
    p = math.exp(first - top) / (math.exp(first - top) + math.exp(second - top))
    return Parsed(p_first=p, label="m" if p >= 0.5 else "M")


def alpaca_text(text: str, logprobs: Logprobs | None) -> Parsed:
    """The same question without log-probabilities: a lone m or M in the text, the same wherever it occurs."""
    labels = set(_LONE_M.findall(text))
    if len(labels) != 1:
        return Parsed(error="the text names both m and M" if labels else "the text holds no lone m or M")
    label = labels.pop()
    return Parsed(p_first=_MODEL[label], label=label)


def arena_v01(text: str, logprobs: Logprobs | None) -> Parsed:
    """Arena-Hard v0.1: every [[label]] in the judgment must be the same one."""
    labels = set(_DOUBLE.findall(text))
    if len(labels) != 1:
        return Parsed(error=f"different labels: {', '.join(sorted(labels))}" if labels else NO_LABEL)
    return _arena(labels.pop())


def arena_v2(text: str, logprobs: Logprobs | None) -> Parsed:
    """Arena-Hard v2.0: [[label]], else [label], in the upper-cased judgment; the last match wins."""
    for pattern in (_DOUBLE, _SINGLE):
        if found := pattern.findall(text.upper()):
            return _arena(found[-1])
    return Parsed(error=NO_LABEL)


def mt_grade(text: str, logprobs: Logprobs | None) -> Parsed:
    """MT-Bench grading: the first [[7]], else the first [7]. No range check: the published scores have none."""
    for pattern in (_GRADE_DOUBLE, _GRADE_SINGLE):
        if found := pattern.search(text):
            return Parsed(grade=float(found.group(1)), label=found.group(1))
    return Parsed(error="no [[rating]]")


def mt_pair(text: str, logprobs: Logprobs | None) -> Parsed:
    """MT-Bench pairs: the first of [[A]], [[B]], [[C]] that occurs anywhere, asked in this order (C is a tie)."""
    for label, p in _CHOICE.items():
        if f"[[{label}]]" in text:
            return Parsed(p_first=p, label=label)
    return Parsed(error="none of [[A]], [[B]], [[C]]")


def ab_text(text: str, logprobs: Logprobs | None) -> Parsed:
    """Any A/B question: the last [[A]], [[B]], [[C]] or [[tie]]; else a bare letter; else the last line's named one."""
    if found := _BRACKETED_CHOICE.findall(text):
        label = found[-1].upper().replace("TIE", "C")
        return Parsed(p_first=_CHOICE[label], label=label)
    bare = text.strip(" \t\r\n.*_`\"'()[]:")
    if bare in ("A", "B"):
        return Parsed(p_first=_CHOICE[bare], label=bare)
    last_line = text.strip().rsplit("\n", 1)[-1]
    named = set(_NAMED_CHOICE.findall(last_line))
    if len(named) != 1:
        return Parsed(error="the text names neither or both of A and B")
    label = named.pop()
    return Parsed(p_first=_CHOICE[label], label=label)


def label_of(name: str, p: float) -> str:
    """The label of the parser's protocol that is nearest to a probability: the words of a judge that has none.

    Half-way between two it is the one further from a tie, whichever side leads: neither position gains.
    """
    scale = {"alpaca_logprob": _MODEL, "alpaca_text": _MODEL, "arena_v01": _ARENA_SCALE, "arena_v2": _ARENA_SCALE}
    choices = scale.get(name, _CHOICE)
    return min(choices, key=lambda label: (round(abs(choices[label] - p), 12), -abs(choices[label] - 0.5)))


def _arena(label: str) -> Parsed:
    if label not in ARENA_P:
        return Parsed(error=f"'{label}' is not one of the labels")
    return Parsed(p_first=ARENA_P[label], label=label)


NO_LABEL = "no [[label]]"  # the one failure that Arena-Hard v0.1 answers with a second question
PARSERS: dict[str, Parser] = {
    parser.__name__: parser for parser in (alpaca_logprob, alpaca_text, arena_v01, arena_v2, mt_grade, mt_pair, ab_text)
}
# what to read when the endpoint gives no log-probabilities
TEXT_FALLBACK = {"alpaca_logprob": "alpaca_text"}
