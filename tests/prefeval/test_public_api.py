"""`import reward_models, alignment, leaderboard`: three calls each, their examples run, nothing heavy at import."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tiny import save_tiny

import alignment
import leaderboard
import prefeval
import reward_models
from prefeval.files import iterate_jsonl, write_json, write_jsonl

MODULES = (reward_models, alignment, leaderboard)
SLOW = ("train_model", "align")  # they train a tiny model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples read: pairs.jsonl, prompts.jsonl, annotations.json, answers new.json and old.json."""
    folder = tmp_path_factory.mktemp("examples")
    texts = [("A long answer.", "Short."), ("Brief.", "Another long answer.")]
    pairs = [{"prompt": f"Question {n}?", "chosen": a, "rejected": b} for n, (a, b) in enumerate(texts)]
    write_jsonl(folder / "pairs.jsonl", pairs)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": f"Say {n}."} for n in range(4)])
    mini = Path(prefeval.__file__).parent / "assets" / "mini" / "mini-alpaca.jsonl"
    asked = [row["instruction"] for _, row in iterate_jsonl(mini)][:4]
    rows = []
    for name, preferences in (("new", (2, 2, 2, 1)), ("old", (2, 1.5, 1, 1))):
        text = name + ", the longer one" * (name == "new")
        answers = [{"instruction": q, "output": text, "generator": name} for q in asked]
        write_json(folder / f"{name}.json", answers)
        rows += [
            {
                "instruction": a["instruction"],
                "output_1": "base line",
                "generator_1": "base",
                "output_2": a["output"],
                "generator_2": name,
                "annotator": "judge",
                "preference": p,
            }
            for a, p in zip(answers, preferences, strict=True)
        ]
    write_json(folder / "annotations.json", rows)
    return folder


def examples() -> Iterator[object]:
    for module in MODULES:
        for name in module.__all__:
            marks = [pytest.mark.slow] if name in SLOW else []
            yield pytest.param(module, name, marks=marks, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize(("module", "name"), list(examples()))
def test_examples(module: ModuleType, name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    if name in SLOW:
        save_tiny("base")
    function = getattr(module, name)
    found = doctest.DocTestFinder(recurse=False).find(function, name, module=module, globs=dict(vars(module)))
    assert [len(test.examples) > 0 for test in found] == [True]
    report: list[str] = []
    result = doctest.DocTestRunner().run(found[0], out=report.append)
    assert result.failed == 0, "".join(report)


def test_three_calls_each_and_no_submodule_hides_one() -> None:
    for module in MODULES:
        assert len(module.__all__) == 3
        assert all(f"- `{name}(" in (module.__doc__ or "") for name in module.__all__)
        folder = Path(module.__path__[0])
        assert not [n for n in module.__all__ if (folder / f"{n}.py").exists() or (folder / n).is_dir()]


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, reward_models, alignment, leaderboard\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
