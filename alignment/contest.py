"""Several policies on the same held-out prompts before one oracle: who wins, at what length, with what language.

The step that ends an alignment: an independent judge (in the quickstart `rules:gold`) compares every policy with every
other; beside the win rates stand the signs of a win that is no improvement: length, log-prob under the base, broken and
duplicate replies, and samples for the reader's own eyes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alignment.samples import SampledGroup, read_samples, token_sequences, write_samples
from prefeval.errors import ConfigError
from prefeval.files import sha256_file, write_json
from prefeval.oracle import Oracle
from prefeval.runs import MetricRow, RunDir
from prefeval.stats import Estimate, bootstrap_mean
from prefeval.types import FloatArray, Prompt


@dataclass(frozen=True)
class ContestConfig:
    """Which policies meet on which prompts before which oracle. The first policy is the base."""

    name: str = "contest"
    out: str = "runs/contest"
    policies: dict[str, str] = field(default_factory=dict)  # name -> model spec; the first is the base, a model alone
    oracle: str = "rules:gold"
    prompts: str = ""  # data spec of prompts that no policy was trained on
    instruction: str = ""
    limit: int = 0  # at most this many prompts; 0: all
    responses: int = 2  # replies a prompt and policy, temperature 1
    max_new_tokens: int = 256
    sampling_rows: int = 96
    shown: int = 6  # prompts whose first replies are printed side by side
    seed: int = 0

    def __post_init__(self) -> None:
        if self.policies and len(self.policies) < 2:
            raise ConfigError("policies: a contest needs at least two, the base first")


def hold_contest(config: ContestConfig, run: RunDir) -> dict[str, Any]:
    """Sample and judge. Writes contest.json and returns it: rows a policy, win matrix, samples."""
    from prefeval.data import load_prompts
    from prefeval.generate.specs import is_combined
    from prefeval.models import fingerprint, resolve
    from reward_models.oracles import open_oracle

    if not config.policies or not config.prompts:
        raise ConfigError("a contest needs policies (name: spec, the base first) and prompts")
    prompts = load_prompts(config.prompts)
    prompts = prompts[: config.limit or None]
    specs = {name: spec if is_combined(spec) else resolve(spec).spec for name, spec in config.policies.items()}
    base, logprobs = next(iter(specs.values())), {}
    if is_combined(base):
        raise ConfigError(f"policies: the base must be one model that gives log-probs, not {base}")
    for name, spec in specs.items():
        inputs = {
            "weights": [fingerprint(spec), fingerprint(base)],
            "prompts": [p.as_dicts() for p in prompts],
            "k": config.responses,
            "seed": config.seed,
        }
        done = run.stage(f"sample/{name}", inputs, partial(_sample, config, run, name, spec, base, prompts))
        logprobs[name] = done
    files = {name: sha256_file(_path(run, name)) for name in specs}
    inputs = {"samples": files, "oracle": fingerprint(config.oracle), "seed": config.seed}
    work = partial(_judge, config, run, lambda: open_oracle(config.oracle, fast=True), logprobs)
    result: dict[str, Any] = run.stage("judge", inputs, work)
    return result


def _sample(
    config: ContestConfig, run: RunDir, name: str, spec: str, base: str, prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Replies of one policy; the result holds their log-probs under the policy itself and under the base."""
    from alignment.logprobs import frozen_logprobs
    from alignment.policy import load_policy
    from prefeval import chat
    from prefeval.generate import SamplingParams, open_generator
    from prefeval.generate.hf import HFGenerator
    from prefeval.generate.specs import is_combined
    from prefeval.models import fast_dtype, load_tokenizer
    from prefeval.seeds import derive_seed
    from reward_models.oracles import open_oracle

    tokenizer, dtype, rows = load_tokenizer(base), fast_dtype(), config.sampling_rows
    model = None if is_combined(spec) else load_policy(spec, dtype)
    generator = (
        open_generator(spec, name=name, dtype=dtype, batch_rows=rows, open_oracle=open_oracle)
        if model is None
        else HFGenerator(model, tokenizer, name=name, batch_rows=rows)
    )
    asked = [chat.with_instruction(p, config.instruction) for p in prompts]
    params = SamplingParams(max_new_tokens=config.max_new_tokens)
    replies = generator.sample(asked, config.responses, params, derive_seed(config.seed, "contest", name))
    groups = [SampledGroup(p, tuple(g)) for p, g in zip(prompts, replies, strict=True)]
    flat = [s for rows in token_sequences(tokenizer, groups, config.instruction) for s in rows]
    pad = chat.safe_pad_id(tokenizer)
    own = _sampled_logprobs(spec, groups) if model is None else frozen_logprobs(model, flat, pad)
    write_samples(_path(run, name), groups)
    return {"own": own, "base": frozen_logprobs(load_policy(base, dtype), flat, pad)}


