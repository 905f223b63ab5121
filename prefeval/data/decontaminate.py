"""Records whose prompts stand in a benchmark: exact after normalisation, or sharing a long run of words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prefeval.data.prompts import load_prompts
from prefeval.types import PreferenceRecord, Prompt

NGRAM = 13  # words, as in GPT-3's decontamination (2005.14165, appendix C)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Contamination:
    """Records kept, and the ids of those dropped: `exact` prompts of the benchmark, `overlap` by an n-gram."""

    kept: list[PreferenceRecord]
    exact: tuple[str, ...]
    overlap: tuple[str, ...]

    def as_dict(self) -> dict[str, int]:
        return {"kept": len(self.kept), "exact": len(self.exact), "overlap": len(self.overlap)}

    def __str__(self) -> str:
        return (
            f"decontamination: {len(self.kept):,} records kept, {len(self.exact):,} dropped as benchmark prompts, "
            f"{len(self.overlap):,} for a run of {NGRAM} words of one"
        )


def decontaminate(records: Iterable[PreferenceRecord], benchmark: Iterable[Prompt]) -> Contamination:
    """Drop the records whose user turns match a benchmark prompt's.

    `exact`: one of the record's user turns has the same words in the same order, without case, punctuation and white
    space. `overlap`: they share a run of NGRAM words. Replies are not looked at.
    """
    texts: set[tuple[str, ...]] = set()
    runs: set[tuple[str, ...]] = set()
    for prompt in benchmark:
        for words in _turns(prompt):
            texts.add(words)
            runs.update(_runs(words))
    kept: list[PreferenceRecord] = []
    exact: list[str] = []
    overlap: list[str] = []
    for record in records:
        turns = _turns(record.prompt)
        if any(words in texts for words in turns):
            exact.append(record.id)
        elif any(run in runs for words in turns for run in _runs(words)):
            overlap.append(record.id)
        else:
            kept.append(record)
    return Contamination(kept, tuple(exact), tuple(overlap))


def decontaminate_from(records: Iterable[PreferenceRecord], files: Sequence[str]) -> Contamination:
    """`decontaminate` against the prompts of benchmark files (anything `load_prompts` reads)."""
    return decontaminate(records, [prompt for file in files for prompt in load_prompts(file)])


def _turns(prompt: Prompt) -> list[tuple[str, ...]]:
    """The words of each user turn that has any."""
    turns = [m.content for m in prompt.messages if m.role == "user"]
    words = [tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) for text in turns]
    return [w for w in words if w]


def _runs(words: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return (words[i : i + NGRAM] for i in range(len(words) - NGRAM + 1))
