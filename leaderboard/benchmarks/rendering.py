"""Judge templates: ours (YAML files in `templates/`), and readers of the originals' where a data folder holds them.

The templates that we ship are our own wording with the output grammar of the originals, so that the same parsers read
the replies; scores under them are not the published benchmarks' scores. The originals' texts are read at run time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from prefeval.errors import DataError
from prefeval.files import read_json, read_jsonl
from prefeval.types import Message

_CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)\n?<\|im_end\|>", re.DOTALL)


@cache
def shipped(name: str) -> dict[str, Any]:
    """Our template file of that name."""
    import yaml

    text = (resources.files("leaderboard.benchmarks") / "templates" / f"{name}.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace `{name}` for the given names in one pass: braces and placeholders inside the values stay as they are."""
    pattern = re.compile("|".join(re.escape(f"{{{name}}}") for name in values))
    return pattern.sub(lambda found: values[found.group(0)[1:-1]], template)


def chatml_messages(template: str, values: Mapping[str, str]) -> tuple[Message, ...]:
    """The chat messages of an `<|im_start|>role ... <|im_end|>` template; filled after splitting."""
    return tuple(Message(role, fill(text, values)) for role, text in _CHATML.findall(template))


def alpaca_chatml(data: Path | None) -> str | None:
    """AlpacaEval's own classifier template, if the data folder has it."""
    file = _find(
        data,
        "annotator_config/alpaca_eval_clf_gpt4_turbo__alpaca_eval_clf.txt",
        "alpaca_eval_clf.txt",
    )
    if file is None:
        return None
    text = file.read_text(encoding="utf-8")
    if not _CHATML.search(text):
        raise DataError("holds no <|im_start|> blocks", file=file)
    return text


def arena_config(data: Path | None) -> dict[str, Any] | None:
    """Arena-Hard's own system prompts and user template, if the data folder (or its parent) has them."""
    file = _find(data, "judge_config.json", "../judge_config.json")
    if file is None:
        return None
    found = read_json(file)
    if not isinstance(found, dict) or "system_prompts" not in found or "prompt_template" not in found:
        raise DataError("needs 'system_prompts' and 'prompt_template'", file=file)
    return found


def fastchat_prompts(data: Path | None) -> dict[str, dict[str, str]] | None:
    """FastChat's own judge prompts by name, if the data folder has them."""
    file = _find(data, "judge_prompts.jsonl")
    if file is None:
        return None
    return {row["name"]: row for row in read_jsonl(file)}


def _find(data: Path | None, *names: str) -> Path | None:
    if data is None:
        return None
    root = data if data.is_dir() else data.parent
    return next((root / name for name in names if (root / name).is_file()), None)
