"""Recipes of steps: what is refused, overrides, references, and resume."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alignment.algorithm import get_algorithm
from alignment.config import AlignConfig
from leaderboard.config import BenchConfig
from prefeval import pipeline
from prefeval.config import builtin_recipes, load_config, read_recipe
from prefeval.errors import ConfigError, UserError
from prefeval.files import write_json
from prefeval.pipeline import load_recipe, run_recipe
from prefeval.runs import RunDir
from reward_models.config import TrainConfig

CALLS: list[str] = []
ANSWER = {"value": 1}


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True)
class ToyConfig:
    name: str = "toy"
    out: str = ""
    source: str = ""
    sources: dict[str, list[str]] = field(default_factory=dict)
    fit: Inner = field(default_factory=Inner)
    steps: int = 3
    seed: int = 0


def work(config: ToyConfig, run: RunDir) -> dict[str, Any]:
    CALLS.append(config.name)
    if config.steps == 0:
        raise RuntimeError("killed")
    write_json(run.path / "result.json", {"rate": config.fit.rate})
    return {"path": str(run.path), "source": config.source, "seed": config.seed, **ANSWER}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    monkeypatch.setitem(ANSWER, "value", 1)
    step = (f"{__name__}:ToyConfig", f"{__name__}:work")
    monkeypatch.setattr(pipeline, "STEPS", {"toy": step, "other": step})


RECIPE = """
name: two
about: two toys
out: {out}
seed: 7
steps:
  - {{name: first, command: toy, minutes: 2}}
  - {{name: second, command: other, config: {{source: "${{first}}/final", sources: {{all: ["${{first}}", b]}}}}}}
