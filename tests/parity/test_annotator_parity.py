"""Our readers of alpaca_eval's annotator configs beside the package's own parsers and prompts, on the same raw replies.

The package is called function by function on texts: no loader, no hub, nothing written into its folder.
"""

from __future__ import annotations

import logging
import math
import random
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "leaderboard"))

from annotator_replies import DOCUMENTED, UNREADABLE
from leaderboard_data import DATA, needs_data
from upstream import package

from prefeval.errors import PrefevalError
from prefeval.files import read_json
from prefeval.judges.annotator import read_annotators
from prefeval.judges.annotator_parsers import Completion, read_completion_with

pytestmark = [pytest.mark.slow, pytest.mark.parity]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    yield package()
    logging.getLogger().setLevel(logging.WARNING)  # importing it sets INFO for everybody


def theirs(upstream: Any, name: str, keywords: Any, completion: Any) -> float | None:
    """What the package makes of one raw reply: one value, else None, as its `_parse_completions` has it."""
    try:
        values = list(getattr(upstream.completion_parsers, name)(completion, **deepcopy(dict(keywords))))
        value = float(values[0]) if len(values) == 1 else math.nan
    except Exception:
        return None
    value = 1.5 if value == 0 else value
    return value if upstream.utils.validate_alpacaeval_preference(value, is_allow_nan=False) else None


def ours(name: str, keywords: Any, completion: Completion) -> float | None:
    try:
        return read_completion_with(name, keywords, completion)
    except ValueError:
        return None


def test_the_tables_of_the_fast_tests(upstream: Any) -> None:
    for name, keywords, text, value in DOCUMENTED:
        assert theirs(upstream, name, keywords, text) == value
    for name, keywords, text in UNREADABLE[:-1]:  # on the last one the package does not end
        assert theirs(upstream, name, keywords, text) is None


PIECES = [
    *("", " ", "\n", "Output (a)", "Output (b)", "output (a)", ": true", ": false", "(a)", "m", "M", "1", "2", "7 8"),
    *("7,8", "8 7\nx", "nan 1", "[{'model': 'model_1', 'rank': 1}]", "[{'model': 'm', 'rank': 2}]", "{'model': 'm'}"),
    *('{"ordered_models": [{"model": "m", "rank": 2}]}', '{"ordered_models": []}', "```json", "```", "True", "[1]"),
    *("[1, 2]", "inf", "1.5", "None", '{"a": 1}', "\u2028", "[{'model': 'model_1', 'rank': 1.0}]", "'''"),
]
TOKENS = ["m", "M", " m", "The", "mm"]


def test_random_replies_are_read_alike_under_every_packaged_config(upstream: Any) -> None:
    draw, readable, configs = random.Random(0), 0, 0
    for name in sorted(p.parent.name for p in Path(upstream.constants.EVALUATORS_CONFIG_DIR).glob("*/configs.yaml")):
        try:
            (annotator,) = read_annotators(name)[1]
        except PrefevalError:
            continue
        configs += 1
        keywords = annotator.parser_keywords
        for _ in range(300):
            if annotator.parser == "logprob_parser":
                raw, completion = random_candidates(draw)
            else:
                raw = "".join(draw.choices(PIECES, k=draw.choice([1, 1, 2, 3])))
                completion = Completion(raw)
            expected = theirs(upstream, annotator.parser, keywords, raw)
            found = ours(annotator.parser, keywords, completion)
            assert (found is None) == (expected is None), (name, raw, found, expected)
            if expected is not None:
                assert found == pytest.approx(expected, abs=1e-12)
                readable += 1
    assert configs > 15
    assert readable > 1000


def random_candidates(draw: random.Random) -> tuple[dict[str, Any], Completion]:
    tokens = [
        {t: draw.choice([-0.01, -1.0, -5.0, -700.0]) for t in draw.sample(TOKENS, draw.randint(1, 5))}
        for _ in range(draw.choice([1, 1, 1, 2]))
    ]
    content = [{"top_logprobs": [{"token": t, "logprob": v} for t, v in token.items()]} for token in tokens]
    return {"logprobs": {"content": content}}, Completion("x", tokens[0], tokens[-1], len(tokens))


def test_prompts_are_the_packages_own(upstream: Any) -> None:
    import pandas as pd

    texts = {"instruction": "Say\n\nhi ", "output_1": " one <b> ", "output_2": 'two "quoted"\n'}
    checked = 0
    for name in sorted(p.parent.name for p in Path(upstream.constants.EVALUATORS_CONFIG_DIR).glob("*/configs.yaml")):
        try:
            (annotator,) = read_annotators(name)[1]
        except PrefevalError:
            continue
        folder = Path(upstream.constants.EVALUATORS_CONFIG_DIR)
        config = next(iter(upstream.utils.load_configs(folder / name).values()))
        template = upstream.utils.read_or_return(config["prompt_template"], relative_to=folder)
        (prompt,), _ = upstream.utils.make_prompts(pd.DataFrame([texts]), template)
        expected = upstream.utils.prompt_to_chatml(prompt.strip())
        assert [m.as_dict() for m in annotator.messages(*texts.values())] == expected
        checked += 1
    assert checked > 15


@needs_data
def test_published_raw_completions(upstream: Any) -> None:
    """The published replies of gpt-4-1106-preview about claude-2.1_concise, with what was published."""
    (annotator,) = read_annotators("weighted_alpaca_eval_gpt4_turbo")[1]
    count = 0
    for row in read_json(DATA / "alpaca_eval/annotations_raw/claude-2.1_concise.annotations.json.gz"):
        raw = row["raw_completion"]
        if not raw:
            continue
        content = raw["logprobs"]["content"]
        candidates = {c["token"]: c["logprob"] for c in content[0]["top_logprobs"]}
        found = ours(annotator.parser, annotator.parser_keywords, Completion(raw["text"], candidates))
        expected = theirs(upstream, annotator.parser, annotator.parser_keywords, raw)
        assert found == pytest.approx(expected, abs=1e-12)
        switched = random.Random("is_switched_outputs" + row["instruction"] + "0").choices([False, True], k=1)[0]
        assert found is not None
        assert (3 - found if switched else found) == pytest.approx(row["preference"], abs=1e-9)
        count += 1
    assert count == 804
