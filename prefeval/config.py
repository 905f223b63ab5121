"""Configuration: nested frozen dataclasses, YAML files on top of their defaults, command-line overrides on top of both.

Unknown keys are errors with the nearest name. Values are checked and converted by pydantic against the field's type.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from prefeval.errors import ConfigError, nearest
from prefeval.guards import BadYaml, parse_yaml

T = TypeVar("T")
_ROOMS = ("prefeval", "reward_models", "alignment", "leaderboard")


def load_config(cls: type[T], recipe: str | Path | None, overrides: Sequence[str] = (), *, command: str = "") -> T:
    """The dataclass `cls` from a YAML recipe (a file or a built-in name) and overrides such as ``--fit.epochs 2``.

    Raises ConfigError for an unreadable file, an unknown key or option, or a value of the wrong type. Exits like
    argparse on ``--help``.
    """
    data = {} if recipe is None else read_recipe(recipe)
    data.pop("about", None)  # what `prefeval recipes` prints
    if {"steps", "extends"} & data.keys() - _hints(cls).keys():
        raise ConfigError(f"{recipe}: a recipe of several steps; start it with prefeval run {recipe}")
    config = from_dict(cls, data, where=str(recipe)) if data else cls()
    return parse_overrides(cls, config, overrides, command=command)


def parse_overrides(cls: type[T], default: T, overrides: Sequence[str], *, command: str = "") -> T:
    """Apply ``--a.b value`` overrides to a config; ``--help`` lists every field with its value from the recipe."""
    given, rest = _mapping_overrides(default, list(overrides))
    if not rest:
        return _with_mappings(default, given)
    import tyro

    _refuse_unknown_flags(cls, rest)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            found = tyro.cli(
                cls,
                args=rest,
                default=default,
                prog=f"prefeval {command}".strip(),
                config=(tyro.conf.FlagConversionOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_without_box(told.getvalue())) from None
    # last, because what a mapping may hold can hang on another flag, as the options of an algorithm do
    return _with_mappings(found, given)


def _refuse_unknown_flags(cls: type[Any], args: Sequence[str]) -> None:
    known = [f"--{name}" for name in _field_names(cls)]
    for arg in args:
        flag = arg.partition("=")[0]
        if (
            arg.startswith("--")
            and flag != "--help"
            and flag.replace("-", "_") not in {k.replace("-", "_") for k in known}
        ):
            raise ConfigError(f"{flag}: no such option{nearest(flag, known) or ' (--help lists them)'}")


def _field_names(cls: type[Any], path: str = "") -> list[str]:
    """Dotted names of all fields, those of nested dataclasses included."""
    names = []
    for name, kind in _hints(cls).items():
        inner = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        names += _field_names(kind, f"{path}{name}.") if inner else [f"{path}{name}"]
    return names


def _without_box(text: str) -> str:
    """The first paragraph of a message that tyro draws a box around, as one line."""
    lines = [line.strip(" │╭╮╰╯") for line in text.splitlines()]
    words: list[str] = []
    for line in lines[1:]:  # the first one is the box's title
        if line.strip("─-"):
            words.append(line)
        elif words:
            break
    return " ".join(words) or text.strip()


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; a bare name is looked up among the built-in recipes."""
    path = find_recipe(recipe)
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except BadYaml as error:
        line = f", line {error.line}" if error.line else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of names to values, not a {type(data).__name__}")
    return data


def find_recipe(recipe: str | Path) -> Path:
    """The path of a recipe file, or of the built-in recipe of that name."""
    path = Path(recipe)
    if path.is_file():
        return path
    known = builtin_recipes()
    if str(recipe) in known:
        return known[str(recipe)]
    hint = nearest(str(recipe), known)
    raise ConfigError(f"recipe '{recipe}': no such file and no built-in recipe{hint or ' (see prefeval recipes)'}")


def builtin_recipes() -> dict[str, Path]:
    """Name -> file of the recipes in the packages' `recipes` folders."""
    found: dict[str, Path] = {}
    for room in _ROOMS:
        folder = Path(__file__).parent.parent / room / "recipes"
        found.update({p.stem: p for p in sorted(folder.glob("*.yaml"))})
    return found


def from_dict(cls: type[T], data: Mapping[str, Any], *, where: str = "", path: str = "") -> T:
    """A dataclass from a mapping, recursively. `where` names the file in error messages."""
    hints = _hints(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        dotted = f"{path}{key}"
        if key not in hints:
            hint = nearest(str(key), hints) or f"; known: {', '.join(hints)}"
            raise ConfigError(f"{where}: unknown key '{dotted}'{hint}")
        kind = hints[key]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: '{dotted}' must be a mapping, not {value!r}")
            values[key] = from_dict(kind, value, where=where, path=f"{dotted}.")
        else:
            values[key] = _convert(kind, value, f"{where}: '{dotted}'")
    try:
        return cls(**values)
    except (TypeError, ValueError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain mappings and lists, ready for YAML and JSON."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(config))
    return plain


def to_yaml(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_plain(dict(data)), sort_keys=False, allow_unicode=True)


def _mapping_overrides(config: Any, args: list[str]) -> tuple[list[tuple[str, str, Any]], list[str]]:
    """(field, name, value) of each ``--options.step 4`` where `options` is a free mapping, whose keys are no flags; and
    the arguments that are left."""
    given: list[tuple[str, str, Any]] = []
    rest: list[str] = []
    mappings = dict(_mapping_fields(config))
    while args:
        arg = args.pop(0)
        key, _, inline = arg.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        # names inside a mapping may hold dots themselves: arena_hard_v2.0
        field = next((m for m in sorted(mappings, key=len, reverse=True) if key.startswith(f"{m}.")), "")
        if not arg.startswith("--") or field not in mappings or not (inline or args):
            rest.append(arg)
            continue
        name, text = key.removeprefix(f"{field}."), inline or args.pop(0)
        try:
            given.append((field, name, parse_yaml(text)))
        except BadYaml:
            raise ConfigError(f"--{field}.{name}: '{text}' cannot be read as a YAML value; quote it") from None
    return given, rest


def _with_mappings(config: T, given: Sequence[tuple[str, str, Any]]) -> T:
    """The config with these values in its free mappings, checked anew."""
    if not given:
        return config
    plain = to_dict(config)
    for field, name, value in given:
        target = plain
        for part in field.split("."):
            target = target[part]
        target[name] = value
    return from_dict(type(config), plain, where="command line")


def _mapping_fields(config: Any, path: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """Dotted names of the fields that hold a free mapping."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            found += _mapping_fields(value, f"{path}{f.name}.")
        elif isinstance(value, Mapping):
            found.append((f"{path}{f.name}", value))
    return found


def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _convert(kind: Any, value: Any, where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        inside = "".join(f"[{part}]" for part in problem["loc"] if isinstance(part, int))
        raise ConfigError(f"{where}{inside}: {problem['msg']} (got {problem['input']!r})") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
