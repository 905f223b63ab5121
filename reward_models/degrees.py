"""Degraded copies of responses for the self-supervised degree loss (arXiv 2409.17791).

The paper deletes key content by keyword extraction, at several ratios, and lets the model tell from its hidden state
which degree a text has. Its extractor, ratios and weights could not be had: here keywords are the words of largest
tf-idf among the responses of the data, and the ratios are an option.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

_WORD = re.compile(r"\w+")


def rarity(texts: Iterable[str]) -> dict[str, float]:
    """log(N / df) of each lower-case word, df being the number of the N texts that it occurs in."""
    counts: Counter[str] = Counter()
    total = 0
    for text in texts:
        counts.update(set(_WORD.findall(text.lower())))
        total += 1
    return {word: math.log(total / count) for word, count in counts.items()}


def degraded(text: str, ratio: float, weights: Mapping[str, float]) -> str:
    """The text without that share (rounded up) of its distinct words, the ones of largest tf-idf, wherever they stand.

    Ties go to the word that comes first. White space around what is left is single.
    """
    found = Counter(_WORD.findall(text.lower()))  # in order of first appearance
    ranked = sorted(found, key=lambda word: -found[word] * weights.get(word, 0.0))
    gone = set(ranked[: math.ceil(ratio * len(ranked) - 1e-9)])
    kept = _WORD.sub(lambda match: "" if match.group().lower() in gone else match.group(), text)
    return " ".join(kept.split())
