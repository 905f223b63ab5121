"""Best-of-n and best-of-Nash on candidates whose matrix is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from prefeval.errors import ConfigError, RunError
from prefeval.generate import SamplingParams, open_generator
from prefeval.generate.base import Generator
from prefeval.generate.select import SelectingGenerator
from prefeval.generate.specs import Selection, parse_mixture, parse_selection
from prefeval.oracle import Group, MatrixOracle
from prefeval.rules import open_rule
from prefeval.seeds import rng
from prefeval.types import FloatArray, Prompt, Response

PARAMS = SamplingParams(max_new_tokens=4)
PROMPTS = [Prompt.from_text("q", id=f"p{i}") for i in range(3)]


class Letters:
    """Replies are single letters; counts what is asked of it."""

    name = "letters"

    def __init__(self, letters: str) -> None:
        self.letters, self.asked = letters, 0

    def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
        self.asked += k * len(prompts)
        return [[Response(self.letters[j % len(self.letters)]) for j in range(k)] for _ in prompts]


class Cycle(MatrixOracle):
    """a beats b, b beats c, c beats a for certain; x fails against everything."""

    name = "cycle"

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        wins = {"ab", "bc", "ca"}
        return [
            np.array([[0.5 if s == t else np.nan if "x" in s + t else float(s + t in wins) for t in g] for s in g])
            for g in groups
        ]


def test_best_of_n_keeps_the_favourite_of_each_own_set() -> None:
    class Lengths(Letters):
        def sample(self, prompts: Sequence[Prompt], k: int, params: SamplingParams, seed: int) -> list[list[Response]]:
            return [[Response("w" * int(n)) for n in rng("l", p.id).permutation(k) + 1] for p in prompts]

    found = SelectingGenerator(Lengths(""), open_rule("shorter"), n=4)
    assert isinstance(found, Generator)
    assert found.name == "best-of-4:letters"
    for prompt, group in zip(PROMPTS, found.sample(PROMPTS, 2, PARAMS, seed=0), strict=True):
        lengths = rng("l", prompt.id).permutation(8) + 1
        assert [len(r.text) for r in group] == [lengths[:4].min(), lengths[4:].min()]


def test_best_of_nash_plays_the_equilibrium_of_a_cycle() -> None:
    """Rock, paper, scissors among the candidates: each a third of the time, the same ones for the same seed."""
    letters = Letters("abc")
    nash = SelectingGenerator(letters, Cycle(), n=3, rule="nash")
    prompts = [Prompt.from_text("q", id=str(i)) for i in range(150)]
    texts = [g[0].text for g in nash.sample(prompts, 1, PARAMS, seed=4)]
    counts = Counter(texts)
    assert all(abs(counts[x] - 50) < 30 for x in "abc")
    assert letters.asked == 450
    assert [g[0].text for g in nash.sample(prompts, 1, PARAMS, seed=4)] == texts
    # with a dominant candidate there is nothing to mix
    beaten = SelectingGenerator(Letters("ab"), Cycle(), n=2, rule="nash")
    assert {g[0].text for g in beaten.sample(prompts[:50], 1, PARAMS, seed=1)} == {"a"}


def test_candidates_whose_verdicts_failed_take_no_part() -> None:
    for rule in ("best", "nash"):
        chosen = SelectingGenerator(Letters("xab"), Cycle(), n=3, rule=rule)  # type: ignore[arg-type]
        assert {g[0].text for g in chosen.sample(PROMPTS, 1, PARAMS, seed=0)} == {"a"}
        none = SelectingGenerator(Letters("xa"), Cycle(), n=2, rule=rule)  # type: ignore[arg-type]
        with pytest.raises(RunError, match="cycle: no verdict about the candidates for prompt 'p0'"):
            none.sample(PROMPTS, 1, PARAMS, seed=0)
    with pytest.raises(ValueError, match="n >= 2"):
        SelectingGenerator(Letters("a"), Cycle(), n=1)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("mix:0.5*a+0.5*b", ((0.5, "a"), (0.5, "b"))),
        ("mix:0.25*runs/a+b/final+.75*org/model@main", ((0.25, "runs/a+b/final"), (0.75, "org/model@main"))),
        ("mix:1e-1*a+0.9*b", ((0.1, "a"), (0.9, "b"))),
        ("runs/mix", None),
    ],
)
def test_specs_of_mixtures(spec: str, expected: tuple[tuple[float, str], ...] | None) -> None:
    assert parse_mixture(spec) == expected


def test_specs_of_choices() -> None:
    found = parse_selection("best-of-8[ensemble:rules:a+model:runs/b]:mix:0.5*a+0.5*b")
    assert found == Selection("best", 8, "ensemble:rules:a+model:runs/b", "mix:0.5*a+0.5*b")
    assert parse_selection("runs/best-of-8") is None
    with pytest.raises(ConfigError, match="nothing here opens the oracle"):
        open_generator("nash-of-2[rules:shorter]:quickstart")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mix:0.5*a", "two models or more"),
        ("mix:a+b", "two models or more"),
        ("mix:0.5*a+0.6*b", "sum to 1"),
        ("mix:-0.5*a+1.5*b", "at least 0"),
        ("mix:1.2.3*a+0.5*b", "no weight"),
        ("best-of-1[rules:shorter]:a", "N >= 2"),
        ("best-of-8:a", "best-of-N"),
    ],
)
def test_unusable_specs(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_generator(spec)
