"""A recipe of steps, each one of the commands (train, align, bench, ...), run in order in one resumable directory.

A step's config may point at an earlier step's directory with ``${step}``. A step is a stage: it is skipped when it is
done for the same config and the same results of the steps it points at, and resumes inside itself otherwise.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prefeval.config import builtin_recipes, from_dict, read_recipe, to_dict
from prefeval.errors import ConfigError, UserError, nearest
from prefeval.guards import BadYaml, parse_yaml
from prefeval.log import format_seconds, logger
from prefeval.memory import peak_gigabytes
from prefeval.runs import RunDir

# command -> (config dataclass, function(config, run) -> JSON-able result), by dotted name so that nothing is imported
STEPS: dict[str, tuple[str, str]] = {
    "data": ("prefeval.quickstart.data:DataConfig", "prefeval.quickstart.data:make_data"),
    "train": ("reward_models.config:TrainConfig", "reward_models.train:train"),
    "evaluate": ("reward_models.evaluation:EvaluateConfig", "reward_models.evaluation:evaluate_step"),
    "expo": ("reward_models.expo:ExpoConfig", "reward_models.expo:extrapolate"),
    "demonstrations": (
        "reward_models.demonstrations:DemonstrationConfig",
        "reward_models.demonstrations:set_beside",
    ),
    "align": ("alignment.config:AlignConfig", "alignment.cli:run_align"),
    "search-prompt": ("alignment.prompt_search:PromptSearchConfig", "alignment.prompt_search:search_prompt"),
    "bench": ("leaderboard.config:BenchConfig", "leaderboard.run:bench_step"),
    "contest": ("alignment.contest:ContestConfig", "alignment.contest:hold_contest"),
    "study": ("alignment.study:StudyConfig", "alignment.study:compare_runs"),
    "report": ("leaderboard.report:ReportConfig", "leaderboard.report:make_report"),
}
# the room that holds a recipe -> the command that runs it
_COMMANDS = {"prefeval": "run", "reward_models": "train", "alignment": "align", "leaderboard": "bench"}
_REFERENCE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True)
class Step:
    """One step of a recipe. `minutes` is what it takes on two CPU cores: the basis of the time left."""

    name: str
    command: str
    config: dict[str, Any] = field(default_factory=dict)
    minutes: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", self.name) or self.name in ("out", "seed"):
            raise ConfigError(f"step '{self.name}': a name is letters, digits, '_' and '-', and neither out nor seed")
        if not 0 < self.minutes < float("inf"):
            raise ConfigError(f"step '{self.name}': minutes must be a positive number, not {self.minutes}")


@dataclass(frozen=True)
class Recipe:
    """A pipeline: `about` is the line that `prefeval recipes` prints."""

    name: str = "run"
    about: str = ""
    out: str = "runs/run"
    seed: int = 0
    steps: tuple[Step, ...] = ()


def run(argv: list[str]) -> int:
    """`prefeval run RECIPE [--out DIR] [--seed N] [--STEP.a.b value ...]`: a recipe of the other commands."""
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: prefeval run RECIPE [--out DIR] [--seed N] [--STEP.a.b value ...]\n\n{run.__doc__}\n")
        return 0 if argv else 2
    run_recipe(load_recipe(argv[0], argv[1:]))
    return 0


def quickstart(argv: list[str]) -> int:
    """`prefeval quickstart [--fast] [--out runs/quickstart]`: the whole chain on a small real language model."""
    if any(a in ("-h", "--help") for a in argv):
        sys.stdout.write(
            "usage: prefeval quickstart [--fast] [--out DIR] [--seed N]\n\n"
            "Train a Bradley-Terry and a general preference model, align SmolLM2-135M against each, benchmark the\n"
            "base and both policies, and write report.html. About 11 minutes on 2 CPU cores (--fast: 2). Run it\n"
            "again to resume.\n"
        )
        return 0
    fast = "--fast" in argv
    rest = [a for a in argv if a != "--fast"]
    recipe = load_recipe("quickstart-fast" if fast else "quickstart", rest)
    results = run_recipe(recipe)
    sys.stdout.write(f"{results['report']['path']}\n")
    return 0


def recipes(argv: list[str]) -> int:
    """`prefeval recipes`: the built-in recipes, one a line, as the command that runs each."""
    if argv in (["-h"], ["--help"]):
        sys.stdout.write(f"usage: prefeval recipes\n\n{inspect.getdoc(recipes)}\n")
        return 0
    if argv:
        raise UserError("prefeval recipes takes no arguments")
    for name, path in builtin_recipes().items():
        command = _COMMANDS[path.parent.parent.name]
        sys.stdout.write(f"prefeval {command + ' ' + name:<24} {read_recipe(path).get('about', '')}\n")
    return 0


def report(argv: list[str]) -> int:
    """`prefeval report RUN... --out report.html`."""
    function = getattr(importlib.import_module("leaderboard.report"), "report")  # noqa: B009 - keeps the layers apart
    return int(function(argv))


def load_recipe(name: str, overrides: Sequence[str] = (), *, above: tuple[str, ...] = ()) -> Recipe:
    """A pipeline recipe with overrides applied. Raises ConfigError for an unknown step, command, key or reference.

    `above` are the recipes that extend this one.
    """
    data = read_recipe(name)
    if "extends" in data:
        return _extended(data, name, overrides, above)
    if "steps" not in data:
        raise ConfigError(f"{name}: not a pipeline (no 'steps'); use prefeval train, align or bench for it")
    steps = data.pop("steps") or []
    if not isinstance(steps, list) or not all(isinstance(s, Mapping) for s in steps):
        raise ConfigError(f"{name}: 'steps' must be a list of mappings with name, command and config")
    recipe = from_dict(Recipe, data, where=name)
    recipe = Recipe(
        recipe.name, recipe.about, recipe.out, recipe.seed, tuple(from_dict(Step, s, where=name) for s in steps)
    )
    recipe = _override(recipe, list(overrides))
    _check(recipe, name)
    return recipe


def _extended(data: dict[str, Any], name: str, overrides: Sequence[str], above: tuple[str, ...]) -> Recipe:
    """A recipe that `extends` another by `change`: a mapping of STEP.a.b (or STEP.minutes) to values."""
    unknown = set(data) - {"extends", "change", "name", "about", "out", "seed"}
    change = data.get("change") or {}
    if unknown or not isinstance(change, Mapping):
        raise ConfigError(f"{name}: beside 'extends' stand name, about, out, seed and the mapping 'change'")
    if name in above:
        raise ConfigError(f"{name}: recipes that extend one another in a circle ('{data['extends']}')")
    parent = load_recipe(str(data["extends"]), above=(*above, name))
    own = {k: v for k, v in data.items() if k not in ("extends", "change")}
    minutes = {k.removesuffix(".minutes"): v for k, v in change.items() if k.endswith(".minutes")}
    names = [s.name for s in parent.steps]
    for step, value in minutes.items():
        if step not in names or not isinstance(value, (int, float)):
            raise ConfigError(f"{name}: '{step}.minutes: {value}' is no step and number{nearest(step, names)}")
    steps = tuple(replace(s, minutes=float(minutes.get(s.name, s.minutes))) for s in parent.steps)
    recipe = from_dict(Recipe, {**to_dict(parent), **own, "steps": list(steps)}, where=name)
    rest = {k: v for k, v in change.items() if not k.endswith(".minutes")}
    recipe = _override(recipe, [word for k, v in rest.items() for word in (f"--{k}", json.dumps(v))])
    recipe = _override(recipe, list(overrides))
    _check(recipe, name)
    return recipe


def run_recipe(recipe: Recipe) -> dict[str, Any]:
    """Run (or resume) every step. Returns the steps' results by name."""
    root = RunDir(recipe.out, to_dict(recipe), command=f"prefeval run {recipe.name}")
    results: dict[str, Any] = {}
    total = sum(s.minutes for s in recipe.steps)
    behind, started, pace = 0.0, time.monotonic(), 60.0
    with root.lock():
        finished = all(root.is_done(s.name) for s in recipe.steps)
        for number, step in enumerate(recipe.steps, 1):
            if not root.is_done(step.name):
                left = format_seconds((total - behind) * pace)
                logger.info("== step %d of %d, %s: about %s left in all", number, len(recipe.steps), step.name, left)
            before = time.monotonic()
            results[step.name] = _run_step(root, recipe, step, results)
            spent = time.monotonic() - before
            behind += step.minutes
            if spent > 5:
                pace = max(spent / step.minutes, 1.0) * 0.5 + pace * 0.5
    if finished:
        logger.info("%s was finished before; delete the directory or give another --out to run it again", root.path)
    else:
        took, peak = format_seconds(time.monotonic() - started), peak_gigabytes()
        logger.info("%s: all %d steps done in %s, peak memory %.1f GB", root.path, len(recipe.steps), took, peak)
    return results


