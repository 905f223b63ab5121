"""`prefeval align`: a policy against an oracle."""

from __future__ import annotations

import sys
from typing import Any

from alignment.config import AlignConfig
from prefeval.config import load_config, to_dict
from prefeval.errors import ConfigError
from prefeval.log import logger
from prefeval.runs import RunDir


def align(argv: list[str]) -> int:
    """`prefeval align RECIPE.yaml [--a.b value ...]`; without a recipe the defaults and the overrides alone count."""
    recipe = argv[0] if argv and not argv[0].startswith("-") else None
    config = load_config(AlignConfig, recipe, argv[1:] if recipe else argv, command="align")
    run = RunDir(config.out, to_dict(config), command="prefeval align")
    with run.lock():
        result = run_align(config, run)
    sys.stdout.write(f"{result['policy']}\n")
    return 0


def run_align(config: AlignConfig, run: RunDir) -> dict[str, Any]:
    """Align as the config says, in an open run directory. Returns the final policy's directory and the slots."""
    from alignment.pessimism import Pessimistic
    from alignment.probes import Probes
    from alignment.rounds import RoundLoop
    from prefeval.data import load_prompts
    from prefeval.oracle import LengthDebiased, Oracle
    from reward_models.oracles import open_oracle

    prompts = _training_prompts(config)
    oracle = open_oracle(config.oracle, fast=True)
    trained_on: Oracle = Pessimistic(oracle, config.pessimism) if config.pessimism else oracle
    trained_on = LengthDebiased(trained_on, config.length_slope) if config.length_slope else trained_on
    loop = RoundLoop(config, run, trained_on, prompts, None)
    probe = config.probe
    if probe.prompts:
        held_out = load_prompts(probe.prompts, columns=config.columns or None)
    else:
        held_out, loop.prompts = _keep_apart(prompts, probe.share, config.seed)
    held_out = held_out[: probe.limit]
    if held_out:
        oracles = {"oracle": oracle} | ({"judge": open_oracle(probe.oracle, fast=True)} if probe.oracle else {})
        loop.probes = Probes(
            folder=run.path / "probes",
            prompts=held_out,
            oracles=oracles,
            start=loop.start,
            tokenizer=loop.tokenizer,
            pad_id=loop.pad,
            dtype=loop.dtype,
            instruction=loop.instruction,
            responses=probe.responses,
            max_new_tokens=config.max_new_tokens,
            seed=config.seed,
            sampling_rows=config.sampling_rows,
        )
    if not held_out and (config.stop.patience or config.deploy == "best"):
        raise ConfigError("stop.patience and deploy 'best' need probes: give probe.prompts or a probe.share above 0")
    logger.info("%d training prompts, %d probe prompts, oracle %s", len(loop.prompts), len(held_out), oracle.name)
    return loop.run()


def _training_prompts(config: AlignConfig) -> list[Any]:
    from alignment.demonstrations import shown_prompts
    from prefeval.data import load_prompts, read_demonstrations

    if config.prompts:
        return load_prompts(config.prompts, columns=config.columns or None)
    if config.demonstrations:
        return list(shown_prompts(read_demonstrations(config.demonstrations, config.demonstration_columns)))
    raise ConfigError("prompts: say which prompts to train on (a file, a directory or a hub id)")


def _keep_apart(prompts: list[Any], share: float, seed: int) -> tuple[list[Any], list[Any]]:
    """(probe prompts, training prompts): a seeded share is kept apart."""
    from prefeval.seeds import rng

    count = min(max(1, round(share * len(prompts))), len(prompts) - 1) if share > 0 and len(prompts) > 1 else 0
    chosen = set(rng(seed, "probe prompts").permutation(len(prompts))[:count].tolist())
    return [p for i, p in enumerate(prompts) if i in chosen], [p for i, p in enumerate(prompts) if i not in chosen]
