"""Each case of the corpus is answered with its message and exit code 2, and nothing is left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .case import Case, pattern, run
from .model_cases import forget
from .table import AREAS, every_case

CASES = every_case()


@pytest.fixture(scope="module", autouse=True)
def _clean() -> Iterator[None]:
    yield
    forget()


@pytest.mark.parametrize("area", AREAS)
def test_every_broken_input_is_told_in_its_words(area: str, tmp_path: Path) -> None:
    cases = AREAS[area]()
    outcomes = [run(case, _folder(tmp_path, n)) for n, case in enumerate(cases)]
    assert {o.case.name: o.problems for o in outcomes if o.problems} == {}


def test_the_corpus_is_large_and_has_no_case_twice() -> None:
    assert len(CASES) >= 150
    assert [name for name, count in Counter(c.name for _, c in CASES).items() if count > 1] == []


def test_a_wrong_word_or_code_is_seen(tmp_path: Path) -> None:
    good = Case("x", ("tran",), "unknown command 'tran'; did you mean 'train'? (see prefeval --help)")
    assert run(good, tmp_path).problems == ()
    assert run(Case("x", ("tran",), "unknown command 'tran'"), tmp_path).problems
    assert run(Case("x", ("--version",), "..."), tmp_path).problems  # exit 0, and words on stdout
    assert run(Case("x", ("tran",), good.message, row=3), tmp_path).problems
    assert not pattern("a...c").fullmatch("abd")


def _folder(root: Path, number: int) -> Path:
    folder = root / str(number)
    folder.mkdir()
    return folder
