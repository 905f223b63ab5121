"""Which preference data a command is told to read, and how it is parted into training, validation and test prompts.

No torch here: `--help` must be quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from prefeval.data.places import locate
from prefeval.errors import ConfigError, DataError
from prefeval.log import logger
from prefeval.types import PreferenceRecord

_VALIDATION = ("validation", "valid", "val", "dev")


@dataclass(frozen=True)
class DataConfig:
    """What to read and how to part it. Raises ConfigError for a value out of range."""

    data: str = ""  # file, directory or hub id of preference data; $NAME/... begins with an environment variable
    more_data: tuple[str, ...] = ()  # further ones, read alike
    format: str | None = None  # where the columns do not tell it
    columns: dict[str, str] = field(default_factory=dict)  # wanted column -> column in the data
    rating_pairs: dict[str, float] = field(default_factory=dict)  # attribute -> weight: pairs from rated responses
    valid_data: str | None = None  # default: the data's own validation split, else valid_fraction of the prompts
    valid_fraction: float = 0.1
    test_data: str | None = None  # looked at once, after everything is decided: test.json
    test_fraction: float = 0.0  # of the prompts, kept aside for that where there is no test_data
    decontaminate: tuple[str, ...] = ()  # benchmark files whose prompts, or runs of 13 words of them, are kept out
    max_pairs: int = 0  # labelled pairs of a training prompt, drawn by the seed; 0 = all of them
    resamples: int = 1000  # of the bootstrap behind the intervals
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("valid_fraction", "test_fraction"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if self.valid_fraction + self.test_fraction >= 1.0:
            raise ConfigError("valid_fraction and test_fraction leave no prompts to train on")
        if self.max_pairs < 0:
            raise ConfigError(f"max_pairs must not be negative, not {self.max_pairs}")
        if self.test_data and self.test_fraction:
            raise ConfigError("test_data and test_fraction exclude one another")

    @property
    def tested(self) -> bool:
        """Whether there are test records to look at in the end."""
        return bool(self.test_data or self.test_fraction)

    def files(self) -> list[str]:
        """The specs that training and validation read."""
        return [locate(s) for s in (self.data, *self.more_data, self.valid_data) if s]


def load_splits(config: DataConfig) -> tuple[list[PreferenceRecord], list[PreferenceRecord]]:
    """(training, validation) records, no prompt in both; the data's own test split takes part in neither.

    Raises DataError when there is nothing to train on.
    """
    training, valid = _parts(config, _read(config, config.data, *config.more_data))
    if config.decontaminate:
        from prefeval.data.decontaminate import decontaminate_from

        found = decontaminate_from(training, config.decontaminate)
        logger.info("%s", found)
        training = found.kept
    if config.max_pairs:
        from prefeval.data.thin import thin

        training = thin(training, config.max_pairs, config.seed)
    if not training:
        raise DataError("no training records (is everything in the test or validation split?)", file=config.data)
    return training, valid


def load_test(config: DataConfig) -> list[PreferenceRecord]:
    """The records with pairs that nothing was decided on: test_data, or the prompts kept aside by test_fraction.

    Raises DataError when there is none.
    """
    if config.test_data:
        found = _read(config, config.test_data)
    else:
        found = _by_prompt(config, _read(config, config.data, *config.more_data))["test"]
    records = [r for r in found if r.pairs]
    if not records:
        raise DataError("no labelled pairs to test on", file=config.test_data or config.data)
    return records


def _parts(
    config: DataConfig, read: Sequence[PreferenceRecord]
) -> tuple[list[PreferenceRecord], list[PreferenceRecord]]:
    parts = _by_prompt(config, read)
    aside = {r.id for r in parts["test"]}
    records = [r for r in read if r.split != "test" and r.id not in aside]
    own = [r for r in records if r.split in _VALIDATION]
    if config.valid_data is not None:
        valid = _read(config, config.valid_data)
        shared = {_key(r) for r in valid} & {_key(r) for r in records}
        if shared:
            logger.warning("%d prompts of %s are in the training data too", len(shared), config.valid_data)
        return records, valid
    if own:
        return _without([r for r in records if r.split not in _VALIDATION], own), own
    return parts["train"], parts["valid"]


def _by_prompt(config: DataConfig, records: Iterable[PreferenceRecord]) -> dict[str, list[PreferenceRecord]]:
    from prefeval.data.splits import split_by_prompt

    fractions = {"valid": config.valid_fraction, "test": config.test_fraction}
    parts = {"train": 1.0 - sum(fractions.values()), **fractions}
    return split_by_prompt([r for r in records if r.split != "test"], parts, config.seed)


def _without(training: list[PreferenceRecord], valid: Sequence[PreferenceRecord]) -> list[PreferenceRecord]:
    """Training records whose prompt is in no validation record; the others are counted in the log."""
    seen = {_key(r) for r in valid}
    kept = [r for r in training if _key(r) not in seen]
    if len(kept) < len(training):
        logger.warning("%d training records share a prompt with the validation split: left out",
                       len(training) - len(kept))  # fmt: skip
    return kept


def _key(record: PreferenceRecord) -> str:
    from prefeval.data.splits import prompt_key

    return prompt_key(record.prompt)


def _read(config: DataConfig, *specs: str) -> list[PreferenceRecord]:
    """The records of all specs, each id once, with pairs from ratings where they are asked for."""
    from prefeval.data.readers import load_records
    from prefeval.data.records import unique_ids

    records: list[PreferenceRecord] = []
    for spec in specs:
        found = load_records(locate(spec), format=config.format, columns=config.columns or None).records
        records += rated_pairs(found, config.rating_pairs, spec) if config.rating_pairs else found
    ids = unique_ids([r.id for r in records])
    named = zip(records, ids, strict=True)
    return [r if r.id == id else replace(r, id=id, prompt=replace(r.prompt, id=id)) for r, id in named]


def rated_pairs(records: Sequence[PreferenceRecord], weights: dict[str, float], file: str) -> list[PreferenceRecord]:
    """The records with pairs by the weighted sum of their ratings; records without ratings keep their own pairs.

    The margin of a pair is the difference of the sums. Raises DataError for an attribute that was not rated.
    """
    from prefeval.data.records import pairs_from_ratings

    out = []
    for record in records:
        missing = [name for name in weights if name not in record.ratings]
        if record.ratings and missing:
            known = ", ".join(record.ratings)
            raise DataError(f"record {record.id} has no rating '{missing[0]}', only {known}", file=file)
        out.append(pairs_from_ratings(record, weights) if record.ratings else record)
    return out
