"""alpaca_eval's own annotator configs (`configs.yaml`) as judges: its template, sampling and parser, our client.

The installed package is read as files; none of its code runs and nothing is written to it. What a config asks for
that a chat endpoint cannot do in the same way is refused by name, never left out.
"""

from __future__ import annotations

import importlib.util
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefeval.errors import ConfigError, DataError, nearest
from prefeval.files import read_text, sha256_json
from prefeval.guards import BadYaml, parse_yaml
from prefeval.judges.annotator_parsers import PARSERS
from prefeval.types import Message

_CHATML = re.compile(r"<\|im_start\|>([^\n]*)\n(.*?)<\|im_end\|>", re.DOTALL)
_PLACEHOLDER = re.compile(r"{([^ \s]+?)}")
_FIELDS = ("instruction", "output_1", "output_2")
_CONFIG_KEYS = (
    *("prompt_template", "fn_completions", "completions_kwargs", "fn_completion_parser", "completion_parser_kwargs"),
    *("completion_key", "batch_size", "processors_to_kwargs", "is_randomize_output_order", "annotation_column"),
)
_OURS = ("num_procs", "batch_size", "n_retries", "sleep_time", "is_chat", "requires_chatml", "is_strip")
_REFUSED = {
    "tokens_to_favor": "needs the judge's tokenizer",
    "tokens_to_avoid": "needs the judge's tokenizer",
    "client_config_path": "keys are read from the environment only",
    "openai_api_keys": "keys are read from the environment only",
    "openai_organization_ids": "keys are read from the environment only",
}


@dataclass(frozen=True)
class Annotator:
    """One entry of a config: whom to ask, what, and how the reply is read. `extra` are further fields of the body."""

    name: str
    model: str
    template: tuple[Message, ...]
    parser: str
    parser_keywords: Mapping[str, Any]
    max_tokens: int = 2048
    temperature: float | None = 0.7
    top_p: float | None = 1.0
    top_logprobs: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    base_url: str | None = None
    price_per_token: float | None = None

    def messages(self, instruction: str, first: str, second: str) -> tuple[Message, ...]:
        """The chat for one pair; braces inside the texts stay as they are."""
        values = dict(zip(_FIELDS, (instruction, first, second), strict=True))
        filled = (_PLACEHOLDER.sub(lambda found: values[found[1]], m.content) for m in self.template)
        return tuple(Message(m.role, text.strip()) for m, text in zip(self.template, filled, strict=True))


def read_annotators(name: str) -> tuple[str, list[Annotator]]:
    """(name, entries) of the config of that name in the installed package, or of a file or folder.

    Raises ConfigError for a name without a config, and for what it asks for that we cannot do; DataError for a
    damaged file.
    """
    file = _config_file(name)
    entries = _yaml(file)
    if not isinstance(entries, dict) or not entries or not all(isinstance(e, dict) for e in entries.values()):
        raise DataError("must hold annotators by name", file=file)
    annotators = [_annotator(str(key), entry, file) for key, entry in entries.items()]
    return file.parent.name if len(annotators) > 1 else annotators[0].name, annotators


def choose(annotators: Sequence[Annotator], instruction: str, seed: int = 0) -> Annotator:
    """The annotator of an instruction: with several, upstream's own draw, a function of the instruction."""
    return random.Random(f"annotator{instruction}{seed}").choices(annotators, k=1)[0]


def fingerprint(annotators: Sequence[Annotator]) -> str:
    """Eight digits of everything that a verdict depends on: templates, models, sampling, parsers."""
    return sha256_json([{k: v for k, v in asdict(a).items() if k != "price_per_token"} for a in annotators])[:8]


def _config_file(name: str) -> Path:
    path = Path(name)
    if path.is_dir() or path.is_file():
        file = path / "configs.yaml" if path.is_dir() else path
        if not file.is_file():
            raise ConfigError(f"'{name}' holds no configs.yaml")
        return file.resolve()
    package = importlib.util.find_spec("alpaca_eval")
    if package is None or not package.submodule_search_locations:
        raise ConfigError(f"no annotator config at '{name}', and the alpaca_eval package is not installed")
    root = Path(package.submodule_search_locations[0]) / "evaluators_configs"
    known = sorted(f.parent.name for f in root.glob("*/configs.yaml"))
    if name not in known:
        hint = nearest(name, known) or "; give a name of the package, or the path of a configs.yaml"
        raise ConfigError(f"alpaca_eval has no annotator config '{name}'{hint}")
    return root / name / "configs.yaml"


