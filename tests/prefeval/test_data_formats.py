"""Each layout from a small file: who wins with which probability, and how rows become records."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from prefeval.data import Dataset, load_records
from prefeval.data.chats import hh_messages, split_strings, steerlm_messages
from prefeval.errors import DataError
from prefeval.types import Message, PreferenceRecord


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def read(tmp_path: Path, rows: list[dict[str, Any]], format: str | None = None) -> Dataset:
    return load_records(jsonl(tmp_path / "rows.jsonl", rows), format=format)


def beats(record: PreferenceRecord) -> dict[tuple[str, str], float]:
    """(first text, second text) -> p of each pair."""
    return {(record.responses[pair.i], record.responses[pair.j]): pair.p for pair in record.pairs}


USER, GOOD, BAD = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "good"},
    {"role": "assistant", "content": "bad"},
)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "Hi", "chosen": "good", "rejected": "bad"}, "trl"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, "trl"),
        ({"instruction": "Hi", "input": "", "chosen": "good", "rejected": "bad"}, "trl"),
        (
            {
                "conversations": [{"from": "human", "value": "Hi"}],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
            },
            "trl",
        ),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, "trl-implicit"),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: good", "rejected": "\n\nHuman: Hi\n\nAssistant: bad"}, "hh"),
        (
            {"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD], "score_chosen": 8, "score_rejected": 5},
            "ultrafeedback",
        ),
        (
            {"prompt": "Hi", "response_1": "good", "response_2": "bad", "preference_strength": -2},
            "helpsteer2-preference",
        ),
        (
            {"context": [USER], "response1": "bad", "response2": "good", "overall_preference": 3},
            "helpsteer2-preference",
        ),
        ({"instruction": "Hi", "output_1": "bad", "output_2": "good", "preference": 2}, "alpaca-eval"),
        ({"scenario": "s", "prompt": "Hi", "response1": "good", "response2": "bad", "label": 0}, "autoj"),
        ({"input": "Hi", "output_1": "bad", "output_2": "good", "label": 2}, "llmbar"),
        ({"question": "Hi", "response_A": "bad", "response_B": "good", "label": "B>A"}, "judgebench"),
        ({"instruction": "Hi", "response1": "good", "response2": "bad", "label": 1}, "labelled"),
        ({"prompt": "Hi", "response_1": "bad", "response_2": "good", "winner": "model_b"}, "labelled"),
        ({"history": "Hi", "human_ref_A": "bad", "human_ref_B": "good", "labels": 0}, "shp"),
        ({"conversation_a": [USER, BAD], "conversation_b": [USER, GOOD], "winner": "model_b"}, "arena"),
        ({"prompt": "Hi", "response_0": "bad", "response_1": "good", "better_response_id": 1}, "pku-better"),
        (
            {
                "prompt": "\n\nHuman: Hi\n\nAssistant: ",
                "answers": [{"answer": "bad", "rank": 2}, {"answer": "good", "rank": 1}],
            },
            "nectar",
        ),
        (
            {"context": [USER], "completions": [{"rank": 0, "completion": [GOOD]}, {"rank": 1, "completion": [BAD]}]},
            "nemo",
        ),
        ({"prompt": "Hi", "responses": ["good", "bad"], "pairs": [[0, 1]]}, "groups"),
    ],
)
def test_every_pair_layout_says_that_good_beats_bad(tmp_path: Path, row: dict[str, Any], name: str) -> None:
    data = read(tmp_path, [row])
    assert data.report.formats == (name,)
    (record,) = data.records
    assert record.prompt.messages == (Message("user", "Hi"),)
    (pair,) = record.pairs
    p = pair.p if record.responses[pair.i] == "good" else 1.0 - pair.p
    assert sorted(record.responses) == ["bad", "good"]
    assert p == 1.0


def test_optional_columns_and_ties(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "chosen": "x", "rejected": "y", "p": 0.7, "margin": 2.5},
        {"prompt": "b", "chosen": "x", "rejected": "y", "score_chosen": 4, "score_rejected": 4},
        {"prompt": "c", "chosen": "x", "rejected": "y", "score_chosen": 4, "score_rejected": 1.5},
        {"prompt": "d", "chosen": "x", "rejected": "y", "score_chosen": 1, "score_rejected": 2},
    ]
    data = read(tmp_path, rows, "trl")
    assert [(r.pairs[0].p, r.pairs[0].margin) for r in data.records] == [
        (0.7, 2.5),
        (0.5, 0.0),
        (1.0, 2.5),
        (1.0, None),
    ]
    assert data.report.ties == 1
    assert sum(data.report.notes.values()) == 1  # the row whose scores contradict its columns


def test_rows_of_a_prompt_become_one_record_and_repeated_labels_are_averaged(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "b", "rejected": "a"},
        {"prompt": "q", "chosen": "b", "rejected": "c"},
        {"prompt": "other", "chosen": "a", "rejected": "b"},
        {"prompt": "other", "chosen": " a", "rejected": "a"},
    ]
    data = read(tmp_path, rows)
    assert [r.responses for r in data.records] == [("a", "b", "c"), ("a", "b")]
    assert beats(data.records[0]) == {("a", "b"): pytest.approx(2 / 3), ("b", "c"): 1.0}
    report = data.report
    assert (report.rows, report.records, report.pairs) == (6, 2, 3)
    assert (report.merged, report.conflicts, report.ties) == (2, 1, 0)
    assert report.dropped == {"identical responses": 1}
    assert "row 6" in str(report)


def test_averaged_margin_counts_the_direction(tmp_path: Path) -> None:
    base = {"prompt": "q", "response_1": "a", "response_2": "b"}
    data = read(tmp_path, [base | {"preference_strength": -3}, base | {"preference_strength": 1}])
    (pair,) = data.records[0].pairs
    assert (pair.p, pair.margin) == (0.5, 1.0)  # (3 - 1) / 2 towards response 1


def test_labels_of_different_annotators_stay_apart(tmp_path: Path) -> None:
    base = {"instruction": "q", "output_1": "a", "output_2": "b"}
    rows = [base | {"preference": 1.25, "annotator": "x"}, base | {"preference": 1.75, "annotator": "y"}]
    data = read(tmp_path, rows)
    assert {pair.source: pair.p for pair in data.records[0].pairs} == {"x": 0.75, "y": 0.25}
    assert data.report.conflicts == 1


def test_failed_annotation_is_dropped_not_scored(tmp_path: Path) -> None:
    base = {"instruction": "q", "output_1": "a", "output_2": "b", "annotator": "judge"}
    data = read(tmp_path, [base | {"preference": 1.5}, base | {"preference": None}])
    assert data.report.dropped == {"no preference (failed annotation)": 1}
    assert data.records[0].pairs[0].p == 0.5


def test_helpsteer2_rows_share_a_prompt_and_multi_turn_prompts_are_parsed(tmp_path: Path) -> None:
    prompt = "one\n<extra_id_1>Assistant\ntwo \n<extra_id_1>User\nthree"
    values = {"helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 0}
    rows = [
        {"prompt": prompt, "response": "A", **values},
        {"prompt": prompt, "response": "B", **values, "helpfulness": 1},
    ]
    data = read(tmp_path, rows)
    (record,) = data.records
    assert data.report.formats == ("helpsteer2",)
    assert record.prompt.messages == (Message("user", "one"), Message("assistant", "two "), Message("user", "three"))
    assert record.responses == ("A", "B")
    assert record.ratings["helpfulness"] == (4.0, 1.0)
    assert record.ratings["verbosity"] == (0.0, 0.0)
    assert data.report.rated == 2


def test_helpsteer2_preference_strengths(tmp_path: Path) -> None:
    rows = [
        {"prompt": str(s), "response_1": "a", "response_2": "b", "preference_strength": s, "split": "train"}
        for s in (-3, -1, 0, 2, -100)
    ]
    data = read(tmp_path, rows)
    assert [next(iter(beats(r))) for r in data.records] == [("a", "b"), ("a", "b"), ("a", "b"), ("b", "a")]
    assert [r.pairs[0].p for r in data.records] == [1.0, 1.0, 0.5, 1.0]
    assert [r.pairs[0].margin for r in data.records] == [3.0, 1.0, 0.0, 2.0]
    assert data.report.dropped == {"no valid preference": 1}
    assert {r.split for r in data.records} == {"train"}


def test_pandalm_label_is_the_mean_of_three_humans(tmp_path: Path) -> None:
    base = {"instruction": "Do", "input": "it", "response1": "a", "response2": "b"}
    data = read(tmp_path, [base | {"annotator1": 1, "annotator2": 2, "annotator3": 0}])
    (record,) = data.records
    assert data.report.formats == ("pandalm",)
    assert record.prompt.text == "Do\n\nit"
    assert record.pairs[0].p == pytest.approx((1 + 0 + 0.5) / 3)
    assert data.report.conflicts == 1


def test_autoj_codes_differ_from_plain_labels(tmp_path: Path) -> None:
    rows = [{"prompt": str(n), "response1": "a", "response2": "b", "label": n} for n in (0, 1, 2)]
    autoj = read(tmp_path, [r | {"scenario": "s"} for r in rows])
    plain = read(tmp_path, rows)
    assert [r.pairs[0].p for r in autoj.records] == [1.0, 0.0, 0.5]
    assert [r.pairs[0].p for r in plain.records] == [0.5, 1.0, 0.0]
    assert plain.report.formats == ("labelled",)
    assert not plain.report.notes
    assert read(tmp_path, rows[:2]).report.notes  # labels 0 and 1 only: could be either coding, which is said


def test_rm_bench_pairs_and_cells(tmp_path: Path) -> None:
    row = {"id": "7", "prompt": "q", "chosen": ["c", "C", "C!"], "rejected": ["r", "R", "r"], "domain": "chat"}
    data = read(tmp_path, [row, row | {"id": "8"}])
    assert data.report.formats == ("rm-bench",)
    assert [r.id for r in data.records] == ["7", "8"]  # test items of one prompt stay apart
    record = data.records[0]
    assert record.responses == ("c", "r", "R", "C", "C!")
    assert len(record.pairs) == 6  # 3 chosen x 2 distinct rejected
    assert set(beats(record).values()) == {1.0}
    assert [record.responses[i] for i in record.meta["chosen"]] == row["chosen"]
    assert [record.responses[i] for i in record.meta["rejected"]] == row["rejected"]
    assert record.meta["domain"] == "chat"


def test_generic_ratings_take_every_numeric_column(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "q", "response": "x", "style": 3, "truth": 0.5, "author": "me"},
        {"id": "b", "prompt": "q", "response": "y", "style": None, "truth": 1},
        {"id": "c", "prompt": "q", "response": "y", "style": 2, "truth": 0},
    ]
    data = read(tmp_path, rows)
    (record,) = data.records
    assert data.report.formats == ("ratings",)
    assert set(record.ratings) == {"style", "truth"}
    assert record.ratings["style"] == (3.0, 2.0)
    assert record.ratings["truth"] == (0.5, 0.5)  # the repeated response gets the mean of 1 and 0
    assert data.report.merged == 1
    assert math.isnan(read(tmp_path, rows[:2]).records[0].ratings["style"][1])


def test_ultrafeedback_raw_ignores_the_overall_score(tmp_path: Path) -> None:
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")

    def completion(text: str, ratings: list[str]) -> dict[str, Any]:
        notes = {a: {"Rating": r} for a, r in zip(aspects, ratings, strict=True)}
        return {"response": text, "annotations": notes, "overall_score": 10}

    items = [completion("x", ["1", "2", "N/A", "3"]), completion("y", ["5", "5", "4", "4"])]
    (record,) = read(tmp_path, [{"instruction": "q", "completions": items}]).records
    assert record.ratings["overall"] == (2.0, 4.5)
    assert math.isnan(record.ratings["truthfulness"][0])


def test_kto_pairs_good_with_bad_of_the_same_prompt(tmp_path: Path) -> None:
    items = [("q", "g1", True), ("q", "b1", False), ("q", "g2", True), ("alone", "g", True)]
    data = read(tmp_path, [dict(zip(("prompt", "completion", "label"), item, strict=True)) for item in items])
    assert beats(data.records[0]) == {("g1", "b1"): 1.0, ("g2", "b1"): 1.0}
    assert sum(data.report.dropped.values()) == 1


def test_arena_55k_and_pku_safer(tmp_path: Path) -> None:
    wins = {"winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}
    one = {"prompt": '["q"]', "response_a": '["x"]', "response_b": '["y"]', **wins}
    two = {"prompt": '["q", "r"]', "response_a": '["x", "z"]', "response_b": '["y", null]', **wins}
    data = read(tmp_path, [one, two])
    assert beats(data.records[0]) == {("x", "y"): 0.5}
    assert sum(data.report.dropped.values()) == 1
    row = {"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": 0, "safer_response_id": 1}
    assert beats(read(tmp_path, [row], "pku-safer").records[0]) == {("x", "y"): 0.0}
    assert beats(read(tmp_path, [row]).records[0]) == {("x", "y"): 1.0}


def test_hh_dialogues(tmp_path: Path) -> None:
    head = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"
    rows = [
        {"chosen": f"{head}\n\nAssistant:  two spaces", "rejected": f"{head}\n\nAssistant: no\n"},
        {"chosen": f"{head}\n\nAssistant: x", "rejected": "\n\nHuman: z\n\nAssistant: y"},
    ]
    data = read(tmp_path, rows)
    (record,) = data.records
    assert [m.role for m in record.prompt.messages] == ["user", "assistant", "user"]
    assert record.responses == (" two spaces", "no\n")  # only the one space after the marker goes
    assert data.report.dropped == {"the conversations differ before the last turn": 1}


def test_implicit_string_prompt_follows_trl(tmp_path: Path) -> None:
    """The example of TRL's documentation of implicit prompts."""
    data = read(tmp_path, [{"chosen": "The sky is blue.", "rejected": "The sky is green."}])
    (record,) = data.records
    assert (record.prompt.text, record.responses) == ("The sky is", (" blue.", " green."))
    assert split_strings("a b", "a b c") == ("a", " b", " b c")


