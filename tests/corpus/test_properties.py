"""Whatever stands in a file, a reply or on the command line: a parser gives a value or one of our own errors, in time.
`PREFEVAL_EXAMPLES=2000 pytest tests/corpus/test_properties.py` looks longer than the default does.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignment.config import AlignConfig
from leaderboard.annotations import read_games, read_grades, read_preferences
from leaderboard.answers import read_answers
from leaderboard.human import read_votes
from leaderboard.lm_eval import board_scores
from prefeval.api_types import parse_endpoint
from prefeval.config import from_dict, load_config
from prefeval.data.hub import parse_hub_spec
from prefeval.data.prompts import load_prompts
from prefeval.data.readers import FORMATS, Format, sniff
from prefeval.data.records import Collector
from prefeval.data.tables import make_rows, read_file
from prefeval.errors import DataError, UserError
from prefeval.games import read_matrix
from prefeval.generate.specs import parse_mixture, parse_selection
from prefeval.guards import BadYaml, parse_yaml
from prefeval.judges.parse import PARSERS, parse
from prefeval.pipeline import load_recipe
from reward_models.cli import score_row
from reward_models.config import TrainConfig

from .verdict_cases import ALPACA, ANSWER, ARENA, CHOICE, GRADE, MATCH, OLD, SAID

EXAMPLES = int(os.environ.get("PREFEVAL_EXAMPLES", "15"))
HARD = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 15, suppress_health_check=list(HealthCheck)
)

WORDS = st.sampled_from(
    ["", "a", "q", "user", "assistant", "A>B", "model_a", "tie", "1", "nan", "-inf", "[1]", "{", "N/A", "\ud83d",
     "\x00", "\u2028"]
)  # fmt: skip
TEXT = WORDS | st.text(max_size=8)
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
KEYS = st.sampled_from(["role", "content", "rank", "answer", "completion", "i", "j", "p", "score", "Rating"]) | TEXT
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@st.composite
def rows_of(draw: st.DrawFn, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows that hold the columns of a format ('a|b' is either) and perhaps others, with anything in them."""
    named = [draw(st.sampled_from(column.split("|"))) for column in columns]
    more = ["p", "margin", "input", "system", "id", "split", "pairs", "P", "ratings", "annotator", "meta", "label"]
    extra = draw(st.lists(st.sampled_from(more), max_size=3))
    fields = dict.fromkeys([*named, *extra], JSON)
    return draw(st.lists(st.fixed_dictionaries(fields), min_size=1, max_size=2))


@given(data=st.data(), form=st.sampled_from(FORMATS))
@HARD
def test_readers_of_records(data: st.DataObject, form: Format) -> None:
    rows = make_rows(enumerate(data.draw(rows_of(form.columns)), 1), "x.jsonl")
    out = Collector("x.jsonl")
    try:
        out.begin(form.name, len(rows), drop_empty=form.drop_empty, one_per_row=form.one_per_row)
        form.read(rows, out)
        for record in out.finish().records:
            assert all(0.0 <= pair.p <= 1.0 for pair in record.pairs)
    except DataError:
        pass


@given(rows=st.data())
@HARD
def test_sniffing(rows: st.DataObject) -> None:
    names = [name for form in FORMATS for column in form.columns for name in column.split("|")]
    row = make_rows([(1, rows.draw(st.dictionaries(st.sampled_from(names) | TEXT, JSON, max_size=5)))], "x.jsonl")[0]
    with suppress(DataError):
        sniff(row)


