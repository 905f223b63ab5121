"""Where data lies: a spec may begin with a folder that the environment names, as in $PREFEVAL_DATA/x.parquet."""

from __future__ import annotations

import os
import re

from prefeval.errors import ConfigError

_VARIABLE = re.compile(r"\$(\w+)(?=/|$)")


def locate(spec: str) -> str:
    """The spec with a leading $NAME filled in. Raises ConfigError when there is no such environment variable."""
    found = _VARIABLE.match(spec)
    if found is None:
        return spec
    folder = os.environ.get(found[1])
    if not folder:
        raise ConfigError(f"data '{spec}': the environment variable {found[1]} is not set; it names the data's folder")
    return folder + spec[found.end() :]