def test_whole_conversations_with_a_system_message(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    row = {"prompt": "Hi", "chosen": [system, USER, GOOD], "rejected": [system, USER, BAD]}
    (record,) = read(tmp_path, [row]).records
    assert [m.role for m in record.prompt.messages] == ["system", "user"]
    assert record.responses == ("good", "bad")


def test_turn_markers() -> None:
    assert hh_messages("\n\nHuman: a\n\nb\n\nAssistant: c") == (Message("user", "a\n\nb"), Message("assistant", "c"))
    assert steerlm_messages("q\n<extra_id_1>Assistant\n") == (Message("user", "q"),)
    with pytest.raises(ValueError, match="Human:"):
        hh_messages("Hello")


def test_arena_rows_with_images_are_dropped_and_counted(tmp_path: Path) -> None:
    """arena-human-preference-140k: content is a list of parts, of which some are images."""

    def turns(text: str, kind: str = "text") -> list[dict[str, Any]]:
        part = {"type": kind, "text": "Look" if kind == "text" else None, "image": None, "mimeType": None}
        reply = {"type": "text", "text": text, "image": None, "mimeType": None}
        return [{"role": "user", "content": [part]}, {"role": "assistant", "content": [reply]}]

    rows = [
        {"conversation_a": turns("a", kind), "conversation_b": turns("b", kind), "winner": winner}
        for kind, winner in (("image", "model_a"), ("text", "both_bad"))
    ]
    path = tmp_path / "arena.json"
    path.write_text(json.dumps(rows))
    data = load_records(str(path))
    assert data.report.dropped == {"the conversation has images": 1}
    assert [(r.prompt.text, r.responses, r.pairs[0].p) for r in data.records] == [("Look", ("a", "b"), 0.5)]


def test_zstandard_files_are_read(tmp_path: Path) -> None:
    import pyarrow

    row = json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}).encode() + b"\n"
    path = tmp_path / "pairs.jsonl.zst"
    with pyarrow.output_stream(str(path), compression="zstd") as out:
        out.write(row)
    assert load_records(str(path)).records[0].responses == ("a", "b")
    path.write_bytes(b"no zstd at all")
    with pytest.raises(DataError, match="cannot be read"):
        load_records(str(path))


def test_pretokenised_rows_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_text(json.dumps({"chosen_ids": [1, 2], "rejected_ids": [1, 3]}))
    with pytest.raises(DataError, match="holds token ids"):
        load_records(str(path))
