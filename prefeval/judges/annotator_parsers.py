"""alpaca_eval's completion parsers, by its names and keywords: from a raw reply to a list of values.

Each gives what the package's own (alpaca_eval 0.6.6, completion_parsers.py) gives on the same reply, odd cases
included. Where that fails, or gives NaN, these raise ValueError with the reason; so does every reply that they cannot
take, however it is broken.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Completion:
    """What a parser may read: the text, and the candidates of the first and the last of `positions` tokens."""

    text: str
    first: Mapping[str, float] | None = None
    last: Mapping[str, float] | None = None
    positions: int = 0


def read_completion_with(name: str, keywords: Mapping[str, Any], completion: Completion) -> float:
    """The preference in [1, 2]: 1 = the first shown is better, 2 = the second; 0, an old draw, is 1.5.

    Raises ValueError when the parser finds none, or not exactly one.
    """
    try:
        if name == "logprob_parser":
            values = [logprob_parser(completion, **keywords)]
        elif name == "pipeline_meta_parser":
            values = pipeline_meta_parser(completion.text, **keywords)
        else:
            values = TEXT_PARSERS[name](completion.text, **keywords)
        if len(values) != 1:
            raise ValueError(f"{len(values)} verdicts instead of one")
        preference = float(values[0])
    except _BROKEN as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if preference == 0:
        return 1.5
    if not 1 <= preference <= 2:
        raise ValueError(f"{values[0]!r} is no preference from 1 to 2")
    return preference


def regex_parser(text: str, outputs_to_match: Mapping[Any, str]) -> list[Any]:
    """The keys of the patterns in the order in which they match; each search starts behind the match before it."""
    _not_empty(text)
    patterns = {key: re.compile(pattern) for key, pattern in outputs_to_match.items()}
    found: list[Any] = []
    while True:
        matches = [(match.start(), key, match) for key, pattern in patterns.items() if (match := pattern.search(text))]
        if not matches:
            return found
        _, key, match = min(matches, key=lambda m: m[0])
        found.append(key)
        if not match.end():
            raise ValueError("a pattern that matches nothing matches for ever")
        text = text[match.end() :]


def lmsys_parser(text: str) -> list[Any]:
    """The first line holds two scores, separated by one space or comma: the higher one wins, equal ones are 0."""
    _not_empty(text)
    scores = text.split("\n")[0].replace(",", " ").split(" ")
    if len(scores) != 2:
        raise ValueError("the first line does not hold two scores")
    first, second = float(scores[0]), float(scores[1])
    return [1 if first > second else 2 if first < second else 0]


def ranking_parser(ranking: Any, model_1_name: str = "model_1") -> list[Any]:
    """The rank (1 or 2) of the model of that name in a list of {'model', 'rank'}."""
    _not_empty(ranking)
    rows = ast.literal_eval(ranking) if isinstance(ranking, str) else ranking
    rank = next((row["rank"] for row in [row for row in rows if row["model"] == model_1_name]), None)
    if rank not in (1, 2):
        raise ValueError(f"{model_1_name} has the rank {rank!r}")
    return [rank]


def json_parser(text: str, annotation_key: str | None) -> list[Any]:
    """The value of a key in a JSON object, or in each of a list of them; a ```json block goes first."""
    _not_empty(text)
    if "```json" in text:
        block = re.search(r"```json(.*?)```", text, re.DOTALL)
        if block is None:
            raise ValueError("the ```json block has no end")
        text = block.group(1)
    data = json.loads(text)
    rows = [data] if isinstance(data, dict) else list(data)
    return rows if annotation_key is None else [row[annotation_key] for row in rows]


def eval_parser(text: str) -> list[Any]:
    """The reply as a Python literal; a list stands for several values."""
    _not_empty(text)
    value = ast.literal_eval(text)
    return value if isinstance(value, list) else [value]


def replace_parser(text: Any, replacer: Mapping[Any, Any], default_replacer: Any = "auto") -> list[Any]:
    """What the reply stands for; without an entry the reply itself, or the default."""
    _not_empty(text)
    return [replacer.get(text, text if default_replacer == "auto" else default_replacer)]


def pipeline_meta_parser(
    completion: Any, parsers_to_kwargs: Mapping[str, Mapping[str, Any]], is_squeeze: bool = True
) -> list[Any]:
    """One parser after the other, each on every value of the one before; single values are unpacked in between."""
    _not_empty(completion)
    return _pipeline(completion, list(parsers_to_kwargs.items()), is_squeeze, 0)  # type: ignore[no-any-return]


def _pipeline(value: Any, steps: Sequence[tuple[str, Mapping[str, Any]]], squeeze: bool, depth: int) -> Any:
    _not_empty(value)
    (name, keywords), rest = steps[0], steps[1:]
    out = TEXT_PARSERS[name](value, **keywords)
    if rest:
        out = [_pipeline(o, rest, squeeze, depth + 1) for o in out]
    return out[0] if squeeze and len(out) == 1 and depth != 0 else out


def logprob_parser(
    completion: Completion,
    numerator_token: str,
    denominator_tokens: Sequence[str],
    is_binarize: bool = True,
    log_prob_index: str | int = "batch",
) -> float:
    """2 - p(numerator) / sum of p(denominators) among one token's candidates; 1 or 2 where it is made binary.

    `log_prob_index`: 0 or -1 for the first or last token; 'batch' wants a reply of a single token.
    """
    if log_prob_index not in ("batch", 0, -1):
        raise ValueError(f"log_prob_index {log_prob_index!r} is not supported: 'batch', 0 or -1")
    if log_prob_index == "batch" and completion.positions > 1:
        raise ValueError(f"{completion.positions} tokens instead of one")
    candidates = completion.last if log_prob_index == -1 else completion.first
    if candidates is None:
        raise ValueError("no log-probabilities")
    found = {t: candidates[t] for t in (*denominator_tokens, numerator_token) if t in candidates}
    if not found:
        raise ValueError(f"none of the tokens {', '.join(denominator_tokens)} is among the candidates")
    own = found.get(numerator_token, -math.inf)
    if is_binarize:
        return 1.0 if all(own > found.get(t, -math.inf) for t in denominator_tokens if t != numerator_token) else 2.0
    below = [found.get(t, -math.inf) for t in denominator_tokens]
    top = max(below)
    if top == -math.inf:
        raise ValueError("the tokens have no probability")
    return 2.0 - math.exp(own - top - math.log(sum(math.exp(lp - top) for lp in below)))


def _not_empty(completion: Any) -> None:
    if isinstance(completion, str) and completion == "":
        raise ValueError("the reply is empty")


_BROKEN = (LookupError, TypeError, AttributeError, SyntaxError, ArithmeticError, RecursionError, MemoryError)
TEXT_PARSERS: dict[str, Callable[..., Any]] = {
    parser.__name__: parser
    for parser in (regex_parser, lmsys_parser, ranking_parser, json_parser, eval_parser, replace_parser)
}
PARSERS = (*TEXT_PARSERS, "logprob_parser", "pipeline_meta_parser")
