"""Everything that is measured of an oracle on one data set: what `prefeval evaluate` does, and recipes' `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefeval.data.places import locate
from prefeval.errors import ConfigError, DataError
from prefeval.files import sha256_file, write_json, write_text
from prefeval.log import logger
from prefeval.oracle import Oracle
from prefeval.types import FloatArray, PreferenceRecord
from reward_models.arguments import open_store
from reward_models.data import rated_pairs

if TYPE_CHECKING:
    from prefeval.runs import RunDir


@dataclass(frozen=True)
class EvaluateConfig:
    """An oracle and the data to measure it on. Raises ConfigError for what is missing or out of range."""

    oracle: str = ""  # an oracle spec
    data: str = ""  # file, directory or hub id of preference data, or the suite's rows; $NAME/... as in training
    suite: Literal["pairs", "rewardbench", "rewardbench2", "rm-bench", "judgebench"] = "pairs"  # whose scoring rule
    split: str | None = None  # only this split of the data
    format: str | None = None  # where the columns do not tell it
    columns: dict[str, str] = field(default_factory=dict)  # wanted column -> column in the data
    rating_pairs: dict[str, float] = field(default_factory=dict)  # attribute -> weight: pairs from rated responses
    decontaminate: tuple[str, ...] = ()  # drop records with a prompt of these files
    baseline: str = ""  # data that rival rules are fitted on: surface features, the stronger model
    calibrate: str = ""  # data that the temperature is fitted on; a model: oracle keeps it
    bound: float = 0.0  # also accuracy where the lower bound, so many standard deviations down, decides
    features: str = ""  # a folder that keeps hidden states, as in training: models with one backbone share them
    device: str | None = None  # where models run; the accelerator if there is one
    store: str | None = None  # SQLite file that keeps a judge's verdicts
    seed: int = 0  # of pair orientation and the bootstrap
    resamples: int = 1000  # of the bootstrap behind the intervals
    out: str = "runs/evaluation"

    def __post_init__(self) -> None:
        if self.resamples < 1 or self.bound < 0:
            raise ConfigError("resamples must be at least 1 and bound not negative")


def evaluate_step(config: EvaluateConfig, run: RunDir) -> dict[str, Any]:
    """The step of a recipe: metrics.json and the table that the command prints, as table.txt."""
    if not config.oracle or not config.data:
        raise ConfigError("evaluate needs an oracle and data")
    known = [sha256_file(s) if Path(s).is_file() else s for s in (locate(d) for d in _sources(config))]
    result: dict[str, Any] = run.stage("evaluate", {"data": known}, lambda: _written(config, run.path))
    return result


def measure_oracle(config: EvaluateConfig) -> dict[str, Any]:
    """The content of metrics.json. Raises DataError and ConfigError for what cannot be read or asked."""
    from reward_models.oracles import open_oracle

    records, reading = _read(config)
    oracle = open_oracle(config.oracle, device=config.device, store=open_store(config.store))
    if config.features:
        _share_states(oracle, config.features)
    return {
        **_measure(config, oracle, records),
        "encoding": encoding_facts(oracle, records[0]),
        "reading": reading,
        "data": config.data,
        "seed": config.seed,
    }


def shown(metrics: dict[str, Any], suite: str) -> str:
    """The tables for a person."""
    from reward_models.evaluate_table import table
    from reward_models.suites import suite_table

    return table(metrics) if suite == "pairs" else f"{suite_table(metrics['suite'])}\n\n{table(metrics)}"


def _sources(config: EvaluateConfig) -> list[str]:
    return [s for s in (config.data, config.baseline, config.calibrate) if s]


def _written(config: EvaluateConfig, folder: Path) -> dict[str, Any]:
    metrics = measure_oracle(config)
    write_json(folder / "metrics.json", metrics)
    write_text(folder / "table.txt", shown(metrics, config.suite) + "\n")
    return {name: metrics[name] for name in ("accuracy", "accuracy_low", "accuracy_high", "n", "n_dropped")}


def _share_states(oracle: Oracle, folder: str) -> None:
    """Let a preference model read hidden states from `folder` and keep there what it computes."""
    from prefeval.optim import resolve_precision
    from reward_models.oracles import ModelOracle

    if not isinstance(oracle, ModelOracle) or not oracle.model.is_causal:
        raise ConfigError(f"features: {oracle.name} has no causal backbone whose states could be kept")
    oracle.keep_states(Path(folder), half=resolve_precision("auto", oracle.model.device) != "fp32")


def _read(config: EvaluateConfig) -> tuple[list[PreferenceRecord], dict[str, Any]]:
    """The records to ask about and what was dropped on the way. Raises DataError when nothing is left."""
    from prefeval.data.decontaminate import decontaminate_from
    from prefeval.data.readers import load_records
    from reward_models.suite_rows import read_suite

    columns = config.columns
    reading: dict[str, Any] = {}
    if config.suite != "pairs":
        wrong = [
            flag
            for flag in ("split", "format", "rating_pairs", "decontaminate", "baseline", "calibrate")
            if getattr(config, flag)
        ]
        if wrong:
            raise ConfigError(f"--{wrong[0].replace('_', '-')} is for --suite pairs; a suite is scored whole")
        return read_suite(config.suite, config.data, columns), reading
    data = load_records(locate(config.data), format=config.format, columns=columns)
    rated = rated_pairs(data.records, config.rating_pairs, config.data) if config.rating_pairs else data.records
    records = [r for r in rated if r.pairs and (config.split is None or r.split == config.split)]
    report = data.report.as_dict()
    reading = {k: report[k] for k in ("rows", "dropped", "merged", "conflicts", "ties")}
    if config.decontaminate:
        found = decontaminate_from(records, config.decontaminate)
        logger.info("%s", found)
        records, reading["decontamination"] = found.kept, found.as_dict()
    if not records:
        raise DataError("no labelled pairs" + (f" in split '{config.split}'" if config.split else ""), file=config.data)
    return records, reading


def _measure(config: EvaluateConfig, oracle: Any, records: Sequence[PreferenceRecord]) -> dict[str, Any]:
    from reward_models.evaluate import evaluate as measure
    from reward_models.suites import measured

    options = {"seed": config.seed, "resamples": config.resamples}
    if config.suite != "pairs":
        return measured(oracle, records, config.suite, **options)
    rivals, baseline = _baselines(config, records) if config.baseline else ({}, {})
    calibration = _calibrate(config, oracle, records) if config.calibrate else {}
    metrics = measure(oracle, records, tau=calibration.get("tau", 1.0), rivals=rivals, **options)
    bounds = _bounded(config, oracle, records) if config.bound else {}
    return {**metrics, "baseline": baseline, "calibration": calibration, **bounds}


def _baselines(
    config: EvaluateConfig, records: Sequence[PreferenceRecord]
) -> tuple[dict[str, list[FloatArray]], dict[str, Any]]:
    """(tables of the rules fitted on --baseline, what they were fitted on): surface features, the stronger model.

    The second only where both data sets name the models behind the responses.
    """
    from reward_models.baselines import fit_surface
    from reward_models.judged import answer
    from reward_models.rivals import STRONGER, model_rates, stronger_tables

    training = _apart(config, config.baseline, records)
    rivals = {"surface": answer(fit_surface(training), records)}
    rates = model_rates(training)
    if rates and any(r.meta.get("models") for r in records):
        rivals[STRONGER] = stronger_tables(records, rates)
    return rivals, {"data": config.baseline, "n_train_records": len(training), "n_models": len(rates)}


def _calibrate(config: EvaluateConfig, oracle: Any, records: Sequence[PreferenceRecord]) -> dict[str, Any]:
    """Fit the oracle's temperature on --calibrate; a `model:` directory keeps it in its config.json.

    Raises DataError when no pair there is decided and answered.
    """
    import numpy as np

    from reward_models.calibrate import fit_temperature
    from reward_models.judged import answer, collect

    held_out = _apart(config, config.calibrate, records)
    judged = collect(held_out, answer(oracle, held_out), config.seed)
    keep = judged.decided & np.isfinite(judged.score)
    if not keep.any():
        raise DataError("no decided pairs to calibrate on", file=config.calibrate)
    tau = fit_temperature(judged.score[keep], judged.label[keep], pseudo_pairs=1.0)
    kind, _, path = config.oracle.partition(":")
    if kind == "model":
        from reward_models.loading import store_tau

        store_tau(Path(path), oracle.model.head.tau * tau)
        logger.info("%s now keeps the temperature %.4g (it was %.4g)", path, oracle.model.head.tau * tau,
                    oracle.model.head.tau)  # fmt: skip
    return {"data": config.calibrate, "tau": tau, "n": int(keep.sum()), "stored": kind == "model"}


def _apart(config: EvaluateConfig, spec: str, records: Sequence[PreferenceRecord]) -> list[PreferenceRecord]:
    """The labelled records of other data, without the prompts that are measured. Raises DataError when none is left."""
    from prefeval.data.readers import load_records
    from prefeval.data.splits import prompt_key

    tested = {prompt_key(r.prompt) for r in records}
    other = load_records(locate(spec), format=config.format, columns=config.columns).records
    other = rated_pairs(other, config.rating_pairs, spec) if config.rating_pairs else other
    apart = [r for r in other if r.pairs and prompt_key(r.prompt) not in tested]
    if not apart:
        raise DataError("no labelled pairs of other prompts than those of --data", file=spec)
    return apart


def encoding_facts(oracle: Any, record: PreferenceRecord) -> dict[str, Any]:
    """What the oracle's tokenizer did: sequences, the share cut, the template's hash, BOS tokens in one sequence.

    Empty for oracles without a tokenizer of their own. More than one BOS token is a wrong template.
    """
    from prefeval.chat import template_hash

    encoder = getattr(getattr(oracle, "model", None), "encoder", None) or getattr(oracle, "encoder", None)
    if encoder is None:
        return {}
    tokenizer, asked, cut = encoder.tokenizer, encoder.encoded, encoder.truncated
    ids = oracle.model.encode(record.prompt, record.responses[:1])[0] if hasattr(oracle.model, "encode") else ()
    bos = tokenizer.bos_token_id
    return {
        "sequences": asked,
        "truncated": cut,
        "truncated_share": cut / asked if asked else None,
        "max_length": encoder.max_length,
        "template_hash": template_hash(tokenizer) if getattr(tokenizer, "chat_template", None) else None,
        "bos_tokens": list(ids).count(bos) if bos is not None and ids else None,
        "dtype": str(next(oracle.model.parameters()).dtype).removeprefix("torch."),
    }


def _bounded(config: EvaluateConfig, oracle: Any, records: Sequence[PreferenceRecord]) -> dict[str, Any]:
    from reward_models.sure import Pessimistic, sure_pairs

    if not isinstance(oracle, Pessimistic):
        raise ConfigError(f"--bound: {oracle.name} has no bound; give laplace:PATH or ensemble:SPEC+SPEC")
    return sure_pairs(oracle, records, width=config.bound, resamples=config.resamples, seed=config.seed)
