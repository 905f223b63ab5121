"""Raw judge replies with what alpaca_eval's parsers make of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# the examples in the docstrings of alpaca_eval 0.6.6's completion_parsers.py
REGEX = {"outputs_to_match": {1: r" \(a\)", 2: r" \(b\)"}}
RANKS = {"parsers_to_kwargs": {"json_parser": {"annotation_key": "rank"}, "ranking_parser": {}}}
DOCUMENTED: list[tuple[str, Mapping[str, Any], str, float]] = [
    ("regex_parser", REGEX, " (a)", 1),
    ("lmsys_parser", {}, "1 7\n ...", 2),
    ("lmsys_parser", {}, "7 1\n more text", 1),
    ("lmsys_parser", {}, "1 1\n ...", 1.5),  # a draw: 0 there, and read as 1.5
    ("ranking_parser", {}, "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]", 1),
    ("ranking_parser", {}, "[{'model': 'model_1', 'rank': 2}, {'model': 'model_2', 'rank': 1}]", 2),
    ("json_parser", {"annotation_key": "integer"}, 'blah ```json\n{"short": "why", "integer": 1}```', 1),
    ("eval_parser", {}, "True", 1),
    ("replace_parser", {"replacer": {"True": 2}}, "True", 2),
    ("pipeline_meta_parser", RANKS, '{"rank": [{"model": "model_1", "rank": 1}, {"model": "model_2", "rank": 2}]}', 1),
]
UNREADABLE: list[tuple[str, Mapping[str, Any], str]] = [
    ("regex_parser", REGEX, ""),
    ("regex_parser", REGEX, "neither"),
    ("regex_parser", REGEX, " (a) (b)"),  # two verdicts where one is expected
    ("lmsys_parser", {}, "7"),
    ("lmsys_parser", {}, "a b"),
    ("ranking_parser", {}, "[{'model': 'model_1', 'rank': 3}, {'model': 'model_2', 'rank': 1}]"),
    ("ranking_parser", {}, "[{'model': 'x', 'rank': 1}]"),
    ("ranking_parser", {}, "[" * 400),
    ("ranking_parser", {}, "model_1"),
    ("json_parser", {"annotation_key": "a"}, "{"),
    ("json_parser", {"annotation_key": "a"}, "```json {}"),
    ("json_parser", {"annotation_key": "a"}, '{"b": 1}'),
    ("eval_parser", {}, "(1, 2)"),
    ("eval_parser", {}, "3"),
    ("replace_parser", {"replacer": {}}, "m"),
    ("pipeline_meta_parser", RANKS, '{"rank": 3}'),
    ("regex_parser", {"outputs_to_match": {1: "x*"}}, "y"),  # upstream never ends on this one
]