def _run_step(root: RunDir, recipe: Recipe, step: Step, results: Mapping[str, Any]) -> Any:
    config_name, function_name = STEPS[step.command]
    folder = root.path / step.name
    filled = _fill(step.config, {s.name: str(root.path / s.name) for s in recipe.steps})
    cls = _dotted(config_name)
    known = set(cls.__dataclass_fields__)
    defaults = {"out": str(folder), "name": step.name, "seed": recipe.seed}
    config = from_dict(
        cls, {**{k: v for k, v in defaults.items() if k in known}, **filled}, where=f"step '{step.name}'"
    )
    used = {name: results[name] for name in _references(step.config) if name in results}

    def work() -> Any:
        run_dir = RunDir(folder, recorded, command=f"prefeval {step.command}")
        return _dotted(function_name)(config, run_dir)

    # what a run directory is held to: a bench leaves out the pace and the price of its judge's calls
    recorded = getattr(config, "recorded", None) or to_dict(config)
    return root.stage(step.name, {"config": recorded, "uses": used}, work)


def _check(recipe: Recipe, where: str) -> None:
    seen: list[str] = []
    for step in recipe.steps:
        if step.command not in STEPS:
            raise ConfigError(
                f"{where}: step '{step.name}': unknown command '{step.command}'{nearest(step.command, STEPS)}"
            )
        for name in _references(step.config):
            if name not in seen:
                raise ConfigError(f"{where}: step '{step.name}' refers to '${{{name}}}', which is no earlier step")
        if step.name in seen:
            raise ConfigError(f"{where}: two steps are called '{step.name}'")
        seen.append(step.name)
        cls = _dotted(STEPS[step.command][0])
        from_dict(cls, _fill(step.config, {n: n for n in seen}), where=f"{where}, step '{step.name}'")


