"""What a round's policy is like: win rate against the start, KL, length, broken text, restricted duality gap.

The gap (section 14.1 of the algorithms reference) is that of the game restricted to the policies seen so far. The best
opponent is chosen on one half of the prompts and measured on the other, both ways, because a maximum over noisy means
is biased upwards; a control with identical policies is printed beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.best_of import against_best_of_itself
from alignment.labels import is_complete
from alignment.samples import SampledGroup, read_samples, token_sequences, write_samples
from prefeval import chat
from prefeval.files import sha256_json
from prefeval.games import curl_ratio, cycle_rate
from prefeval.generate.base import SamplingParams
from prefeval.models import fingerprint
from prefeval.oracle import Oracle, logit
from prefeval.seeds import derive_seed, rng
from prefeval.stats import bootstrap_mean, percentile_interval, resample_counts
from prefeval.types import FloatArray, Prompt

if TYPE_CHECKING:
    import torch


@dataclass
class Probes:
    """Held-out prompts, the oracles that judge on them, and the samples of every policy measured so far."""

    folder: Path
    prompts: Sequence[Prompt]
    oracles: Mapping[str, Oracle]
    start: str
    tokenizer: Any
    pad_id: int
    dtype: torch.dtype
    instruction: str
    responses: int
    max_new_tokens: int
    seed: int
    sampling_rows: int = 96

    def inputs(self) -> dict[str, Any]:
        """What decides a measurement, for the stage hash."""
        return {
            "prompts": sha256_json([p.as_dicts() for p in self.prompts]),
            "oracles": {k: fingerprint(o.name) for k, o in self.oracles.items()},
            "responses": self.responses,
            "seed": self.seed,
        }

    def measure(self, number: int, checkpoint: str) -> dict[str, Any]:
        """Sample policy `number` on the probe prompts and compare it with all earlier ones."""
        from alignment.logprobs import frozen_logprobs
        from alignment.policy import load_policy

        policy = load_policy(checkpoint, self.dtype)
        groups = self._sample(number, policy)
        flat = [s for rows in token_sequences(self.tokenizer, groups, self.instruction) for s in rows]
        own = frozen_logprobs(policy, flat, self.pad_id)
        under_start = frozen_logprobs(load_policy(self.start, self.dtype), flat, self.pad_id)
        values = describe(groups, under_start, own)
        pool = [read_samples(self._path(n)) for n in range(number + 1)]
        for name, oracle in self.oracles.items():
            tables = judge(oracle, pool)
            found = summarise(win_tables(tables, pool), number, self.seed) | intransitivity(tables)
            found |= against_best_of_itself(tables, self.responses, self.seed)
            values |= {f"{name}/{k}": v for k, v in found.items()}
        return values

    def _sample(self, number: int, policy: Any) -> list[SampledGroup]:
        from prefeval.generate.hf import HFGenerator

        generator = HFGenerator(policy, self.tokenizer, name=f"probe {number}", batch_rows=self.sampling_rows)
        asked = [chat.with_instruction(p, self.instruction) for p in self.prompts]
        params = SamplingParams(max_new_tokens=self.max_new_tokens)
        replies = generator.sample(asked, self.responses, params, derive_seed(self.seed, "probe", number))
        groups = [SampledGroup(p, tuple(g)) for p, g in zip(self.prompts, replies, strict=True)]
        write_samples(self._path(number), groups)
        return groups

    def _path(self, number: int) -> Path:
        return self.folder / f"policy{number:03d}.jsonl"


def describe(
    groups: Sequence[SampledGroup], under_start: Sequence[float], own: Sequence[float] | None = None
) -> dict[str, Any]:
    """KL from the start, length and health of the text of one policy's samples.

    `kl` (nats a reply) is the Monte Carlo mean of log pi - log start; `own` gives log pi by the same forward pass as
    `under_start`, so that a policy's KL from itself is exactly 0 (default: the sampler's, which rounds otherwise in
    bf16; `sampler_error` is the mean absolute difference a token between the two). `start_logp` is the mean log-prob of
    a token under the start; `ended` the share of replies that were not cut off; `broken` the share that are empty or
    mostly repetition; `duplicates` the share that another reply to any prompt equals; `distinct_2` the distinct pairs
    of neighbouring words over all pairs in the replies.
    """
    replies = [r for g in groups for r in g.responses]
    clusters = [g.prompt.id for g in groups for _ in g.responses]
    tokens = np.array([len(r.token_ids or ()) for r in replies], dtype=np.float64)
    sampled = np.array([r.logprob if r.logprob is not None else np.nan for r in replies], dtype=np.float64)
    policy = sampled if own is None else np.asarray(own, dtype=np.float64)
    start = np.asarray(under_start, dtype=np.float64)
    texts = [r.text.strip().lower() for r in replies]
    counts = Counter(texts)
    kl = bootstrap_mean(policy - start, clusters)
    return {
        "kl": kl.point,
        "kl_low": kl.low,
        "kl_high": kl.high,
        "kl_per_token": float((policy - start).sum() / tokens.sum()),
        "length": float(tokens.mean()),
        "characters": float(np.mean([len(r.text) for r in replies])),
        "ended": float(np.mean([r.finish_reason == "stop" for r in replies])),
        "start_logp": float(start.sum() / tokens.sum()),
        "entropy": float(-policy.sum() / tokens.sum()),
        "sampler_error": float(np.mean(np.abs(sampled - policy) / tokens)),
        "duplicates": float(np.mean([counts[t] > 1 for t in texts])),
        "broken": float(np.mean([is_broken(t) for t in texts])),
        "distinct_2": distinct(texts, 2),
        "replies": len(replies),
    }


def is_broken(text: str) -> bool:
    """Empty or mostly repetition: from 8 words on, under half of the words or 0.7 of the word pairs are distinct."""
    words = text.split()
    if not words:
        return True
    if len(words) < 8:
        return False
    pairs = list(pairwise(words))
    return len(set(words)) < 0.5 * len(words) or len(set(pairs)) < 0.7 * len(pairs)


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words over all n-grams of the texts (1510.03055); NaN where there is none."""
    grams = [tuple(w[i : i + n]) for w in (t.split() for t in texts) for i in range(len(w) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def intransitivity(tables: Sequence[FloatArray]) -> dict[str, float]:
    """How far the oracle's P on these replies is from any ranking, averaged over prompts with three replies or more.

    `cycle_rate` is the share of triples whose majority is a circle, `curl_ratio` the cyclic share of the log-odds
    (Hodge). Near 0 Nash methods and DPO coincide. NaN where no prompt has a complete table.
    """
    complete = [t for t in tables if len(t) >= 3 and is_complete(t)]
    if not complete:
        return {"cycle_rate": float("nan"), "curl_ratio": float("nan")}
    odds = [np.clip(logit(t), -20.0, 20.0) for t in complete]
    return {
        "cycle_rate": float(np.mean([cycle_rate(t) for t in complete])),
        "curl_ratio": float(np.nanmean([curl_ratio(s) for s in odds])),
    }


def judge(oracle: Oracle, pool: Sequence[Sequence[SampledGroup]]) -> list[FloatArray]:
    """P over all replies to each prompt, those of the first policy of the pool first."""
    prompts = [g.prompt for g in pool[0]]
    return oracle.matrix(prompts, [[t for policy in pool for t in policy[i].texts] for i in range(len(prompts))])


def win_tables(tables: Sequence[FloatArray], pool: Sequence[Sequence[SampledGroup]]) -> FloatArray:
    """W (prompts, m, m) from what `judge` gave: mean P of policy a's replies over policy b's; own diagonal 0.5."""
    owners = np.repeat(np.arange(len(pool)), [len(policy[0].responses) for policy in pool])
    m = len(pool)
    out = np.full((len(tables), m, m), 0.5)
    for i, table in enumerate(tables):
        for a in range(m):
            for b in range(m):
                if a != b:
                    block = table[np.ix_(owners == a, owners == b)]
                    out[i, a, b] = np.nanmean(block) if np.isfinite(block).any() else np.nan
    return out


def summarise(wins: FloatArray, policy: int, seed: int) -> dict[str, Any]:
    """Win rates of `policy` against the start and the one before, its restricted gap, and the mean win rates."""
    estimate = bootstrap_mean(wins[:, policy, 0], seed=seed)
    gap, low, high = restricted_gap(wins, policy, seed)
    previous = bootstrap_mean(wins[:, policy, max(policy - 1, 0)], seed=seed)
    # Every policy's gap in the pool as it is now: in the last round, all on common ground.
    pool = [restricted_gap(wins, p, seed) for p in range(wins.shape[1])]
    return {
        "pool_gap": [point for point, _, _ in pool],
        "pool_gap_low": [low for _, low, _ in pool],
        "pool_gap_high": [high for _, _, high in pool],
        "pool_gap_control": [gap_control(wins, p, seed) for p in range(wins.shape[1])],
        "win_rate_previous": previous.point,
        "win_rate_previous_low": previous.low,
        "win_rate_previous_high": previous.high,
        "win_rate": estimate.point,
        "win_rate_low": estimate.low,
        "win_rate_high": estimate.high,
        "n": estimate.n,
        "n_failed": estimate.n_failed,
        "gap": gap,
        "gap_low": low,
        "gap_high": high,
        "gap_control": gap_control(wins, policy, seed),
        "matrix": np.nanmean(wins, axis=0).tolist(),
    }


def restricted_gap(wins: FloatArray, policy: int, seed: int, resamples: int = 500) -> tuple[float, float, float]:
    """(point, low, high) of 2 max_b W[b, policy] - 1, cross-fitted over two halves of the prompts.

    A lower bound on the policy's duality gap in expectation; it may be slightly negative by chance.
    """
    point, draws = gap_draws(wins[:, :, policy], seed, resamples)
    return (point, *percentile_interval(draws[np.isfinite(draws)]))


def gap_draws(against: FloatArray, seed: int, resamples: int = 500) -> tuple[float, FloatArray]:
    """The restricted gap and its bootstrap draws (resamples,), the same prompts drawn for the same seed.

    `against` (prompts, opponents) is P(opponent beats the policy), NaN where every verdict failed.
    """
    halves = _halves(len(against), seed)
    if min(len(h) for h in halves) == 0:
        return float("nan"), np.full(resamples, np.nan)
    counts = [resample_counts(len(h), resamples, seed + i) for i, h in enumerate(halves)]
    point = _cross_fitted(against, halves, [np.ones((1, len(h))) for h in halves])
    return float(point[0]), _cross_fitted(against, halves, counts)


def gap_control(wins: FloatArray, policy: int, seed: int, repeats: int = 50) -> float:
    """The same estimate were all policies identical: on each prompt they swap sides with the policy at random."""
    return control_of(wins[:, :, policy], seed, repeats)


def control_of(against: FloatArray, seed: int, repeats: int = 50) -> float:
    """`gap_control` of what `gap_draws` takes."""
    generator = rng(seed, "control")
    halves = _halves(len(against), seed)
    if min(len(h) for h in halves) == 0:
        return float("nan")
    gaps = []
    for _ in range(repeats):
        flip = generator.random(len(against)) < 0.5
        mixed = np.where(flip[:, None], 1.0 - against, against)
        gaps.append(_cross_fitted(mixed, halves, [np.ones((1, len(h))) for h in halves]))
    return float(np.mean(gaps))


def _halves(prompts: int, seed: int) -> list[Any]:
    order = rng(seed, "halves").permutation(prompts)
    return [order[: prompts // 2], order[prompts // 2 :]]


def _cross_fitted(against: FloatArray, halves: Sequence[Any], weights: Sequence[FloatArray]) -> FloatArray:
    """Opponents are chosen by the means of one half and measured on the other; one gap a row of `weights`: (rows,).

    `weights` (rows, prompts of the half) say how often each prompt counts; failed verdicts do not.
    """
    means = []
    for half, weight in zip(halves, weights, strict=True):
        known = np.isfinite(against[half])
        total = weight @ np.where(known, against[half], 0.0)
        count = weight @ known.astype(np.float64)
        means.append(np.where(count > 0, total / np.maximum(count, 1e-300), np.nan))
    rows = np.arange(len(means[0]))
    chosen = [np.argmax(np.nan_to_num(m, nan=-np.inf), axis=1) for m in means]
    return np.asarray(means[1][rows, chosen[0]] + means[0][rows, chosen[1]] - 1.0, dtype=np.float64)
