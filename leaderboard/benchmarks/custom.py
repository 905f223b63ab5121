"""Your own benchmark, from a folder.

    FOLDER/
      questions.jsonl    the prompts; also question.jsonl, instructions.jsonl, or .json (gzipped or not) or .parquet
                         instead of .jsonl. The fields of the first row tell the protocol:
                           {"instruction": ...}                 alpaca_eval: one comparison with a baseline
                           {"uid": ..., "prompt": ...}          arena_hard:  two games against a baseline, five labels
                           {"question_id": ..., "turns": [..]}  mt_bench:    grades from 1 to 10, one or two turns
                         and each may have a category ("dataset" under alpaca_eval), "reference": [..] under mt_bench
      template.yaml      optional: how the judge is asked, in the form of our own `benchmarks/templates/*.yaml`. Its
                         reply must keep the protocol's grammar (m or M; [[A>B]]; Rating: [[6]]; [[A]])
      baseline.jsonl     optional: the baseline's answers (or .json, gzipped or not) in the protocol's answer format;
                         without it the recipe's `baselines` or `baseline` names them

Named `custom:FOLDER`, it has the folder's name and the protocol that its rows tell; `NAME=PROTOCOL:PATH` says both
(mt_bench_pair compares in pairs), where PATH is such a folder or a prompts file alone. Scores come out as the protocol
has them, with intervals, and length control without instruction difficulty.

`NAME=py:module:Class:PATH` is a benchmark in code (which is run): Class(Source) with the attributes of
`leaderboard.benchmarks.base.Benchmark`, whose verdicts are rows of one of the three protocols.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leaderboard.benchmarks.base import Source, read_rows
from leaderboard.benchmarks.rendering import shipped
from leaderboard.from_files import MINI, PROTOCOLS
from prefeval.errors import ConfigError, DataError, nearest
from prefeval.files import read_text
from prefeval.guards import BadYaml, parse_yaml
from prefeval.plugins import PREFIX as CODE
from prefeval.plugins import load_object

PAIRS = "mt_bench_pair"
PREFIX = "custom:"
_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
_QUESTIONS = tuple(f"{stem}{e}" for stem in ("questions", "question", "instructions") for e in (*_ENDINGS, ".parquet"))
_BASELINES = tuple(f"baseline{e}" for e in _ENDINGS)
_TEMPLATES = {"alpaca_eval": "alpaca_eval", "arena_hard": "arena_hard", "mt_bench": "mt_bench", PAIRS: "mt_pairs"}
_PLACE = re.compile(r"\{(\w+)\}")


def is_custom(spec: str) -> bool:
    return spec.startswith(PREFIX) or "=" in spec


def benchmark_name(spec: str) -> str:
    """The name under which a benchmark's results stand."""
    if spec.startswith(PREFIX):
        return Path(spec.removeprefix(PREFIX)).resolve().name
    return spec.partition("=")[0]


def custom_source(spec: str, limit: int | None = None) -> tuple[str, Source]:
    """(protocol, mt_bench_pair or py:module:Class, where everything lies) of a spec. Raises ConfigError, DataError."""
    name = benchmark_name(spec)
    protocol, path = "", Path(spec.removeprefix(PREFIX))
    if spec.partition("=")[2].startswith(CODE):
        return _in_code(name, spec, limit)
    if not spec.startswith(PREFIX):
        protocol, _, rest = spec.partition("=")[2].partition(":")
        path = Path(rest)
        if not name or protocol not in _TEMPLATES or not rest:
            hint = nearest(protocol, _TEMPLATES) if rest else ""
            known = hint or f" with one of {', '.join(_TEMPLATES)}"
            raise ConfigError(f"benchmark '{spec}': write NAME=PROTOCOL:PATH{known}")
    _refuse_taken(name, spec)
    if path.is_file():
        return protocol or _protocol_of(path), Source(name, path, limit=limit)
    if not path.is_dir():
        raise ConfigError(f"benchmark '{spec}': {path} is neither a folder nor a file")
    file = next((path / n for n in _QUESTIONS if (path / n).is_file()), None)
    if file is None:
        raise ConfigError(f"benchmark '{spec}': {path} holds no questions.jsonl")
    protocol = protocol or _protocol_of(file)
    answers = next((path / n for n in _BASELINES if (path / n).is_file()), None)
    template = _template(path / "template.yaml", protocol)
    return protocol, Source(name, file, path, limit, template, f"answers:{answers}" if answers else "")


