"""What an alignment method is: phases, a loss for language models, and the exact update for matrix games.

Most methods are one anchored regression (section 2 of the algorithms reference) that differs in anchors, weights,
sampler and step, so a method is a small frozen dataclass in `alignment/algorithms/`. Torch is imported where tensors
are made: games need none.

Units: log-probabilities are sums over response tokens in nats. `step` is the `a` that multiplies the win rate inside
the exponent (big a = big step), whatever the paper calls eta: a method's docstring says which.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

import numpy as np

from alignment.aliases import ALIASES
from alignment.labels import IntArray, Labels, PairRule, is_complete, relabel, select_pairs, win_rate_against
from prefeval.config import from_dict
from prefeval.errors import ConfigError, nearest
from prefeval.games import log_normalise
from prefeval.oracle import symmetrise
from prefeval.seeds import rng
from prefeval.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """One prompt and its N responses, as a loss sees them.

    `logp` (N,) fp32 with gradient; `anchors` slot name -> frozen (N,); `P` (N, N), best kept on the CPU, NaN where a
    verdict failed; `length` (N,) tokens; `role` who wrote each response: 'policy', 'ref', 'opponent', 'data', ...
    `token_logp` (N, L) padded with 0, with gradient, and `token_anchors` likewise, frozen, are there where the phase
    asks for them; `score` (N, N) log-odds; `reward` (N,). `key` names the prompt and round: drawn labels depend on it
    and not on batching, so data that is used twice is labelled once.
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


@dataclass(frozen=True, kw_only=True)
class PairMethod:
    """Options and behaviour that methods trained on pairs share.

    `labels` and `pairs` are `alignment.labels`' kinds; `labels_seed` seeds drawn labels. Only all pairs keep the
    population minimiser (FACT 3 and section 13.7), best_worst and tournament do not.
    """

    step: float = 1.0
    labels: Labels = "soft"
    pairs: PairRule = "all"
    labels_seed: int = 0

    def __post_init__(self) -> None:
        if not (self.step > 0 and np.isfinite(self.step)):
            raise ValueError(f"step must be a positive number, not {self.step}")

    @property
    def has_minimiser(self) -> bool:
        return self.pairs == "all"

    def initial_state(self, log_start: FloatArray, log_ref: FloatArray) -> State:
        return State(log_normalise(log_start), log_normalise(log_ref))

    def regression(self, group: Group, weights: Mapping[str, float], step: float) -> Tensor:
        return anchored_regression(
            group, weights, step, labels=self.labels, pairs=self.pairs, labels_seed=self.labels_seed
        )

    def payoffs(self, P: FloatArray) -> FloatArray:
        """The matrix whose game the labels play: thresholded for hard labels, P otherwise."""
        return relabel(P, "hard") if self.labels == "hard" else P

    def labelled(self, group: Group) -> FloatArray:
        return labelled_table(group, self.labels, self.labels_seed)


def check_pull(step: float, tau: float) -> None:
    """Raise ValueError unless step * tau, the weight of the reference, lies in [0, 1]."""
    if not (tau >= 0 and np.isfinite(tau)):
        raise ValueError(f"tau must be a number >= 0, not {tau}")
    if step * tau > 1 + 1e-12:
        raise ValueError(f"step * tau = {step * tau:g} must not exceed 1: the weight of the reference")


def check_magnet(alpha: float, refresh: int) -> None:
    """Raise ValueError for a magnet without strength or that never comes to move."""
    if not (alpha > 0 and np.isfinite(alpha)):
        raise ValueError(f"alpha must be a positive number, not {alpha}")
    if refresh < 1:
        raise ValueError(f"refresh must be at least 1 round, not {refresh}")


def moved_magnet(round: int, refresh: int) -> tuple[tuple[str, str], ...]:
    """The copies of a phase that moves the magnet to the policy every `refresh` rounds."""
    return (("magnet", "policy"),) if round % refresh == 0 else ()


def relative_logp(group: Group, weights: Mapping[str, float]) -> Tensor:
    """h (N,) = log pi - sum_k w_k log pi_k; only log pi carries gradient. Raises ValueError for a missing anchor."""
    h = group.logp
    for slot, weight in weights.items():
        if slot not in group.anchors:
            raise ValueError(f"the group has no anchor '{slot}' (it has: {', '.join(group.anchors) or 'none'})")
        h = h - weight * group.anchors[slot].detach().to(h)
    return h


