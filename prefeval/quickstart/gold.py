"""`rules:gold`, the quickstart's ground truth: three readers with different tastes who vote on every pair.

A text is of one of three kinds: one sentence, two, or three and more, counting only sentences that say something new.
The readers rank the kinds as in Condorcet's paradox (1785): each ranking is a sensible taste, and their majority runs
in a circle: two sentences beat one, one beats three, three beat two. Within a kind all three prefer sentences of an
easy length, near 14 words. A reader's vote between two texts is softened by a logistic, and P(i beats j) is the
probability that at least two of three independent votes go to i.

What no reader sees, so that no criterion moves: sentences that add fewer than two new content words (padding, filler,
repetition, copies of the prompt), filler words, unfinished sentences, and sentences that the base model finds as
unlikely as word salad. A text with nothing left, or one that breaks off before its end, loses to every other. Tastes
are for style alone: the judge does not know whether an answer is true or to the point.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prefeval.oracle import Group, MatrixOracle, symmetrise
from prefeval.types import FloatArray, Prompt

# What each reader gives to one sentence, to two, to three and more.
TASTES = {"friend": (0.0, 1.0, -1.0), "skimmer": (1.0, -1.0, 0.0), "student": (-1.0, 0.0, 1.0)}
EASY = 14.0  # words a sentence
EASE = 0.5  # what a sentence length e times as long or as short costs, and the most it can cost: half a rank
WIDTH = 0.4  # of the soft vote
FLOOR = -6.0  # nats a token: base sentences at temperature 1 lie near -3 and one in fifty below; shuffled words near -7
NEW_WORDS = 2

_WORD = re.compile(r"[A-Za-z][A-Za-z'\u2019-]*")
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+[\"')\]*]*|\n|$)")
_FINISHED = re.compile(r"[.!?][\"')\]*]*$")
_FILLER = frozenset(
    "really very just actually basically quite simply truly literally totally indeed".split()  # noqa: SIM905
)
_EMPTY = frozenset(
    """about above after again all also always and any are because been before being best between both but can
    certainly course could did does doing done down each else even ever every feel few for free from further get
    give going good great had happy has have having help helpful helps her here hers him his hope how however
    into its know let like look make many may might more most much must need never now off one only other our
    out over own please question questions same she should since some still such sure take than thank thanks
    that the their them then there these they thing things this those through too under until upon use used
    using want was way well were what when where whether which while who whom whose why will with would yes you
    your yours""".split()  # noqa: SIM905 - a word list
)

# texts of one prompt -> one list a text with the mean log-prob (nats a token) of each of its sentences
Fluency = Callable[[Prompt, Sequence[str]], list[list[float]]]


@dataclass(frozen=True)
class Style:
    """What the readers see of a text: how many of its sentences count, and their mean length in words."""

    count: int
    words: float

    @property
    def kind(self) -> int:
        """0, 1 or 2: one sentence, two, three and more."""
        return min(self.count, 3) - 1


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence that holds a word."""
    return [m.span() for m in _SENTENCE.finditer(text) if _WORD.search(m.group())]


def style_of(prompt_text: str, text: str, fluency: Sequence[float]) -> Style | None:
    """The style of a text, or None if no sentence counts or the last one breaks off.

    `fluency` has one value for each of `sentences(text)`.
    """
    if not _FINISHED.search(text.strip()):
        return None
    seen = set(_words(prompt_text))
    counted: list[int] = []
    for (start, end), nats in zip(sentences(text), fluency, strict=True):
        sentence = text[start:end].strip()
        words = [w for w in _words(sentence) if w not in _FILLER]
        new = [w for w in dict.fromkeys(words) if w not in seen]
        content = [w for w in new if len(w) > 2 and w not in _EMPTY]
        if len(content) < NEW_WORDS or nats < FLOOR or not _FINISHED.search(sentence):
            continue
        counted.append(len(words))
        seen.update(new)
    return Style(len(counted), sum(counted) / len(counted)) if counted else None


def criteria(style: Style) -> FloatArray:
    """What each reader thinks, higher is better: (3,)."""
    ease = -EASE * min(abs(math.log(style.words / EASY)), 1.0)
    return np.array([taste[style.kind] + ease for taste in TASTES.values()])


def vote(styles: Sequence[Style | None]) -> FloatArray:
    """P (k, k) from the readers' majority; a text without a style loses for certain, two of them draw."""
    valid = np.array([s is not None for s in styles])
    marks = np.stack([criteria(s) if s is not None else np.zeros(3) for s in styles])
    votes = 1.0 / (1.0 + np.exp(np.clip(-(marks[:, None] - marks[None]) / WIDTH, -60, 60)))
    a, b, c = votes[..., 0], votes[..., 1], votes[..., 2]
    majority = np.clip(a * b + a * c + b * c - 2 * a * b * c, 0.0, 1.0)  # rounding may leave [0, 1]
    both, first = valid[:, None] & valid[None], valid[:, None] & ~valid[None]
    return symmetrise(np.where(both, majority, np.where(first, 1.0, np.where(first.T, 0.0, 0.5))))


class GoldOracle(MatrixOracle):
    """The three readers as an oracle. Fluency comes from the base model unless given."""

    name = "rules:gold"

    def __init__(self, fluency: Fluency | None = None) -> None:
        self._fluency = fluency

    def styles(self, prompt: Prompt, texts: Sequence[str]) -> list[Style | None]:
        """The styles of the texts of one prompt."""
        values = self._ready()(prompt, texts)
        return [style_of(prompt.text, text, v) for text, v in zip(texts, values, strict=True)]

    def _ready(self) -> Fluency:
        if self._fluency is None:
            from prefeval.quickstart.fluency import base_fluency

            self._fluency = base_fluency()
        return self._fluency

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        prepare = getattr(self._ready(), "prepare", None)
        if prepare is not None:  # one batch for all prompts instead of one each
            prepare([(p, text) for p, group in zip(prompts, groups, strict=True) for text in group])
        return [vote(self.styles(prompt, group)) for prompt, group in zip(prompts, groups, strict=True)]


def _words(text: str) -> list[str]:
    return [w.lower() for w in _WORD.findall(text)]