"""


def recipe_file(folder: Path, text: str = RECIPE) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text.format(out=folder / "run"))
    return str(path)


def test_steps_run_in_order_with_references_filled(tmp_path: Path) -> None:
    results = run_recipe(load_recipe(recipe_file(tmp_path)))
    first = tmp_path / "run" / "first"
    assert CALLS == ["first", "second"]
    assert results["first"] == {"path": str(first), "source": "", "seed": 7, "value": 1}
    assert results["second"]["source"] == f"{first}/final"
    config = read_recipe(tmp_path / "run" / "second" / "config.yaml")
    assert config["sources"] == {"all": [str(first), "b"]}


def test_a_finished_pipeline_runs_nothing_again(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path))
    assert run_recipe(recipe) == run_recipe(recipe)
    assert CALLS == ["first", "second"]
    with pytest.raises(ConfigError, match=r"another configuration(.|\n)*rate: 0.5"):
        run_recipe(load_recipe(recipe_file(tmp_path), ["--first.fit.rate", "0.5"]))


def test_a_killed_step_is_the_first_to_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(recipe_file(tmp_path))
    module = pytest.importorskip(__name__)
    with monkeypatch.context() as patch:
        patch.setattr(module, "work", fail_at("second"))
        with pytest.raises(RuntimeError, match="killed"):
            run_recipe(recipe)
    run_recipe(recipe)
    assert CALLS == ["first", "second", "second"]


def fail_at(name: str) -> Any:
    original = work

    def failing(config: ToyConfig, run: RunDir) -> dict[str, Any]:
        result = original(config, run)
        if config.name == name:
            raise RuntimeError("killed")
        return result

    return failing


def test_another_result_of_a_step_runs_again_what_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(recipe_file(tmp_path))
    run_recipe(recipe)
    marker = tmp_path / "run" / ".stages" / "first.json"
    marker.unlink()
    run_recipe(recipe)
    assert CALLS == ["first", "second", "first"]  # the same result: nothing else to do
    marker.unlink()
    monkeypatch.setitem(ANSWER, "value", 2)
    assert run_recipe(recipe)["second"]["value"] == 2
    assert CALLS[3:] == ["first", "second"]


@pytest.mark.parametrize(
    ("overrides", "step", "expected"),
    [
        (["--first.fit.rate", "1e-3"], 0, {"fit": {"rate": "1e-3"}}),
        (["--first.fit.rate=0.25", "--first.steps", "9"], 0, {"fit": {"rate": 0.25}, "steps": 9}),
        (["--second.sources.all", "[x, y]"], 1, {"source": "${first}/final", "sources": {"all": ["x", "y"]}}),
        (["--second.source="], 1, {"source": None, "sources": {"all": ["${first}", "b"]}}),
    ],
)
def test_overrides_of_steps(tmp_path: Path, overrides: list[str], step: int, expected: dict[str, Any]) -> None:
    if expected.get("source", "") is None:
        with pytest.raises(ConfigError, match="source"):
            load_recipe(recipe_file(tmp_path), overrides)
        return
    assert load_recipe(recipe_file(tmp_path), overrides).steps[step].config == expected


def test_overrides_of_the_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path), ["--out", str(tmp_path / "else"), "--seed", "3"])
    assert (recipe.out, recipe.seed) == (str(tmp_path / "else"), 3)
    assert run_recipe(recipe)["first"]["seed"] == 3
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--frist.steps", "3"], "no step is called 'frist'; did you mean 'first'"),
        (["--sed", "3"], "did you mean 'seed'"),
        (["--first", "3"], "no step is called 'first'"),
        (["--first.stepps", "3"], "unknown key 'stepps'; did you mean 'steps'"),
        (["--first.fit.rat", "3"], r"unknown key 'fit.rat'; did you mean 'rate'"),
        (["--first.steps", "many"], "steps"),
        (["--first.steps"], "overrides are written"),
        (["first.steps", "3"], "overrides are written"),
        (["--first.steps", "[3"], "cannot be read"),
        (["--second.source.deeper", "3"], "'source' is a value"),
    ],
)
def test_overrides_that_are_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(recipe_file(tmp_path), overrides)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [{name: a, command: toyy}]", "step 'a': unknown command 'toyy'; did you mean 'toy'"),
        ("steps: [{name: a, command: toy, config: {step: 3}}]", "unknown key 'step'; did you mean 'steps'"),
        ("steps: [{name: a, command: toy, config: {fit: {rte: 3}}}]", "unknown key 'fit.rte'; did you mean 'rate'"),
        ("steps: [{name: a, comand: toy}]", "unknown key 'comand'; did you mean 'command'"),
        ("steps: [{command: toy}]", "name"),
        ("steps: [{name: a, command: toy, config: {source: '${b}/x'}}]", "refers to '\\${b}'"),
        ("steps: [{name: a, command: toy, config: {source: '${a}/x'}}]", "refers to '\\${a}'"),
        ("steps: [{name: a, command: toy}, {name: a, command: toy}]", "two steps are called 'a'"),
        ("steps: [{name: a/b, command: toy}]", "a name is letters"),
        ("steps: [{name: seed, command: toy}]", "neither out nor seed"),
        ("steps: [{name: a, command: toy, minutes: 0}]", "positive"),
        ("steps: {a: toy}", "list of mappings"),
        ("stepss: []", "not a pipeline"),
        ("steps: []\nsed: 3", "unknown key 'sed'; did you mean 'seed'"),
        ("- a", "a recipe is a mapping"),
        ("a: [", "line 1"),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(str(path))
    assert "bad.yaml" in str(caught.value) or "step '" in str(caught.value)


def test_a_recipe_may_extend_another(tmp_path: Path) -> None:
    base = recipe_file(tmp_path)
    child = tmp_path / "fast.yaml"

    def extended(change: str, extends: str = base) -> Any:
        child.write_text(f"extends: {extends}\nname: fast\nseed: 9\nchange: {change}")
        return load_recipe(str(child), ["--second.steps", "5"])

    recipe = extended("{first.fit.rate: 0.5, first.minutes: 0.25}")
    assert (recipe.name, recipe.seed, recipe.about) == ("fast", 9, "two toys")
    assert recipe.steps[0].config == {"fit": {"rate": 0.5}}
    assert recipe.steps[0].minutes == 0.25
    assert recipe.steps[1].config["steps"] == 5
    for change, message in {
        "{frist.steps: 3}": "did you mean 'first'",
        "{frist.minutes: 3}": "did you mean 'first'",
        "{first.minutes: soon}": "is no step and number",
        "[a]": "the mapping 'change'",
    }.items():
        with pytest.raises(UserError, match=message):
            extended(change)
    with pytest.raises(ConfigError, match="in a circle"):
        extended("{}", extends=str(child))


def test_unknown_recipes_hint_at_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"quickstart": Path(recipe_file(tmp_path))}
    monkeypatch.setattr("prefeval.config.builtin_recipes", lambda: known)
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load_recipe("quikstart")
    assert load_recipe("quickstart").name == "two"


def test_the_list_of_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "prefeval" / "recipes"
    folder.mkdir(parents=True)
    monkeypatch.setattr(pipeline, "builtin_recipes", lambda: {"two": Path(recipe_file(folder))})
    assert pipeline.recipes([]) == 0
    assert capsys.readouterr().out.split(maxsplit=3) == ["prefeval", "run", "two", "two toys\n"]
    with pytest.raises(UserError, match="no arguments"):
        pipeline.recipes(["x"])


def test_the_quickstart_prints_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def fake(name: str, overrides: Any = ()) -> Any:
        asked.append(f"{name} {' '.join(overrides)}".strip())
        return load_recipe(recipe_file(tmp_path, RECIPE.replace("second", "report")))

    monkeypatch.setattr(pipeline, "load_recipe", fake)
    assert pipeline.quickstart(["--fast", "--seed", "3"]) == 0
    assert asked == ["quickstart-fast --seed 3"]
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'report'}\n"


@pytest.mark.parametrize("name", builtin_recipes())
def test_built_in_recipes_can_be_loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert read_recipe(name)["about"]
    if {"steps", "extends"} & set(read_recipe(name)):
        load_recipe(name)
    else:
        room = builtin_recipes()[name].parent.parent.name
        load_config({"reward_models": TrainConfig, "alignment": AlignConfig, "leaderboard": BenchConfig}[room], name)


@pytest.mark.parametrize(
    ("name", "anchors", "step"),
    [  # the step is 1 / eta of the papers of INPO and MNPO, 1 / beta of DPO, eta of the others
        ("inpo", {"policy": 2 / 3, "start": 1 / 3}, 200.0),
        ("onpo", {"aux": 1.0}, 100.0),
        ("comal", {"policy": 2 / 3, "magnet": 1 / 3}, 500.0),
        ("mnpo", {"policy": 4 / 9, "past1": 2 / 9, "start": 1 / 3}, 1 / 0.0075),
    ],
)
def test_the_papers_constants(name: str, anchors: dict[str, float], step: float) -> None:
    config = load_config(AlignConfig, name)
    method = get_algorithm(config.algorithm, **config.options)
    fit = method.fits(1)[0]  # type: ignore[attr-defined]
    assert dict(fit.weights) == pytest.approx(anchors, rel=1e-5)
    assert fit.step == pytest.approx(step)
