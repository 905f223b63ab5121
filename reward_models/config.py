"""What `prefeval train` is told: the data, the head, the loss, the fit. No torch here: `--help` must be quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from prefeval.errors import ConfigError, nearest
from prefeval.fit import FitConfig
from prefeval.lora import LoraConfig
from prefeval.plugins import PREFIX
from reward_models.data import DataConfig

HeadKind = Literal["bt", "regression", "gpm", "hybrid"]
_KINDS = ("bt", "regression", "gpm", "hybrid")
LossKind = Literal[
    "soft",
    "margin",
    "scaled",
    "robust",
    "hinge",
    "log_odds",
    "rao_kupper",
    "davidson",
    "adaptive",
    "plackett_luce",
    "top_1",
]
RANKED: tuple[LossKind, ...] = ("plackett_luce", "top_1")  # of whole rankings instead of pairs


@dataclass(frozen=True)
class GateConfig:
    """Weights of a regression head's attributes that depend on the prompt (ArmoRM, arXiv 2406.12845); see `gating`.

    `hidden` are the widths of the gate's layers (none: no gate; 1024, 1024, 1024 as published), `temperature` that of
    its softmax, `verbosity` the attribute that the others shall not correlate with (none when empty), `penalties` how
    much of it each attribute gives up, found by training.
    """

    hidden: tuple[int, ...] = ()
    temperature: float = 10.0
    verbosity: str = ""
    penalties: tuple[float, ...] = ()


@dataclass(frozen=True)
class HeadConfig:
    """Which head, how wide, and its temperature: P(i > j) = sigmoid(score / tau).

    `attributes` and `weights` (their reduction to one number; all ones when empty) belong to `regression`, `blocks` (k)
    and `unit_norm` (||v|| = 1 over all 2k components) to `gpm` and `hybrid`, as does `prompt_scales`: how much each
    block counts, lambda_l(x) > 0, is then read at the last token of the prompt. `gate` takes the place of `weights`.
    Raises ValueError for an unusable mix.
    """

    kind: HeadKind = "hybrid"
    attributes: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    blocks: int = 1
    unit_norm: bool = False
    prompt_scales: bool = False
    tau: float = 1.0
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"head kind '{self.kind}' is none of {', '.join(_KINDS)}")
        if not self.tau > 0:
            raise ValueError(f"the head's tau must be positive, not {self.tau}")
        if self.kind in ("gpm", "hybrid") and self.blocks < 1:
            raise ValueError(f"a {self.kind} head needs at least one skew block, not {self.blocks}")
        if self.prompt_scales and self.kind not in ("gpm", "hybrid"):
            raise ValueError(f"prompt_scales weigh skew blocks; a {self.kind} head has none")
        if self.kind == "regression" and not self.attributes:
            raise ValueError("a regression head needs the names of its attributes")
        if self.weights and len(self.weights) != len(self.attributes):
            raise ValueError(f"{len(self.weights)} weights for {len(self.attributes)} attributes")
        self._check_gate()

    def _check_gate(self) -> None:
        gate, count = self.gate, len(self.attributes)
        if gate.hidden and (self.kind != "regression" or self.weights):
            raise ValueError("a gate weighs the attributes of a regression head, in place of weights")
        if min(gate.hidden, default=1) < 1 or not gate.temperature > 0:
            raise ValueError(f"a gate needs positive widths and a positive temperature, not {gate}")
        if gate.verbosity and gate.verbosity not in self.attributes:
            raise ValueError(f"gate.verbosity '{gate.verbosity}' is none of {', '.join(self.attributes)}")
        if gate.penalties and (len(gate.penalties) != count or not gate.verbosity):
            raise ValueError(f"{len(gate.penalties)} penalties of verbosity '{gate.verbosity}' for {count} attributes")

    def width(self) -> int:
        """The number of linear outputs a response."""
        widths = {"bt": 1, "regression": len(self.attributes), "gpm": 2 * self.blocks, "hybrid": 1 + 2 * self.blocks}
        return widths[self.kind] + (self.blocks if self.prompt_scales else 0)

    def columns(self) -> int:
        """All outputs a response: the linear ones and, behind them, those of a gate."""
        return self.width() + (len(self.attributes) if self.gate.hidden else 0)

    def prompt_columns(self) -> int:
        """How many outputs, the last ones, are read at the end of the prompt instead of the response."""
        return self.blocks if self.prompt_scales else self.columns() - self.width()


@dataclass(frozen=True)
class LossConfig:
    """The loss on pairs or rankings; see `losses`. A regression head is trained on its ratings unless `joint` is set.

    `smoothing` is the label smoothing e, for `robust` the assumed rate of flipped labels; `centring` the coefficient of
    (r_1 + r_2)^2 (0.01 is usual). Pairs without a margin count as margin 0 (`margin`) or 1 (`scaled`, `hinge`). `tie`
    is theta of `rao_kupper` (> 1) or nu of `davidson` (> 0); 0 takes the value at which equal responses tie as often
    as the training pairs do. `rho` in (0, log 2) is the one number of `adaptive`. `plackett_luce` and `top_1` take the
    records whose labels are a complete ranking, with ties. `joint` > 0 adds that multiple of the soft pair loss on the
    utility of a regression head to its squared errors. `learn_tie` goes on from `tie` by gradient. `degree` > 0 adds
    that multiple of the self-supervised degree loss, on copies of the responses that lack `degree_ratios` of their key
    words. `kind` may also name a loss of your own: py:module:function, of log-odds and labels (n,), runs its code.
    Raises ValueError for a value out of range.
    """

    kind: LossKind | str = "soft"
    smoothing: float = 0.0
    centring: float = 0.0
    tie: float = 0.0
    rho: float = 0.1
    joint: float = 0.0
    learn_tie: bool = False
    degree: float = 0.0
    degree_ratios: tuple[float, ...] = (0.2, 0.5)

    def __post_init__(self) -> None:
        if self.kind not in get_args(LossKind) and not self.kind.startswith(PREFIX):
            known = get_args(LossKind)
            raise ValueError(f"loss.kind '{self.kind}' is none of {', '.join(known)}{nearest(self.kind, known)}")
        if not 0.0 <= self.smoothing < 0.5:
            raise ValueError(f"loss.smoothing must be in [0, 0.5), not {self.smoothing}")
        if self.centring < 0 or self.joint < 0:
            raise ValueError("loss.centring and loss.joint must not be negative")
        if self.tie and self.tie <= (1.0 if self.kind == "rao_kupper" else 0.0):
            raise ValueError(f"loss.tie: theta of rao_kupper is above 1, nu of davidson above 0, not {self.tie}")
        if not 0.0 < self.rho < math.log(2):
            raise ValueError(f"loss.rho must be in (0, log 2), not {self.rho}")
        if self.learn_tie and self.kind not in ("rao_kupper", "davidson"):
            raise ValueError(f"loss.learn_tie is for rao_kupper and davidson; {self.kind} has no tie parameter")
        if self.degree < 0 or not self.degree_ratios or not all(0 < r <= 1 for r in self.degree_ratios):
            raise ValueError("loss.degree must not be negative and loss.degree_ratios are in (0, 1]")


@dataclass(frozen=True)
class TrainConfig(DataConfig):
    """A preference model from preference data. Raises ConfigError for a value out of range."""

    model: str = "quickstart"  # base model: directory, hub id [@REV], FILE.gguf, or a preference model to go on from
    keep_head: bool = False  # start from the head of that preference model (for bt also from a regression's utility)
    layers: int = 0  # keep only the first N layers: the middle of a small model often knows style better than its end
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)  # with a rank: adapters and the head are what is trained
    trainable: str = "full"  # full, top:N (last N layers, final norm, head), head or gate (on states computed once)
    features: str = ""  # folder in which `trainable: head` keeps hidden states for other runs; default: only this run's
    max_length: int = 2048  # tokens of prompt and response; the beginning of longer ones is cut
    max_group: int = 8  # responses of one prompt in one training item
    calibrate: bool = True  # fit the head's temperature on the validation pairs
    fit: FitConfig = field(default_factory=FitConfig)
    evaluate_every: int = 0  # steps between validation losses; 0 = at the end
    out: str = "runs/preference"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 2 or self.max_group < 2:
            raise ConfigError("max_length and max_group must be at least 2")
        if self.lora.rank and self.trainable != "full":
            raise ConfigError(f"trainable '{self.trainable}' and lora exclude one another")
        if self.loss.kind in RANKED and self.head.kind not in ("bt", "regression"):
            raise ConfigError(f"loss {self.loss.kind} ranks by one number a response; a {self.head.kind} head has more")
        if self.loss.joint and self.head.kind != "regression":
            raise ConfigError("loss.joint adds pairs to the ratings of a regression head; this head has none")
        if self.trainable == "gate" and not self.head.gate.hidden:
            raise ConfigError("trainable 'gate' needs a gate: head.gate.hidden, for example [1024, 1024, 1024]")
        if self.head.gate.hidden and (self.trainable == "head" or self.loss.joint):
            raise ConfigError("a gated head is trained on pairs alone: trainable 'gate' or more, and no loss.joint")
        if self.head.gate.verbosity and self.trainable != "gate":
            raise ConfigError("gate.verbosity is taken out of ratings that stay as they are: set trainable 'gate'")
        if self.loss.degree and self.trainable in ("head", "gate"):
            raise ConfigError(f"loss.degree shapes the backbone, which trainable '{self.trainable}' leaves as it is")
        if self.loss.degree and (self.loss.kind in RANKED or self.head.kind == "regression"):
            raise ConfigError("loss.degree goes with losses on pairs")
        if self.layers < 0:
            raise ConfigError(f"layers must not be negative, not {self.layers}")
