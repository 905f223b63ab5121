"""Code of one's own, named on the command line or in a recipe as `py:module:object`. Naming it runs it."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from prefeval.errors import ConfigError
from prefeval.log import logger

PREFIX = "py:"
_told: set[str] = set()


def load_object(spec: str, what: str) -> Any:
    """The object that `py:module:object` names; the working directory is looked in first. `what` asks for it.

    Raises ConfigError where there is none.
    """
    module_name, _, attribute = spec.removeprefix(PREFIX).partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{what} '{spec}': write py:module:object")
    if spec not in _told:
        _told.add(spec)
        logger.warning("%s imports %s and runs its code", spec, module_name)
    if "" not in sys.path:  # console scripts do not look in the working directory, where the module usually is
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{what} '{spec}': {error}") from None
    return found
