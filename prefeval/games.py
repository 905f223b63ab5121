"""Matrix games: P[i, j] = probability that response i beats response j, solved exactly.

Section 13 of the algorithms reference. Policies are float64 vectors on the simplex (n,), or their logarithms where a
name says `log_`. Two games share one P: the plain one, and the one with `tau KL(policy || ref)` on either side.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefeval.errors import ConfigError, DataError, nearest
from prefeval.files import read_text
from prefeval.oracle import symmetrise
from prefeval.types import FloatArray

GAMES = ("rps", "cyc3", "rand10:SEED", "bt10")


@dataclass(frozen=True, eq=False)
class Game:
    """A preference matrix P (n, n) and the policy (n,) that play starts from."""

    name: str
    P: FloatArray
    start: FloatArray

    @property
    def log_start(self) -> FloatArray:
        return np.asarray(np.log(self.start), dtype=np.float64)


def open_game(spec: str) -> Game:
    """`rps`, `cyc3`, `rand10:SEED` (`rand10` = seed 0), `bt10`, or a CSV file with P (start uniform).

    Raises ConfigError for an unknown name and DataError for an unusable file.
    """
    name, _, argument = spec.partition(":")
    if spec == "rps":
        return Game(spec, _from_wins(3, {(0, 1): 1.0, (1, 2): 1.0, (2, 0): 1.0}), np.array([0.7, 0.2, 0.1]))
    if spec == "cyc3":
        return Game(spec, _from_wins(3, {(1, 0): 0.9, (2, 1): 0.9, (0, 2): 0.8}), np.array([0.2, 0.5, 0.3]))
    if spec == "bt10":
        return _bt10()
    if name == "rand10" and spec in (name, f"rand10:{argument}"):
        if (argument and not argument.isdecimal()) or spec.endswith(":"):
            raise ConfigError(f"game '{spec}': the seed after 'rand10:' must be a whole number >= 0")
        return _rand10(int(argument or 0))
    if spec.lower().endswith(".csv") or Path(spec).is_file():
        table = read_matrix(spec)
        return Game(spec, table, np.full(len(table), 1.0 / len(table)))
    hint = nearest(name, [g.partition(":")[0] for g in GAMES])
    raise ConfigError(f"unknown game '{spec}'{hint} (known: {', '.join(GAMES)}, or a file FILE.csv)")


def _from_wins(n: int, wins: dict[tuple[int, int], float]) -> FloatArray:
    table = np.full((n, n), 0.5)
    for (i, j), p in wins.items():
        table[i, j], table[j, i] = p, 1.0 - p
    return table


def _rand10(seed: int) -> Game:
    draw = np.random.default_rng(seed)
    upper = np.triu(draw.normal(size=(10, 10)), 1)
    score = upper - upper.T
    return Game(f"rand10:{seed}", symmetrise(1.0 / (1.0 + np.exp(-2.0 * score))), draw.dirichlet(np.ones(10)))


def _bt10() -> Game:
    draw = np.random.default_rng(7)
    c = draw.normal(size=10)
    table = symmetrise(1.0 / (1.0 + np.exp(-(c[:, None] - c[None, :]))))
    return Game("bt10", table, draw.dirichlet(np.ones(10)))


def read_matrix(path: str | Path) -> FloatArray:
    """P (n, n) from a CSV file without header. Raises DataError naming row and column (from 1)."""
    text = read_text(path)
    try:
        read = list(enumerate(csv.reader(io.StringIO(text)), 1))
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", file=path) from None
    rows = [(n, cells) for n, cells in read if any(c.strip() for c in cells)]
    if len(rows) < 2:
        raise DataError(f"a game needs at least 2 rows, found {len(rows)}", file=path)
    lines = []
    for number, cells in rows:
        # the numbers first: a header is no row that is too short
        lines.append([_probability(cell, path, number, j) for j, cell in enumerate(cells, 1)])
        if len(cells) != len(rows):
            why = f"{len(cells)} columns, but the file has {len(rows)} rows: P must be square"
            raise DataError(why, file=path, row=number)
    table = np.array(lines, dtype=np.float64)
    _check_complement(table, path, [number for number, _ in rows])
    return symmetrise(table)


def _probability(cell: str, path: str | Path, row: int, column: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        hint = " (a matrix file has no header)" if row == 1 else ""
        raise DataError(f"'{cell.strip()}' is not a number{hint}", file=path, row=row, field=str(column)) from None
    if not 0.0 <= value <= 1.0:
        raise DataError(f"{value:g} is not a probability in [0, 1]", file=path, row=row, field=str(column))
    return value


def _check_complement(table: FloatArray, path: str | Path, rows: list[int]) -> None:
    bad = np.argwhere(np.abs(table + table.T - 1.0) > 1e-6)
    if len(bad):
        i, j = int(bad[0][0]), int(bad[0][1])
        if i == j:
            raise DataError(
                f"{table[i, i]:g} on the diagonal must be 0.5", file=path, row=rows[i], field=str(i + 1)
            ) from None
        raise DataError(
            f"{table[i, j]:g} and {table[j, i]:g} (row {rows[j]}, column {i + 1}) must sum to 1",
            file=path,
            row=rows[i],
            field=str(j + 1),
        )


def log_normalise(x: FloatArray) -> FloatArray:
    """x - logsumexp(x): a log-policy (n,) from unnormalised logits."""
    top = x.max()
    return np.asarray(x - (top + np.log(np.exp(x - top).sum())), dtype=np.float64)


def duality_gap(p: FloatArray, P: FloatArray) -> float:
    """2 max_i (P p)_i - 1 of the plain game (13.1): >= 0, and 0 exactly at an equilibrium."""
    return max(0.0, 2.0 * float((P @ p).max()) - 1.0)


def regularised_gap(p: FloatArray, P: FloatArray, tau: float, ref: FloatArray) -> float:
    """2 [tau LSE_i(log ref_i + (P p)_i / tau) + tau KL(p || ref)] - 1 (13.1), for tau > 0 and a positive ref."""
    if not tau > 0:
        raise ValueError(f"the regularised gap needs tau > 0, not {tau}")
    value = _soft_best(np.log(ref), P @ p, tau) + tau * kl(p, ref)
    return max(0.0, 2.0 * value - 1.0)


def _soft_best(log_ref: FloatArray, rates: FloatArray, tau: float) -> float:
    # The maximum is taken out before dividing by tau, so that a small tau loses no digits.
    top = float(np.max(rates))
    return top + tau * float(np.logaddexp.reduce(log_ref + (rates - top) / tau))


def kl(p: FloatArray, q: FloatArray) -> float:
    """KL(p || q) in nats; 0 log 0 = 0."""
    on = p > 0
    return float(np.sum(p[on] * (np.log(p[on]) - np.log(q[on]))))


def nash_lp(P: FloatArray) -> FloatArray:
    """A Nash equilibrium (maximal lottery) of the plain game by linear programming (13.2): (n,).

    Not unique in general: check its duality gap, not the vector. Raises ValueError if P is not a complete square.
    """
    from scipy.optimize import linprog

    n = len(P)
    if P.shape != (n, n) or not np.all(np.isfinite(P)):
        raise ValueError("nash_lp needs a complete square P")
    payoffs = np.hstack([-P.T, np.ones((n, 1))])  # v - (P^T p)_j <= 0
    simplex = np.append(np.ones(n), 0.0)[None, :]
    bounds = [(0.0, None)] * n + [(None, None)]
    cost = np.append(np.zeros(n), -1.0)
    found = linprog(cost, A_ub=payoffs, b_ub=np.zeros(n), A_eq=simplex, b_eq=[1.0], bounds=bounds, method="highs")
    if not found.success or found.x is None:
        raise ValueError(f"the linear program of the game was not solved: {found.message}")
    p = np.maximum(np.asarray(found.x[:n], dtype=np.float64), 0.0)
    return np.asarray(p / p.sum(), dtype=np.float64)


def regularised_nash(P: FloatArray, tau: float, ref: FloatArray) -> FloatArray:
    """The unique root of p = softmax(log ref + P p / tau) (13.3): (n,).

    Nash mirror prox (2505.19731) in log space, whose KL to the root shrinks by 1 / (1 + 2 tau) a step for every P.
    """
    if not tau > 0:
        raise ValueError(f"the regularised game needs tau > 0, not {tau}")
    log_ref = log_normalise(np.log(ref))
    eta, current = min(2.0 * tau, 1.0), log_ref

    def prox(opponent: FloatArray) -> FloatArray:
        return log_normalise((current + eta * (log_ref + P @ np.exp(opponent) / tau)) / (1.0 + eta))

    for _ in range(2000 + math.ceil(60 / min(tau, 1.0))):
        updated = prox(prox(current))
        change = float(np.max(np.abs(updated - current)))
        current = updated
        if change < 1e-14 * max(1.0, float(np.max(np.abs(current)))):
            break
    return np.exp(current)


def condorcet_winner(P: FloatArray) -> int | None:
    """The response that beats every other with probability above 1/2, or None. An unknown entry beats nothing."""
    beats = np.asarray(P > 0.5).sum(axis=1)
    best = int(np.argmax(beats))
    return best if beats[best] == len(P) - 1 else None


def cyclic_triples(P: FloatArray) -> int:
    """Number of triples i > j > k > i; ties and NaN entries beat nothing."""
    wins = np.asarray(P > 0.5, dtype=np.float64)
    np.fill_diagonal(wins, 0.0)
    return round(float(np.trace(wins @ wins @ wins)) / 3.0)


def is_cyclic(P: FloatArray) -> bool:
    """Whether some three responses beat one another in a circle."""
    return cyclic_triples(P) > 0


def cycle_rate(P: FloatArray) -> float:
    """Cyclic triples over triples whose three entries are known (a random tournament has 1/4); NaN without any."""
    known = np.asarray(np.isfinite(P) & np.isfinite(P.T), dtype=np.float64)
    np.fill_diagonal(known, 0.0)
    triples = float(np.trace(known @ known @ known)) / 6.0
    complete = np.where(known > 0, P, np.nan)
    return cyclic_triples(complete) / triples if triples > 0 else math.nan


def hodge_split(S: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(u (k,), G, C (k, k)) of a skew log-odds matrix: S = G + C, G_ij = u_i - u_j its Bradley-Terry part.

    Least squares over the known pairs (uniform weights), so with a complete S u_i = mean_j S_ij and the rows of C sum
    to 0. C is NaN where S is. The potentials of each connected component sum to 0.
    """
    s = np.array(S, dtype=np.float64)
    np.fill_diagonal(s, 0.0)
    known = np.isfinite(s) & np.isfinite(s.T)
    weight = known.astype(np.float64)
    np.fill_diagonal(weight, 0.0)
    laplacian = np.diag(weight.sum(axis=1)) - weight
    u = np.linalg.pinv(laplacian, hermitian=True) @ np.where(known, s, 0.0).sum(axis=1)
    gradient = u[:, None] - u[None, :]
    return u, gradient, np.where(known, s - gradient, np.nan)


