"""Training a preference model: records and a head handed to `prefeval.fit`, then calibration, evaluation, a card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefeval.batching import token_batches
from prefeval.config import to_dict
from prefeval.errors import ConfigError, DataError
from prefeval.files import sha256_file, write_json, write_text
from prefeval.fit import FitResult, LossOutput, fit
from prefeval.log import logger
from prefeval.runs import MetricRow, RunDir
from prefeval.types import PreferenceRecord
from reward_models.card import model_card
from reward_models.config import RANKED, TrainConfig
from reward_models.data import load_splits
from reward_models.items import Item, averages, item_loss, make_items
from reward_models.tested import test_stage
from reward_models.ties import with_tie_parameter

T = TypeVar("T")

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from reward_models.modeling import PreferenceModel
    from reward_models.oracles import ModelOracle

    Features = dict[tuple[int, ...], Tensor]  # hidden states by token ids

_MAX_FACTOR = 100.0  # a temperature raised further than this would say that the scores mean nothing


def train(config: TrainConfig, run: RunDir) -> dict[str, Any]:
    """Train into `run`: `final/` (the model and its card), `evaluation.json`, rows of metrics.jsonl; resumes by itself.

    Returns the JSON-able result of the stage: metrics on the validation pairs, the tau, and what the fit did.
    """
    if not config.data:
        raise ConfigError("no training data: give --data FILE, a directory or a hub id")
    files = {spec: sha256_file(spec) for spec in config.files() if Path(spec).is_file()}
    decisive = {k: v for k, v in to_dict(config).items() if k not in ("out", "features")}
    result: dict[str, Any] = run.stage("train", {"config": decisive, "files": files}, lambda: _train(config, run))
    return {**result, "test": test_stage(config, run, "model")} if config.tested else result


def _train(config: TrainConfig, run: RunDir) -> dict[str, Any]:
    from prefeval.checkpoint import clear_state
    from prefeval.models import default_device
    from reward_models.auxiliary import attach_auxiliary, detach_auxiliary
    from reward_models.oracles import ModelOracle

    training, validation = load_splits(config)
    model = _new_model(config)
    with_lora = config.lora.rank > 0
    count = model.add_adapters(config.lora, config.seed) if with_lora else model.set_trainable(config.trainable)
    config = with_tie_parameter(config, training)
    items = make_items(training, model.encoder, config.head, config.max_group, config.loss)
    held_out = make_items(validation, model.encoder, config.head, config.max_group, config.loss)
    _describe(config, model, items, held_out, count)
    attach_auxiliary(model, config)
    fitted, features = fit_model(model, items, held_out, config, run)
    detach_auxiliary(model, config)
    if with_lora:
        adapted, model = model, _new_model(config)
        model.take_adapters(adapted)
    oracle = ModelOracle(model.to(default_device()), f"model:{run.path / 'final'}", features=features)
    metrics = _calibrated(config, oracle, [r for r in validation if r.pairs])
    result = {
        "metrics": metrics,
        "tau": model.head.tau,
        "trained_parameters": count,
        "items": len(items),
        "fit": fitted.summary(),
    }
    model.save_pretrained(run.path / "final")
    write_text(run.path / "final" / "README.md", model_card(config, result, len(training), len(validation)))
    write_json(run.path / "evaluation.json", metrics)
    run.metrics.cut("evaluate")
    run.metrics.add(MetricRow("evaluation", "evaluate", metrics))
    clear_state(run.path / "fit")
    if not config.features:
        shutil.rmtree(run.path / "features", ignore_errors=True)
    return result


def _new_model(config: TrainConfig) -> PreferenceModel:
    """The untrained model that a config asks for; the same one every time."""
    from prefeval.models import load_tokenizer
    from reward_models.modeling import PreferenceModel

    return PreferenceModel.from_base(
        config.model,
        load_tokenizer(config.model),
        config.head,
        seed=config.seed,
        max_length=config.max_length,
        keep_head=config.keep_head or config.trainable == "gate",
        layers=config.layers,
    )


def fit_model(
    model: PreferenceModel, items: Sequence[Item], held_out: Sequence[Item], config: TrainConfig, run: RunDir
) -> tuple[FitResult, Features]:
    """Fit the trainable part of `model` in place, without dropout (eval mode), resuming from run/fit if it is there.

    The model is in float32 afterwards, with the exact weights. Also gives the hidden states that were kept (none unless
    only the head was trained).
    """
    from reward_models.forward import run_ragged

    model.eval()
    if config.trainable in ("head", "gate") and model.is_causal:
        return _fit_head(model, items, held_out, config, run)

    def loss_fn(module: nn.Module, batch: Sequence[Item]) -> LossOutput:
        layout = model.layout(config.fit.batch_tokens)
        outputs = run_ragged(module, [s for item in batch for s in item.ids], layout)
        return item_loss(outputs, batch, config.head, config.loss, model.tie_value())

    return _run_fit(model, items, held_out, loss_fn, lambda item: item.cost, lambda item: item.units, config, run), {}


def _fit_head(
    model: PreferenceModel, items: Sequence[Item], held_out: Sequence[Item], config: TrainConfig, run: RunDir
) -> tuple[FitResult, Features]:
    """Train the linear head or the gate alone, on hidden states computed once: then epochs cost next to nothing."""
    import torch

    from prefeval.models import default_device
    from reward_models.gating import adjust_for_verbosity

    model.to(default_device())
    features = _features(model, sorted({ids for item in (*items, *held_out) for ids in item.ids}), config, run)

    def loss_fn(module: nn.Module, batch: Sequence[Item]) -> LossOutput:
        rows = torch.stack([features[ids] for item in batch for ids in item.ids]).to(model.device)
        return item_loss(model.head_outputs(rows), batch, model.head, config.loss, model.tie_value())

    adjust_for_verbosity(model, items, features)
    head = model.trained_head(config.trainable)
    fitted = _run_fit(head, items, held_out, loss_fn, lambda item: len(item.ids), lambda item: item.units, config, run)
    return fitted, features


def _run_fit(
    module: nn.Module,
    items: Sequence[T],
    held_out: Sequence[T],
    loss_fn: Callable[[nn.Module, Sequence[T]], LossOutput],
    cost: Callable[[T], int],
    units: Callable[[T], float],
    config: TrainConfig,
    run: RunDir,
) -> FitResult:
    def evaluate(module: nn.Module) -> dict[str, float]:
        batches = token_batches([cost(item) for item in held_out], config.fit.batch_tokens)
        return averages([loss_fn(module, [held_out[i] for i in batch]) for batch in batches])

    fitted = fit(
        module,
        items,
        loss_fn,
        config.fit,
        cost=cost,
        state_dir=run.path / "fit",
        stage="train",
        metrics=run.metrics,
        units=units,
        evaluate=evaluate if held_out else None,
        evaluate_every=config.evaluate_every,
        title="training",
    )
    fitted.export_masters(module)
    return fitted


def _features(
    model: PreferenceModel, sequences: Sequence[tuple[int, ...]], config: TrainConfig, run: RunDir
) -> Features:
    """Hidden states (hidden,) of the pooled tokens, float32 on the CPU, by token ids; in the precision of the fit."""
    from reward_models.features import pooled_states

    folder = Path(config.features) if config.features else run.path / "features"
    states = pooled_states(model, sequences, folder, half=_runs_half(config, model.device))
    return {ids: row.clone() for ids, row in states.items()}  # outside of inference mode they may meet a gradient


def _runs_half(config: TrainConfig, device: torch.device) -> bool:
    from prefeval.optim import resolve_precision

    return resolve_precision(config.fit.precision, device) != "fp32"


def _fast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Inference in the precision of the fit, without rounding the weights themselves."""
    import torch

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=_runs_half(config, device))


