"""Data sets of the Hugging Face hub and directories written by `Dataset.save_to_disk`, through `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefeval.data.tables import Row, make_rows
from prefeval.errors import DataError


@dataclass(frozen=True)
class HubSpec:
    """`ID[@REV][:CONFIG][:SPLIT]`; of one part behind the id the hub knows whether it is a config or a split."""

    id: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None
    either: str | None = None


def parse_hub_spec(spec: str) -> HubSpec:
    """Raises DataError for a spec that is neither a file nor a hub id."""
    head, *parts = spec.split(":")
    id, _, revision = head.partition("@")
    if not id or len(parts) > 2 or id.count("/") > 1 or any(c.isspace() for c in id):
        raise DataError("no such file, and not a hub id ID[@REV][:CONFIG][:SPLIT]", file=spec)
    if len(parts) == 1:
        return HubSpec(id, revision or None, either=parts[0] or None)
    config, split = (*parts, "", "")[:2]
    return HubSpec(id, revision or None, config or None, split or None)


def read_hub(spec: str) -> Iterator[list[Row]]:
    """The rows of each split. Raises DataError, with what to do, when the hub cannot be reached."""
    wanted = parse_hub_spec(spec)
    import datasets

    try:
        config, split = wanted.config, wanted.split
        if wanted.either:
            known = datasets.get_dataset_config_names(wanted.id, revision=wanted.revision)
            config, split = (wanted.either, None) if wanted.either in known else (None, wanted.either)
        loaded = datasets.load_dataset(wanted.id, config, split=split, revision=wanted.revision)
    except Exception as error:  # datasets raises its own, the hub client's, the HTTP client's and the system's errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"no such file here, and the hub did not give a data set of that id ({type(error).__name__}: {reason}); "
            "offline, give a file or a directory",
            file=spec,
        ) from error
    return _tables(loaded, spec, split or "")


def read_saved(folder: Path) -> Iterator[list[Row]]:
    """The rows of each split of a directory written by `save_to_disk`."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as a saved data set: {error}", file=folder) from None
    return _tables(loaded, str(folder), "")


def _tables(loaded: Any, file: str, split: str) -> Iterator[list[Row]]:
    if isinstance(loaded, Mapping):
        for name, table in loaded.items():
            yield make_rows(enumerate(table, 1), f"{file} split {name}", str(name))
    else:
        yield make_rows(enumerate(loaded, 1), file, split)