@given(
    data=st.binary(max_size=80),
    ending=st.sampled_from([".jsonl", ".json", ".csv", ".jsonl.gz", ".jsonl.zst", ".parquet"]),
)
@HARD
def test_files_of_bytes(data: bytes, ending: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"bytes{ending}"
    path.write_bytes(data)
    with suppress(DataError):
        read_file(path)


@given(
    text=st.lists(
        st.lists(st.sampled_from(["0.5", "1", "nan", "x", "", '"', "-0.1", "1e999", "0.3"]), max_size=3), max_size=3
    )
)
@HARD
def test_matrices(text: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "p.csv"
    path.write_text("\n".join(",".join(row) for row in text))
    try:
        table = read_matrix(path)
    except DataError:
        return
    assert abs(table + table.T - 1.0).max() < 1e-12


LABELS = st.sampled_from(
    ["[[A>B]]", "[[A>>B]]", "[B<A]", "[[>]]", "[[A]]", "[[tie]]", "[[C]]", "Rating: [[7]]", "[[1e9]]", "[[10.]]",
     "[", "]]",      "m", "M", "<think>", "</think>", "verdict: A", "Answer is B", "\n", " ", "\x00", "\u2028"]
)  # fmt: skip


@given(
    name=st.sampled_from(sorted(PARSERS)),
    parts=st.lists(LABELS | st.text(max_size=4), max_size=8),
    logprobs=st.none()
    | st.dictionaries(st.sampled_from(["m", "M", "x", ""]), st.floats(allow_nan=False, max_value=0.0), max_size=3),
)
@HARD
def test_verdict_grammars(name: str, parts: list[str], logprobs: dict[str, float] | None) -> None:
    found = parse(name, "".join(parts), logprobs)
    assert sum(value is not None for value in (found.p_first, found.grade, found.error)) == 1
    assert found.p_first is None or 0.0 <= found.p_first <= 1.0


BASES = (ALPACA, ARENA, OLD, GRADE, MATCH, ANSWER, CHOICE, SAID)


@given(data=st.data(), base=st.sampled_from(BASES))
@HARD
def test_verdict_and_answer_files(
    data: st.DataObject, base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    change = data.draw(st.dictionaries(st.sampled_from(sorted(base)), JSON, min_size=1, max_size=2))
    path = tmp_path_factory.getbasetemp() / "verdicts.jsonl"
    path.write_text(json.dumps({**base, **change}) + "\n")
    for read in (read_preferences, read_games, read_grades):
        _ours(read, [path])
    for read_one in (read_answers, read_votes):
        _ours(read_one, path)


@given(row=JSON | st.fixed_dictionaries({"id": JSON, "prompt": JSON, "responses": JSON | st.lists(TEXT, max_size=3)}))
@HARD
def test_score_rows(row: Any) -> None:
    found = _ours(score_row, row, "x.jsonl", 1)
    if found is not None:
        assert all(text.encode("utf-8") is not None for text in (found[0], *found[2]))  # it can be written again


@given(
    row=st.dictionaries(
        st.sampled_from(["prompt", "messages", "turns", "conversations", "input", "id"]), JSON, max_size=3
    )
)
@HARD
def test_prompts(row: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "prompts.jsonl"
    path.write_text(json.dumps(row) + "\n")
    _ours(load_prompts, str(path))


@given(
    results=st.dictionaries(
        st.sampled_from(["results", "n-samples"]), JSON | st.dictionaries(st.just("leaderboard_ifeval"), JSON)
    )
)
@HARD
def test_lm_eval_results(results: dict[str, Any]) -> None:
    _ours(board_scores, results)


PIECES = st.sampled_from(
    ["mix:", "0.5*", "+", "best-of-", "2", "[", "]", ":", "rules:shorter", "judge:", "@", "http://", "host", ":80",
     "/v1", "server:", "a/b", "@rev", "::", " ", "nash-of-8[r]:m", "1e5*", "é", "[::1]", "http://[", "%zz"]
)  # fmt: skip


@given(parts=st.lists(PIECES | st.text(max_size=3), max_size=6))
@HARD
def test_specs(parts: list[str]) -> None:
    spec = "".join(parts)
    for parser in (parse_mixture, parse_selection, parse_endpoint, parse_hub_spec):
        _ours(parser, spec)


@given(
    text=st.text(max_size=30)
    | st.lists(
        st.sampled_from(
            [
                "a: ",
                "- ",
                "[",
                "]",
                "{",
                "}",
                "&a ",
                "*a",
                "!!",
                "1_",
                "0o9",
                "2024-99-01",
                "\n",
                "  ",
                "'",
                ": ",
                "? ",
                "<<: ",
                "!!set ",
                "!!binary x",
            ]
        ),
        max_size=10,
    ).map("".join)
)
@HARD
def test_yaml(text: str) -> None:
    with suppress(BadYaml):
        parse_yaml(text)


@given(
    config=st.dictionaries(
        st.sampled_from(
            [
                "fit",
                "head",
                "loss",
                "data",
                "out",
                "seed",
                "lora",
                "columns",
                "options",
                "algorithm",
                "rounds",
                "stop",
                "probe",
                "x",
            ]
        ),
        JSON
        | st.dictionaries(
            st.sampled_from(["kind", "epochs", "rank", "tau", "step", "weights", "share", "patience"]), LEAF, max_size=2
        ),
        max_size=3,
    )
)
@HARD
def test_recipes(config: dict[str, Any]) -> None:
    for cls in (TrainConfig, AlignConfig):
        _ours(lambda kind: from_dict(kind, config, where="r.yaml"), cls)


@given(
    args=st.lists(
        st.sampled_from(
            [
                "--rounds",
                "3",
                "--rounds=x",
                "--options.step",
                "[",
                "4",
                "--optons.step",
                "--",
                "-1",
                "--fit.epochs",
                "--fit",
                "--out=",
                "--columns.a",
                "x",
                "--lora.rank=1e99",
            ]
        ),
        max_size=4,
    )
)
@settings(parent=HARD, max_examples=max(5, EXAMPLES // 5))
def test_overrides(args: list[str]) -> None:
    _ours(lambda words: load_config(AlignConfig, None, words), args)
    _ours(lambda words: load_recipe("quickstart", words), [a.replace("--", "--align-onpo.", 1) for a in args])


def _ours(call: Any, argument: Any, *more: Any) -> Any:
    """The value, or None after one of our own errors; anything else is raised."""
    with suppress(UserError):
        return call(argument, *more)
    return None
