"""What a file that somebody else wrote may take: JSON, YAML and Parquet parsed within limits, streams that end.

Every function raises an error of the caller's kind in one line; none runs out of memory or of Python's stack on a file
that was made for that. The limits: a JSON line of `LONGEST_LINE` characters, a JSON document of `LARGEST_DOCUMENT`, a
compressed file that expands to `EXPANDED` bytes, or to `EXPANSION` times its own size where that is more.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from prefeval.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LONGEST_LINE = 64_000_000
LARGEST_DOCUMENT = 2_000_000_000
EXPANDED = 64_000_000  # text hardly shrinks by more than 20; gzip can by 1,000, Parquet and Zstandard by far more
EXPANSION = 50
_LARGEST_YAML = 1_000_000  # nodes, aliases written out: recipes have hundreds


def parse_json(text: str | bytes) -> Any:
    """As json.loads, but whatever cannot be read is a JSONDecodeError: deep nesting and endless numbers too."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
    except UnicodeDecodeError:
        raise json.JSONDecodeError("not UTF-8 text", "", 0) from None
    except ValueError:  # Python's own limit on the digits of an integer
        raise json.JSONDecodeError("a number has too many digits", "", 0) from None


def lines_of(handle: IO[str], file: object) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a text file. Raises DataError for a line that is too long to be a row."""
    number = 0
    while line := handle.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            why = f"a line of more than {LONGEST_LINE:,} characters; a row is one line of JSON"
            raise DataError(why, file=file, row=number)
        yield number, line


def read_document(handle: IO[str], file: object) -> str:
    """All of a text file that is parsed as a whole. Raises DataError where it is too large for that."""
    pieces, length = [], 0
    while piece := handle.read(1 << 20):  # as much room as is asked for is taken at once
        pieces.append(piece)
        length += len(piece)
        if length > LARGEST_DOCUMENT:
            raise DataError(f"more than {LARGEST_DOCUMENT:,} characters; write it as JSON lines", file=file)
    return "".join(pieces)


def expanded(inner: IO[bytes], path: str | Path) -> io.BufferedReader:
    """A decompressing stream that stops with a DataError where it expands beyond all that text does."""
    return io.BufferedReader(_Expanded(inner, path), 1 << 16)


class _Expanded(io.RawIOBase):
    def __init__(self, inner: IO[bytes], path: str | Path) -> None:
        self.inner, self.path, self.seen = inner, path, 0
        self.most = _most(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = self.inner.read(len(view))
        view[: len(data)] = data
        self.seen += len(data)
        if self.seen > self.most:
            raise too_large(self.path)
        return len(data)

    def close(self) -> None:
        self.inner.close()
        super().close()


def too_large(path: str | Path) -> DataError:
    size = Path(path).stat().st_size
    return DataError(f"{size:,} bytes expand to more than {_most(path):,}; unpack it first if you trust it", file=path)


def _most(path: str | Path) -> int:
    return max(EXPANDED, EXPANSION * Path(path).stat().st_size)


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file as dictionaries. Raises DataError for a file that is not one or is too large."""
    import pyarrow
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    try:
        file = pyarrow.parquet.ParquetFile(path)
        about = file.metadata
        groups = [about.row_group(n) for n in range(about.num_row_groups)]
        pages = sum(g.column(c).total_uncompressed_size for g in groups for c in range(g.num_columns))
        if pages > _most(path):
            raise too_large(path)
        seen = 0
        for batch in file.iter_batches(batch_size=4096):
            seen += sum(_whole(column).nbytes for column in batch.columns)
            if seen > _most(path):
                raise too_large(path)
            rows += batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot be read as Parquet: {reason}", file=path) from None
    return rows


def _whole(column: Any) -> Any:
    """A column whose texts stand in a dictionary, as many times as they occur."""
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


class BadYaml(ValueError):
    """Text that is no usable YAML: the message says why, `line` (from 1) where, if that is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line

    @property
    def place(self) -> str:
        """' at line N', where that is known."""
        return f" at line {self.line}" if self.line else ""


def parse_yaml(text: str, *, repeats: bool = False) -> Any:
    """As yaml.safe_load, but whatever cannot be read is a BadYaml, and so are a key that stands twice in a mapping and
    aliases that expand without bounds. `repeats` lets the last of equal keys count: other projects' files hold some.
    """
    try:
        data = yaml.load(text, yaml.SafeLoader if repeats else _Loader)
        if _nodes(data, {}, set()) > _LARGEST_YAML:
            raise BadYaml("its aliases expand to more than a million values")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
        raise BadYaml(str(problem), mark.line + 1 if mark is not None else None) from None
    except RecursionError:
        raise BadYaml("nested too deeply") from None
    except BadYaml:
        raise
    except ValueError as error:  # a date or number that is none
        raise BadYaml(f"a value cannot be read: {error}") from None
    return data


class _Loader(yaml.SafeLoader):
    """PyYAML takes the last of two equal keys without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _nodes(value: Any, known: dict[int, int], above: set[int]) -> int:
    """How many values there are when aliases are written out; each shared one is counted once and remembered."""
    if not isinstance(value, (Mapping, Sequence)) or isinstance(value, (str, bytes)):
        return 1
    if id(value) in above:
        raise BadYaml("an alias that holds itself")
    if id(value) not in known:
        inside = value.values() if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(_nodes(v, known, above | {id(value)}) for v in inside)
    return known[id(value)]