def labelled_table(group: Group, labels: Labels, labels_seed: int) -> FloatArray:
    """The group's P with its labels; drawn ones depend on (labels_seed, group.key) only."""
    generator = rng("labels", labels_seed, group.key) if labels == "bernoulli" else None
    return relabel(group.table, labels, generator)


def anchored_regression(
    group: Group,
    weights: Mapping[str, float],
    step: float,
    *,
    labels: Labels = "soft",
    pairs: PairRule = "all",
    labels_seed: int = 0,
) -> Tensor:
    """Mean over pairs of (h_i - h_j - step (label_ij - 1/2))^2, h = log pi - sum_k w_k log pi_k (section 2).

    With i.i.d. responses from mu and all pairs its minimiser is prod_k pi_k^{w_k} exp(step P(y > mu)), normalised
    (FACTs 1 to 3). All pairs with soft labels and a complete P cost N numbers instead of N^2 (FACT 4).
    """
    target = step * (labelled_table(group, labels, labels_seed) - 0.5)
    return pair_regression(group, relative_logp(group, weights), target, pairs)


def pair_regression(group: Group, h: Tensor, target: FloatArray, pairs: PairRule) -> Tensor:
    """Mean over pairs of (h_i - h_j - target_ij)^2; `target` (N, N) is antisymmetric, NaN where a verdict failed.

    The value over all pairs of a complete table comes from N row means; what no h can fit is a constant in it.
    """
    if pairs == "all" and is_complete(target) and len(target) > 1:
        i, j = np.triu_indices(len(target), 1)
        means = target.mean(axis=1)
        rest = float(np.mean((target[i, j] - (means[i] - means[j])) ** 2))
        return centred_regression(h, means) + rest
    i, j = select_pairs(group.table, pairs)
    if len(i) == 0:
        return no_loss(group)
    errors = pair_difference(h, i, j) - constant(target[i, j], h)
    return (errors**2).mean()


def win_rate_regression(group: Group, weights: Mapping[str, float], step: float, table: FloatArray) -> Tensor:
    """Mean over pairs of the policy's responses of (h_i - h_j - step (p_i - p_j))^2, p_i the win rate over opponents.

    `table` holds the labels of the group, whose roles tell the policy's responses from the opponent's. Its minimiser is
    prod_k pi_k^{w_k} exp(step P(y > opponent)) whoever the opponent is (EGPO's loss, 2503.08942).
    """
    opponents = [n for n, role in enumerate(group.role) if role == "opponent"]
    rates = win_rate_against(table, opponents)
    own = [n for n, role in enumerate(group.role) if role != "opponent" and np.isfinite(rates[n])]
    if len(own) < 2:
        return no_loss(group)
    return centred_regression(relative_logp(group, weights)[own], step * rates[own])


def centred_regression(h: Tensor, target: FloatArray) -> Tensor:
    """Mean over all pairs of ((h_i - h_j) - (t_i - t_j))^2 = 2 / (N - 1) sum_i (h_i - t_i - mean(h - t))^2."""
    errors = h - constant(target, h)
    return 2.0 / (len(target) - 1) * ((errors - errors.mean()) ** 2).sum()


def pair_difference(h: Tensor, i: IntArray, j: IntArray) -> Tensor:
    """h_i - h_j: (pairs,)."""
    import torch

    return h[torch.from_numpy(i).to(h.device)] - h[torch.from_numpy(j).to(h.device)]


def constant(values: FloatArray, like: Tensor) -> Tensor:
    """A float64 array as a tensor with the type and device of `like`."""
    import torch

    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


def no_loss(group: Group) -> Tensor:
    """Exactly 0, still attached to the graph so that a backward pass works."""
    return (group.logp * 0.0).sum()


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
    """The class of a method or of what an alias configures."""
    known = _load()
    if name in ALIASES:
        return known[ALIASES[name].of]
    if name not in known:
        names = [*known, *ALIASES]
        raise ConfigError(f"unknown algorithm '{name}'{nearest(name, names)} (known: {', '.join(sorted(names))})")
    return known[name]


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
