"""Files are whole or not there, and JSON lines survive odd characters."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefeval import files
from prefeval.errors import DataError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SURROGATES = st.characters(exclude_categories=["Cs"])


@settings(max_examples=40)
@given(data=JSON)
def test_dumps_is_json_for_plain_data(data: object) -> None:
    assert json.loads(files.dumps(data)) == data
    assert "\n" not in files.dumps(data)


def test_dumps_has_no_nan_and_takes_arrays_and_paths() -> None:
    data = {
        "a": float("nan"),
        "b": [float("inf"), 1.0],
        "c": np.array([1.5, np.nan]),
        "d": Path("x/y"),
        "é": np.int64(3),
    }
    assert files.dumps(data) == '{"a": null, "b": [null, 1.0], "c": [1.5, null], "d": "x/y", "é": 3}'
    with pytest.raises(TypeError, match="set"):
        files.dumps({"a": {1}})


@settings(max_examples=40)
@given(texts=st.lists(st.text(SURROGATES), max_size=5))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = files.write_jsonl(tmp_path_factory.mktemp("j") / "x.jsonl", [{"t": t} for t in texts])
    assert [row["t"] for row in files.read_jsonl(path)] == texts


def test_jsonl_splits_on_newlines_only(tmp_path: Path) -> None:
    odd = "a\u2028b\u2029c\u0085d\x0be\rf\r\ng"
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps({"t": odd.replace("\r", "")}, ensure_ascii=False).encode() + b"\r\n\n" + b'{"t": 2}')
    assert list(files.iterate_jsonl(path)) == [(1, {"t": odd.replace("\r", "")}), (3, {"t": 2})]
    assert files.read_jsonl(files.write_jsonl(tmp_path / "y.jsonl", [odd])) == [odd]


def test_cut_tail_is_dropped_only_on_request_and_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    assert files.read_jsonl(path, tolerate_cut_tail=True) == [{"a": 1}]
    with pytest.raises(DataError, match=r"x\.jsonl, row 2: not valid JSON"):
        files.read_jsonl(path)
    path.write_text('{"a": 1\n{"a": 2}\n')
    with pytest.raises(DataError, match="row 1"):
        files.read_jsonl(path, tolerate_cut_tail=True)


def test_gzip_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b'{"a": [1]}'))
    assert files.read_json(path) == {"a": [1]}


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-9], lambda b: b"plain text", lambda b: b[:40] + bytes(40) + b[80:]],
    ids=["cut", "not gzip", "damaged"],
)
def test_damaged_gzip_is_a_data_error(tmp_path: Path, damage: object) -> None:
    whole = gzip.compress(json.dumps(list(range(500))).encode())
    path = tmp_path / "x.json.gz"
    path.write_bytes(damage(whole))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"x\.json\.gz"):
        files.read_json(path)


def test_unreadable_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        files.read_json(tmp_path / "none.json")
    path = tmp_path / "x.json"
    path.write_text('{\n"a": }')
    with pytest.raises(DataError, match="line 2"):
        files.read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8"):
        files.read_json(path)
    with pytest.raises(DataError, match="cannot be read"):
        files.read_json(tmp_path)


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write_text(tmp_path / "deep" / "x.txt", "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]


def test_unserialisable_rows_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        files.write_jsonl(tmp_path / "x.jsonl", [1, {2}])
    assert list(tmp_path.iterdir()) == []


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        mode = files.write_text(tmp_path / "x", "").stat().st_mode & 0o777
    finally:
        os.umask(old)
    assert mode == 0o640


def test_atomic_directory(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with files.atomic_directory(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    with pytest.raises(FileNotFoundError), files.atomic_directory(target) as folder:
        (folder / "b" / "missing").write_text("2")
    assert [p.name for p in target.iterdir()] == ["a"]
    with files.atomic_directory(target) as folder:
        (folder / "c").write_text("3")
    assert [p.name for p in target.iterdir()] == ["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_hashes(tmp_path: Path) -> None:
    path = files.write_bytes(tmp_path / "x", b"abc")
    assert files.sha256_file(path) == hashlib.sha256(b"abc").hexdigest()
    assert files.sha256_json({"b": 1, "a": (2, "é")}) == hashlib.sha256('{"a":[2,"é"],"b":1}'.encode()).hexdigest()
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": "1"})
