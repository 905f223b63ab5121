"""A study of methods: several alignment runs on common ground, compared before the same judges.

The runs share their start and their probe prompts, so the replies that each run's probes kept make one pool: every
policy of every round meets every other. Nothing is sampled here. Per method (mean over its runs, one a seed): win rate
over the start, win rate over the baseline method and its cyclic part, restricted duality gaps of all rounds on the
common pool, the gap of the uniform mixture of rounds, KL, length, health of the text, and what it cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alignment.costs import cost_of
from alignment.probes import control_of, gap_draws, judge, win_tables
from alignment.samples import SampledGroup, read_samples
from prefeval.errors import ConfigError
from prefeval.files import sha256_file, write_json, write_text
from prefeval.games import hodge_split
from prefeval.log import logger
from prefeval.runs import MetricRow, RunDir, read_run
from prefeval.stats import Estimate, bootstrap_mean, holm, minimum_detectable_difference, paired_difference
from prefeval.stats import percentile_interval as interval
from prefeval.types import FloatArray

Draws = tuple[float, FloatArray]  # an estimate and its bootstrap draws


@dataclass(frozen=True)
class StudyConfig:
    """Which alignment runs are compared, before whom, and against which of them."""

    name: str = "study"
    out: str = "runs/study"
    runs: dict[str, list[str]] = field(default_factory=dict)  # method -> directories of its runs, one a seed
    baseline: str = "dpo"  # the method that the others are compared with
    oracles: dict[str, str] = field(default_factory=lambda: {"judge": "rules:gold"})  # name -> spec
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.runs and self.baseline not in self.runs:
            raise ConfigError(f"baseline '{self.baseline}' is none of the methods: {', '.join(self.runs)}")
        if any(not paths for paths in self.runs.values()) or not self.oracles:
            raise ConfigError("every method needs at least one run, and the study at least one oracle")


@dataclass(frozen=True)
class Run:
    """What a study reads of one alignment run: replies to the probe prompts by round, the start first; and its cost."""

    method: str
    path: Path
    pool: tuple[tuple[SampledGroup, ...], ...]
    probes: tuple[Mapping[str, Any], ...]
    cost: Mapping[str, float]

    @property
    def rounds(self) -> int:
        return len(self.pool) - 1


@dataclass(frozen=True, eq=False)
class Pool:
    """All policies of all runs before one oracle: W (prompts, m, m), its cyclic part, and where whom to find.

    Policy 0 is the start (the replies of the first run's probe). `cyclic` adds up with a difference of potentials to
    W - 1/2: the Hodge split of P - 1/2 over all replies to a prompt. `place` maps a run's index and round to a policy.
    """

    wins: FloatArray
    cyclic: FloatArray
    place: Mapping[tuple[int, int], int]


def compare_runs(config: StudyConfig, run: RunDir) -> dict[str, Any]:
    """Judge the common pool and write study.json and study.md. Returns what study.json holds."""
    if not config.runs:
        raise ConfigError("a study needs runs: method -> list of directories of finished `prefeval align` runs")
    found = read_runs(config.runs)
    inputs = {
        "samples": {f"{r.method}/{n}": sha256_file(p) for r in found for n, p in enumerate(_sample_files(r.path))},
        "oracles": config.oracles,
        "baseline": config.baseline,
        "seed": config.seed,
    }
    result: dict[str, Any] = run.stage("study", inputs, lambda: _study(config, run, found))
    return result


def _study(config: StudyConfig, run: RunDir, runs: Sequence[Run]) -> dict[str, Any]:
    from alignment.study_table import markdown
    from reward_models.oracles import open_oracle

    methods, hypotheses = {}, {}
    for name, spec in config.oracles.items():
        pool = judge_pool(open_oracle(spec, fast=True), runs)
        methods[name] = summarise_methods(pool, runs, config)
        if len(config.runs) > 1:
            hypotheses[name] = all_others(pool, runs, config)
        logger.info("study: %d policies compared before %s", pool.wins.shape[1], spec)
    result = {
        "prompts": len(runs[0].pool[0]),
        "replies": len(runs[0].pool[0][0].responses),
        "policies": 1 + sum(r.rounds for r in runs),
        "baseline": config.baseline,
        "oracles": config.oracles,
        "seeds": {m: len(p) for m, p in config.runs.items()},
        "text": {m: _means([r.probes[-1] for r in runs if r.method == m]) for m in config.runs},
        "start": _means([r.probes[0] for r in runs]),
        "cost": {m: _means([r.cost for r in runs if r.method == m]) for m in config.runs},
        "methods": methods,
        "hypotheses": hypotheses,
    }
    write_json(run.path / "study.json", result)
    write_text(run.path / "study.md", markdown(result))
    run.metrics.cut("study")
    for name, rows in methods.items():
        for method, row in rows.items():
            values = {k: v["point"] for k, v in row.items() if isinstance(v, dict)}
            run.metrics.add(MetricRow("evaluation", "study", {f"{name}/{method}/{k}": v for k, v in values.items()}))
    return result


def read_runs(paths: Mapping[str, Sequence[str]]) -> list[Run]:
    """The runs in order. Raises ConfigError for one without probes, or with other probe prompts or replies a prompt."""
    runs = []
    for method, folders in paths.items():
        for folder in folders:
            path = Path(folder)
            _, rows = read_run(path)
            probes = sorted((r for r in rows if r.kind == "probe"), key=lambda r: r.round or 0)
            files = _sample_files(path)
            if len(files) < 2 or len(files) != len(probes):
                raise ConfigError(f"{folder}: not a finished alignment run with probes")
            pool = tuple(tuple(read_samples(p)) for p in files)
            runs.append(Run(method, path, pool, tuple(p.values for p in probes), cost_of(path)))
    first = [(g.prompt.id, g.prompt.text, len(g.responses)) for g in runs[0].pool[0]]
    for run in runs[1:]:
        if any([(g.prompt.id, g.prompt.text, len(g.responses)) for g in policy] != first for policy in run.pool):
            raise ConfigError(f"{run.path}: other probe prompts, or replies a prompt, than {runs[0].path}")
    return runs


def judge_pool(oracle: Any, runs: Sequence[Run]) -> Pool:
    """Every reply to a prompt against every other, by all policies of all runs."""
    place, policies = {}, [runs[0].pool[0]]
    for index, run in enumerate(runs):
        place[index, 0] = 0
        for number in range(1, run.rounds + 1):
            place[index, number] = len(policies)
            policies.append(run.pool[number])
    tables = judge(oracle, policies)
    cyclic = [0.5 + hodge_split(t - 0.5)[2] for t in tables]
    return Pool(win_tables(tables, policies), win_tables(cyclic, policies) - 0.5, place)


def summarise_methods(pool: Pool, runs: Sequence[Run], config: StudyConfig) -> dict[str, dict[str, Any]]:
    """One row a method; intervals are over prompts, for these runs."""
    members = {m: [i for i, r in enumerate(runs) if r.method == m] for m in config.runs}
    last = {m: [pool.place[i, runs[i].rounds] for i in found] for m, found in members.items()}
    over = {m: np.nanmean(pool.wins[:, found, 0], axis=1) for m, found in last.items()}
    rows: dict[str, dict[str, Any]] = {}
    p_values = []
    for method, found in last.items():
        row: dict[str, Any] = {"win_rate": _mean(over[method], config).as_dict()}
        row["win_rate_by_run"] = [float(np.nanmean(pool.wins[:, p, 0])) for p in found]
        if method != config.baseline:
            others = last[config.baseline]
            difference, p = paired_difference(
                over[method], over[config.baseline], resamples=config.resamples, seed=config.seed
            )
            p_values.append(p)
            sd = float(np.nanstd(over[method] - over[config.baseline], ddof=1))
            row["difference"] = difference.as_dict()
            row["detectable"] = minimum_detectable_difference(sd, difference.n)
            row["over_baseline"] = _mean(_block(pool.wins, found, others), config).as_dict()
            row["over_baseline_cyclic"] = _mean(_block(pool.cyclic, found, others), config).as_dict()
        rows[method] = row | gaps_of(pool, members[method], runs, config)
    for method, p in zip((m for m in rows if m != config.baseline), holm(p_values), strict=True):
        rows[method]["p_holm"] = p
    return rows


def all_others(pool: Pool, runs: Sequence[Run], config: StudyConfig) -> dict[str, Any]:
    """What the methods have in common: means over all of them but the baseline, each method counted once.

    `margin` is the win rate over the baseline less 1/2 and `margin_cyclic` its cyclic part, with the p of a sign-flip
    test against 0 and the least mean that is found with 80% power. `gap_change` and `average_change` as in `gaps_of`.
    """
    members = {m: [i for i, r in enumerate(runs) if r.method == m] for m in config.runs}
    last = {m: [pool.place[i, runs[i].rounds] for i in found] for m, found in members.items()}
    others = [m for m in config.runs if m != config.baseline]
    rows: dict[str, Any] = {"methods": len(others)}
    for name, table in (("margin", pool.wins - 0.5), ("margin_cyclic", pool.cyclic)):
        values = np.mean([_block(table, last[m], last[config.baseline]) for m in others], axis=0)
        found, p = paired_difference(values, np.zeros_like(values), resamples=config.resamples, seed=config.seed)
        least = minimum_detectable_difference(float(np.nanstd(values, ddof=1)), found.n)
        rows[name] = {**found.as_dict(), "p": p, "detectable": least}
    gaps = [_gap_draws_of(pool, members[m], runs, config) for m in others]
    rows["gap_change"] = _interval(_mean_draws([_less(by_round[-1], by_round[1]) for by_round, _ in gaps]))
    rows["average_change"] = _interval(_mean_draws([_less(mixture, by_round[-1]) for by_round, mixture in gaps]))
    return rows


def gaps_of(pool: Pool, members: Sequence[int], runs: Sequence[Run], config: StudyConfig) -> dict[str, Any]:
    """Restricted gaps of a method's rounds and of the uniform mixture of its rounds, on the common pool.

    `gap_change` is last round less first, `gap_average` that of the mixture, `average_change` it less the last round's;
    both changes are paired over prompts.
    """
    by_round, mixture = _gap_draws_of(pool, members, runs, config)
    final = [pool.place[i, len(by_round) - 1] for i in members]
    return {
        "gap": _interval(by_round[-1]),
        "gap_rounds": [_interval(d) for d in by_round],
        "gap_average": _interval(mixture),
        "gap_change": _interval(_less(by_round[-1], by_round[1])),
        "average_change": _interval(_less(mixture, by_round[-1])),
        "gap_control": float(np.mean([control_of(pool.wins[:, :, p], config.seed) for p in final])),
    }


def _gap_draws_of(
    pool: Pool, members: Sequence[int], runs: Sequence[Run], config: StudyConfig
) -> tuple[list[Draws], Draws]:
    """Gaps of every round, the start first, and of the uniform mixture of rounds: means over the runs `members`."""
    rounds = min(runs[i].rounds for i in members)

    def draws(columns: Sequence[Sequence[int]]) -> Draws:
        mixed = [np.nanmean(pool.wins[:, :, list(c)], axis=2) for c in columns]
        return _mean_draws([gap_draws(against, config.seed, config.resamples) for against in mixed])

    by_round = [draws([[pool.place[i, t]] for i in members]) for t in range(rounds + 1)]
    return by_round, draws([[pool.place[i, t] for t in range(1, rounds + 1)] for i in members])


def _mean_draws(found: Sequence[Draws]) -> Draws:
    return float(np.mean([point for point, _ in found])), np.mean([d for _, d in found], axis=0)


def _block(wins: FloatArray, rows: Sequence[int], columns: Sequence[int]) -> FloatArray:
    """Mean over all pairs of policies, a value a prompt."""
    return np.asarray(np.nanmean(wins[:, rows][:, :, columns], axis=(1, 2)), dtype=np.float64)


def _mean(values: FloatArray, config: StudyConfig) -> Estimate:
    return bootstrap_mean(values, resamples=config.resamples, seed=config.seed)


def _less(a: Draws, b: Draws) -> Draws:
    return a[0] - b[0], a[1] - b[1]


def _interval(found: Draws) -> dict[str, float]:
    low, high = interval(found[1][np.isfinite(found[1])])
    return {"point": found[0], "low": low, "high": high}


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of every number that all rows have."""
    names = [k for k, v in rows[0].items() if isinstance(v, (int, float)) and all(k in r for r in rows)]
    return {k: float(np.mean([r[k] for r in rows])) for k in names}


def _sample_files(path: Path) -> list[Path]:
    return sorted((path / "probes").glob("policy*.jsonl"))
