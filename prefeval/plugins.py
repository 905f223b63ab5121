"""Code of one's own, named on the command line or in a recipe as `py:module:object`. Naming it runs it."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from prefeval.errors import ConfigError
from prefeval.log import logger

PREFIX = "py:"
_said: set[str] = set()


def load_object(spec: str, what: str) -> Any:
    """The object that `py:module:object` names; the working directory is looked in first. `what` asks for it.

    Raises ConfigError where there is none.
    """
    module_name, _, attribute = spec.removeprefix(PREFIX).partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{what} '{spec}': write py:module:object")
    if spec not in _said:
        _said.add(spec)
        logger.warning("%s imports %s and runs its code", spec, module_name)
    if "" not in sys.path:  # console scripts do not look in the working directory, where the module usually is
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(f"{what} '{spec}': {error}") from None
    except Exception as error:
        raise ConfigError(f"{what} '{spec}': importing it raised {told(error)}") from error
    return found


def told(error: Exception) -> str:
    """An error of the user's own code in one line: kind, words, and where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"
