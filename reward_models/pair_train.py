"""`prefeval train-pair`: a pair model from preference data, by the one training loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from prefeval.errors import ConfigError, DataError
from prefeval.fit import FitConfig, LossOutput, fit
from prefeval.log import logger
from prefeval.types import Comparison, PreferenceRecord
from reward_models.data import DataConfig, load_splits

if TYPE_CHECKING:
    from prefeval.runs import RunDir
    from reward_models.generative_pairs import ABModel
    from reward_models.pairwise import CrossEncoder


@dataclass(frozen=True)
class PairTrainConfig(DataConfig):
    """A pair model from preference data. Raises ConfigError for a value out of range."""

    model: str = ""  # cross: an encoder; ab: a causal language model
    kind: Literal["cross", "ab"] = "cross"
    max_length: int = 2048  # tokens of the prompt and both responses
    fit: FitConfig = field(default_factory=FitConfig)
    out: str = "runs/pair"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("cross", "ab"):
            raise ConfigError(f"kind '{self.kind}' is none of cross, ab")
        if self.max_length < 16:
            raise ConfigError(f"max_length must be at least 16, not {self.max_length}")


@dataclass(frozen=True)
class PairItem:
    """One labelled pair as it is shown: token ids, and P(the response shown first wins)."""

    ids: tuple[int, ...]
    p: float


def train_pair(config: PairTrainConfig, run: RunDir) -> dict[str, Any]:
    """Train, evaluate on the held-out prompts, save to run/final. Raises DataError when no pair is left to train on."""
    from prefeval.checkpoint import clear_state
    from prefeval.files import write_json
    from prefeval.models import default_device
    from reward_models.evaluate import evaluate
    from reward_models.generative_pairs import ABModel, ABOracle
    from reward_models.pairwise import CrossEncoder, CrossPairOracle

    training, validation = load_splits(config)
    if config.kind == "cross":
        cross = CrossEncoder.from_base(config.model, seed=config.seed, max_length=config.max_length)
        fitted = fit_pair(cross, training, config, run)
        oracle: Any = CrossPairOracle(cross.to(default_device()), f"pair:{run.path / 'final'}")
    else:
        ab = ABModel.from_pretrained(config.model, max_length=config.max_length)
        fitted = fit_pair(ab, training, config, run)
        oracle = ABOracle(ab.to(default_device()), f"pair:{run.path / 'final'}")
    held_out = [r for r in validation if r.pairs]
    metrics = evaluate(oracle, held_out, seed=config.seed, resamples=config.resamples)
    oracle.model.save_pretrained(run.path / "final")
    write_json(run.path / "evaluation.json", metrics)
    clear_state(run.path / "fit")
    return {"metrics": metrics, "fit": fitted.summary()}


def fit_pair(
    model: CrossEncoder | ABModel, records: Sequence[PreferenceRecord], config: PairTrainConfig, run: RunDir
) -> Any:
    """Fit all weights in place, without dropout; resumes from run/fit if it is there."""
    from reward_models.forward import run_ragged
    from reward_models.generative_pairs import ABModel

    items = pair_items(model, records, config.seed)
    if not items:
        raise DataError("no labelled pairs to train on", file=config.data)
    tokens = model.tokens
    logger.info(
        "%d labelled pairs, %d of %d cut to %d tokens", len(items), tokens.truncated, tokens.encoded, tokens.max_length
    )
    loss = ab_loss if isinstance(model, ABModel) else cross_loss

    def loss_fn(module: Any, batch: Sequence[PairItem]) -> LossOutput:
        outputs = run_ragged(module, [item.ids for item in batch], model.layout(config.fit.batch_tokens))
        return loss(outputs, [item.p for item in batch])

    model.eval()
    fitted = fit(
        model, items, loss_fn, config.fit, cost=lambda item: len(item.ids), state_dir=run.path / "fit", stage="train",
        metrics=run.metrics, title="training",
    )  # fmt: skip
    fitted.export_masters(model)
    return fitted


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
