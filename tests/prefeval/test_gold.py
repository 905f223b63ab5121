"""The gold judge: what it does not see, that it is an oracle, and that its majorities run in circles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefeval.games import is_cyclic
from prefeval.oracle import check_complementary
from prefeval.quickstart.gold import (
    EASE,
    EASY,
    TASTES,
    WIDTH,
    GoldOracle,
    Style,
    criteria,
    sentences,
    style_of,
    vote,
)
from prefeval.rules import RULES, open_rule
from prefeval.types import Prompt

PROMPT = "How can a beginner grow tomatoes on a windy balcony?"
CONTENT = "river stone garden yellow winter engine letter market candle forest silver bridge music".split()  # noqa: SIM905
EMPTY = "the and with for your that because should very".split()  # noqa: SIM905
FILLER = "really basically quite simply truly".split()  # noqa: SIM905
PADDING = [
    "Thank you for your question.",
    "It is always good to know more about this!",
    "There are many things that could be done.",
    "Well, yes.",
    "Tomatoes on a balcony?",
    "A beginner can grow tomatoes.",
]
OK = -3.0  # nats a token

sentence = st.lists(st.sampled_from(CONTENT + EMPTY + ["a", "it"]), min_size=3, max_size=12)
text_of_words = st.lists(sentence, min_size=1, max_size=4)


def write(parts: list[list[str]], ends: str = ".") -> str:
    return " ".join(" ".join(words).capitalize() + ends for words in parts)


def point(text: str) -> Style | None:
    return style_of(PROMPT, text, [OK] * len(sentences(text)))


def test_a_style_by_hand() -> None:
    """Ten words without the filler, then four; the mean length is 7 words."""
    found = point("The stone garden can really need a wall from river ice. Thank you! Silver music needs candles.")
    assert found == Style(2, 7.0)


@given(text_of_words, st.lists(st.tuples(st.integers(0, 4), st.sampled_from(PADDING)), max_size=4))
def test_padding_is_not_seen(parts: list[list[str]], padding: list[tuple[int, str]]) -> None:
    pieces = [write([p]) for p in parts]
    for place, extra in padding:
        pieces.insert(min(place, len(pieces)), extra)
    assert point(" ".join(pieces)) == point(write(parts))


@given(text_of_words, st.data())
def test_filler_words_are_not_seen(parts: list[list[str]], data: st.DataObject) -> None:
    padded = [list(p) for p in parts]
    for _ in range(data.draw(st.integers(1, 6))):
        words = padded[data.draw(st.integers(0, len(padded) - 1))]
        words.insert(data.draw(st.integers(0, len(words))), data.draw(st.sampled_from(FILLER)))
    assert point(write(padded)) == point(write(parts))


@given(text_of_words, st.data())
def test_white_space_is_not_seen(parts: list[list[str]], data: st.DataObject) -> None:
    inside, between = st.sampled_from([" ", "  ", "\t"]), st.sampled_from([" ", "\n", "\n\n", "   "])
    text = data.draw(between)
    for words in parts:
        body = words[0].capitalize() + "".join(data.draw(inside) + w for w in words[1:])
        text += body + "." + data.draw(between)
    assert point(text) == point(write(parts))


@given(text_of_words, st.data())
def test_repetition_is_not_seen(parts: list[list[str]], data: st.DataObject) -> None:
    copies = [parts[data.draw(st.integers(0, len(parts) - 1))] for _ in range(data.draw(st.integers(1, 5)))]
    assert point(write(parts + copies)) == point(write(parts))
    doubled = [p for words in parts for p in (words, words[::-1])]
    assert point(write(doubled)) == point(write(parts))


@given(text_of_words, st.integers(0, 4), st.booleans())
def test_copies_of_the_prompt_are_not_seen(parts: list[list[str]], place: int, shouted: bool) -> None:
    pieces = [write([p]) for p in parts]
    pieces.insert(place, PROMPT.upper() if shouted else PROMPT)
    assert point(" ".join(pieces)) == point(write(parts))


@given(text_of_words, sentence, st.sampled_from(["", "\n", ",", " -"]))
def test_a_text_that_breaks_off_loses(parts: list[list[str]], tail: list[str], end: str) -> None:
    assert point(f"{write(parts)} {' '.join(tail)}{end}") is None


@given(text_of_words, st.lists(st.sampled_from([OK, -6.5]), min_size=4, max_size=4))
def test_sentences_like_word_salad_are_not_seen(parts: list[list[str]], nats: list[float]) -> None:
    text, kept = write(parts), [p for p, v in zip(parts, nats, strict=False) if v == OK]
    assert style_of(PROMPT, text, nats[: len(parts)]) == (point(write(kept)) if kept else None)


@pytest.mark.parametrize("text", ["", "   ", "...", "Yes.", PROMPT, "river stone garden yellow winter", *PADDING])
def test_nothing_left_is_no_style(text: str) -> None:
    assert point(text) is None


def test_what_is_said_does_move_the_style() -> None:
    assert point("Stone garden.") == Style(1, 2.0)
    assert point("Stone garden by the river with a bridge made for the winter market.") == Style(1, 13.0)
    assert point("Stone walls keep warm.") == Style(1, 4.0)
    assert point("Stone walls keep warm. Silver music needs candles.") == Style(2, 4.0)


styles = st.lists(st.one_of(st.none(), st.builds(Style, st.integers(1, 9), st.floats(1, 80))), min_size=1, max_size=6)


@given(styles)
@settings(max_examples=60)
def test_votes_are_an_oracle(points: list[Style | None]) -> None:
    table = vote(points)
    check_complementary(table, "rules:gold")
    for (i, a), (j, b) in itertools.product(enumerate(points), repeat=2):
        if (a is None) != (b is None):
            assert table[i, j] == (1.0 if b is None else 0.0)
        if a == b:
            assert table[i, j] == pytest.approx(0.5)


@given(styles)
@settings(max_examples=30)
def test_a_majority_is_two_of_three_independent_votes(points: list[Style | None]) -> None:
    known = [p for p in points if p is not None]
    table = vote(known) if known else np.zeros((0, 0))
    for i, j in itertools.permutations(range(len(known)), 2):
        gaps = np.clip((criteria(known[i]) - criteria(known[j])) / WIDTH, -60, 60)
        yes = 1 / (1 + np.exp(-gaps))
        wanted = 0.0
        for votes in itertools.product((0, 1), repeat=3):
            if sum(votes) >= 2:
                wanted += float(np.prod([v if x else 1 - v for v, x in zip(yes, votes, strict=True)]))
        assert table[i, j] == pytest.approx(wanted, abs=1e-9)


def test_every_reader_puts_another_kind_first_second_and_last() -> None:
    """Condorcet's profile: each kind is first, second and last with one reader, and each taste is a whole ranking."""
    ranks = np.argsort(list(TASTES.values()), axis=1)
    for place in range(3):
        assert set(ranks[:, place]) == {0, 1, 2}


