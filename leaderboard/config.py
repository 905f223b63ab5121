"""What a bench recipe says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from prefeval.errors import ConfigError


@dataclass(frozen=True)
class ModelSpec:
    """A model under its name in the table. `spec`: a directory, a hub id, server:MODEL@URL or answers:FILE; also
    mix:W*SPEC+W*SPEC and best-of-N[ORACLE]:SPEC."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    name: str = ""
    spec: str = ""


@dataclass(frozen=True)
class BenchConfig:
    """`prefeval bench`: answers of `models` to `benchmarks`, verdicts of `judge`, scores with intervals."""

    name: str = "bench"
    models: tuple[ModelSpec, ...] = ()
    baseline: str = ""
    """The name of one of the models, or a spec such as answers:FILE; what the others are compared with."""
    benchmarks: tuple[str, ...] = ("mini-alpaca", "mini-arena", "mini-mt")
    judge: str = ""
    """An oracle spec: model:PATH, rules:NAME, judge:MODEL[@BASE_URL], ..."""
    data: str | None = None
    """Folder of the originals' prompts and side files; the mini sets need none."""
    out: str = ""
    """The run directory; default runs/NAME."""
    seed: int = 0
    limit: int | None = None
    """Only the first prompts of each benchmark."""
    instruction: str = ""
    """Put behind each user turn for the models (small ones need it to be brief); judges see the bare prompt."""
    max_new_tokens: int = 512
    temperature: float = 0.0
    """Of the answers; MT-Bench's protocol has its own by category."""
    concurrency: int = 8
    """Judge calls at a time."""
    resamples: int = 1000
    """Of every bootstrap."""

    def check(self) -> None:
        """Raise ConfigError for what cannot run."""
        if not self.models:
            raise ConfigError("a bench recipe needs models: a list of {name, spec}")
        for model in self.models:
            if not model.name or not model.spec:
                raise ConfigError(f"models: each needs a name and a spec, not {model}")
        names = [m.name for m in self.models]
        if len(set(names)) < len(names):
            raise ConfigError(f"models: the names must differ: {', '.join(names)}")
        if not self.judge:
            raise ConfigError("a bench recipe needs a judge, such as model:PATH, rules:NAME or judge:MODEL@BASE_URL")
        if not self.benchmarks:
            raise ConfigError("a bench recipe needs benchmarks, such as [mini-alpaca, mini-arena, mini-mt]")
        for key in ("max_new_tokens", "concurrency", "resamples"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise ConfigError("limit must be at least 1")

    @property
    def folder(self) -> str:
        return self.out or f"runs/{self.name}"
