"""What `prefeval align` is told. No torch here: `--help` must be quick."""

from __future__ import annotations

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
class AlignConfig:
    """Align a policy against an oracle by self-play in rounds."""

    name: str = "align"
    out: str = "runs/align"
    policy: str = "quickstart"  # the model spec to start from
    oracle: str = "rules:gold"  # an oracle spec
    algorithm: str = "onpo"
    options: dict[str, Any] = field(default_factory=dict)  # of the algorithm: step, tau, labels, pairs, ...
    prompts: str = ""  # data spec of the training prompts
    columns: dict[str, str] = field(default_factory=dict)
    instruction: str = ""  # put behind each prompt for the policy; the oracle judges the bare prompt
    rounds: int = 3
    prompts_per_round: int = 0  # 0: all of them in every round; else fresh ones each round, starting over when used up
    responses: int = 8  # K, sampled a prompt and round at temperature 1
    max_new_tokens: int = 256
    sampling_rows: int = 96  # replies decoded side by side
    seed: int = 0
    deploy: Literal["last", "average"] = "last"  # `final`: the last policy, or the mean parameters of all rounds'
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
        if self.prompts_per_round < 0:
            raise ConfigError(f"prompts_per_round: {self.prompts_per_round} is out of range, it must be at least 0")
        from alignment.algorithm import get_algorithm

        get_algorithm(self.algorithm, **self.options)  # a wrong name or option is told before hours of earlier steps
