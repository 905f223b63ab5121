"""Several oracles on the same held-out records, side by side: the step that shows what a preference model is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefeval.errors import ConfigError
from prefeval.files import sha256_file, write_json
from prefeval.runs import MetricRow, RunDir


@dataclass(frozen=True)
class ExamineConfig:
    """Which oracles answer which records. Records with a full P also give the accuracy on cyclic triples."""

    name: str = "examine"
    out: str = "runs/examine"
    oracles: dict[str, str] = field(default_factory=dict)  # name -> oracle spec
    data: str = ""
    format: str | None = None
    resamples: int = 1000
    seed: int = 0


def examine(config: ExamineConfig, run: RunDir) -> dict[str, Any]:
    """Write examination.json and return it: one row an oracle with `metrics` and `cycles`.

    Keys of the two are those of `evaluate` and `cyclic_triple_accuracy`.
    """
    if not config.oracles or not config.data:
        raise ConfigError("an examination needs oracles (name: spec) and data")
    rows = [run.stage(f"examine/{name}", _inputs(config, spec), lambda name=name, spec=spec: _row(config, name, spec))
            for name, spec in config.oracles.items()]  # fmt: skip
    result = {"data": config.data, "rows": rows}
    write_json(run.path / "examination.json", result)
    for row in rows:
        stage = f"examine/{row['oracle']}"
        run.metrics.cut(stage)
        cycles = {f"cycles/{k}": v for k, v in row["cycles"].items()}
        plain = {k: v for k, v in row["metrics"].items() if not isinstance(v, (dict, list))}
        run.metrics.add(MetricRow("evaluation", stage, {**plain, **cycles}))
    return result


def _inputs(config: ExamineConfig, spec: str) -> dict[str, Any]:
    """The data and, for a local model, its weights decide the result."""
    weights = Path(spec.removeprefix("model:")) / "model.safetensors"
    return {
        "oracle": spec,
        "weights": sha256_file(weights) if weights.is_file() else None,
        "data": sha256_file(config.data) if Path(config.data).is_file() else config.data,
        "seed": config.seed,
        "resamples": config.resamples,
    }


def _row(config: ExamineConfig, name: str, spec: str) -> dict[str, Any]:
    from prefeval.data import load_records
    from reward_models.evaluate import cyclic_triple_accuracy, evaluate
    from reward_models.oracles import open_oracle

    oracle = open_oracle(spec)
    records = [r for r in load_records(config.data, format=config.format).records if r.pairs]
    return {
        "oracle": name,
        "spec": spec,
        "metrics": evaluate(oracle, records, seed=config.seed, resamples=config.resamples),
        "cycles": cyclic_triple_accuracy(oracle, records, seed=config.seed, resamples=config.resamples),
    }
