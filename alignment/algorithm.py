"""What an alignment method is: phases, a loss for language models, and the exact update for matrix games.

Most methods are one anchored regression (section 2 of the algorithms reference) that differs in anchors, weights,
sampler and step, so a method is a small frozen dataclass in `alignment/algorithms/`. Torch is imported where tensors
are made: games need none.

Units: log-probabilities are sums over response tokens in nats. `step` is the `a` that multiplies the win rate inside
the exponent (big a = big step), whatever the paper calls eta: a method's docstring says which.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

import numpy as np

from alignment.aliases import ALIASES
from prefeval.config import from_dict
from prefeval.errors import ConfigError, nearest
from prefeval.oracle import symmetrise
from prefeval.plugins import PREFIX, load_object
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """One prompt and its N responses, as a loss sees them.

    `logp` (N,) fp32 with gradient; `anchors` slot name -> frozen (N,); `P` (N, N), best kept on the CPU, NaN where a
    verdict failed; `length` (N,) tokens; `role` who wrote each response: 'policy', 'ref', 'opponent', 'data', ...
    `token_logp` (N, L) padded with 0, with gradient, and `token_anchors` likewise, frozen, are there where the phase
    asks for them; `score` (N, N) log-odds; `reward` (N,) float64 is there for methods that say `needs_reward`. `key`
    names the prompt and round: drawn labels depend on it and not on batching, so data that is used twice is labelled
    once. `told` is the instruction behind each response's prompt, for methods that give every reply its own.
    """

    logp: Tensor
    anchors: Mapping[str, Tensor]
    P: Tensor
    length: Tensor
    role: tuple[str, ...]
    token_logp: Tensor | None = None
    token_anchors: Mapping[str, Tensor] | None = None
    score: Tensor | None = None
    reward: Tensor | None = None
    key: str = ""
    told: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.logp)
        shapes = {"logp": self.logp, "length": self.length, **{f"anchor '{k}'": v for k, v in self.anchors.items()}}
        wrong = [name for name, value in shapes.items() if tuple(value.shape) != (n,)]
        wrong += ["P"] if tuple(self.P.shape) != (n, n) else []
        wrong += ["role"] if len(self.role) != n else []
        if wrong:
            raise ValueError(f"a group of {n} responses has the wrong shape in: {', '.join(wrong)}")

    @property
    def table(self) -> FloatArray:
        """P as float64 on the host, exactly complementary, NaN on both sides of a failed pair."""
        return symmetrise(np.asarray(self.P.detach().cpu().numpy(), dtype=np.float64))

    def rows(self, role: str) -> list[int]:
        """The responses that `role` wrote."""
        return [n for n, wrote in enumerate(self.role) if wrote == role]

    def part(self, rows: Sequence[int]) -> Group:
        """The group of these responses alone: sums of log-probs and P; not single tokens."""
        chosen = list(rows)
        return Group(
            self.logp[chosen],
            {slot: values[chosen] for slot, values in self.anchors.items()},
            self.P[chosen][:, chosen],
            self.length[chosen],
            tuple(self.role[n] for n in chosen),
            key=self.key,
        )


@dataclass(frozen=True)
class Phase:
    """One fit of a round. Slots are names of stored weights.

    'start' is the reference and is never overwritten; 'policy' is the iterate that is played and deployed; a method
    may add others ('aux', ...), which hold the start's weights until they are first written. Anchors are the slots as
    they were when the phase began, so the anchor 'policy' is pi_t also in the phase that writes pi_{t+1} there.
    """

    name: str
    sample: bool  # True: fresh responses from slot `sample_from`; False: the groups of the previous phase
    sample_from: str
    init_from: str  # the slot whose weights the fit starts from
    anchors: tuple[str, ...]  # slots whose frozen log-probs the loss needs
    output: str  # the slot the fitted weights are stored in
    # Afterwards this slot becomes, in log space, (1 - average_weight) itself + average_weight output: a mixture of
    # checkpoints whose log-probs the round loop averages; it is only ever an anchor.
    output_average: str | None = None
    average_weight: float = 0.5
    average_parameters: bool = False  # average the parameters instead: one checkpoint that can be played
    round: int = 1
    opponent: str | None = None  # the slot whose responses the sampled ones are compared with; None: with one another
    # (slot, w): the opponent, or the sampler where there is none, is its slot^{1-w} slot^w, token by token
    mix: tuple[str, float] | None = None
    keeps: tuple[tuple[str, str], ...] = ()  # (to, from): `to` takes what `from` held before the output was stored
    copies: tuple[tuple[str, str], ...] = ()  # (to, from): afterwards `to` takes what `from` holds now
    gradient_step: bool = False  # the loss has a gradient to follow for a step, and no minimum to look for
    token_anchors: bool = False  # the loss wants log-probs of single tokens, of the policy and of the anchors
    opponent_logp: bool = False  # the loss wants log-probs of the opponent's responses too, not their verdicts alone
    demonstrations: bool = False  # the prompt's demonstration is a response of the group, role 'data'
    segment: int = 0  # instead of from nothing, responses come from the demonstration: so many tokens in it drawn anew
    verdicts: bool = True  # False: the loss reads no P, so no oracle is asked and P is NaN


@dataclass(frozen=True, eq=False)
class State:
    """A method's state in a matrix game: log-policies (n,), normalised. `round` counts the updates done."""

    log_policy: FloatArray  # the deployed iterate
    log_ref: FloatArray
    round: int = 0
    memory: Mapping[str, FloatArray] = field(default_factory=dict)