def _calibrated(config: TrainConfig, oracle: ModelOracle, validation: Sequence[PreferenceRecord]) -> dict[str, Any]:
    """Set the head's tau by the validation pairs and give the metrics on them with it.

    One number is fitted on them; accuracies do not depend on it, NLL, Brier and ECE are slightly optimistic.
    """
    from reward_models.evaluate import evaluate_tables
    from reward_models.judged import answer

    with _fast(config, oracle.model.device):
        tables, model = answer(oracle, validation), oracle.model

    def measure(factor: float) -> dict[str, Any]:
        scaled = [table / factor for table in tables]
        return evaluate_tables(oracle.name, validation, scaled, seed=config.seed, resamples=config.resamples)

    metrics = measure(1.0)
    factor = metrics["tau"]
    if not config.calibrate or factor is None:
        return metrics
    if factor > _MAX_FACTOR:
        logger.warning("the held-out pairs do not follow the scores: the temperature stays at %g", model.head.tau)
        return metrics
    model.set_tau(model.head.tau * factor)
    return measure(factor)


def _describe(
    config: TrainConfig, model: PreferenceModel, items: Sequence[Item], held_out: Sequence[Item], count: int
) -> None:
    rated = config.head.kind == "regression" and not config.head.gate.hidden
    wanted = f"ratings of {', '.join(config.head.attributes)}" if rated else "labelled pairs"
    wanted = "terms of complete rankings" if config.loss.kind in RANKED else wanted
    if not items:
        raise DataError(f"no {wanted} to train on", file=config.data)
    encoder = model.encoder
    logger.info(
        "%d training items (%g %s), %d held out; %d of %d sequences cut to %d tokens; %d trainable parameters",
        len(items), sum(i.units for i in items), wanted, len(held_out),
        encoder.truncated, encoder.encoded, encoder.max_length, count,
    )  # fmt: skip
