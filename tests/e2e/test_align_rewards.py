"""Alignment runs on checked answers and on lower bounds, on a tiny model: what is stored, learnt, resumed, refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_align_rounds import config_for, no_fsync, open_loop, play, tiny

from alignment.algorithm import get_algorithm
from alignment.config import AlignConfig, ProbeConfig
from alignment.items import group_loss
from alignment.pessimism import cautious
from alignment.policy import Slots, load_policy
from alignment.probes import judge, win_tables
from alignment.samples import REWARDS, read_samples, read_tables
from prefeval.errors import ConfigError, DataError
from prefeval.files import write_jsonl
from prefeval.fit import FitConfig
from prefeval.runs import MetricsLog
from reward_models.oracles import open_oracle

__all__ = ["no_fsync", "tiny"]  # fixtures

QUICK = FitConfig(
    precision="fp32",
    learning_rate=2e-2,
    epochs=4,
    batch_size=4,
    batch_tokens=4096,
    checkpoint_every=0,
    schedule="constant",
)
NO_PROBES = ProbeConfig(share=0.0)


def checked(tiny: Path, out: Path, method: str, options: dict[str, Any], **changes: Any) -> AlignConfig:
    """A reply is right when it begins with a small letter: something that a single token decides."""
    prompts = out.parent / "sums.jsonl"
    rows = [{"id": f"s{i}", "prompt": f"Say {w}.", "reference": "^[a-z]"} for i, w in enumerate("abcdefgh")]
    write_jsonl(prompts, rows)
    config = config_for(tiny, out, method, prompts=str(prompts), oracle="check:regex", instruction="", **changes)
    return replace(config, options=options)


def test_expert_iteration_learns_what_a_check_says(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"keep": "correct"}
    play(checked(tiny, out, "expert_iteration", options, responses=24, fit=QUICK, rounds=2, probe=NO_PROBES))
    shares = []
    for number in (1, 2):
        folder = out / "rounds" / f"00{number}" / "fit"
        groups, rewards = read_samples(folder / "samples.jsonl"), read_tables(folder / REWARDS)
        assert all(g.prompt.meta["reference"] for g in groups)
        wanted = open_oracle("check:regex").rewards([g.prompt for g in groups], [g.texts for g in groups])  # type: ignore[attr-defined]
        for found, again, table in zip(rewards, wanted, read_tables(folder / "preferences.safetensors"), strict=True):
            np.testing.assert_array_equal(found, again)
            np.testing.assert_array_equal(table, 0.5 + 0.5 * np.sign(found[:, None] - found[None]))
        shares.append(np.mean(np.concatenate(rewards)))
    assert 0 < shares[0] < shares[1] - 0.15


def test_the_first_step_of_ppo_on_a_model_is_that_of_rloo(tiny: Path, tmp_path: Path) -> None:
    """Tokens and anchors line up: the ratios are 1 where the policy still is the one that sampled."""
    loop = open_loop(config_for(tiny, tmp_path / "run", "ppo", rounds=1))
    slots, phase = Slots.from_start(loop.start), loop.algorithm.phases(1)[0]
    loop._collect(1, phase, slots)
    items = loop.fitter.items(1, phase, slots, tmp_path / "run" / "rounds" / "001" / "fit")
    policy, slopes = load_policy(loop.start, torch.float32), []
    for name in ("ppo", "rloo"):
        policy.zero_grad()
        group_loss(policy, items, get_algorithm(name), phase, loop.pad).loss_sum.backward()
        slopes.append(torch.cat([p.grad.flatten().clone() for p in policy.parameters() if p.grad is not None]))
    assert slopes[1].abs().max() > 1e-3
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-5)


def test_every_reply_is_trained_on_behind_what_it_is_told(tiny: Path, tmp_path: Path) -> None:
    loop = open_loop(config_for(tiny, tmp_path / "run", "return_conditioned", rounds=1))
    assert loop.instruction == "Be brief. [GOOD]"
    slots = loop.play_round(1, Slots.from_start(loop.start))
    folder = tmp_path / "run" / "rounds" / "001" / "fit"
    items = loop.fitter.items(1, loop.algorithm.phases(1)[0], slots, folder)
    groups, seen = read_samples(folder / "samples.jsonl"), set()
    for item, group, table in zip(items, groups, read_tables(folder / "preferences.safetensors"), strict=True):
        for sequence, reply, rate in zip(item.sequences, group.responses, table.mean(axis=1), strict=True):
            head = loop.tokenizer.decode(sequence.ids[: sequence.prompt_length])
            told = "[GOOD]" if rate > 0.5 + 1e-9 else "[BAD]" if rate < 0.5 - 1e-9 else ""
            assert head.endswith(f"{group.prompt.text} Be brief. {told}".strip() + "<|end|><|assistant|>")
            assert sequence.ids[sequence.prompt_length :] == reply.token_ids
            seen.add(told)
    assert {"[GOOD]", "[BAD]"} <= seen


def test_what_is_missing_is_told(tiny: Path, tmp_path: Path) -> None:
    given = config_for(tiny, tmp_path / "none", "rloo")
    with pytest.raises(ConfigError, match="trains on rewards, and rules:shorter gives none"):
        play(replace(given, options={"reward": "given"}))
    with pytest.raises(DataError, match="no reference answer"):
        play(config_for(tiny, tmp_path / "unanswered", "dpo", oracle="check:exact", rounds=1))
    with pytest.raises(ConfigError, match="rules:shorter has no bound"):
        play(config_for(tiny, tmp_path / "unbounded", "dpo", pessimism=1.0))
    with pytest.raises(ConfigError, match="pessimism"):
        AlignConfig(pessimism=-1.0)


@pytest.mark.slow
def test_lower_bounds_are_trained_on_and_never_probed(tiny: Path, tmp_path: Path) -> None:
    out, spec = tmp_path / "run", "ensemble:rules:gold+rules:shorter"
    play(config_for(tiny, out, "dpo", rounds=1, oracle=spec, pessimism=1.0))
    folder, oracle = out / "rounds" / "001" / "fit", open_oracle(spec)
    groups = read_samples(folder / "samples.jsonl")
    asked = [g.prompt for g in groups], [g.texts for g in groups]
    plain, lower = oracle.matrix(*asked), oracle.lower(*asked, 1.0)  # type: ignore[attr-defined]
    found = read_tables(folder / "preferences.safetensors")
    for table, p, low in zip(found, plain, lower, strict=True):
        np.testing.assert_allclose(table, cautious(p, low), atol=1e-12)
    assert max(np.abs(t - p).max() for t, p in zip(found, plain, strict=True)) > 0.01
    pool = [read_samples(out / "probes" / f"policy00{n}.jsonl") for n in (0, 1)]
    wins = win_tables(judge(oracle, pool), pool).mean(axis=0)
    probe = [r.values for r in MetricsLog(out / "metrics.jsonl").rows() if r.kind == "probe"][-1]
    assert probe["oracle/win_rate"] == float(wins[1, 0])