@runtime_checkable
class Algorithm(Protocol):
    """A frozen dataclass with these class attributes; its fields are the options of recipes."""

    name: ClassVar[str]
    arxiv: ClassVar[str]
    game: ClassVar[str]  # which equilibrium it aims at
    step: float

    @property
    def has_minimiser(self) -> bool:
        """Whether `population` is the minimiser of the expected loss under the current options."""
        ...

    def phases(self, round: int) -> tuple[Phase, ...]:
        """The fits of a round, in order; rounds count from 1."""
        ...

    def loss(self, group: Group, phase: Phase) -> Tensor:
        """Scalar: the mean over the pairs (or responses) it uses; exactly 0 where P leaves none."""
        ...

    def initial_state(self, log_start: FloatArray, log_ref: FloatArray) -> State: ...

    def population(self, P: FloatArray, state: State) -> State:
        """One round on a matrix game (n, n) with exact expectations (13.4)."""
        ...


@runtime_checkable
class Conditioned(Protocol):
    """A method whose replies are trained on behind an instruction that says how good they are."""

    good: str  # the instruction that policies of a run are asked with

    def told(self, table: FloatArray, reward: FloatArray | None, count: int) -> tuple[str, ...]:
        """The instruction of each of the first `count` replies, '' for one that is not trained on."""
        ...


@dataclass(frozen=True)
class AlgorithmInfo:
    """A row of the table of methods; `alias_of` names the method that an alias configures."""

    name: str
    arxiv: str
    game: str
    has_minimiser: bool
    alias_of: str = ""


A = TypeVar("A")
_REGISTRY: dict[str, type[Any]] = {}


def register(cls: type[A]) -> type[A]:
    """Class decorator: make a method known under its `name`."""
    name = cast(Any, cls).name
    if name in ALIASES or (name in _REGISTRY and _REGISTRY[name].__qualname__ != cls.__qualname__):
        raise ValueError(f"two algorithms are called '{name}'")
    _REGISTRY[name] = cls
    return cls


def get_algorithm(name: str, **options: Any) -> Algorithm:
    """The method of that name (or alias) with its options checked; raises ConfigError with the nearest name."""
    preset = ALIASES[name].options if name in ALIASES else {}
    return cast(Algorithm, from_dict(algorithm_class(name), {**preset, **options}, where=f"algorithm '{name}'"))


def algorithm_class(name: str) -> type[Any]:
    """The class of a method, of what an alias configures, or of what `py:module:Class` names (runs its code)."""
    if name.startswith(PREFIX):
        return _outside(name)
    known = _load()
    if name in ALIASES:
        return known[ALIASES[name].of]
    if name not in known:
        names = [*known, *ALIASES]
        raise ConfigError(f"unknown algorithm '{name}'{nearest(name, names)} (known: {', '.join(sorted(names))})")
    return known[name]


def _outside(spec: str) -> type[Any]:
    """A method from outside of the package. Raises ConfigError for what is none."""
    found = load_object(spec, "algorithm")
    needed = ("name", "arxiv", "game", "has_minimiser", "phases", "loss", "initial_state", "population")
    missing = [name for name in needed if not hasattr(found, name)]
    if missing or not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"algorithm '{spec}': not a dataclass that has {', '.join(missing or needed)}")
    return found


def list_algorithms() -> list[AlgorithmInfo]:
    """Every method with its default options, then every alias, both sorted by name."""
    rows = [AlgorithmInfo(n, c.arxiv, c.game, c().has_minimiser) for n, c in sorted(_load().items())]
    for name, alias in sorted(ALIASES.items()):
        method = get_algorithm(name)
        rows.append(AlgorithmInfo(name, alias.arxiv, alias.game or method.game, method.has_minimiser, alias.of))
    return rows


def _load() -> dict[str, type[Any]]:
    import alignment.algorithms as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return _REGISTRY
