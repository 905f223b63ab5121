"""The last look of a training command: what it saved, opened anew, on records that nothing was decided on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefeval.data.places import locate
from prefeval.files import sha256_file, write_json
from prefeval.runs import MetricRow, RunDir
from reward_models.data import DataConfig, load_test


def test_stage(config: DataConfig, run: RunDir, kind: str) -> dict[str, Any]:
    """Metrics of `kind`:run/final on the test records, as a stage of its own, done again when the weights change."""
    specs = [locate(s) for s in ([config.test_data] if config.test_data else [config.data, *config.more_data])]
    revisions = [sha256_file(s) if Path(s).is_file() else s for s in specs]
    inputs = {"data": revisions, "weights": sha256_file(run.path / "final" / "model.safetensors")}
    result: dict[str, Any] = run.stage("test", inputs, lambda: _test(config, run, kind))
    return result


def _test(config: DataConfig, run: RunDir, kind: str) -> dict[str, Any]:
    """The metrics, with the accuracy on cyclic triples under `cycles`: written to test.json."""
    from reward_models.evaluate import cyclic_triple_accuracy, evaluate
    from reward_models.oracles import open_oracle

    oracle, records = open_oracle(f"{kind}:{run.path / 'final'}", fast=True), load_test(config)
    metrics = evaluate(oracle, records, seed=config.seed, resamples=config.resamples)
    cycles = cyclic_triple_accuracy(oracle, records, seed=config.seed, resamples=config.resamples)
    result = {**metrics, "cycles": cycles}
    write_json(run.path / "test.json", result)
    run.metrics.cut("test")
    run.metrics.add(MetricRow("evaluation", "test", {**metrics, **{f"cycles/{k}": v for k, v in cycles.items()}}))
    return result
