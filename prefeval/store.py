"""The store: answers, verdicts and probes in one SQLite file, found again by the hash of what was asked.

An entry is (kind, key) -> JSON value; the key is `files.sha256_json` of the canonical request, so a value never goes
stale and the first one written stays. Every `put` is one durable transaction: what has been paid for survives a kill.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from prefeval.errors import DataError, RunError
from prefeval.files import dumps

T = TypeVar("T")
_APPLICATION_ID = 0x70726576  # "prev" in ASCII: marks the SQLite file as ours
_VERSION = 1
_SCHEMA = """CREATE TABLE IF NOT EXISTS entries (
    kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, created REAL NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID"""
_CHUNK = 500  # keys a query: below SQLite's limit on bound values


class Store:
    """A content-addressed store, safe under concurrent threads and processes, and across a fork.

    Raises DataError when the file is not a prefeval store or is damaged, RunError when it stays locked.
    """

    def __init__(self, path: str | Path, *, patience: float = 60.0) -> None:
        """Open or create the file; `patience` is how many seconds a writer waits for another one."""
        self.path = Path(path)
        self.patience = patience
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._db: sqlite3.Connection | None = None
        self._run(lambda db: None)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            if self._db is not None and self._pid == os.getpid():
                self._db.close()
            self._db = None

    def put(self, kind: str, key: str, value: Any) -> None:
        """Store a JSON-able value (NaN becomes null). An entry that exists is kept: same question, first answer."""
        self.put_many(kind, {key: value})

    def put_many(self, kind: str, values: Mapping[str, Any]) -> None:
        """Store several values in one transaction: all of them or none."""
        now = time.time()
        rows = [(kind, key, dumps(value), now) for key, value in values.items()]
        self._run(lambda db: db.executemany("INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?)", rows))

    def get(self, kind: str, key: str) -> Any:
        """The value, or None where there is none (`has` tells a stored null apart)."""
        return self.get_many(kind, [key]).get(key)

    def get_many(self, kind: str, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that are present."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Any] = {}
        for start in range(0, len(wanted), _CHUNK):
            part = wanted[start : start + _CHUNK]
            query = f"SELECT key, value FROM entries WHERE kind = ? AND key IN ({','.join('?' * len(part))})"
            for key, text in self._query(query, [kind, *part]):
                found[key] = self._decode(kind, key, text)
        return found

    def has(self, kind: str, key: str) -> bool:
        return bool(self._query("SELECT 1 FROM entries WHERE kind = ? AND key = ?", [kind, key]))

    def count(self, kind: str) -> int:
        return int(self._query("SELECT COUNT(*) FROM entries WHERE kind = ?", [kind])[0][0])

    def created(self, kind: str, key: str) -> float | None:
        """When the entry was written (seconds since the epoch), None where there is none."""
        rows = self._query("SELECT created FROM entries WHERE kind = ? AND key = ?", [kind, key])
        return float(rows[0][0]) if rows else None

    def delete(self, kind: str, keys: Iterable[str]) -> None:
        """Forget entries, so that they are asked again."""
        rows = [(kind, key) for key in keys]
        self._run(lambda db: db.executemany("DELETE FROM entries WHERE kind = ? AND key = ?", rows))

    def _query(self, query: str, values: list[str]) -> list[tuple[Any, ...]]:
        return self._run(lambda db: db.execute(query, values).fetchall())

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction under the lock: a connection may be used by one thread at a time only."""
        with self._lock, self._explained():
            if self._db is None or self._pid != os.getpid():
                # a connection must not cross a fork: the child leaves the parent's alone and opens its own
                self._db, self._pid = self._open(), os.getpid()
            with self._db:
                return work(self._db)

    def _open(self) -> sqlite3.Connection:
        if self.path.is_dir():
            raise DataError("is a directory, not a store file", file=self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=self.patience, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Claim an empty file or check that it is ours, before anything is changed in it."""
        if not self._is_ours(db):
            # the first of several processes creates the table; the others wait here and then see it
            with db:
                db.execute("BEGIN IMMEDIATE")
                if not self._is_ours(db):
                    db.execute(_SCHEMA)
                    db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    db.execute(f"PRAGMA user_version = {_VERSION}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")

    def _is_ours(self, db: sqlite3.Connection) -> bool:
        """True for a store, False for an empty file. Raises DataError for anything else."""
        mark = db.execute("PRAGMA application_id").fetchone()[0]
        if mark == _APPLICATION_ID:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != _VERSION:
                raise DataError(f"is a store of version {version}; this prefeval reads {_VERSION}", file=self.path)
            return True
        if mark or db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            raise DataError("is an SQLite file of another program, not a prefeval store", file=self.path)
        return False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise RunError(f"{self.path} stayed locked by another process for {self.patience:g} s") from None
            raise DataError(f"the store cannot be used: {error}", file=self.path) from None
        except sqlite3.DatabaseError as error:
            raise DataError(f"is not a prefeval store, or is damaged: {error}", file=self.path) from None
        except OSError as error:
            raise DataError(f"the store cannot be opened: {error.strerror or error}", file=self.path) from None

    def _decode(self, kind: str, key: str, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            raise DataError(f"the {kind} entry {key} is damaged", file=self.path) from None
