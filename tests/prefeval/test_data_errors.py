"""Bad input is refused with file, row and field; nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefeval.data import load_prompts, load_records
from prefeval.errors import DataError, UserError

OK = {"prompt": "q", "chosen": "a", "rejected": "b"}


def refused(tmp_path: Path, rows: list[Any], format: str | None = None) -> str:
    """The message of the DataError; it must name the file."""
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(DataError) as caught:
        load_records(str(path), format=format)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_missing_column_names_wanted_present_and_nearest(tmp_path: Path) -> None:
    message = refused(tmp_path, [{"prompt": "q", "chosen": "a", "rejectd": "b"}])
    assert "no column 'rejected'" in message
    assert "prompt, chosen, rejectd" in message
    assert "did you mean 'rejectd'" in message
    message = refused(tmp_path, [{"promt": "q", "chosen": "a", "rejected": "b"}])
    assert "'prompt'" in message
    assert "did you mean 'promt'" in message
    message = refused(tmp_path, [OK, {"prompt": "q", "chosen": "a"}])
    assert "row 2" in message
    assert "'rejected'" in message
    message = refused(tmp_path, [OK], format="helpsteer2")
    assert "format 'helpsteer2': no column 'response'" in message


@pytest.mark.parametrize("empty", ["", "  \n", None])
def test_empty_response_in_ones_own_file_is_refused(tmp_path: Path, empty: str | None) -> None:
    message = refused(tmp_path, [OK, {**OK, "rejected": empty}])
    assert "row 2, field 'rejected': the response is empty" in message


def test_empty_response_of_a_published_set_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    base = {"instruction": "q", "output_1": "a", "preference": 1.0}
    path.write_text(json.dumps([base | {"output_2": ""}, base | {"output_2": "b"}]))
    data = load_records(str(path))
    assert data.report.dropped == {"empty response": 1}
    assert data.records[0].responses == ("a", "b")


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    message = refused(tmp_path, [{**OK, "rejected": "a "}])
    assert "no usable rows" in message
    assert "identical responses" in message


def test_empty_prompt_is_refused(tmp_path: Path) -> None:
    assert "row 1: the prompt is empty" in refused(tmp_path, [{**OK, "prompt": " "}])


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({**OK, "p": 1.2}, ["field 'p'", "[0, 1]"]),
        ({**OK, "margin": -1}, ["field 'margin'"]),
        ({**OK, "p": "often"}, ["field 'p'", "'often'"]),
        ({"instruction": "q", "output_1": "a", "output_2": "b", "preference": 3}, ["'preference'", "[1, 2]"]),
        ({"instruction": "q", "response1": "a", "response2": "b", "label": 3}, ["field 'label'", "3"]),
        (
            {"scenario": "s", "prompt": "q", "response1": "a", "response2": "b", "label": 3},
            ["field 'label'", "0, 1, 2"],
        ),
        ({"question": "q", "response_A": "a", "response_B": "b", "label": "A"}, ["field 'label'", "A>B"]),
        ({"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": -4}, ["[-3, 3]"]),
        ({"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": 4}, ["preference_strength"]),
        (
            {
                "prompt": "q",
                "response": "a",
                "helpfulness": 5,
                "correctness": 0,
                "coherence": 0,
                "complexity": 0,
                "verbosity": 0,
            },
            ["helpfulness", "[0, 4]"],
        ),
        ({"prompt": [{"role": "robot", "content": "x"}], "chosen": "a", "rejected": "b"}, ["unknown role 'robot'"]),
        ({"prompt": 5, "chosen": "a", "rejected": "b"}, ["field 'prompt'"]),
        ({"prompt": "q", "chosen": "\ud83d", "rejected": "b"}, ["field 'chosen'", "not valid Unicode"]),
    ],
)
def test_labels_and_values_out_of_range(tmp_path: Path, row: dict[str, Any], parts: list[str]) -> None:
    message = refused(tmp_path, [row])
    assert "row 1" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"responses": []}, ["'responses'"]),
        ({"responses": ["a", ""]}, ["field 'responses[1]': the response is empty"]),
        ({"P": [[0.5, 0.9]]}, ["field 'P'", "2 x 2"]),
        ({"P": [[0.5, 0.9], [0.2, 0.5]]}, ["P[0][1] + P[1][0] is 1.1, not 1"]),
        ({"P": [[0.5, 1.9], [-0.9, 0.5]]}, ["field 'P[0][1]'"]),
        ({"pairs": [[0, 2, 1.0]]}, ["field 'pairs[0]'", "0 to 1"]),
        ({"pairs": [[0, 1, 1.0], [1, 1]]}, ["field 'pairs[1]'", "itself"]),
        ({"pairs": [{"i": 0, "j": 1, "p": 2}]}, ["pairs[0].p", "[0, 1]"]),
        ({"pairs": [{"i": 0, "j": 1, "margin": -2}]}, ["pairs[0].margin"]),
        ({"ratings": {"style": [1]}}, ["ratings.style", "2 numbers"]),
        ({"ratings": {"style": [1, "x"]}}, ["ratings.style[1]", "'x'"]),
    ],
)
def test_native_rows(tmp_path: Path, change: dict[str, Any], parts: list[str]) -> None:
    row = {"id": "1", "prompt": "q", "responses": ["a", "b"], **change}
    message = refused(tmp_path, [row])
    for part in ["row 1", *parts]:
        assert part in message


def test_native_ids_are_unique(tmp_path: Path) -> None:
    row = {"id": "same", "prompt": "q", "responses": ["a", "b"]}
    assert "row 2, field 'id': 'same' is already the id of row 1" in refused(tmp_path, [row, {**row, "prompt": "r"}])


def test_malformed_json_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(OK) + "\n\n" + '{"prompt": "q", "chos\n')
    with pytest.raises(DataError, match=r"x\.jsonl, row 3: not valid JSON"):
        load_records(str(path))
    path.write_text('["a"]\n')
    with pytest.raises(DataError, match=r"row 1: a row must be an object"):
        load_records(str(path))


def test_csv_with_a_wrong_cell_count(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("prompt,chosen,rejected\nq,a,b\nq,a\n")
    with pytest.raises(DataError, match=r"x\.csv, row 2: 2 cells, but the header has 3"):
        load_records(str(path))
    path.write_text('prompt,chosen,rejected\nq,a,"b\n')
    with pytest.raises(DataError, match="not valid CSV"):
        load_records(str(path))


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(OK))
    with pytest.raises(DataError, match=r"pair\.jsonl: no such file; did you mean 'pairs\.jsonl'"):
        load_records(str(tmp_path / "pair.jsonl"))
    (tmp_path / "a.parquet").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet"):
        load_records(str(tmp_path / "a.parquet"))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="unknown kind of file"):
        load_records(str(tmp_path / "a.txt"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl: holds no rows"):
        load_records(str(tmp_path / "empty.jsonl"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="no data files"):
        load_records(str(tmp_path / "folder"))
    (tmp_path / "object.json").write_text("{}")
    with pytest.raises(DataError, match="JSON array"):
        load_records(str(tmp_path / "object.json"))
    with pytest.raises(UserError, match="not a hub id"):
        load_records("two words")


def test_prompts_need_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "q"}\n{"promp": "q"}\n')
    with pytest.raises(DataError, match=r"row 2.*did you mean 'promp'"):
        load_prompts(str(path))
    path.write_text('{"prompt": ""}\n')
    with pytest.raises(DataError, match=r"row 1, field 'prompt': the prompt is empty"):
        load_prompts(str(path))
