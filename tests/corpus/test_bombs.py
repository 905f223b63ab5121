"""Files made to fill memory: one endless line, and small compressed files with huge contents.

They are read in a process whose address space is bounded; what it may take beyond the interpreter is far less than
what the files expand to. The limits are those of `prefeval.guards`.
"""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prefeval import guards
from prefeval.errors import DataError
from prefeval.files import iterate_jsonl, read_json

ROOM = 2_500_000_000  # bytes of address space, of which interpreter, numpy and Arrow take 0.6 GB
READ = """
import sys
from prefeval.cli import main
from prefeval.data.tables import read_file  # Arrow and numpy are there before the bound counts
from prefeval.errors import DataError
from pathlib import Path
try:
    read_file(Path(sys.argv[1]))
except DataError as error:
    sys.exit(str(error))
"""


def read_in_bounds(path: Path) -> tuple[str, float]:
    """(the message, seconds) of reading a file in a process with `ROOM` bytes of memory."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))

    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, preexec_fn=bound, timeout=300
    )
    assert done.returncode == 1, done.stderr[-500:]
    return done.stderr.strip().replace(f"{path.parent}/", ""), time.monotonic() - start


def write_gzip(path: Path, chunk: bytes, times: int) -> None:
    """A gzip file of several equal members."""
    path.write_bytes(gzip.compress(chunk) * times)


@pytest.mark.slow
def test_a_line_of_200_mb(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with open(path, "w") as out:
        out.write('{"prompt": "')
        for _ in range(200):
            out.write("x" * 1_000_000)
    said, _ = read_in_bounds(path)
    assert said == "x.jsonl, row 1: a line of more than 64,000,000 characters; a row is one line of JSON"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.csv.gz"])
def test_small_gzip_files_with_a_gigabyte(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    line = b'{"prompt": "%s", "chosen": "a", "rejected": "b"}\n' % (b"q" * 950) if "jsonl" in name else b" " * 1000
    write_gzip(path, line * 1000, 1000)
    assert path.stat().st_size < 5_000_000
    said, _ = read_in_bounds(path)
    assert said.startswith(f"{name}: ")
    assert "expand to more than" in said


@pytest.mark.slow
def test_a_small_parquet_file_with_8_gb(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    # 8 million times one text of 1,000 characters: a dictionary of one entry
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 8_000_000, pyarrow.int32()), ["x" * 1000])
    pyarrow.parquet.write_table(pyarrow.table({"prompt": texts}), path)
    assert path.stat().st_size < 1_000_000
    said, _ = read_in_bounds(path)
    assert said.startswith("x.parquet: ")
    assert "expand to more than" in said


def test_the_limits_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same guards with limits of a few bytes; what lies within them is read as ever."""
    rows: list[Any] = [{"a": "x" * 20}, {"a": "y"}]
    plain = tmp_path / "x.jsonl"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(guards, "LONGEST_LINE", 30)
    assert [row for _, row in iterate_jsonl(plain)] == rows
    monkeypatch.setattr(guards, "LONGEST_LINE", 29)
    with pytest.raises(DataError, match=r"x\.jsonl, row 1: a line of more than 29 characters"):
        list(iterate_jsonl(plain))
    whole = tmp_path / "x.json"
    whole.write_text(json.dumps(rows))
    monkeypatch.setattr(guards, "LARGEST_DOCUMENT", 20)
    with pytest.raises(DataError, match=r"x\.json: more than 20 characters; write it as JSON lines"):
        read_json(whole)
    monkeypatch.undo()
    packed = tmp_path / "x.jsonl.gz"
    write_gzip(packed, b"\n" * 1_000_000, 3)
    assert list(iterate_jsonl(packed)) == []
    monkeypatch.setattr(guards, "EXPANDED", 1_000_000)
    with pytest.raises(DataError, match=r"x\.jsonl\.gz: .* bytes expand to more than 1,000,000; unpack it"):
        list(iterate_jsonl(packed))
