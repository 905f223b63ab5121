"""The oracle: one question, `P[i, j]` = probability that response i beats response j, and the wrappers around it.

Contract, property-tested for every implementation: text in, float64 probabilities out; `P + P.T == 1` and a diagonal of
exactly 0.5; an entry that could not be obtained is NaN on both sides, never 0.5. Log-odds `scores` are in nats with the
model's temperature already applied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from prefeval.types import Comparison, FloatArray, Prompt

Group = Sequence[str]
PairRule = Callable[[Prompt, str, str], float]


@runtime_checkable
class Oracle(Protocol):
    """What every preference model, judge, ensemble and rule is to the rest of the project."""

    @property
    def name(self) -> str:
        """The spec that reopens it, or a description; recorded beside every number it produces."""
        ...

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        """P for each prompt's group of k responses: a list of (k, k) float64 arrays."""
        ...

    def scores(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        """Log-odds matrices S with P = sigmoid(S): a list of (k, k) antisymmetric float64 arrays."""
        ...

    def compare(self, items: Sequence[Comparison]) -> FloatArray:
        """P(first beats second) for n comparisons: (n,)."""
        ...


@runtime_checkable
class TwoOrders(Protocol):
    """An oracle whose answer depends on which response it is shown first: judges and pair models."""

    def ordered(self, items: Sequence[Comparison]) -> FloatArray:
        """P(first beats second) as answered with `first` shown first, then with it shown second: (n, 2), NaN failed."""
        ...


class MatrixOracle:
    """Base for oracles that are defined by `matrix`: the other two questions follow from it.

    Subclasses implement `matrix`; those with native log-odds (which do not saturate) override `scores` too, and those
    that read a response once for all its pairs say so (`per_response`): whole groups cost them no more than one pair.
    """

    name: str = "oracle"
    per_response: bool = False

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        raise TypeError(f"{type(self).__name__} must define matrix()")

    def scores(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        return [logit(p) for p in self.matrix(prompts, groups)]

    def compare(self, items: Sequence[Comparison]) -> FloatArray:
        blocks = self.matrix([c.prompt for c in items], [(c.first, c.second) for c in items])
        return np.array([p[0, 1] for p in blocks], dtype=np.float64)


class PairwiseRule(MatrixOracle):
    """An oracle from a function of one ordered pair; both orders are asked and averaged."""

    def __init__(self, name: str, rule: PairRule) -> None:
        self.name = name
        self._rule = rule

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        out = []
        for prompt, group in zip(prompts, groups, strict=True):
            table = np.array([[self._rule(prompt, a, b) for b in group] for a in group], dtype=np.float64)
            out.append(symmetrise(table.reshape(len(group), len(group))))
        return out


class Ensemble(MatrixOracle):
    """The mean of the members' P; `lower` is a pessimistic bound beside it, never itself a P.

    An entry is NaN only where every member failed.
    """

    def __init__(self, members: Sequence[Oracle]) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members = list(members)
        self.name = "ensemble:" + "+".join(m.name for m in members)
        self.per_response = all(getattr(m, "per_response", False) for m in members)

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        return [symmetrise(_nanmean(stack)) for stack in self.members_matrix(prompts, groups)]

    def lower(self, prompts: Sequence[Prompt], groups: Sequence[Group], width: float = 1.0) -> list[FloatArray]:
        """mean - width * standard deviation over the members, clipped at 0: (k, k), not complementary."""
        out = []
        for stack in self.members_matrix(prompts, groups):
            mean = _nanmean(stack)
            out.append(np.clip(mean - width * np.sqrt(_nanmean((stack - mean) ** 2)), 0.0, 1.0))
        return out

    def members_matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        """Every member's own P: (members, k, k) a prompt, NaN where a member failed."""
        tables = [member.matrix(prompts, groups) for member in self.members]
        return [np.stack(blocks) for blocks in zip(*tables, strict=True)]


class Noisy(MatrixOracle):
    """Labels flipped with probability `flip`: P' = flip + (1 - 2 flip) P."""

    def __init__(self, base: Oracle, flip: float) -> None:
        if not 0.0 <= flip < 0.5:
            raise ValueError(f"flip must be in [0, 0.5), not {flip}")
        self.base, self.flip = base, flip
        self.name = f"noisy({base.name}, {flip:g})"

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        return [symmetrise(self.flip + (1 - 2 * self.flip) * p) for p in self.base.matrix(prompts, groups)]


class LengthDebiased(MatrixOracle):
    """Log-odds minus `slope` times the length difference in characters: S'_ij = S_ij - slope (len_i - len_j)."""

    def __init__(self, base: Oracle, slope: float) -> None:
        self.base, self.slope = base, slope
        self.name = f"length_debiased({base.name}, {slope:g})"

    def scores(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        out = []
        for s, group in zip(self.base.scores(prompts, groups), groups, strict=True):
            length = np.array([len(text) for text in group], dtype=np.float64)
            out.append(s - self.slope * (length[:, None] - length[None, :]))
        return out

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        return [sigmoid_matrix(s) for s in self.scores(prompts, groups)]


def symmetrise(table: FloatArray) -> FloatArray:
    """(T + 1 - T.T) / 2 in float64 with the diagonal set to exactly 0.5; NaN where either order is missing.

    The upper triangle is computed and the lower is its exact complement, so `P + P.T == 1` holds in floating point.
    """
    t = np.asarray(table, dtype=np.float64)
    upper = np.triu(0.5 * (t + (1.0 - t.T)), 1)
    lower = np.tril(1.0 - upper.T, -1)
    out: FloatArray = upper + lower
    np.fill_diagonal(out, 0.5)
    return out


def sigmoid_matrix(score: FloatArray) -> FloatArray:
    """P from an antisymmetric log-odds matrix, exactly complementary."""
    s = np.asarray(score, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # NaN stays NaN, without a warning
        return symmetrise(np.exp(-np.logaddexp(0.0, -s)))


def logit(p: FloatArray) -> FloatArray:
    """Log-odds of P clipped to [1e-12, 1 - 1e-12]: antisymmetric, zero diagonal, NaN kept."""
    q = np.clip(np.asarray(p, dtype=np.float64), 1e-12, 1.0 - 1e-12)
    s = np.log(q) - np.log1p(-q)
    upper = np.triu(s, 1)
    return np.asarray(upper - upper.T, dtype=np.float64)


def win_rates(p: FloatArray, *, include_self: bool = False) -> FloatArray:
    """Mean of each row of P over the other responses (with itself at 0.5 if `include_self`): (k,), NaN-aware."""
    q = np.array(p, dtype=np.float64)
    if not include_self and len(q) > 1:
        np.fill_diagonal(q, np.nan)
    return _nanmean(q.T)


def check_complementary(p: FloatArray, name: str) -> None:
    """Raise ValueError unless P is square, in [0, 1], complementary and 0.5 on the diagonal (NaN pairs allowed)."""
    ok = p.ndim == 2 and p.shape[0] == p.shape[1]
    if ok:
        finite = ~np.isnan(p)
        ok = bool(
            np.array_equal(finite, finite.T)
            and np.all((p[finite] >= 0) & (p[finite] <= 1))
            and np.allclose((p + p.T)[finite], 1.0, atol=1e-9)
            and np.allclose(np.diag(p), 0.5, atol=1e-9)
        )
    if not ok:
        raise ValueError(
            f"oracle '{name}' returned a matrix that is not a P: it must satisfy P + P.T = 1 with 0.5 inside"
        )


def _nanmean(stack: FloatArray) -> FloatArray:
    """Mean over the first axis without NaN; NaN (and no warning) where nothing is left."""
    finite = ~np.isnan(stack)
    count = finite.sum(axis=0)
    total = np.where(finite, stack, 0.0).sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan), dtype=np.float64)
