"""What `prefeval align` is told. No torch here: `--help` must be quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from prefeval.errors import ConfigError
from prefeval.fit import FitConfig
from prefeval.lora import LoraConfig


@dataclass(frozen=True)
class ProbeConfig:
    """How each round's policy is looked at. Probe prompts are never trained on."""

    prompts: str = ""  # data spec; empty: `share` of the training prompts is kept apart
    share: float = 0.1
    limit: int = 64  # at most this many prompts
    responses: int = 2  # replies a prompt and policy
    oracle: str = ""  # a second, independent oracle for the probes, such as rules:gold; empty: the training oracle

    def __post_init__(self) -> None:
        if not (0 <= self.share < 1 and self.limit >= 0 and self.responses >= 1):
            raise ConfigError("probe: share must lie in [0, 1), limit be at least 0 and responses at least 1")


@dataclass(frozen=True)
class StopConfig:
    """When to end before `rounds` are played: `patience` rounds without a new best value of `by`, a probe's."""

    patience: int = 0  # 0: never
    by: str = "oracle/win_rate"
    lower_is_better: bool = False
    least: float = 0.0  # a new best must be better by more than this

    def __post_init__(self) -> None:
        if self.patience < 0 or self.least < 0:
            raise ConfigError("stop: patience and least must be at least 0")


@dataclass(frozen=True)
class AlignConfig:
    """Align a policy against an oracle by self-play in rounds."""

    name: str = "align"
    out: str = "runs/align"
    policy: str = "quickstart"  # the model spec to start from
    oracle: str = "rules:gold"  # an oracle spec
    algorithm: str = "onpo"  # a method or alias (prefeval game --list), or py:module:Class, which runs its code
    options: dict[str, Any] = field(default_factory=dict)  # of the algorithm: step, tau, labels, pairs, ...
    prompts: str = ""  # data spec of the training prompts
    columns: dict[str, str] = field(default_factory=dict)
    # data spec of written answers, for methods that learn from them; without `prompts` theirs are the training prompts
    demonstrations: str = ""
    demonstration_columns: dict[str, str] = field(default_factory=dict)
    instruction: str = ""  # put behind each prompt for the policy; the oracle judges the bare prompt
    rounds: int = 3
    prompts_per_round: int = 0  # 0: all of them in every round; else fresh ones each round, starting over when used up
    responses: int = 8  # K, sampled a prompt and round at temperature 1
    max_new_tokens: int = 256
    sampling_rows: int = 96  # replies decoded side by side
    seed: int = 0
    # `final`: the last policy, the mean parameters of all rounds', the best round by `stop.by`, or a policy fitted by
    # maximum likelihood (all weights, as `fit` says) to replies of all rounds' policies in equal shares: their mixture
    deploy: Literal["last", "average", "best", "distilled"] = "last"
    replay: int = 0  # so many earlier rounds' replies and verdicts are trained on again
    length_slope: float = 0.0  # nats of log-odds that a reply loses per character it is longer than the other
    # so many standard deviations below P lie the win rates that are trained on (oracles laplace:... and ensemble:...)
    pessimism: float = 0.0
    held_out: float = 0.0  # share of a fit's prompts that it does not train on, for fit.stop.patience
    stop: StopConfig = field(default_factory=StopConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)  # rank 0: all weights are trained
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(epochs=1, learning_rate=5e-7, batch_size=16, batch_tokens=8192)
    )

    def __post_init__(self) -> None:
        for name in ("rounds", "responses", "max_new_tokens", "sampling_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is out of range, it must be at least 1")
        if self.responses < 2:
            raise ConfigError("responses: self-play compares replies, so at least 2 a prompt are needed")
        for name in ("prompts_per_round", "replay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: {getattr(self, name)} is out of range, it must be at least 0")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out: {self.held_out} is out of range, it must lie in [0, 1)")
        if self.fit.stop.patience and not self.held_out:
            raise ConfigError("fit.stop.patience: needs prompts that are kept from the fit; give held_out a share")
        if not math.isfinite(self.length_slope):
            raise ConfigError(f"length_slope: {self.length_slope} is not a number")
        if not (self.pessimism >= 0 and math.isfinite(self.pessimism)):
            raise ConfigError(f"pessimism: {self.pessimism} is out of range, it must be a number >= 0")
        from alignment.algorithm import get_algorithm

        # a wrong name or option is told before hours of earlier steps
        method = get_algorithm(self.algorithm, **self.options)
        wanted = any(phase.demonstrations or phase.segment for phase in method.phases(1))
        if wanted and not self.demonstrations:
            raise ConfigError(f"demonstrations: {self.algorithm} learns from written answers; say where they are")
        if self.demonstrations and not wanted:
            raise ConfigError(f"demonstrations: {self.algorithm} does not learn from any; leave them out")
