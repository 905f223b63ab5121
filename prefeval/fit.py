"""The one training loop: reward models and policies hand it items and a loss.

What it promises: splitting a step into micro-batches or over processes does not change the step; small learning rates
work in bf16; after any kill the same call goes on to the same weights (bit for bit where the device's kernels are
deterministic, as on a CPU). The loop itself is in fit_loop.py; this module imports no torch, so configs may use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from prefeval.errors import ConfigError
from prefeval.fit_stop import FitStop
from prefeval.runs import MetricsLog

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
Schedule = Literal["constant", "linear", "cosine"]
Precision = Literal["bf16", "bf16_autocast", "fp32", "auto"]


@dataclass(frozen=True)
class FitConfig:
    """How to fit. Raises ConfigError for a value out of range."""

    epochs: float = 1.0
    max_steps: int | None = None  # optimiser steps; ends the fit and the schedule earlier than `epochs` would
    learning_rate: float = 1e-5
    schedule: Schedule = "cosine"
    warmup_ratio: float = 0.03  # share of all steps, rounded up
    min_lr_ratio: float = 0.0  # where linear and cosine end, as a share of learning_rate
    weight_decay: float = 0.0  # on tensors of two or more dimensions
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 1.0  # 0 = no clipping
    batch_size: int = 32  # items per optimiser step, over all processes
    batch_tokens: int = 4096  # padded tokens per micro-batch
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    log_every: int = 1  # steps per row of metrics.jsonl, which averages them
    checkpoint_every: int = 50  # steps; 0 = by time alone
    checkpoint_seconds: float = 300.0  # 0 = by steps alone
    seed: int = 0
    report_to: tuple[str, ...] = ()  # accelerate's trackers: tensorboard, wandb, ...
    stop: FitStop = field(default_factory=FitStop)

    def __post_init__(self) -> None:
        rules = {
            "epochs": 0 < self.epochs < math.inf,
            "max_steps": self.max_steps is None or self.max_steps >= 1,
            "learning_rate": 0 <= self.learning_rate < math.inf,
            "schedule": self.schedule in ("constant", "linear", "cosine"),
            "warmup_ratio": 0 <= self.warmup_ratio <= 1,
            "min_lr_ratio": 0 <= self.min_lr_ratio <= 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "betas": len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "eps": 0 < self.eps < 1,
            "max_grad_norm": 0 <= self.max_grad_norm < math.inf,
            "batch_size": self.batch_size >= 1,
            "batch_tokens": self.batch_tokens >= 1,
            "precision": self.precision in ("bf16", "bf16_autocast", "fp32", "auto"),
            "log_every": self.log_every >= 1,
            "checkpoint_every": self.checkpoint_every >= 0,
            "checkpoint_seconds": self.checkpoint_seconds >= 0,
        }
        for name, good in rules.items():
            if not good:
                raise ConfigError(f"fit.{name}: {getattr(self, name)!r} is out of range")


@dataclass
class LossOutput:
    """A micro-batch's loss. The step's loss is the sum of its micro-batches' `loss_sum` over the step's units.

    `loss_sum` is a scalar with a graph, `weight` the units it sums over (what `units` gives for the same items),
    `metrics` are sums over these units, averaged in the log.
    """

    loss_sum: Tensor
    weight: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class FitResult:
    """What a fit did, earlier sessions of a resumed one included.

    `seconds` is training time, `tokens` the summed cost of the items seen, `final` the last logged values, `evaluation`
    the last values of `evaluate`; `stopped_early` says that the epochs were not over, because of max_steps or for the
    `stop_reason`. After a bf16 fit `masters` are the exact weights behind the model's rounded ones: drop the result to
    free them.
    """

    steps: int
    seconds: float
    tokens: int
    final: dict[str, float]
    evaluation: dict[str, float]
    stopped_early: bool
    stop_reason: str = ""
    masters: dict[str, Tensor] | None = field(default=None, repr=False)

    def summary(self) -> dict[str, Any]:
        """The fields as JSON-able values, without the weights."""
        return {k: v for k, v in self.__dict__.items() if k != "masters"}

    def export_masters(self, model: nn.Module) -> None:
        """Turn `model` to fp32 with the exact weights. A no-op on values after an fp32 fit.

        Call it before saving or before the next fit of the same model: that one starts from the weights it is given.
        """
        from prefeval.optim import export_masters

        export_masters(model, self.masters or {})


def one_unit(item: object) -> float:
    """The default of `units`: every item counts once."""
    return 1.0


def fit(
    model: nn.Module,
    items: Sequence[T],
    loss_fn: Callable[[nn.Module, Sequence[T]], LossOutput],
    config: FitConfig,
    *,
    cost: Callable[[T], int],
    state_dir: Path,
    stage: str,
    metrics: MetricsLog | None = None,
    units: Callable[[T], float] = one_unit,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    title: str = "fit",
) -> FitResult:
    """Train the parameters of `model` that require a gradient, in place, and leave it on accelerate's device.

    `cost` is an item's length in tokens: a micro-batch of n items is taken to need n * max(cost) of them. `units` is
    known before the forward pass, so that the step's loss has one denominator however it is split. `evaluate` runs
    without gradients every `evaluate_every` steps (0 = only at the end) and at the end, and cannot disturb training:
    random state and train/eval modes are put back. The model's modes are the caller's business (a model in eval mode
    has no dropout) and random numbers derive from (seed, stage), whatever was drawn before.

    A state in `state_dir` is taken up; `prefeval.checkpoint.clear_state(state_dir)` removes it once the caller has
    saved the model. Rows of `stage` in `metrics` beyond that state are dropped.

    Raises ConfigError when nothing can be trained or the state is another fit's; RunError, naming what is kept, on a
    loss or gradient that is not finite (the items are in state_dir/bad_batch.json) and when memory runs out;
    ValueError when `loss_fn` counts other units than `units`; KeyboardInterrupt after saving, on Ctrl-C.
    """
    from prefeval.fit_loop import FitLoop

    if not items:
        raise ConfigError(f"{stage}: there is nothing to train on (no items)")
    if config.stop.patience and evaluate is None:
        raise ConfigError(f"{stage}: fit.stop.patience needs held-out items, and there are none")
    run = FitLoop(model, items, loss_fn, config, cost, units, Path(state_dir), stage, metrics)
    return run.play(evaluate, evaluate_every, title)
