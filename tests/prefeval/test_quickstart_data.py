"""The embedded data: splits, selection, cycles; fluency; the recipe that sampled it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer

from prefeval import chat, models
from prefeval.config import to_dict
from prefeval.errors import ConfigError
from prefeval.files import read_jsonl
from prefeval.oracle import check_complementary
from prefeval.quickstart import generate_data
from prefeval.quickstart.data import (
    POLICY_INSTRUCTION,
    DataConfig,
    cycle_share,
    kinds_in_turn,
    make_data,
    prompt_rows,
    split_ids,
)
from prefeval.quickstart.fluency import SentenceFluency
from prefeval.quickstart.gold import Style, sentences
from prefeval.runs import RunDir
from prefeval.seeds import derive_seed, rng
from prefeval.types import Prompt

SPLITS = ("train", "valid", "test")


def make(folder: Path, **options: Any) -> dict[str, Any]:
    config = DataConfig(out=str(folder), **options)
    return make_data(config, RunDir(folder, to_dict(config), command="test"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("data")
    return folder, make(folder)


def test_held_out_triples_run_in_circles(made: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = made
    tables = [np.array(row["P"]) for row in read_jsonl(folder / "test.jsonl")]
    cyclic = triples = 0
    for p in tables:
        for i, j, k in itertools.combinations(range(len(p)), 3):
            wins = [p[i, j] > 0.5, p[j, k] > 0.5, p[k, i] > 0.5]
            triples += 1
            cyclic += all(wins) or (not any(wins) and 0.5 not in (p[i, j], p[j, k], p[k, i]))
    assert (summary["test"]["cyclic"], summary["test"]["triples"]) == (cyclic, triples)
    assert cyclic >= 0.15 * triples
    assert summary["test"]["clearly_cyclic"] <= cyclic


def test_prompts_never_cross_splits(made: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = made
    rows = {s: read_jsonl(folder / f"{s}.jsonl") for s in SPLITS}
    assert [len(rows[s]) for s in SPLITS] == [285, 30, 105]
    for a, b in itertools.combinations(SPLITS, 2):
        for key in ("id", "prompt"):
            assert not {r[key] for r in rows[a]} & {r[key] for r in rows[b]}
    for s in SPLITS:
        assert [(r["id"], r["prompt"]) for r in read_jsonl(folder / f"prompts-{s}.jsonl")] == [
            (r["id"], r["prompt"]) for r in rows[s]
        ]
        assert summary[s]["prompts"] == len(rows[s])
        for row in rows[s]:
            assert len(row["responses"]) == len(set(row["responses"])) <= (4 if s == "test" else 8)
            assert all(t.strip() for t in row["responses"])
            check_complementary(np.array(row["P"]), "rules:gold")


def test_the_same_files_every_time_and_a_prefix_for_smaller_sizes(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, summary = made
    assert make(tmp_path / "again") == summary
    for s in SPLITS:
        assert (tmp_path / "again" / f"{s}.jsonl").read_bytes() == (folder / f"{s}.jsonl").read_bytes()
    make(tmp_path / "small", train_prompts=9, valid_prompts=2, test_prompts=5)
    for s, count in zip(SPLITS, (9, 2, 5), strict=True):
        assert read_jsonl(tmp_path / "small" / f"{s}.jsonl") == read_jsonl(folder / f"{s}.jsonl")[:count]
    make(tmp_path / "seeded", seed=1, train_prompts=9, valid_prompts=2, test_prompts=5)
    first, second = (read_jsonl(tmp_path / n / "train.jsonl") for n in ("small", "seeded"))
    assert [sorted(r["responses"]) for r in first] == [sorted(r["responses"]) for r in second]
    assert [r["responses"] for r in first] != [r["responses"] for r in second]  # the order alone


@pytest.mark.parametrize("field", ["train_prompts", "valid_prompts", "test_prompts"])
def test_sizes_that_would_mix_the_splits_are_refused(field: str) -> None:
    most = getattr(DataConfig(), field)
    assert len(split_ids(DataConfig(**{field: most}))[field.removesuffix("_prompts")]) == most
    for wrong in (most + 1, -1):
        with pytest.raises(ConfigError, match=field):
            DataConfig(**{field: wrong})


def test_the_assets_fit_together() -> None:
    from prefeval.quickstart.data import asset

    prompts, rows = prompt_rows(), read_jsonl(asset("responses.jsonl.gz"))
    assert [p["id"] for p in prompts] == [r["id"] for r in rows]
    assert len({p["prompt"] for p in prompts}) == len(prompts) == 420
    origins = [s.name for s in generate_data.STYLES for _ in range(s.count)]
    for row in rows:
        assert row["origins"] == origins
        assert len(row["responses"]) == len(row["fluency"]) == 12
        for text, values in zip(row["responses"], row["fluency"], strict=True):
            assert len(values) == len(sentences(text))
            assert all(v <= 0 for v in values)


def test_kinds_in_turn_by_hand() -> None:
    one, two, many = Style(1, 9.0), Style(2, 9.0), Style(5, 9.0)
    styles = [one, one, None, one, many, two, None, many]
    assert kinds_in_turn(styles, 99, broken_last=True) == [0, 5, 4, 1, 7, 3, 2, 6]
    assert kinds_in_turn(styles, 99, broken_last=False) == [0, 5, 4, 2, 1, 7, 6, 3]
    assert kinds_in_turn(styles, 3, broken_last=True) == [0, 5, 4]
    assert kinds_in_turn([None, one], 1, broken_last=True) == [1]
    assert kinds_in_turn([], 2, broken_last=False) == []


def test_test_groups_hold_whole_texts_first_and_training_groups_broken_ones_too(
    made: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = made
    shares = {}
    for split in SPLITS:
        tables = [np.array(row["P"]) for row in read_jsonl(folder / f"{split}.jsonl")]
        # a broken text loses for certain to every whole one
        shares[split] = np.mean([bool((p == 1.0).any()) for p in tables])
    assert shares["test"] < 0.05
    assert shares["train"] > 0.5


def test_cycle_share_counts_triples() -> None:
    circle = np.array([[0.5, 0.9, 0.4], [0.1, 0.5, 0.7], [0.6, 0.3, 0.5]])
    order = np.array([[0.5, 0.9, 0.9], [0.1, 0.5, 0.9], [0.1, 0.1, 0.5]])
    assert cycle_share([circle, circle.T, order, np.full((3, 3), 0.5)]) == (2, 4)
    assert cycle_share([circle], decided=0.65) == (0, 1)


TEXT = "The sky is blue.  Light scatters, and red light less!\nSo it is. Unfinished tail"


def test_fluency_is_the_mean_log_prob_of_a_sentences_tokens() -> None:
    model, tokenizer = make_tiny_model(), make_tiny_tokenizer()
    prompt = Prompt.from_text("Why is the sky blue?", id="p")
    texts = [TEXT, "Yes.", "", "12 34", "Light scatters."]
    scorer = SentenceFluency(model, tokenizer, batch_tokens=120)
    found = scorer(prompt, texts)
    head = chat.encode_prompt(tokenizer, Prompt.from_text(f"Why is the sky blue? {POLICY_INSTRUCTION}"))
    for text, values in zip(texts, found, strict=True):
        out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = [*head, *out["input_ids"]]
        with torch.no_grad():
            steps = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], -1)
        logp = [float(steps[len(head) - 1 + n, i]) for n, i in enumerate(out["input_ids"])]
        spans = sentences(text)
        assert len(values) == len(spans)
        for value, (start, end) in zip(values, spans, strict=True):
            inside = [v for v, (_, stop) in zip(logp, out["offset_mapping"], strict=True) if start < stop <= end]
            assert value == pytest.approx(np.mean(inside), abs=1e-4)
    assert [len(v) for v in found] == [4, 1, 0, 0, 1]


def test_fluency_is_computed_once_and_can_be_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = SentenceFluency(make_tiny_model(), make_tiny_tokenizer())
    prompt = Prompt.from_text("Hi")
    first = scorer(prompt, ["Yes.", "Yes.", "No."])
    assert first[0] == first[1]
    scorer.remember("Hi", "Maybe.", [-1.5])
    monkeypatch.setattr(scorer, "model", None)
    assert scorer(prompt, ["No.", "Maybe."]) == [first[2], [-1.5]]


def test_generate_data_repeats_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The recipe on the tiny model: six replies as the policy, two in each other style, the same ones every time."""
    monkeypatch.setattr(models, "load_causal", lambda spec, dtype=None: make_tiny_model().to(dtype))
    monkeypatch.setattr(models, "load_tokenizer", lambda spec: make_tiny_tokenizer())
    monkeypatch.setattr(generate_data, "MAX_NEW_TOKENS", 6)
    rows = prompt_rows()[:3]
    first = generate_data.sample_rows(rows)
    assert [r["id"] for r in first] == [r["id"] for r in rows]
    assert first[0]["origins"] == ["policy"] * 6 + ["do"] * 2 + ["why"] * 2 + ["example"] * 2
    assert all(len(r["responses"]) == len(r["fluency"]) == 12 for r in first)
    assert generate_data.check(first) == 1.0
    first[0]["responses"][0] += "!"
    assert generate_data.check(first) == pytest.approx(35 / 36)
    monkeypatch.setattr(generate_data, "prompt_rows", lambda: rows)
    out = tmp_path / "r.jsonl.gz"
    assert generate_data.main(["--out", str(out)]) == 0
    assert [r["id"] for r in read_jsonl(out)] == [r["id"] for r in rows]
    with pytest.raises(SystemExit, match="2"):
        generate_data.main([])


def test_seeds_tell_their_keys_apart() -> None:
    keys: list[tuple[Any, ...]] = [(0,), (1,), ("0",), (0, 0), ("00",), ("0", "0"), ("a", "bc"), ("ab", "c"), (0, "a")]
    seeds = [derive_seed(*k) for k in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= s < 2**63 for s in seeds)
    assert rng("a", 1).random() == rng("a", 1).random() != rng("a", 2).random()
