"""`prefeval export RUN --to DIR`: what a run made, in the layout another tool reads."""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

from prefeval.errors import ConfigError
from prefeval.files import atomic_directory, read_object

_BENCHMARKS = ("alpaca_eval", "arena_hard", "mt_bench")
FORMATS = ("hf", "gguf-ready", *_BENCHMARKS)


def export(argv: list[str]) -> int:
    """Copy a run's model (hf, gguf-ready) or its answers to a benchmark (the three protocols) to a directory."""
    parser = argparse.ArgumentParser(prog="prefeval export", description=export.__doc__)
    parser.add_argument("run", metavar="RUN", help="a run of train or align, or of bench for answers")
    parser.add_argument("--to", required=True, metavar="DIR", help="a new directory")
    parser.add_argument("--format", choices=FORMATS, default="hf", help="default: %(default)s")
    options = parser.parse_args(argv)
    run, target = Path(options.run), Path(options.to)
    if target.exists():
        raise ConfigError(f"--to {target}: exists already; give a new directory")
    if options.format in _BENCHMARKS:
        export_answers(run, target, options.format)
    else:
        export_model(run, target, gguf=options.format == "gguf-ready")
    sys.stdout.write(f"{target}\n")
    return 0


def export_model(run: Path, target: Path, *, gguf: bool = False) -> None:
    """Copy RUN/final (or RUN, if it is a model) as a plain Hugging Face directory, without what only we read.

    `gguf` makes sure that llama.cpp's converter will take it: a causal language model with its tokenizer. Raises
    ConfigError when there is no finished model or it is not of that kind.
    """
    folder = run / "final" if (run / "final").is_dir() else run
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        inside = sorted(p.parent.parent.name for p in run.glob("*/final/config.json"))
        hint = f"; it has models in its steps: {', '.join(inside)}" if inside else ""
        raise ConfigError(f"{run}: no finished model (no final/config.json and weights){hint}")
    kinds = read_object(folder / "config.json").get("architectures") or []
    if gguf and not any(str(kind).endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise ConfigError(f"{run}: {', '.join(kinds) or 'this model'} is no causal language model; GGUF needs one")
    if gguf and not (folder / "tokenizer.json").is_file():
        raise ConfigError(f"{run}: the model has no tokenizer.json, which the GGUF converter needs")
    with atomic_directory(target) as out:
        for file in sorted(p for p in folder.iterdir() if p.is_file()):
            shutil.copyfile(file, out / file.name)


def export_answers(run: Path, target: Path, protocol: str) -> None:
    """Copy the answers (and judgments) of a bench run in the original benchmark's own files, by benchmark name.

    DIR/NAME/MODEL/model_outputs.json for AlpacaEval, DIR/NAME/model_answer/MODEL.jsonl for the other two. Raises
    ConfigError when the run has none under that protocol.
    """
    found = [f for f in sorted((run / "answers").glob("*")) if f.is_dir() and _protocol(f.name) == protocol]
    if not found:
        raise ConfigError(
            f"{run}: no answers to a benchmark of the {protocol} protocol (is it a run of prefeval bench?)"
        )
    with atomic_directory(target) as out:
        for folder in found:
            shutil.copytree(folder, out / folder.name)
            judged = run / "annotations" / folder.name
            if judged.is_dir():
                shutil.copytree(judged, out / folder.name, dirs_exist_ok=True)


def _protocol(name: str) -> Any:
    # the leaderboard room knows; asked by name, so that no import runs up the layers
    protocol_of = getattr(importlib.import_module("leaderboard.from_files"), "protocol_of")  # noqa: B009
    try:
        return protocol_of(name)
    except ConfigError:
        return None
