"""The native format and its round trip, prompts, ratings as pairs, and splits by prompt."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefeval.data import (
    load_prompts,
    load_records,
    pairs_from_ratings,
    prompt_key,
    records_from_groups,
    split_by_prompt,
    write_records,
)
from prefeval.errors import ConfigError, DataError
from prefeval.types import Message, PairLabel, PreferenceRecord, Prompt

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda s: s.strip())


@st.composite
def record(draw: st.DrawFn, id: str) -> PreferenceRecord:
    texts = tuple(draw(st.lists(TEXT, min_size=1, max_size=4, unique=True)))
    k = len(texts)
    places = draw(st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), max_size=4, unique_by=frozenset))
    margin = st.none() | st.floats(0, 9)
    pairs = tuple(
        PairLabel(i, j, draw(st.floats(0, 1)), draw(margin), draw(st.sampled_from(["", "gpt"])))
        for i, j in places
        if i != j
    )
    ratings = {"style": tuple(draw(st.floats(-5, 5)) for _ in texts)} if draw(st.booleans()) else {}
    turns = (Message("system", draw(TEXT)),) if draw(st.booleans()) else ()
    prompt = Prompt(id, (*turns, Message("user", draw(TEXT))))
    return PreferenceRecord(id, prompt, texts, pairs, ratings, draw(st.sampled_from(["", "train"])), {"n": 1})


@settings(max_examples=40, deadline=None)
@given(a=record("a"), b=record("b"), suffix=st.sampled_from([".jsonl", ".jsonl.gz"]))
def test_written_records_come_back(
    tmp_path_factory: pytest.TempPathFactory, a: PreferenceRecord, b: PreferenceRecord, suffix: str
) -> None:
    path = write_records(tmp_path_factory.mktemp("records") / f"r{suffix}", [a, b])
    back = load_records(str(path))
    assert back.records == [a, b]
    assert [r.meta for r in back.records] == [a.meta, b.meta]
    assert back.report.formats == ("groups",)


def test_missing_ratings_survive_as_null(tmp_path: Path) -> None:
    rated = PreferenceRecord("a", Prompt.from_text("q", id="a"), ("x", "y"), (), {"style": (1.0, math.nan)})
    path = write_records(tmp_path / "r.jsonl", [rated])
    assert json.loads(path.read_text())["ratings"] == {"style": [1.0, None]}
    back = load_records(str(path)).records[0].ratings["style"]
    assert back[0] == 1.0
    assert math.isnan(back[1])


def test_records_are_written_as_jsonl_only(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="jsonl"):
        write_records(tmp_path / "r.csv", [])


def test_matrix_becomes_pairs() -> None:
    p = [[0.5, 0.7, None], [0.3, 0.5, None], [None, 0.25, 0.5]]
    data = records_from_groups([{"id": "g", "prompt": "q", "responses": ["a", "b", "c"], "P": p}])
    assert data.records[0].pairs == (PairLabel(0, 1, 0.7), PairLabel(1, 2, 0.75))


def test_repeated_responses_are_merged_and_the_index_kept() -> None:
    row = {"prompt": "q", "responses": ["a", "b", "a"], "pairs": [[0, 1, 1.0], [1, 2, 0.5], [0, 2, 1.0]]}
    data = records_from_groups([{**row, "ratings": {"s": [1, 5, 2]}}])
    (merged,) = data.records
    assert merged.responses == ("a", "b")
    assert merged.pairs == (PairLabel(0, 1, 0.75),)
    assert merged.ratings["s"] == (1.5, 5.0)
    assert merged.meta["index"] == [0, 1, 0]
    assert data.report.merged == 2  # one text and one label
    assert data.report.dropped == {"identical responses": 1}


def test_rows_without_labels_are_kept_and_numbered() -> None:
    data = records_from_groups([{"prompt": "q", "responses": ["a"]}, {"prompt": "q", "responses": ["a", "b"]}])
    assert [r.id for r in data.records] == ["row-1", "row-2"]
    assert [len(r.responses) for r in data.records] == [1, 2]


def test_pairs_from_ratings() -> None:
    ratings = {"h": (1.0, 3.0, 3.0, math.nan), "v": (0.0, 1.0, 1.0, 0.0)}
    rated = PreferenceRecord("a", Prompt.from_text("q"), ("w", "x", "y", "z"), (PairLabel(3, 0),), ratings)
    pairs = pairs_from_ratings(rated, {"h": 1.0, "v": -0.5}).pairs
    assert pairs == (
        PairLabel(1, 0, 1.0, 1.5, "h+v"),
        PairLabel(2, 0, 1.0, 1.5, "h+v"),
        PairLabel(1, 2, 0.5, 0.0, "h+v"),
    )
    with pytest.raises(KeyError):
        pairs_from_ratings(rated, {"missing": 1.0})


def records(count: int) -> list[PreferenceRecord]:
    return [PreferenceRecord(str(n), Prompt.from_text(f"question {n}", id=str(n)), ("a", "b")) for n in range(count)]


def test_split_sizes_follow_the_fractions_and_nothing_is_lost() -> None:
    parts = split_by_prompt(records(4000), {"train": 0.8, "val": 0.0, "test": 0.2}, seed=3)
    assert sum(len(part) for part in parts.values()) == 4000
    assert parts["val"] == []
    # 800 expected, standard deviation sqrt(4000 * 0.2 * 0.8) = 25.3; four of them
    assert abs(len(parts["test"]) - 800) < 102
    other = split_by_prompt(records(4000), {"train": 0.8, "val": 0.0, "test": 0.2}, seed=4)
    assert {r.id for r in other["test"]} != {r.id for r in parts["test"]}


def test_split_is_by_normalised_prompt_and_does_not_depend_on_the_rest() -> None:
    fractions = {"train": 0.5, "test": 0.5}
    many, few = records(400), records(40)
    variants = [
        PreferenceRecord(f"v{r.id}", Prompt.from_text(f"  QUESTION\u00a0\n {r.id}", system="S"), ("c", "d"))
        for r in few
    ]
    parts = split_by_prompt(many + variants, fractions, seed=0)
    where = {r.id: name for name, part in parts.items() for r in part}
    assert all(where[f"v{r.id}"] == where[r.id] for r in few)
    alone = split_by_prompt(few, fractions, seed=0)
    assert all(where[r.id] == name for name, part in alone.items() for r in part)
    assert all(alone.values())


def test_prompt_key_tells_conversations_apart() -> None:
    first = Prompt("", (Message("user", "a"), Message("assistant", "b"), Message("user", "c")))
    second = Prompt("", (Message("user", "x"), Message("assistant", "b"), Message("user", "c")))
    assert prompt_key(first) != prompt_key(second)


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.2, "b": -0.2}, {"a": math.nan}])
def test_unusable_fractions(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="fractions"):
        split_by_prompt(records(1), fractions, 0)


def test_prompts_of_every_layout(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "reply"},
    ]
    rows = [
        {"id": "one", "prompt": "p", "topic": "sleep"},
        {"instruction": "do", "input": "this", "dataset": "d"},
        {"question_id": 81, "turns": ["first", "second"]},
        {"uid": "k", "turns": [{"content": "old"}]},
        {"messages": chat},
        {"id": "one", "question": "again"},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    prompts = load_prompts(str(path))
    assert [p.id for p in prompts] == ["one", "row-2", "81", "k", "row-5", "one.2"]
    assert [p.text for p in prompts] == ["p", "do\n\nthis", "first", "old", "u", "again"]
    assert prompts[0].meta["topic"] == "sleep"
    assert prompts[2].meta["turns"] == ["first", "second"]
    assert [m.role for m in prompts[4].messages] == ["system", "user"]


def test_prompt_columns_are_renamed(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("ask\nhello\n")
    assert load_prompts(str(path), {"prompt": "ask"})[0].text == "hello"
