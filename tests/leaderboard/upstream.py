"""The alpaca_eval package for comparisons: fed with frames and local side files; its folder is never written to."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def length_controlled_winrate(folder: Path) -> Callable[[list[dict[str, Any]]], dict[str, float]]:
    """Its `get_length_controlled_winrate` over the two files in `folder`; skips the test without the package."""
    if importlib.util.find_spec("pkg_resources") is None:  # it imports what setuptools no longer has, for two look-ups
        from packaging.version import parse

        stand_in: Any = types.ModuleType("pkg_resources")
        stand_in.parse_version = parse
        stand_in.get_distribution = importlib.metadata.distribution
        sys.modules["pkg_resources"] = stand_in
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("alpaca_eval")
        importlib.import_module("alpaca_eval.metrics.glm_winrate")
    module = sys.modules["alpaca_eval.metrics.glm_winrate"]
    local = {"df_gamed.csv": "df_gamed_reconstructed.csv", "instruction_difficulty.csv": "instruction_difficulty.csv"}
    module.hf_hub_download = lambda filename, **_: str(folder / local[filename])  # type: ignore[attr-defined]

    def score(rows: list[dict[str, Any]]) -> dict[str, float]:
        import pandas as pd

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: dict[str, float] = module.get_length_controlled_winrate(
                pd.DataFrame(rows), save_weights_dir=None, is_warn_extreme_changes=False
            )
        return found

    return score
