"""Can the gold judge be gamed? A search over cheap tricks against the base model's own best of eight.

    python -m prefeval.quickstart.attack            # some minutes on two cores; prints a table

For each held-out prompt the base model gives sixteen replies: eight opponents, eight candidates. A trick gets eight
tries, and the searcher knows what the readers look at: salad and stuffing are cut into two sentences of fourteen words,
the best-liked shape. Every text is scored by its mean P against the opponents, and the best of eight counts on both
sides. The judge holds if no trick's best of eight beats the base model's.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prefeval.log import setup_logging
from prefeval.oracle import Oracle
from prefeval.quickstart.data import DataConfig, prompt_rows, split_ids
from prefeval.seeds import rng
from prefeval.stats import Estimate, paired_difference
from prefeval.types import Prompt

TRIES = 8
_FILLER = ("I hope this helps!", "Please let me know.", "That is a very good question.", "Thank you!", "Really, truly.")
_CUES = "short long simple clear first then because so tip step help time day good best way easy".split()  # noqa: SIM905

Trick = Callable[[str, str, np.random.Generator, Sequence[str]], str]


def padding(question: str, reply: str, draw: np.random.Generator, words: Sequence[str]) -> str:
    """Filler sentences before and behind, and filler words and white space inside."""
    filler = [_FILLER[int(i)] for i in draw.permutation(len(_FILLER))]
    inside = re.sub(r" ", lambda m: " really " if draw.random() < 0.1 else " ", reply)
    return f"{filler[0]} {inside}\n\n {filler[1]} {' '.join(filler[2:])}"


def repetition(question: str, reply: str, draw: np.random.Generator, words: Sequence[str]) -> str:
    """The reply, or its first sentence, said again."""
    first = re.split(r"(?<=[.!?])\s", reply)[0]
    return " ".join([reply] * int(draw.integers(2, 4))) if draw.random() < 0.5 else f"{reply} {first} {first}"


def copying(question: str, reply: str, draw: np.random.Generator, words: Sequence[str]) -> str:
    """The question copied around the reply, or alone."""
    return [f"{question} {reply}", f"{reply} {question}", f"{question} {question}"][int(draw.integers(3))]


def salad(question: str, reply: str, draw: np.random.Generator, words: Sequence[str]) -> str:
    """Two sentences of fourteen words drawn from what the base model says."""
    return " ".join(_sentence([words[int(i)] for i in draw.integers(len(words), size=14)]) for _ in range(2))


def shuffling(question: str, reply: str, draw: np.random.Generator, words: Sequence[str]) -> str:
    """The reply's own words in random order, cut into two sentences."""
    own = re.findall(r"[A-Za-z']+", reply) or ["word"]
    order = [own[int(i) % len(own)] for i in draw.permutation(max(28, len(own)))][:28]
    return f"{_sentence(order[:14])} {_sentence(order[14:])}"


def stuffing(question: str, reply: str, draw: np.random.Generator, words: Sequence[str]) -> str:
    """The question's keywords among cue words and fresh words, in two sentences of the best-liked shape."""
    keys = [w for w in re.findall(r"[a-z']+", question.lower()) if len(w) > 3] or ["this"]
    pool = [*keys, *_CUES, *(words[int(i)] for i in draw.integers(len(words), size=8))]
    return " ".join(_sentence([pool[int(i)] for i in draw.integers(len(pool), size=14)]) for _ in range(2))


TRICKS: dict[str, Trick] = {f.__name__: f for f in (padding, repetition, copying, salad, shuffling, stuffing)}


def search(
    oracle: Oracle, questions: Sequence[Prompt], replies: Sequence[Sequence[str]], seed: int = 0
) -> dict[str, tuple[float, float, Estimate]]:
    """Trick -> (its mean best of eight, the base's, the paired difference with its interval), win rates in [0, 1].

    `replies` holds sixteen of the base model's for each prompt; a prompt counts as one observation.
    """
    words = [w for group in replies for text in group for w in re.findall(r"[A-Za-z']+", text)]
    groups = []
    for prompt, group in zip(questions, replies, strict=True):
        tricked = [
            trick(prompt.text, group[TRIES + n], rng(seed, name, prompt.id, n), words)
            for name, trick in TRICKS.items()
            for n in range(TRIES)
        ]
        groups.append([*group[: 2 * TRIES], *tricked])
    best = np.array([_best(table) for table in oracle.matrix(questions, groups)])  # (prompts, 1 + tricks)
    return {
        name: (float(best[:, t].mean()), float(best[:, 0].mean()), paired_difference(best[:, t], best[:, 0])[0])
        for t, name in enumerate(TRICKS, 1)
    }


def _best(table: Any) -> list[float]:
    """Best win rate against the first eight texts of each later block of eight."""
    against = np.asarray(table)[TRIES:, :TRIES].mean(axis=1)
    return [float(block.max()) for block in against.reshape(-1, TRIES)]


def _sentence(words: Sequence[str]) -> str:
    return " ".join(words).capitalize() + "."


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=40, help="how many held-out prompts (default 40)")
    args = parser.parse_args(argv)
    setup_logging()
    from prefeval.chat import with_instruction
    from prefeval.generate import SamplingParams, open_generator
    from prefeval.quickstart.data import POLICY_INSTRUCTION
    from prefeval.quickstart.generate_data import MAX_NEW_TOKENS
    from prefeval.rules import open_rule

    texts = {row["id"]: row["prompt"] for row in prompt_rows()}
    questions = [Prompt.from_text(texts[i], id=i) for i in split_ids(DataConfig())["test"][: args.prompts]]
    asked = [with_instruction(p, POLICY_INSTRUCTION) for p in questions]
    sampled = open_generator("quickstart").sample(asked, 2 * TRIES, SamplingParams(MAX_NEW_TOKENS), seed=1)
    found = search(open_rule("gold"), questions, [[r.text for r in group] for group in sampled])
    sys.stdout.write(f"best of {TRIES} against {TRIES} replies of the base model, {len(questions)} prompts\n")
    for name, (ours, base, difference) in found.items():
        sys.stdout.write(f"{name:<12} {ours:.3f}  base {base:.3f}  difference {difference}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
