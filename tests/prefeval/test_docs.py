"""README and docs: every command line parses, every name in the definitions exists, every printed number is defined."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alignment.cli
import prefeval
from alignment.methods_page import PAGE, page
from prefeval import cli, config, pipeline

DOCS = Path(prefeval.__file__).parent / "docs"
ROOT = DOCS.parent.parent
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"\.\.\.|\b[A-Z]{2,}\b|[\[\]<>]| N\b")


class Parsed(Exception):
    """The command line was understood; nothing was run."""


def quoted(file: Path) -> Iterator[str]:
    """The command lines of a page: whole lines of its blocks, and inline ones that have options and no placeholder."""
    text = file.read_text(encoding="utf-8")
    for language, block in FENCE.findall(text):
        if not language:
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                for part in re.sub(r"\s+#.*", "", line).split(" && "):
                    if part.startswith("prefeval "):
                        yield part
    for line in re.findall(r"`(prefeval [^`]+)`", FENCE.sub("", text)):
        if " --" in line and not PLACEHOLDER.search(line):
            yield line.replace("\n", " ")


LINES = [pytest.param(line, id=f"{file.name}: {line[:60]}") for file in PAGES for line in dict.fromkeys(quoted(file))]


def stop_after(function: Callable[..., Any]) -> Callable[..., Any]:
    def parse(*args: Any, **options: Any) -> Any:
        function(*args, **options)
        raise Parsed

    return parse


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipes and modules that the pages show, under the names that their commands use."""
    folder = tmp_path_factory.mktemp("files")
    for file in PAGES:
        for language, block in FENCE.findall(file.read_text(encoding="utf-8")):
            named = re.match(r"# (\S+\.(?:yaml|py))\n", block)
            if named or language == "yaml":
                (folder / (named.group(1) if named else "bench.yaml")).write_text(block)
    return folder


@pytest.mark.parametrize("line", LINES)
def test_every_command_parses(line: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(str(files))
    monkeypatch.delitem(sys.modules, "momentum", raising=False)
    name, *rest = shlex.split(line)[1:]
    if name.startswith("-"):
        assert cli.main([name]) == 0
        return
    assert name in cli.COMMANDS, line
    load_config = stop_after(config.load_config)
    monkeypatch.setattr(config, "load_config", load_config)
    monkeypatch.setattr(alignment.cli, "load_config", load_config)
    monkeypatch.setattr(pipeline, "run_recipe", stop_after(lambda recipe: None))
    if name not in ("train", "train-pair", "align", "bench", "expo", "demonstrations"):
        parse = stop_after(argparse.ArgumentParser.parse_args)
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    if name == "recipes":
        assert not rest
        return
    with pytest.raises(Parsed):
        cli.load(name)(rest)


def test_there_are_commands_to_parse() -> None:
    assert len(LINES) > 35
    assert {file.name for file in PAGES} >= {"tutorial.md", "definitions.md", "methods.md", "papers.md", "extending.md"}


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.load(name)(["--help"])
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    assert code == 0
    assert f"prefeval {name}" in capsys.readouterr().out


@pytest.mark.parametrize("file", PAGES, ids=lambda f: f.name)
def test_links_lead_somewhere(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", FENCE.sub("", text)):
        assert target.startswith("https://") or (file.parent / target).exists(), target


def test_what_the_definitions_name_exists() -> None:
    text = (DOCS / "definitions.md").read_text(encoding="utf-8")
    sources: dict[str, str] = {}
    for room in ("prefeval", "reward_models", "alignment", "leaderboard"):
        for path in (ROOT / room).glob("*.py"):
            sources[path.stem] = sources.get(path.stem, "") + path.read_text(encoding="utf-8")
    named = re.findall(r"`(?:prefeval\.|reward_models\.|alignment\.)?([a-z_]+)((?:\.[A-Za-z_]+)*)`", text)
    checked = 0
    for module, rest in named:
        for part in rest.split(".")[1:]:
            assert module in sources, module
            assert re.search(rf"\b{part}\b", sources[module]), f"{module}.{part}"
            checked += 1
    assert checked > 50


def test_every_printed_number_is_defined() -> None:
    """The rows of `evaluate`'s table, of a probe and of every board."""
    from alignment.best_of import against_best_of_itself
    from alignment.probes import describe, intransitivity, summarise
    from alignment.samples import SampledGroup
    from leaderboard.table import ARENA_CATEGORIES, EXTRA, MT_CATEGORIES
    from prefeval.types import Prompt, Response
    from reward_models.evaluate_table import _SHOWN

    replies = tuple(Response(t, (1, 2), "stop", -1.0) for t in ("a b", "c d", "e f"))
    groups = [SampledGroup(Prompt.from_text("?", id="0"), replies)]
    tables = [np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])]
    probe = describe(groups, [-1.0] * 3, [-1.0] * 3) | intransitivity(tables) | against_best_of_itself(tables, 3, 0)
    probe |= summarise(np.full((4, 2, 2), 0.5), 1, 0)
    board = {column for columns in EXTRA.values() for column in columns} - {*MT_CATEGORIES, *ARENA_CATEGORIES}
    text = (DOCS / "definitions.md").read_text(encoding="utf-8")
    names = {*_SHOWN, *probe, *board} - {"n", "matrix", *(f"{name}_style" for name in ARENA_CATEGORIES)}
    plain = {name: re.sub(r"(_low|_high)$", "", name) for name in names}
    defined = {name for name in names if re.search(rf"\b({name}|{plain[name]})\b", text)}
    assert names - defined == set()


def test_the_table_of_methods_is_the_registry() -> None:
    """`python -m alignment.methods_page` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page()
