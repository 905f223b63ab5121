"""Containers and specs: files of every kind, renamed columns, directories and hub ids give the same rows."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefeval.data import load_records
from prefeval.data.tables import split_in_name
from prefeval.errors import ConfigError, DataError
from prefeval.types import Message, PairLabel


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return str(path)


ODD = 'a\u2028b\u0085c\x0bd\x1ce "quoted", comma\r\nline\n'


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet"])
def test_every_container_keeps_odd_characters(tmp_path: Path, suffix: str) -> None:
    rows = [{"prompt": f"p{ODD}", "chosen": ODD, "rejected": f" {n}"} for n in range(3)]
    path = tmp_path / f"rows{suffix}"
    if suffix.startswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        if "csv" in suffix:
            with open(tmp_path / "plain", "w", newline="", encoding="utf-8") as out:
                writer = csv.DictWriter(out, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            text = (tmp_path / "plain").read_bytes()
        elif "jsonl" in suffix:
            text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()
        else:
            text = json.dumps(rows, ensure_ascii=False).encode()
        path.write_bytes(gzip.compress(text) if suffix.endswith(".gz") else text)
    (record,) = load_records(str(path)).records
    assert record.prompt.text == f"p{ODD}"
    assert record.responses == (ODD, " 0", " 1", " 2")
    assert [(pair.i, pair.j) for pair in record.pairs] == [(0, 1), (0, 2), (0, 3)]


def test_csv_cells_with_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with open(path, "w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["prompt", "chosen", "rejected"])
        writer.writerow([json.dumps([{"role": "user", "content": "Hi"}]), "[1, 2]", "{}"])
    (record,) = load_records(str(path)).records
    assert record.prompt.messages == (Message("user", "Hi"),)
    assert record.responses == ("[1, 2]", "{}")  # replies that look like JSON stay text


def test_columns_are_renamed_in_either_direction(tmp_path: Path) -> None:
    spec = jsonl(tmp_path / "r.jsonl", [{"q": "Hi", "win": "x", "lose": "y"}])
    for columns in (
        {"prompt": "q", "chosen": "win", "rejected": "lose"},
        {"q": "prompt", "win": "chosen", "lose": "rejected"},
    ):
        (record,) = load_records(spec, columns=columns).records
        assert (record.prompt.text, record.responses, record.pairs) == ("Hi", ("x", "y"), (PairLabel(0, 1, 1.0),))
    with pytest.raises(DataError, match=r"'los'.*did you mean 'lose'"):
        load_records(spec, columns={"rejected": "los"})


def test_directory_reads_every_file_and_takes_splits_from_names(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    jsonl(tmp_path / "pairs.test.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    data = load_records(str(tmp_path))
    assert sorted(r.split for r in data.records) == ["test", "train"]
    assert len({r.id for r in data.records}) == 2


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("alpaca_eval_pairs.test.parquet", "test"),
        ("alpaca_eval_pairs.parquet", ""),
        ("test_prefs-0.parquet", "test"),
        ("mine_validation.csv", "validation"),
        ("pairs.jsonl", ""),
    ],
)
def test_split_in_file_name(name: str, split: str) -> None:
    assert split_in_name(name) == split


def test_hub_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"}]

    def load(id: str, config: str | None, *, split: str | None, revision: str | None) -> Any:
        asked.append((id, config, split, revision))
        return rows if split else {"train": rows, "test": rows}

    fake = SimpleNamespace(load_dataset=load, get_dataset_config_names=lambda id, revision: ["preference"])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert [r.split for r in load_records("org/name").records] == ["train", "test"]
    assert [r.split for r in load_records("org/name@v2:test").records] == ["test"]
    assert load_records("org/name:preference:train").records[0].split == "train"
    load_records("org/name:preference")
    assert asked == [
        ("org/name", None, None, None),
        ("org/name", None, "test", "v2"),
        ("org/name", "preference", "train", None),
        ("org/name", "preference", None, None),
    ]


def test_hub_out_of_reach_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(id: str, config: str | None, *, split: str | None, revision: str | None) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    with pytest.raises(DataError, match=r"org/name.*ConnectionError: no route.*offline, give a file"):
        load_records("org/name")


def test_unknown_format_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown format 'trll'; did you mean 'trl'"):
        load_records("x.jsonl", format="trll")
