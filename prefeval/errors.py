"""Errors with an exit code: what a person sees instead of a traceback.

`UserError` is bad usage or bad input (exit 2): one message that names file, row and field. `RunError` is a failure
mid-way (exit 1): it says what is kept and how to resume. Everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# C0 and C1 controls but for tab and line end, surrogates, direction marks and overrides, line separators
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class PrefevalError(Exception):
    """Base of the errors that the command line prints as one message."""

    exit_code = 1


class UserError(PrefevalError):
    """Bad usage or bad input; nothing was written."""

    exit_code = 2


class DataError(UserError):
    """Bad input in a file: the message names the file and, where known, the row (1-based) and the field."""

    def __init__(self, message: str, *, file: object = None, row: int | None = None, field: str | None = None) -> None:
        where = [str(file)] if file is not None else []
        where += [f"row {row}"] if row is not None else []
        where += [f"field '{field}'"] if field is not None else []
        super().__init__(f"{', '.join(where)}: {message}" if where else message)
        self.file, self.row, self.field = file, row, field


class ConfigError(UserError):
    """A recipe, spec or flag that cannot be used."""


class RunError(PrefevalError):
    """A run stopped mid-way; the message says what is kept and how to go on."""


def printable(text: str) -> str:
    """What a terminal may be shown: nothing in it moves the cursor, sets colours or titles, or turns text round."""
    return _UNPRINTABLE.sub("\ufffd", text)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'step_size'?`` (empty when nothing is close)."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{match[0]}'?" if match else ""
