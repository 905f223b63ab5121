"""The quickstart's data: embedded prompts and replies, labelled by the gold judge, split by prompt."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prefeval.errors import ConfigError
from prefeval.files import iterate_jsonl, sha256_file, write_jsonl
from prefeval.quickstart.gold import GoldOracle, Style
from prefeval.runs import RunDir
from prefeval.seeds import rng
from prefeval.types import FloatArray, Prompt

POLICY_INSTRUCTION = "Answer in one or two short sentences."
_TRAIN, _VALID, _TEST = 285, 30, 105  # prompts


@dataclass(frozen=True)
class DataConfig:
    """How much of the embedded data to use. Prompts never cross splits."""

    out: str = "runs/quickstart/data"
    train_prompts: int = 285
    valid_prompts: int = 30
    test_prompts: int = 105
    train_responses: int = 8  # of the twelve replies to a prompt, every kind in turn
    test_responses: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        # the splits are cut from one shuffled list at fixed places: more than this would reach into the next one
        for name, most in (("train_prompts", _TRAIN), ("valid_prompts", _VALID), ("test_prompts", _TEST)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name}: {getattr(self, name)} is out of range, there are {most}")


def asset(name: str) -> Path:
    """A file of the embedded data."""
    return Path(__file__).parent.parent / "assets" / "quickstart" / name


def prompt_rows() -> list[dict[str, Any]]:
    """The embedded prompts: id, prompt, topic."""
    return [row for _, row in iterate_jsonl(asset("prompts.jsonl"))]


def make_data(config: DataConfig, run: RunDir) -> dict[str, Any]:
    """Write {train,valid,test}.jsonl (groups with P) and prompts-{train,test}.jsonl; returns what the report shows."""
    return dict(run.stage("data", {"asset": sha256_file(asset("responses.jsonl.gz"))}, lambda: _make(config, run.path)))


def split_ids(config: DataConfig) -> dict[str, list[str]]:
    """Split name -> prompt ids, by a seeded shuffle of all prompts; the test prompts come first, whatever the sizes."""
    ids = [row["id"] for row in prompt_rows()]
    order = [ids[i] for i in rng("quickstart split").permutation(len(ids))]
    test, rest = order[: config.test_prompts], order[_TEST:]
    valid, train = rest[: config.valid_prompts], rest[_VALID:][: config.train_prompts]
    return {"train": train, "valid": valid, "test": test}


def kinds_in_turn(styles: Sequence[Style | None], count: int, *, broken_last: bool) -> list[int]:
    """Indices of `count` texts: one of each kind in turn, the first of a kind first.

    Random samples would mostly be of the commonest kind, and so near-ties. Texts without a style are a kind of their
    own, and with `broken_last` only fill up.
    """
    kinds: list[list[int]] = [[], [], [], []]
    for i, style in enumerate(styles):
        kinds[3 if style is None else style.kind].append(i)
    in_turn = kinds[:3] if broken_last else kinds
    order = [i for row in itertools.zip_longest(*in_turn) for i in row if i is not None]
    return (order + (kinds[3] if broken_last else []))[:count]


def stored_oracle(rows: Sequence[Mapping[str, Any]], questions: Mapping[str, str]) -> GoldOracle:
    """The gold judge on the embedded replies: their fluency is in the file, so no model is needed."""
    known = {
        (questions[row["id"]], text): values
        for row in rows
        for text, values in zip(row["responses"], row["fluency"], strict=True)
    }
    return GoldOracle(lambda prompt, texts: [known[(prompt.text, t)] for t in texts])


def cycle_share(tables: Sequence[FloatArray], decided: float = 0.5) -> tuple[int, int]:
    """(triples whose majority runs in a circle with every edge above `decided`, all triples)."""
    found = total = 0
    for p in tables:
        for i, j, k in itertools.combinations(range(len(p)), 3):
            edges = np.array([p[i, j], p[j, k], p[k, i]])
            total += 1
            found += bool(np.all(edges > decided) or np.all(edges < 1 - decided))
    return found, total


def _make(config: DataConfig, folder: Path) -> dict[str, Any]:
    questions = {row["id"]: row["prompt"] for row in prompt_rows()}
    rows = {row["id"]: row for _, row in iterate_jsonl(asset("responses.jsonl.gz"))}
    oracle = stored_oracle(list(rows.values()), questions)
    summary: dict[str, Any] = {"instruction": POLICY_INSTRUCTION}
    for split, ids in split_ids(config).items():
        keep = config.test_responses if split == "test" else config.train_responses
        # a test on broken texts would be too easy; in training they teach that answers must end
        choose = partial(kinds_in_turn, count=keep, broken_last=split == "test")
        groups = [_group(rows[i], questions[i], oracle, choose, config.seed) for i in ids]
        write_jsonl(folder / f"{split}.jsonl", groups)
        tables = [np.asarray(g["P"]) for g in groups]
        cyclic, triples = cycle_share(tables)
        clearly, _ = cycle_share(tables, 0.6)
        summary[split] = {
            "prompts": len(groups),
            "responses": sum(len(g["responses"]) for g in groups),
            "triples": triples,
            "cyclic": cyclic,
            "clearly_cyclic": clearly,
        }
        write_jsonl(folder / f"prompts-{split}.jsonl", [{"id": i, "prompt": questions[i]} for i in ids])
    return summary


def _group(
    row: Mapping[str, Any],
    question: str,
    oracle: GoldOracle,
    choose: Callable[[Sequence[Style | None]], list[int]],
    seed: int,
) -> dict[str, Any]:
    """One record: distinct replies in random order with their P."""
    prompt = Prompt.from_text(question, id=row["id"])
    texts = [t for t in dict.fromkeys(row["responses"]) if t.strip()]
    chosen = choose(oracle.styles(prompt, texts))
    order = [chosen[i] for i in rng(seed, "order", row["id"]).permutation(len(chosen))]
    kept = [texts[i] for i in order]
    return {"id": row["id"], "prompt": question, "responses": kept, "P": oracle.matrix([prompt], [kept])[0].tolist()}
