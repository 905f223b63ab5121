"""Verifiable rewards: what is right by each check, P and rewards of groups, and prompts without an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prefeval import cli
from prefeval.checks import CHECKS, last_number, matches, preferences_of, same_number, same_text
from prefeval.data import load_prompts
from prefeval.errors import ConfigError, DataError
from prefeval.files import read_jsonl, write_jsonl
from prefeval.oracle import Ensemble, Oracle, check_complementary
from prefeval.types import Prompt
from reward_models.oracles import open_oracle


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Natalia sold 48+24 = 72 clips.\n#### 72", "72"),
        ("so it is $1,024.50.", "1024.5"),
        ("from 10-5 we get -5", "-5"),
        ("a fall of \N{MINUS SIGN}3 degrees", "-3"),
        ("1, 2, 3,4", "4"),
        ("half: .5", "0.5"),
        ("\\boxed{42}", "42"),
        ("100% sure", "100"),
        ("GPT4 is no number", None),
        ("", None),
    ],
)
def test_the_last_number_of_a_text(text: str, number: str | None) -> None:
    found = last_number(text)
    assert (None if found is None else float(found)) == (None if number is None else float(number))


def test_what_each_check_takes_for_right() -> None:
    assert same_number("... #### 1,024", "The answer is 1024.0.")
    assert not same_number("72", "I do not know")
    assert same_text("Paris,  France", " Paris, France\n")
    assert not same_text("Paris", "paris")
    assert matches(r"\b(yes|yeah)\b", "oh yes!")
    assert not matches(r"^yes$", "oh yes!")


def test_groups_get_rewards_and_a_matrix() -> None:
    """Right beats wrong for certain; two right or two wrong replies tie."""
    oracle = open_oracle("check:number")
    prompts = [Prompt.from_text("3 + 4?", id="a", reference=7), Prompt.from_text("2 + 2?", id="b", reference="4")]
    groups = [["7", "it is 8", "7.0"], ["five", "six"]]
    rewards = oracle.rewards(prompts, groups)  # type: ignore[attr-defined]
    assert [r.tolist() for r in rewards] == [[1, 0, 1], [0, 0]]
    assert isinstance(oracle, Oracle)
    tables = oracle.matrix(prompts, groups)
    assert tables[0].tolist() == [[0.5, 1.0, 0.5], [0.0, 0.5, 0.0], [0.5, 1.0, 0.5]]
    assert np.all(tables[1] == 0.5)
    for table in tables:
        check_complementary(table, oracle.name)
    graded = preferences_of(np.array([0.25, 2.0]))
    assert graded.tolist() == [[0.5, 0.0], [1.0, 0.5]]
    # half of an ensemble checks, the other half likes it short
    both = open_oracle("ensemble:check:number+rules:shorter")
    assert isinstance(both, Ensemble)
    assert both.matrix(prompts[:1], [["7", "it is 8", "7.0"]])[0][0].tolist() == [0.5, 1.0, 0.75]


def test_answers_come_with_the_prompts(tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    write_jsonl(file, [{"id": "s1", "question": "1 + 1?", "answer": "two, so #### 2"}])
    (prompt,) = load_prompts(str(file), columns={"reference": "answer"})
    assert open_oracle("check:number").matrix([prompt], [["2", "3"]])[0][0, 1] == 1.0


def test_rows_of_score_may_hold_a_reference(tmp_path: Path) -> None:
    rows = [{"id": "r", "prompt": "Capital of France?", "responses": ["Paris", "Rome"], "reference": "Paris"}]
    write_jsonl(tmp_path / "in.jsonl", rows)
    arguments = ["--oracle", "check:exact", "--input", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    assert cli.main(["score", *arguments]) == 0
    assert read_jsonl(tmp_path / "out.jsonl")[0]["P"] == [[0.5, 1.0], [0.0, 0.5]]
    write_jsonl(tmp_path / "in.jsonl", [{k: v for k, v in rows[0].items() if k != "reference"}])
    assert cli.main(["score", *arguments]) == 2


@pytest.mark.parametrize(
    ("kind", "reference", "message"),
    [
        ("exact", None, "prompt 'p' has no reference answer"),
        ("exact", "  ", "column 'reference'"),
        ("number", "many", "prompt 'p', reference 'many': holds no number"),
        ("regex", "(", "is no regular expression"),
    ],
)
def test_a_prompt_that_cannot_be_checked_is_told(kind: str, reference: str | None, message: str) -> None:
    meta = {} if reference is None else {"reference": reference}
    with pytest.raises(DataError, match=message):
        open_oracle(f"check:{kind}").matrix([Prompt.from_text("q", id="p", **meta)], [["1", "2"]])


def test_specs() -> None:
    with pytest.raises(ConfigError, match="did you mean 'number'"):
        open_oracle("check:numbers")
    for name in CHECKS:
        assert open_oracle(f"check:{name}").name == f"check:{name}"
