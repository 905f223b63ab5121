"""What a bench recipe says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from prefeval.api_types import Limits, Price
from prefeval.config import to_dict
from prefeval.errors import ConfigError, nearest

Orders = Literal["published", "both"]
_NOT_RECORDED = ("price", "max_cost", "requests_per_minute", "tokens_per_minute")
# runs that were started before these were there go on
_RECORDED_IF_GIVEN: dict[str, Any] = {
    "baselines": {}, "limits": {}, "orders": "published", "human": "", "judge_max_tokens": None
}  # fmt: skip


@dataclass(frozen=True)
class ModelSpec:
    """A model under its name in the table. `spec`: a directory, a hub id, server:MODEL@URL or answers:FILE; also
    mix:W*SPEC+W*SPEC, linear:GAMMA[INSTRUCTION]:SPEC and best-of-N[ORACLE]:SPEC."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    name: str = ""
    spec: str = ""


@dataclass(frozen=True)
class BenchConfig:
    """`prefeval bench`: answers of `models` to `benchmarks`, verdicts of `judge`, scores with intervals.

    --dry-run prints what is left to sample and to ask, and what that may cost; nothing is opened, asked or written.
    --batch-write DIR, --batch-read FILE ... and --batch-submit DIR use the judge's batch API, at half the price.
    """

    name: str = "bench"
    models: tuple[ModelSpec, ...] = ()
    baseline: str = ""
    """The name of one of the models, or a spec such as answers:FILE; what the others are compared with."""
    baselines: dict[str, str | dict[str, str]] = field(default_factory=dict)
    """Benchmark -> its own baseline in place of `baseline`; Arena-Hard may have one for each category: {hard_prompt:
    answers:FILE, creative_writing: answers:FILE}."""
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
    limits: dict[str, int | None] = field(default_factory=dict)
    """Benchmark -> its own limit in place of `limit`; null is all of its prompts."""
    human: str = ""
    """File of human labels (MT-Bench's or AlpacaEval's published format) to hold the judge against."""
    instruction: str = ""
    """Put behind each user turn for the models (small ones need it to be brief); judges see the bare prompt."""
    max_new_tokens: int = 512
    temperature: float = 0.0
    """Of the answers; MT-Bench's protocol has its own by category."""
    judge_max_tokens: int | None = None
    """Most tokens of a judge's reply, in place of the protocols' own bounds (Arena-Hard's is 4096)."""
    concurrency: int = 8
    """Judge calls at a time."""
    resamples: int = 1000
    """Of every bootstrap."""
    orders: Orders = "published"
    """AlpacaEval: 'both' asks each comparison in both orders and averages; 'published' in one, as the protocol does."""
    price: Price | None = None
    """Dollars per million tokens of the judge: prompt, completion."""
    max_cost: float | None = None
    """Dollars that the judge may cost in one call of the command; needs a price."""
    requests_per_minute: float | None = None
    """Pace of the judge's calls."""
    tokens_per_minute: float | None = None
    """The same in prompt and completion tokens."""

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
        from leaderboard.answering import file_name

        if len({file_name(n) for n in names}) < len(names):
            raise ConfigError(f"models: some names would be the same as file names: {', '.join(names)}")
        for spec in (self.baseline, *self.baselines.values()):
            for one in spec.values() if isinstance(spec, dict) else (spec,):
                _check_baseline(one, names)
        if not self.judge:
            raise ConfigError("a bench recipe needs a judge, such as model:PATH, rules:NAME or judge:MODEL@BASE_URL")
        if not self.benchmarks:
            raise ConfigError("a bench recipe needs benchmarks, such as [mini-alpaca, mini-arena, mini-mt]")
        benchmarks = self.names
        if len(set(benchmarks)) < len(benchmarks):
            raise ConfigError(f"benchmarks: the names must differ: {', '.join(benchmarks)}")
        check_names("baselines", self.baselines, benchmarks)
        check_names("limits", self.limits, benchmarks)
        for key in ("max_new_tokens", "concurrency", "resamples"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} must be at least 1")
        for where, limit in {"limit": self.limit, **{f"limits.{k}": v for k, v in self.limits.items()}}.items():
            if limit is not None and limit < 1:
                raise ConfigError(f"{where} must be at least 1")
        if self.max_cost is not None and self.price is None:
            raise ConfigError("max_cost needs a price: dollars per million tokens, prompt and completion")
        if self.human and not Path(self.human).is_file():
            raise ConfigError(f"human: no such file: {self.human}")
        self.judge_limits()

    @property
    def folder(self) -> str:
        return self.out or f"runs/{self.name}"

    @property
    def names(self) -> list[str]:
        """The names under which the benchmarks' results stand."""
        from leaderboard.benchmarks.custom import benchmark_name

        return [benchmark_name(spec) for spec in self.benchmarks]

    @property
    def recorded(self) -> dict[str, Any]:
        """What the run directory holds a later command to: all but the pace and the price of the judge's calls."""
        plain = to_dict(self)
        given = {k: v for k, v in plain.items() if k not in _RECORDED_IF_GIVEN or v != _RECORDED_IF_GIVEN[k]}
        return {k: v for k, v in given.items() if k not in _NOT_RECORDED}

    def judge_limits(self) -> Limits:
        """Raises ConfigError for a limit that is not positive."""
        paces = self.requests_per_minute, self.tokens_per_minute
        return Limits(self.concurrency, *paces, self.max_cost, self.price, self.judge_max_tokens)

    def limit_of(self, benchmark: str) -> int | None:
        return {plain_name(k): v for k, v in self.limits.items()}.get(plain_name(benchmark), self.limit)

    def baseline_of(self, benchmark: str) -> str | dict[str, str] | None:
        """What the recipe says of this benchmark alone; None for nothing."""
        return {plain_name(k): v for k, v in self.baselines.items()}.get(plain_name(benchmark))


def _check_baseline(spec: str, models: Sequence[str]) -> None:
    """Raise ConfigError for a misspelt model, which would be opened as a model from the hub otherwise."""
    hint = nearest(spec, models) if not {"/", ":"} & set(spec) and not Path(spec).exists() else ""
    if hint and spec not in models:
        raise ConfigError(f"baseline '{spec}': none of the models{hint}")


def plain_name(name: str) -> str:
    """A name as it is compared: the command line writes mini-alpaca as mini_alpaca."""
    return name.replace("-", "_")


def check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError, with the nearest name, for the first given name that is not known."""
    names = list(known)
    for name in given:
        if plain_name(name) not in map(plain_name, names):
            hint = nearest(name, names) or f"; known: {', '.join(names)}"
            raise ConfigError(f"{what}.{name}: no such name in this run{hint}")