@given(st.lists(st.floats(1, 200), min_size=3, max_size=3), st.integers(3, 8))
def test_majorities_between_kinds_run_in_circles_whatever_the_lengths(words: list[float], many: int) -> None:
    """Two sentences beat one, one beats three, three beat two."""
    one, two, three = (Style(n, w) for n, w in zip((1, 2, many), words, strict=True))
    table = vote([two, one, three])
    assert table[0, 1] > 0.5
    assert table[1, 2] > 0.5
    assert table[2, 0] > 0.5
    assert is_cyclic(table)


@given(st.integers(1, 5), st.floats(1.01, 50), st.floats(1.01, 50))
def test_within_a_kind_the_easier_length_wins_and_short_counts_as_long(count: int, near: float, far: float) -> None:
    near, far = sorted((near, far))
    wins = vote([Style(count, EASY * near), Style(count, EASY / far)])[0, 1]
    assert wins >= 0.5 - 1e-12
    cost = EASE * (min(math.log(far), 1.0) - min(math.log(near), 1.0))
    yes = 1 / (1 + math.exp(-cost / WIDTH))
    assert wins == pytest.approx(3 * yes**2 - 2 * yes**3, abs=1e-9)


def test_the_oracle_asks_for_the_fluency_of_each_prompts_texts() -> None:
    asked: list[tuple[str, list[str]]] = []

    def fluency(prompt: Prompt, texts: object) -> list[list[float]]:
        asked.append((prompt.text, list(texts)))  # type: ignore[call-overload]
        return [[OK if "garden" in t else -9.0] * len(sentences(t)) for t in asked[-1][1]]

    good, salad = "Stone walls keep a garden warm.", "Silver engine candle the with market."
    [table] = GoldOracle(fluency).matrix([Prompt.from_text("Hm?")], [[good, salad, ""]])
    assert asked == [("Hm?", [good, salad, ""])]
    np.testing.assert_array_equal(table, [[0.5, 1.0, 1.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]])


def test_rules_are_opened_by_name() -> None:
    from prefeval.errors import ConfigError

    assert {open_rule(name).name for name in RULES} == {f"rules:{name}" for name in RULES}
    prompt = [Prompt.from_text("q")]
    [shorter], [longer] = (open_rule(n).matrix(prompt, [["aa", "b", "cc"]]) for n in ("shorter", "longer"))
    np.testing.assert_array_equal(shorter, [[0.5, 0.0, 0.5], [1.0, 0.5, 1.0], [0.5, 0.0, 0.5]])
    np.testing.assert_array_equal(longer, shorter.T)
    with pytest.raises(ConfigError, match="did you mean 'shorter'"):
        open_rule("shortr")
