"""`prefeval train-pair`: a pair model from preference data, by the one training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from prefeval.errors import ConfigError, DataError
from prefeval.fit import FitConfig, FitResult, LossOutput, fit
from prefeval.log import logger
from prefeval.types import Comparison, PreferenceRecord
from reward_models.data import DataConfig, load_splits

if TYPE_CHECKING:
    from prefeval.runs import RunDir
    from reward_models.generative_pairs import ABModel
    from reward_models.justifier import JustifyItem
    from reward_models.pairwise import CrossEncoder


@dataclass(frozen=True)
class PairTrainConfig(DataConfig):
    """A pair model from preference data. Raises ConfigError for a value out of range."""

    model: str = ""  # cross: an encoder; ab, justify: a causal language model
    kind: Literal["cross", "ab", "justify"] = "cross"  # justify learns from written comparisons, then the verdict
    max_length: int = 2048  # tokens of the prompt and both responses, for justify also of the comparison
    comparison_tokens: int = 256  # justify: longer comparisons lose their end, also when served
    fit: FitConfig = field(default_factory=FitConfig)
    out: str = "runs/pair"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("cross", "ab", "justify"):
            raise ConfigError(f"kind '{self.kind}' is none of cross, ab, justify")
        if min(self.max_length, self.comparison_tokens) < 16:
            raise ConfigError("max_length and comparison_tokens must be at least 16")


@dataclass(frozen=True)
class PairItem:
    """One labelled pair as it is shown: token ids, and P(the response shown first wins)."""

    ids: tuple[int, ...]
    p: float


def train_pair(config: PairTrainConfig, run: RunDir) -> dict[str, Any]:
    """Train, evaluate on the held-out prompts, save to run/final. Raises DataError when no pair is left to train on."""
    from prefeval.checkpoint import clear_state
    from prefeval.files import write_json
    from reward_models.evaluate import evaluate
    from reward_models.tested import test_stage

    training, validation = load_splits(config)
    fitters = {"cross": _fitted_cross, "ab": _fitted_ab, "justify": _fitted_justifier}
    oracle, fitted = fitters[config.kind](config, training, run)
    held_out = [r for r in validation if r.pairs]
    metrics = evaluate(oracle, held_out, seed=config.seed, resamples=config.resamples)
    oracle.model.save_pretrained(run.path / "final")
    write_json(run.path / "evaluation.json", metrics)
    clear_state(run.path / "fit")
    result = {"metrics": metrics, "fit": fitted.summary()}
    return {**result, "test": test_stage(config, run, "pair")} if config.tested else result


def _fitted_cross(config: PairTrainConfig, records: Sequence[PreferenceRecord], run: RunDir) -> tuple[Any, FitResult]:
    from prefeval.models import default_device
    from reward_models.pairwise import CrossEncoder, CrossPairOracle

    model = CrossEncoder.from_base(config.model, seed=config.seed, max_length=config.max_length)
    fitted = fit_pair(model, records, config, run, cross_loss)
    return CrossPairOracle(model.to(default_device()), _name(run)), fitted


def _fitted_ab(config: PairTrainConfig, records: Sequence[PreferenceRecord], run: RunDir) -> tuple[Any, FitResult]:
    from prefeval.models import default_device
    from reward_models.generative_pairs import ABModel, ABOracle

    model = ABModel.from_pretrained(config.model, max_length=config.max_length)
    fitted = fit_pair(model, records, config, run, ab_loss)
    return ABOracle(model.to(default_device()), _name(run)), fitted


def _fitted_justifier(
    config: PairTrainConfig, records: Sequence[PreferenceRecord], run: RunDir
) -> tuple[Any, FitResult]:
    from prefeval.chat import safe_pad_id
    from prefeval.models import default_device
    from reward_models.justifier import SPARE, JustifierModel, JustifierOracle, justify_items, justify_loss

    limits = {"max_length": config.max_length, "max_new_tokens": config.comparison_tokens + SPARE}
    model = JustifierModel.from_pretrained(config.model, **limits)
    items, pad = justify_items(model, records, config.seed), safe_pad_id(model.tokenizer)
    if not items:
        raise DataError("no labelled pairs with a written comparison to learn from", file=config.data)

    def loss_fn(module: Any, batch: Sequence[JustifyItem]) -> LossOutput:
        return justify_loss(module, batch, pad, model.device)

    fitted = _fit(model, items, loss_fn, config, run)
    return JustifierOracle(model.to(default_device()), _name(run)), fitted


def fit_pair(
    model: CrossEncoder | ABModel,
    records: Sequence[PreferenceRecord],
    config: PairTrainConfig,
    run: RunDir,
    loss: Callable[[Any, Sequence[float]], LossOutput],
) -> FitResult:
    """Fit a model that reads one sequence a pair, in place, without dropout; resumes from run/fit if it is there."""
    from reward_models.forward import run_ragged

    items = pair_items(model, records, config.seed)
    if not items:
        raise DataError("no labelled pairs to train on", file=config.data)
    tokens = model.tokens
    logger.info(
        "%d labelled pairs, %d of %d cut to %d tokens", len(items), tokens.truncated, tokens.encoded, tokens.max_length
    )

    def loss_fn(module: Any, batch: Sequence[PairItem]) -> LossOutput:
        outputs = run_ragged(module, [item.ids for item in batch], model.layout(config.fit.batch_tokens))
        return loss(outputs, [item.p for item in batch])

    return _fit(model, items, loss_fn, config, run)


def _fit(
    model: Any, items: Sequence[Any], loss_fn: Callable[[Any, Any], LossOutput], config: PairTrainConfig, run: RunDir
) -> FitResult:
    model.eval()
    fitted = fit(
        model, items, loss_fn, config.fit, cost=lambda item: len(item.ids), state_dir=run.path / "fit", stage="train",
        metrics=run.metrics, title="training",
    )  # fmt: skip
    fitted.export_masters(model)
    return fitted


def _name(run: RunDir) -> str:
    return f"pair:{run.path / 'final'}"


def pair_items(model: CrossEncoder | ABModel, records: Sequence[PreferenceRecord], seed: int) -> list[PairItem]:
    """Every labelled pair once, in a random order of the two responses drawn from (seed, record id)."""
    from prefeval.seeds import rng

    items = []
    for record in records:
        flips = rng("pair order", seed, record.id).random(len(record.pairs)) < 0.5
        for pair, flip in zip(record.pairs, flips, strict=True):
            shown = Comparison(record.prompt, record.responses[pair.i], record.responses[pair.j])
            item, p = (shown.swap(), 1.0 - pair.p) if flip else (shown, pair.p)
            items.append(PairItem(model.tokens(item), p))
    return items


def cross_loss(outputs: Any, labels: Sequence[float]) -> LossOutput:
    """-p log sigmoid(l) - (1 - p) log sigmoid(-l) of log-odds (B, 1): LLM-Blender's `instructgpt` for hard labels."""
    import torch

    p = outputs.new_tensor(list(labels))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], p, reduction="none")
    hits = ((outputs[:, 0] > 0) == (p > 0.5)).float().sum()
    return LossOutput(loss.sum(), float(len(p)), {"accuracy": float(hits.item())})