def curl_ratio(S: FloatArray) -> float:
    """|C|^2 / |S|^2 of the Hodge split: 0 = Bradley-Terry, 1 = purely cyclic; NaN for fewer than 3 responses."""
    if len(S) < 3:
        return math.nan
    _, _, curl = hodge_split(S)
    s = np.where(np.isfinite(curl), S, 0.0)
    np.fill_diagonal(s, 0.0)
    total = float(np.sum(s**2))
    return float(np.nansum(curl**2)) / total if total > 0 else 0.0


def bradley_terry(P: FloatArray, weights: FloatArray) -> FloatArray:
    """Scores r (n,) minimising E_{i, j ~ weights} of the cross-entropy of P_ij with sigmoid(r_i - r_j); mean 0.

    P is clipped to [1e-12, 1 - 1e-12], so that a finite minimiser exists. Damped Newton on the stationarity equations
    of each response, sum_j w_j (P_ij - sigmoid(r_i - r_j)) = 0, which stay well scaled where a weight is tiny.
    """
    target = np.clip(P, 1e-12, 1.0 - 1e-12)
    w = np.maximum(weights, 1e-300) / np.sum(weights)
    r = np.zeros(len(P))
    for _ in range(300):
        fitted = 1.0 / (1.0 + np.exp(-(r[:, None] - r[None, :])))
        slope = w[None, :] * fitted * (1.0 - fitted)
        system = np.diag(slope.sum(axis=1)) - slope + w[None, :]  # the last term fixes the free constant
        move = np.linalg.solve(system, (w[None, :] * (target - fitted)).sum(axis=1))
        r = r + move * min(1.0, 1.0 / max(float(np.max(np.abs(move))), 1e-300))
        if np.max(np.abs(move)) < 1e-13:
            break
    return np.asarray(r - r.mean(), dtype=np.float64)
