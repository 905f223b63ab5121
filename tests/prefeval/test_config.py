"""Recipes: defaults, files on top, overrides on top of both; what is unknown or of the wrong type is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from prefeval.config import from_dict, load_config, parse_overrides, read_recipe, to_dict, to_yaml
from prefeval.errors import ConfigError


@dataclass(frozen=True)
class Fit:
    epochs: float = 1.0
    step_size: float = 1e-5
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Recipe:
    name: str = "toy"
    packed: bool = False
    limit: int | None = None
    out: Path = Path("runs/toy")
    fit: Fit = field(default_factory=Fit)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError("limit must be positive")


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_over_defaults_and_overrides_over_both(tmp_path: Path) -> None:
    path = recipe(tmp_path, "name: mine\nfit:\n  epochs: 3\n  sizes: [4]\n")
    config = load_config(Recipe, path, ["--fit.step-size", "0.5", "--packed", "True"])
    assert config == Recipe(name="mine", packed=True, fit=Fit(epochs=3.0, step_size=0.5, sizes=(4,)))
    assert load_config(Recipe, None) == Recipe()
    assert load_config(Recipe, recipe(tmp_path, "")) == Recipe()


def test_overrides_keep_what_the_recipe_says(tmp_path: Path) -> None:
    config = parse_overrides(Recipe, Recipe(name="kept", fit=Fit(epochs=7)), ["--limit", "5"])
    assert (config.name, config.fit.epochs, config.limit) == ("kept", 7, 5)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("nmae: x\n", ["unknown key 'nmae'", "did you mean 'name'"]),
        ("fit:\n  step_sise: 1\n", ["unknown key 'fit.step_sise'", "did you mean 'step_size'"]),
        ("fit:\n  zzz: 1\n", ["'fit.zzz'", "known: epochs, step_size, sizes"]),
        ("fit: 3\n", ["'fit' must be a mapping"]),
        ("fit:\n  epochs: many\n", ["'fit.epochs'", "'many'"]),
        ("fit:\n  sizes: [1, x]\n", ["'fit.sizes'[1]", "'x'"]),
        ("limit: 0\n", ["limit must be positive"]),
        ("- a\n", ["a recipe is a mapping"]),
        ("name: [1\n", ["line 2", "not valid YAML"]),
    ],
)
def test_refusals_name_file_and_key(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = recipe(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(Recipe, path)
    for part in [str(path), *parts]:
        assert part in str(caught.value)


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match="no such file and no built-in recipe"):
        read_recipe("no-recipe-has-this-name")


def test_unusable_overrides_are_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^--fit\.epoch: no such option; did you mean '--fit\.epochs'\?$"):
        parse_overrides(Recipe, Recipe(), ["--fit.epoch", "x"])
    with pytest.raises(ConfigError, match=r"^Error parsing --fit\.epochs: could not convert .*'x'$"):
        parse_overrides(Recipe, Recipe(), ["--fit.epochs", "x"])


def test_help_shows_the_defaults_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_overrides(Recipe, Recipe(fit=Fit(epochs=7.25)), ["--help"], command="train")
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert "7.25" in out
    assert "prefeval train" in out


def test_yaml_round_trip() -> None:
    config = Recipe(name="é", fit=Fit(sizes=(3, 4)))
    text = to_yaml(to_dict(config))
    assert "é" in text
    assert from_dict(Recipe, yaml.safe_load(text)) == config


def test_what_a_mapping_holds_is_checked_beside_the_other_flags() -> None:
    """The options of an algorithm that the same command line names, in either order."""
    from alignment.config import AlignConfig

    words = ["--options.alpha", "0.3"], ["--algorithm", "mpo"]
    for first, second in (words, words[::-1]):
        found = parse_overrides(AlignConfig, AlignConfig(), [*first, *second])
        assert (found.algorithm, found.options) == ("mpo", {"alpha": 0.3})
    with pytest.raises(ConfigError, match="algorithm 'onpo': unknown key 'alpha'"):
        parse_overrides(AlignConfig, AlignConfig(), words[0])