def ab_loss(outputs: Any, labels: Sequence[float]) -> LossOutput:
    """Supervised fine-tuning on the verdict token: -p log P("A") - (1 - p) log P("B") over the whole vocabulary."""
    p = outputs.new_tensor(list(labels))
    loss = -(p * outputs[:, 0] + (1.0 - p) * outputs[:, 1])
    hits = ((outputs[:, 0] > outputs[:, 1]) == (p > 0.5)).float().sum()
    return LossOutput(loss.sum(), float(len(p)), {"accuracy": float(hits.item())})


def train_pair_command(argv: Sequence[str]) -> int:
    """``prefeval train-pair [RECIPE.yaml] [--a.b value ...] [--json]``."""
    from prefeval.config import load_config, to_dict
    from prefeval.files import dumps
    from prefeval.runs import RunDir
    from reward_models.arguments import say
    from reward_models.evaluate_table import table

    rest = [a for a in argv if a != "--json"]
    recipe = rest.pop(0) if rest and not rest[0].startswith("-") else None
    config = load_config(PairTrainConfig, recipe, rest, command="train-pair")
    if not config.data or not config.model:
        raise ConfigError("train-pair needs data and model (--data, --model)")
    run = RunDir(config.out, to_dict(config), command=f"prefeval train-pair {' '.join(argv)}")
    with run.lock():
        result = train_pair(config, run)
    say(dumps(result) if "--json" in argv else f"{run.path / 'final'}\n{table(result['metrics'])}")
    return 0
