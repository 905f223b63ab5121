"""The alpaca_eval package for comparisons: fed with frames and local side files; its folder is never written to."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def length_controlled_winrate(folder: Path) -> Callable[[list[dict[str, Any]]], dict[str, float]]:
    """Its `get_length_controlled_winrate` over the two files in `folder`; skips the test without the package."""
    package()
    module = sys.modules["alpaca_eval.metrics.glm_winrate"]
    local = {"df_gamed.csv": "df_gamed_reconstructed.csv", "instruction_difficulty.csv": "instruction_difficulty.csv"}
    module.hf_hub_download = lambda filename, **_: str(folder / local[filename])  # type: ignore[attr-defined]

    def score(rows: list[dict[str, Any]]) -> dict[str, float]:
        import pandas as pd
        import sklearn

        with warnings.catch_warnings(), sklearn.config_context():  # it switches metadata routing on and leaves it so
            warnings.simplefilter("ignore")
            found: dict[str, float] = module.get_length_controlled_winrate(
                pd.DataFrame(rows), save_weights_dir=None, is_warn_extreme_changes=False
            )
        return found

    return score


def package() -> Any:
    """The package with its parsers and metrics; skips the test where it is not installed."""
    with warnings.catch_warnings(), _with_pkg_resources():
        warnings.simplefilter("ignore")
        found = pytest.importorskip("alpaca_eval")
        for name in ("metrics.glm_winrate", "completion_parsers", "utils", "constants"):
            importlib.import_module(f"alpaca_eval.{name}")
    return found


@contextmanager
def _with_pkg_resources() -> Iterator[None]:
    """alpaca_eval imports what setuptools no longer has, for two look-ups; the stand-in stays for the import only."""
    if importlib.util.find_spec("pkg_resources") is not None:
        yield
        return
    from packaging.version import parse

    stand_in: Any = types.ModuleType("pkg_resources")
    stand_in.parse_version = parse
    stand_in.get_distribution = importlib.metadata.distribution
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
