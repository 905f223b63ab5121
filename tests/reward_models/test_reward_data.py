"""What training reads: pairs from ratings, several files at once, prompts kept apart, a test part that nobody sees."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prefeval.data.splits import prompt_key, split_by_prompt
from prefeval.errors import ConfigError, DataError
from prefeval.types import PreferenceRecord, Prompt
from reward_models import evaluate_cli
from reward_models.config import TrainConfig
from reward_models.data import DataConfig, load_splits, load_test
from reward_models.expo import ExpoConfig
from reward_models.pair_train import PairTrainConfig

SHARED = Path(os.environ.get("PREFEVAL_DATA") or Path(__file__).parents[3] / "shared" / "data")
RATED = ("topical_chat_multiattr.parquet", "data2text_multiattr.parquet", "prometheus_absolute_gpt4.parquet")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def rated(prompts: range, **extra: Any) -> list[dict[str, Any]]:
    """Three responses a prompt; grade 3, 1, 1 and depth 0, 1, missing."""
    return [
        {"prompt": f"question {n}", "response": text, "grade": grade, "depth": depth, **extra}
        for n in prompts
        for text, grade, depth in (("one", 3, 0), ("two", 1, 1), ("three", 1, None))
    ]


def keys(records: list[PreferenceRecord]) -> set[str]:
    return {prompt_key(r.prompt) for r in records}


def test_pairs_from_ratings_with_their_margins(tmp_path: Path) -> None:
    path = write(tmp_path / "rated.jsonl", rated(range(4)))
    training, _ = load_splits(DataConfig(data=path, rating_pairs={"grade": 1.0}, valid_fraction=0.0))
    pairs = {(training[0].responses[p.i], training[0].responses[p.j]): (p.p, p.margin) for p in training[0].pairs}
    assert pairs == {("one", "two"): (1.0, 2.0), ("one", "three"): (1.0, 2.0), ("two", "three"): (0.5, 0.0)}
    both, _ = load_splits(DataConfig(data=path, rating_pairs={"grade": 0.5, "depth": 2.0}, valid_fraction=0.0))
    (pair,) = both[0].pairs  # the third response has no depth
    assert (both[0].responses[pair.i], pair.p, pair.margin) == ("two", 1.0, 1.0)  # 0.5 + 2 against 1.5
    with pytest.raises(DataError, match="no rating 'grades', only grade, depth"):
        load_splits(DataConfig(data=path, rating_pairs={"grades": 1.0}))


def test_a_limit_of_pairs_thins_the_training_prompts_only(tmp_path: Path) -> None:
    path = write(tmp_path / "rated.jsonl", rated(range(40)))
    config = DataConfig(data=path, rating_pairs={"grade": 1.0}, valid_fraction=0.5, max_pairs=2)
    training, valid = load_splits(config)
    assert {len(r.pairs) for r in training} == {2}
    assert {len(r.pairs) for r in valid} == {3}
    with pytest.raises(ConfigError, match="max_pairs must not be negative"):
        DataConfig(data=path, max_pairs=-1)


def test_several_files_and_a_test_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (write(tmp_path / f"{n}.jsonl", rated(range(40 * n, 40 * n + 50))) for n in (0, 1))
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    fields: dict[str, Any] = {"data": "$SOME_DATA/0.jsonl", "more_data": (two,), "rating_pairs": {"grade": 1.0}}
    config = DataConfig(**fields, valid_fraction=0.2, test_fraction=0.3)
    (training, valid), test = load_splits(config), load_test(config)
    assert sum(map(len, (training, valid, test))) == 100
    parts = [keys(part) for part in (training, valid, test)]
    assert sum(map(len, parts)) == 90  # the ten prompts of both files are on one side each
    assert 15 < len(parts[2]) < 40
    assert len({r.id for r in (*training, *valid, *test)}) == 100
    assert all(r.prompt.id == r.id for r in training)
    assert config.files() == [one, two]
    monkeypatch.delenv("SOME_DATA")
    with pytest.raises(ConfigError, match="SOME_DATA is not set"):
        load_splits(config)


def test_no_prompt_of_the_validation_split_is_trained_on(tmp_path: Path) -> None:
    rows = rated(range(6), split="train") + rated(range(4, 8), split="validation") + rated(range(8, 10), split="test")
    training, valid = load_splits(DataConfig(data=write(tmp_path / "a.jsonl", rows)))
    assert keys(training) == {f"user: question {n}" for n in range(4)}
    assert keys(valid) == {f"user: question {n}" for n in range(4, 8)}


def test_one_question_behind_different_turns_stays_on_one_side() -> None:
    records = [
        PreferenceRecord(f"{n}-{k}", Prompt.from_text(f"reply {k}, then question {n}"), ("a",), meta={"question": n})
        for n in range(1, 40)
        for k in range(3)
    ]
    parts = split_by_prompt(records, {"train": 0.5, "valid": 0.5}, 0)
    train, valid = ({r.meta["question"] for r in part} for part in parts.values())
    assert train
    assert valid
    assert not train & valid


@pytest.mark.parametrize("kind", [TrainConfig, PairTrainConfig, ExpoConfig])
def test_commands_share_the_data_fields(kind: type[DataConfig]) -> None:
    with pytest.raises(ConfigError, match="leave no prompts"):
        kind(data="x", valid_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ConfigError, match="exclude one another"):
        kind(data="x", test_data="y", test_fraction=0.1)


def test_evaluate_on_pairs_from_ratings(tmp_path: Path) -> None:
    path = write(tmp_path / "rated.jsonl", rated(range(3)))
    argv = ["--oracle", "rules:longer", "--data", path, "--out", str(tmp_path / "out"), "--resamples", "10"]
    assert evaluate_cli.evaluate([*argv, "--rating-pairs", "grade=2"]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (found["n"], found["n_ties"]) == (6, 3)
    assert [(row["from"], row["n"]) for row in found["by_strength"]] == [(4.0, 6)]  # margin 2 x 2
    with pytest.raises(ConfigError, match="write attribute"):
        evaluate_cli.evaluate([*argv, "--rating-pairs", "grade=x"])


@pytest.mark.skipif(not (SHARED / "preferences").is_dir(), reason="the shared data is not here (PREFEVAL_DATA)")
def test_the_three_rated_sets_give_pairs() -> None:
    """The pairs of each set against a count made here: two responses to one prompt, by the order of their means."""
    folder = SHARED / "preferences"
    first, *more = (str(folder / name) for name in RATED)
    config = DataConfig(data=first, more_data=tuple(more), rating_pairs={"overall": 1.0}, valid_fraction=0.2)
    training, valid = load_splits(config)
    assert not keys(training) & keys(valid)
    scores = [s.to_numpy() for _, s in pd.read_parquet(folder / RATED[0]).groupby("doc_id").score_overall]
    gaps = np.concatenate([np.subtract.outer(s, s)[np.triu_indices(len(s), 1)] for s in scores])
    pairs = [p for r in (*training, *valid) if "engagingness" in r.ratings for p in r.pairs]
    assert (len(pairs), sum(p.p == 0.5 for p in pairs)) == (len(gaps), int((gaps == 0).sum()))
    assert sum(p.margin or 0.0 for p in pairs) == pytest.approx(np.abs(gaps).sum())
