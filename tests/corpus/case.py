"""A case of the corpus, and how it is run: through the real entry of the command line, in a folder of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefeval.cli import main

Content = str | bytes | Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """`argv` and `message` may say DIR, the folder of the case; in the message, '...' stands for any text.

    `files` are made below DIR. `row` and `field` are what the message must name, beside the file. `lines` > 1 allows a
    message of several lines (a table of what was dropped, a diff).
    """

    name: str
    argv: tuple[str, ...]
    message: str
    files: Mapping[str, Content] = field(default_factory=dict)
    row: int | None = None
    field: str | None = None
    lines: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a case: `problems` is empty where all is as it must be."""

    case: Case
    message: str
    problems: tuple[str, ...]


def run(case: Case, folder: Path) -> Outcome:
    """Make the files, run the command in the folder, and hold everything that came out against the case."""
    for name, content in case.files.items():
        _make(folder / name, content)
    before = _listing(folder)
    out, err, here = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _logging_to(err):
            code: object = main([part.replace("DIR", str(folder)) for part in case.argv])
    except SystemExit as stop:  # argparse
        code = stop.code
    except BaseException as error:  # what would be a traceback
        return Outcome(case, "", (f"{type(error).__name__}: {error}",))
    finally:
        os.chdir(here)
    text = err.getvalue().replace(str(folder), "DIR")
    left = sorted(set(_listing(folder)) ^ set(before))
    problems = _problems(case, code, text, out.getvalue(), left)
    return Outcome(case, _message(text), tuple(problems))


def _problems(case: Case, code: object, text: str, out: str, left: Sequence[str]) -> list[str]:
    message = _message(text)
    found = [] if code == 2 else [f"exit {code}, not 2"]
    if not pattern(case.message).fullmatch(message):
        found.append(f"said {message!r}, not {case.message!r}")
    if "Traceback" in text or "site-packages" in text:
        found.append("a traceback")
    if message.count("\n") >= case.lines:
        found.append(f"{message.count(chr(10)) + 1} lines")
    if case.row is not None and f"row {case.row}" not in message:
        found.append(f"does not name row {case.row}")
    if case.field is not None and f"'{case.field}'" not in message:
        found.append(f"does not name field '{case.field}'")
    if out:
        found.append(f"printed {out[:80]!r}")
    return found + [f"left behind: {', '.join(left)}"] * bool(left)


def pattern(message: str) -> re.Pattern[str]:
    """The regular expression that a message written with '...' stands for."""
    return re.compile(".*".join(re.escape(part) for part in message.split("...")), re.DOTALL)


def _message(text: str) -> str:
    """What follows 'prefeval: ' or argparse's 'prefeval COMMAND: error: ' to the end of the text."""
    found = re.search(r"^prefeval(?: [\w-]+)?: (?:error: )?(.*)\Z", text, re.DOTALL | re.MULTILINE)
    rest = found[1] if found else f"no message: {text}"
    return rest.rstrip("\n")


def _make(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)


def _listing(folder: Path) -> list[str]:
    """Every file and folder, with the size of the files: what was changed is seen too."""
    return [f"{p.relative_to(folder)} {p.stat().st_size if p.is_file() else '/'}" for p in folder.rglob("*")]


@contextlib.contextmanager
def _logging_to(stream: io.StringIO) -> Iterator[None]:
    """Log lines go where the errors go, whoever set logging up before."""
    from prefeval.log import logger, setup_logging

    kept, logger.handlers = logger.handlers, []
    setup_logging()
    try:
        yield
    finally:
        logger.handlers = kept


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def changed(row: Mapping[str, Any], **change: Any) -> dict[str, Any]:
    """The row with some fields changed; a field set to `...` is taken out."""
    return {name: value for name, value in {**row, **change}.items() if value is not ...}