def _in_code(name: str, spec: str, limit: int | None) -> tuple[str, Source]:
    """(py:module:Class, where its prompts lie)."""
    parts = spec.partition("=")[2].split(":", 3)
    if not name or len(parts) < 4 or not all(parts):
        raise ConfigError(f"benchmark '{spec}': write NAME=py:module:Class:PATH")
    _refuse_taken(name, spec)
    path = Path(parts[3])
    return ":".join(parts[:3]), Source(name, path, path.parent, limit)


def _refuse_taken(name: str, spec: str) -> None:
    """Raise ConfigError for a name that belongs to another benchmark."""
    taken = name.lower().replace("-", "").replace("_", "")
    if any(taken.startswith(p.replace("_", "")) for p in PROTOCOLS) or name in MINI:
        raise ConfigError(f"benchmark '{spec}': the name '{name}' is another benchmark's; choose one of your own")


def protocol_in_code(kind: str) -> str:
    """The protocol of a benchmark in code. Raises ConfigError."""
    found = getattr(load_object(kind, "benchmark"), "protocol", None)
    if found not in PROTOCOLS:
        raise ConfigError(f"benchmark '{kind}': its protocol must be one of {', '.join(PROTOCOLS)}, not {found!r}")
    return str(found)


def _protocol_of(file: Path) -> str:
    """What the fields of a prompts file's first row tell. Raises DataError."""
    first = read_rows(file)[0]
    if "instruction" in first:
        return "alpaca_eval"
    if "uid" in first or ("question_id" in first and _is_old_arena(first)):
        return "arena_hard"
    if "question_id" in first:
        return "mt_bench"
    raise DataError("needs 'instruction', or 'uid' and 'prompt', or 'question_id' and 'turns'", file=file, row=1)


def _is_old_arena(row: Mapping[str, Any]) -> bool:
    """Arena-Hard's first format: turns that are objects."""
    turns = row.get("turns")
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], Mapping)


def _template(file: Path, protocol: str) -> dict[str, Any] | None:
    """The folder's wording over ours, or None. Raises DataError naming what it lacks."""
    if not file.is_file():
        return None
    try:
        given = parse_yaml(read_text(file))
    except BadYaml as error:
        raise DataError(f"not valid YAML{error.place}: {error}", file=file) from None
    ours = shipped(_TEMPLATES[protocol])
    if not isinstance(given, dict) or not given:
        raise DataError(f"must be a mapping with {', '.join(ours)}", file=file)
    for key in given:
        if key not in ours:
            raise DataError(f"unknown{nearest(str(key), ours) or f'; known: {list(ours)}'}", file=file, field=str(key))
    if "user" not in ours:  # one template for each kind of question
        return {**ours, **{key: _texts(part, ours[key], file, f"{key}.") for key, part in given.items()}}
    return _texts(given, ours, file, "")


def _texts(given: Any, ours: Mapping[str, str], file: Path, where: str) -> dict[str, str]:
    """A wording, if it is all texts and shows the judge all that ours shows."""
    if not isinstance(given, dict):
        raise DataError("must be a mapping with system and user", file=file, field=where.rstrip("."))
    for key in ("system", "user"):
        if not isinstance(given.get(key), str) or not given[key].strip():
            raise DataError("must be a non-empty text", file=file, field=f"{where}{key}")
    lost = set(_PLACE.findall(ours["user"])) - set(_PLACE.findall(given["user"]))
    if lost:
        raise DataError(f"lacks {{{min(lost)}}}: the judge would not see it", file=file, field=f"{where}user")
    return {key: str(value) for key, value in given.items()}