def _override(recipe: Recipe, args: list[str]) -> Recipe:
    plain = to_dict(recipe)
    by_name = {s["name"]: s["config"] for s in plain["steps"]}
    while args:
        flag = args.pop(0)
        key, has_inline, inline = flag.removeprefix("--").partition("=")
        if not flag.startswith("--") or not (has_inline or args):
            raise UserError(f"'{flag}': overrides are written --out DIR, --seed N or --STEP.a.b value")
        text = inline if has_inline else args.pop(0)
        try:
            value = parse_yaml(text)
        except BadYaml:
            raise UserError(f"--{key}: '{text}' cannot be read as a YAML value; quote it") from None
        step, *path = key.split(".")
        if step in ("out", "seed") and not path:
            plain[step] = value
            continue
        if step not in by_name or not path:
            raise UserError(f"--{key}: no step is called '{step}'{nearest(step, [*by_name, 'out', 'seed'])}")
        target = by_name[step]
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise UserError(f"--{key}: '{part}' is a value and has no fields")
        target[path[-1]] = value
    return from_dict(Recipe, {**plain, "steps": [Step(**s) for s in plain["steps"]]}, where=recipe.name)


def _references(config: Any) -> list[str]:
    if isinstance(config, Mapping):
        return [name for value in config.values() for name in _references(value)]
    if isinstance(config, (list, tuple)):
        return [name for value in config for name in _references(value)]
    return _REFERENCE.findall(config) if isinstance(config, str) else []


def _fill(config: Any, folders: Mapping[str, str]) -> Any:
    """The config with each ${step} replaced by that step's directory."""
    if isinstance(config, Mapping):
        return {key: _fill(value, folders) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_fill(value, folders) for value in config]
    if isinstance(config, str):
        return _REFERENCE.sub(lambda m: folders.get(m.group(1), m.group(0)), config)
    return config


def _dotted(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
