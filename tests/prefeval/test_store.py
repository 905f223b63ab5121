"""The store: content-addressed, durable, shared by threads and processes."""

from __future__ import annotations

import math
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from prefeval.errors import DataError
from prefeval.files import sha256_json
from prefeval.store import Store

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store.sqlite"


def test_what_is_put_is_found_again(path: Path) -> None:
    value = {"text": "naïve \u2028 line", "numbers": [1, 2.5, None], "nested": {"a": [True]}}
    with Store(path) as store:
        assert store.get("reply", "k") is None
        assert not store.has("reply", "k")
        store.put("reply", "k", value)
    with Store(path) as store:  # another process would see the same
        assert store.get("reply", "k") == value
        assert store.has("reply", "k")
        assert not store.has("answer", "k")  # kinds do not mix
        assert store.count("reply") == 1
        assert abs((store.created("reply", "k") or 0.0) - time.time()) < 60
        assert store.created("reply", "other") is None


def test_null_and_nan(path: Path) -> None:
    with Store(path) as store:
        store.put_many("x", {"null": None, "nan": math.nan})
        assert store.has("x", "null")
        assert store.get("x", "null") is None
        assert store.get("x", "nan") is None


def test_the_first_value_stays_until_it_is_deleted(path: Path) -> None:
    with Store(path) as store:
        store.put("x", "k", 1)
        store.put("x", "k", 2)
        assert store.get("x", "k") == 1
        store.delete("x", ["k", "never there"])
        assert not store.has("x", "k")
        store.put("x", "k", 2)
        assert store.get("x", "k") == 2


def test_many_keys_at_once(path: Path) -> None:
    with Store(path) as store:
        store.put_many("x", {str(i): i for i in range(0, 3000, 2)})
        found = store.get_many("x", (str(i) for i in range(3000)))
        assert found == {str(i): i for i in range(0, 3000, 2)}
        assert store.get_many("x", []) == {}


def test_an_unwritable_value_changes_nothing(path: Path) -> None:
    with Store(path) as store:
        with pytest.raises(TypeError):
            store.put_many("x", {"good": 1, "bad": object()})
        assert store.count("x") == 0


def test_keys_do_not_depend_on_the_order_of_fields() -> None:
    assert sha256_json({"a": 1, "b": [2, 3]}) == sha256_json({"b": [2, 3], "a": 1})
    assert sha256_json({"a": 1, "b": [3, 2]}) != sha256_json({"a": 1, "b": [2, 3]})


def test_threads_share_one_store(path: Path) -> None:
    with Store(path) as store:

        def work(thread: int) -> None:
            for i in range(20):
                store.put("x", f"{i}", i)
                store.put("x", f"{thread}/{i}", thread)
                assert store.get("x", f"{i}") == i

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.count("x") == 20 + 6 * 20


WRITER = """
import sys
from prefeval.store import Store
store = Store(sys.argv[1])
for i in range(40):
    store.put("x", f"{sys.argv[2]}/{i}", i)
    store.put("x", f"shared/{i}", i)
"""


def test_processes_share_one_file(path: Path) -> None:
    run = [sys.executable, "-c", WRITER, str(path)]
    jobs = [subprocess.Popen([*run, str(n)], cwd=REPOSITORY, stderr=subprocess.PIPE) for n in range(3)]
    errors = [job.communicate(timeout=60)[1].decode() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0], errors
    with Store(path) as store:
        assert store.count("x") == 3 * 40 + 40


def test_what_was_put_survives_a_kill(path: Path) -> None:
    code = "import os, sys\nfrom prefeval.store import Store\ns = Store(sys.argv[1])\ns.put('x', 'k', 1)\nos._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=REPOSITORY).returncode == 9
    with Store(path) as store:
        assert store.get("x", "k") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_opens_its_own_connection(path: Path) -> None:
    store = Store(path)
    store.put("x", "parent", 1)
    child = multiprocessing.get_context("fork").Process(target=store.put, args=("x", "child", 2))
    child.start()
    child.join(timeout=30)
    assert child.exitcode == 0
    assert store.get_many("x", ["parent", "child"]) == {"parent": 1, "child": 2}
    store.close()


def test_other_files_are_refused_in_one_message(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, not a database, and they are long enough to be read as a header " * 20)
    before = text.read_bytes()
    with pytest.raises(DataError, match=r"notes\.txt: is not a prefeval store"):
        Store(text)
    assert text.read_bytes() == before
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE t (a)")
    db.close()
    before = foreign.read_bytes()
    with pytest.raises(DataError, match="another program"):
        Store(foreign)
    assert foreign.read_bytes() == before
    with pytest.raises(DataError, match="directory"):
        Store(tmp_path)
    with pytest.raises(DataError):
        Store(text / "below-a-file")


def test_a_store_of_a_later_version_is_refused(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(DataError, match="version 99"):
        Store(path)


def test_damage_is_reported_with_the_file(path: Path) -> None:
    with Store(path) as store:
        store.put_many("x", {str(i): "y" * 500 for i in range(400)})
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    with Store(path) as store, pytest.raises(DataError, match=path.name):
        store.get_many("x", map(str, range(400)))


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with Store(path) as store:
        store.put("x", "k", 1)
        assert store.get("x", "k") == 1
