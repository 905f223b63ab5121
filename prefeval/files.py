"""Files that are never half-written, and JSON lines that survive odd characters.

Every file is written under a temporary name, fsynced and renamed; a directory likewise. JSONL is split on "\\n" only,
because U+2028 and U+0085 inside strings are not line ends.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from prefeval.errors import DataError
from prefeval.guards import expanded, lines_of, parse_json, read_document


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write bytes atomically: temporary name, fsync, rename. On failure the old file stays and no temporary is left."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(target.parent)
    return target


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """A fresh directory to fill; it takes its final name, replacing an older one, only when the block succeeds."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        for file in temporary.rglob("*"):
            if file.is_file():
                os.chmod(file, 0o666 & ~_umask())  # safetensors writes files that only their owner can read
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(target.parent)


def sync_directory(folder: Path) -> None:
    """fsync a directory, so that a rename in it survives a power cut (where the system allows it)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_json(path: str | Path, data: Any) -> Path:
    return write_text(path, dumps(data, indent=2) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> Path:
    return write_text(path, "".join(dumps(row) + "\n" for row in rows))


def dumps(data: Any, indent: int | None = None) -> str:
    """Strict JSON: NaN and infinities become null, non-ASCII stays readable."""
    return json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, indent=indent, default=_encode)


def read_json(path: str | Path) -> Any:
    """Parse a JSON file, gzipped or not. Raises DataError naming file and line."""
    with _reading(path) as handle:
        text = read_document(handle, path)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON at line {error.lineno}: {error.msg}", file=path) from None


def read_object(path: str | Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises DataError."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"must hold a JSON object, not a {type(found).__name__}", file=path)
    return found


def read_jsonl(path: str | Path, *, tolerate_cut_tail: bool = False) -> list[Any]:
    """The rows of a JSONL file, gzipped or not. `tolerate_cut_tail` drops a last line that a crash cut short."""
    return [row for _, row in iterate_jsonl(path, tolerate_cut_tail=tolerate_cut_tail)]


def iterate_jsonl(path: str | Path, *, tolerate_cut_tail: bool = False) -> Iterator[tuple[int, Any]]:
    """(row number from 1, parsed row) of each non-blank line. Raises DataError naming file and row."""
    with _reading(path) as handle:
        for number, line in lines_of(handle, path):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except json.JSONDecodeError as error:
                if tolerate_cut_tail and not line.endswith("\n"):
                    return
                raise DataError(f"not valid JSON: {error.msg} at column {error.colno}", file=path, row=number) from None
            yield number, row


def read_text(path: str | Path) -> str:
    """UTF-8 text, gzipped or not, without a byte order mark. Raises DataError."""
    with _reading(path) as handle:
        return read_document(handle, path).removeprefix("\ufeff")


def sha256_file(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(data: Any) -> str:
    """Hash of canonical JSON: sorted keys, no spaces."""
    text = json.dumps(_finite(data), ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_encode)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@contextmanager
def _reading(path: str | Path) -> Iterator[IO[str]]:
    try:
        with _opened(path) as handle:
            yield handle
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error.reason} at byte {error.start}", file=path) from None
    except OSError as error:
        if str(path).endswith(".zst") or isinstance(error, (gzip.BadGzipFile, IsADirectoryError, PermissionError)):
            raise DataError(f"cannot be read: {error}", file=path) from None
        raise
    except (zlib.error, EOFError) as error:
        raise DataError(f"cannot be read: {error}", file=path) from None


def _opened(path: str | Path) -> IO[str]:
    """A text file, gzip or Zstandard by its suffix."""
    if not str(path).endswith((".gz", ".zst")):
        return open(path, encoding="utf-8", newline="\n")
    if str(path).endswith(".gz"):
        inner: Any = gzip.open(path, "rb")  # noqa: SIM115 - closed by the wrapper around it
    else:
        import pyarrow

        inner = pyarrow.input_stream(str(path), compression="zstd")
    return io.TextIOWrapper(expanded(inner, path), encoding="utf-8", newline="\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def _encode(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