def _yaml(file: Path) -> Any:
    try:
        return parse_yaml(read_text(file), repeats=True)
    except BadYaml as error:
        raise DataError(f"is no YAML{error.place}: {error}", file=file) from None


def _annotator(name: str, entry: Mapping[str, Any], file: Path) -> Annotator:
    unknown = [key for key in entry if key not in _CONFIG_KEYS]
    if unknown:
        raise DataError(f"is not supported{nearest(unknown[0], _CONFIG_KEYS)}", file=file, field=f"{name}.{unknown[0]}")
    if entry.get("fn_completions") != "openai_completions":
        raise _refusal(
            file, name, "fn_completions", f"'{entry.get('fn_completions')}' is no chat endpoint of OpenAI's kind"
        )
    if entry.get("batch_size", 1) != 1:
        raise _refusal(file, name, "batch_size", "only one example a prompt")
    parser = entry.get("fn_completion_parser", "regex_parser")
    if parser not in PARSERS:
        raise _refusal(file, name, "fn_completion_parser", f"unknown parser '{parser}'{nearest(str(parser), PARSERS)}")
    keywords = entry.get("completion_parser_kwargs") or {}
    _check_patterns(keywords.get("outputs_to_match") or {}, file, name)
    sampling = _sampling(entry.get("completions_kwargs") or {}, file, name)
    return Annotator(
        name=name,
        template=_template(str(entry.get("prompt_template") or ""), file, name),
        parser=parser,
        parser_keywords=keywords,
        **sampling,
    )


def _sampling(given: Mapping[str, Any], file: Path, name: str) -> dict[str, Any]:
    """What the package's `openai_completions` would send, with its own defaults."""
    for key, why in _REFUSED.items():
        if key in given:
            raise _refusal(file, name, f"completions_kwargs.{key}", why)
    model = str(given.get("model_name") or "")
    completes = "instruct" in model or ("gpt-3" in model and "turbo" not in model) or model.startswith("text-")
    if not given.get("requires_chatml", not completes) or not given.get("is_chat", True):
        raise _refusal(file, name, "completions_kwargs.model_name", f"'{model}' is no chat model")
    client = dict(given.get("client_kwargs") or {})
    base_url = client.pop("base_url", None)
    if client:
        raise _refusal(file, name, "completions_kwargs.client_kwargs", f"'{next(iter(client))}': only base_url")
    named = ("model_name", "max_tokens", "temperature", "top_p", "logprobs", "top_logprobs", "client_kwargs")
    extra = {k: v for k, v in given.items() if k not in (*named, *_OURS, "price_per_token", "extra_body")}
    found: dict[str, Any] = {k: given[k] for k in ("max_tokens", "temperature", "top_p") if k in given}
    price = given.get("price_per_token")
    return {
        **found,
        "model": model,
        "base_url": base_url,
        "top_logprobs": int(given.get("top_logprobs") or 0) if given.get("logprobs") else 0,
        "extra": {**extra, **(given.get("extra_body") or {})},
        "price_per_token": None if price is None else float(price),
    }


def _template(given: str, file: Path, name: str) -> tuple[Message, ...]:
    """The chat messages of a template, which is a text or a path beside the config's folder."""
    path = file.parent.parent / given
    if "<|im_start|>" in given:
        text = given
    elif given and path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        raise _refusal(file, name, "prompt_template", f"no such file: {path}")
    messages = tuple(Message(role.strip(), content) for role, content in _CHATML.findall(text))
    if not messages or any(m.role not in ("system", "user", "assistant") for m in messages):
        raise _refusal(file, name, "prompt_template", "must be <|im_start|> blocks of system, user or assistant")
    holes = Counter(hole for m in messages for hole in _PLACEHOLDER.findall(m.content))
    if set(holes) - set(_FIELDS) or any(n != 1 for n in holes.values()) or len(holes) < 2:
        raise _refusal(file, name, "prompt_template", f"must hold each of {', '.join(_FIELDS)} once, and nothing else")
    return messages


def _check_patterns(patterns: Mapping[Any, Any], file: Path, name: str) -> None:
    for key, pattern in patterns.items():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise _refusal(file, name, f"outputs_to_match.{key}", str(error)) from None


def _refusal(file: Path, name: str, field_name: str, why: str) -> ConfigError:
    return ConfigError(f"{file}, field '{name}.{field_name}': {why}")