def _sampled_logprobs(spec: str, groups: Sequence[SampledGroup]) -> list[float]:
    """A mixture's or a steered model's, as it sampled them.

    NaN for a choice: no one can say how likely it was to keep just this reply.
    """
    from prefeval.generate.specs import parse_selection

    chosen = parse_selection(spec) is not None
    replies = [r for g in groups for r in g.responses]
    return [float("nan") if chosen or r.logprob is None else r.logprob for r in replies]


def _judge(
    config: ContestConfig,
    run: RunDir,
    open_judge: Callable[[], Oracle],
    logprobs: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, Any]:
    from alignment.probes import describe, judge, restricted_gap, win_tables

    oracle = open_judge()
    names = list(config.policies)
    pool = [read_samples(_path(run, name)) for name in names]
    tables = judge(oracle, pool)
    wins = win_tables(tables, pool)
    rows = []
    for index, name in enumerate(names):
        row: dict[str, Any] = {"policy": name, **describe(pool[index], logprobs[name]["base"], logprobs[name]["own"])}
        row |= _flat("win_rate", bootstrap_mean(wins[:, index, 0], seed=config.seed))
        matched = length_matched(tables, pool, index) if index else Estimate(0.5, 0.5, 0.5, 0)
        row |= _flat("length_matched_win_rate", matched)
        gap, low, high = restricted_gap(wins, index, config.seed)
        rows.append(row | {"gap": gap, "gap_low": low, "gap_high": high})
    result = {
        "oracle": oracle.name,
        "prompts": len(pool[0]),
        "rows": rows,
        "names": names,
        "matrix": np.nanmean(wins, axis=0).tolist(),
        "samples": _shown(pool, names, config.shown),
    }
    write_json(run.path / "contest.json", result)
    for row in rows:
        values = {k: v for k, v in row.items() if k != "policy"}
        run.metrics.cut(f"contest/{row['policy']}")
        run.metrics.add(MetricRow("evaluation", f"contest/{row['policy']}", values))
    return result


def length_matched(tables: Sequence[FloatArray], pool: Sequence[Sequence[SampledGroup]], policy: int) -> Estimate:
    """Win rate of a policy over the base (the first), over pairs of replies to a prompt whose tokens differ by a tenth.

    `tables` is what `judge` gave for the pool.
    """
    first = sum(len(p[0].responses) for p in pool[:policy])
    values, clusters = [], []
    for mine, theirs, table in zip(pool[policy], pool[0], tables, strict=True):
        for i, a in enumerate(mine.responses):
            for j, b in enumerate(theirs.responses):
                m, n = len(a.token_ids or ()), len(b.token_ids or ())
                if abs(m - n) <= 0.1 * max(m, n):
                    values.append(float(table[first + i, j]))
                    clusters.append(mine.prompt.id)
    return bootstrap_mean(values, clusters) if values else Estimate(float("nan"), float("nan"), float("nan"), 0)


def _shown(pool: Sequence[Sequence[SampledGroup]], names: Sequence[str], count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": pool[0][i].prompt.text, "replies": {n: pool[a][i].texts[0] for a, n in enumerate(names)}}
        for i in range(min(count, len(pool[0])))
    ]


def _flat(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.point, f"{name}_low": estimate.low, f"{name}_high": estimate.high, f"{name}_n": estimate.n}


def _path(run: RunDir, name: str) -> Path:
    return run.path / f"samples-{name}.jsonl"
