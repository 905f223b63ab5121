"""Preference data: readers of every common layout into one canonical record, splits, and the native file format."""

from prefeval.data.demonstrations import read_demonstrations
from prefeval.data.groups import records_from_groups, write_records
from prefeval.data.prompts import load_prompts
from prefeval.data.readers import FORMATS, load_records
from prefeval.data.records import Dataset, ReadReport, pairs_from_ratings
from prefeval.data.splits import prompt_key, split_by_prompt

__all__ = [
    "FORMATS",
    "Dataset",
    "ReadReport",
    "load_prompts",
    "load_records",
    "pairs_from_ratings",
    "prompt_key",
    "read_demonstrations",
    "records_from_groups",
    "split_by_prompt",
    "write_records",
]
