"""`prefeval expo`: extrapolate from a weak preference model through a strong one that was trained from it (ExPO).

theta = theta_weak + a (theta_strong - theta_weak) over backbone and head, arXiv 2404.16792, as HelpSteer2-Preference
(arXiv 2410.01257) does from its helpfulness regression through scaled Bradley-Terry with a = 1.52. The factor is chosen
on validation pairs, never on a test set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval.errors import ConfigError, DataError
from prefeval.types import PreferenceRecord
from reward_models.data import DataConfig, load_splits
from reward_models.tested import test_stage

if TYPE_CHECKING:
    from torch import Tensor

    from prefeval.runs import RunDir
    from reward_models.modeling import PreferenceModel

_GRID = (0.0, 0.5, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0)
_SAME = ("template_hash", "encoding", "pooling", "kind", "blocks", "unit_norm", "attributes", "weights")


@dataclass(frozen=True)
class ExpoConfig(DataConfig):
    """Two preference models and validation pairs. Raises ConfigError for a value out of range.

    Give the data fields and the seed as the strong model had them: then the validation pairs are the ones that it has
    not seen. The data's own test split takes no part in the choice; test_data or test_fraction is looked at once.
    """

    weak: str = ""  # directory of the model that the strong one was trained from; a regression counts as its utility
    strong: str = ""  # directory of the strong one
    factors: tuple[float, ...] = _GRID  # 0 is the weak model, 1 the strong one
    out: str = "runs/expo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if 1.0 not in self.factors or not all(math.isfinite(a) for a in self.factors):
            raise ConfigError("factors must be finite and have 1 among them, the strong model itself")


def extrapolate(config: ExpoConfig, run: RunDir) -> dict[str, Any]:
    """Write run/final, the extrapolated model, and run/expo.json with the grid; returns what expo.json holds.

    Every factor is measured after its temperature is fitted, so that a longer step is not chosen for its larger
    scores. The factor of least NLL wins, the one nearest to 1 among equals. A factor that is done is not run again.
    """
    _require_inputs(config)
    from prefeval.files import sha256_file, write_json
    from prefeval.models import default_device

    _, validation = load_splits(config)
    held_out = [r for r in validation if r.pairs]
    if not held_out:
        raise DataError("no labelled validation pairs to choose the factor on", file=config.valid_data or config.data)
    model, weak, strong = ends(Path(config.weak), Path(config.strong))
    model.to(default_device())
    weights = [sha256_file(Path(p) / "model.safetensors") for p in (config.weak, config.strong)]
    grid = []
    for a in sorted(set(config.factors)):
        inputs = {"factor": a, "weights": weights, "validation": [repr(r) for r in held_out], "seed": config.seed,
                  "resamples": config.resamples}  # fmt: skip
        move(model, weak, strong, a)
        grid.append(run.stage(f"factor {a:g}", inputs, partial(_measure, model, held_out, a, config)))
    best = choose(grid)
    move(model, weak, strong, best["factor"])
    model.set_tau(model.head.tau * best["tau"])
    model.save_pretrained(run.path / "final")
    at_one = next(row for row in grid if row["factor"] == 1.0)
    result = {"factor": best["factor"], "metrics": best, "strong": at_one, "tau": model.head.tau, "grid": grid}
    if config.tested:
        result["test"] = test_stage(config, run, "model")
    write_json(run.path / "expo.json", result)
    return result


def choose(grid: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row of least NLL; among equals the one nearest to factor 1."""
    return min(grid, key=lambda row: (row["nll"], abs(row["factor"] - 1.0)))


def ends(weak: Path, strong: Path) -> tuple[PreferenceModel, dict[str, Tensor], dict[str, Tensor]]:
    """(the strong model, weights of the weak one, weights of the strong one), in float32 on the CPU.

    A weak regression under a strong bt model is taken as its utility, which is what that model started from.
    Raises ConfigError, naming what differs, when the two are not the same architecture.
    """
    import torch

    from reward_models.config import HeadConfig
    from reward_models.loading import as_scalar
    from reward_models.modeling import PreferenceModel

    first = PreferenceModel.from_pretrained(weak, dtype=torch.float32)
    second = PreferenceModel.from_pretrained(strong, dtype=torch.float32)
    if (first.head.kind, second.head.kind) == ("regression", "bt"):
        as_scalar(first.classifier, first.head)
        first.head = HeadConfig("bt")
    mine, theirs = first.description(), second.description()
    different = [name for name in _SAME if mine[name] != theirs[name]]
    if different:
        raise ConfigError(f"expo: {weak} and {strong} differ in their {', '.join(different)}")
    a, b = first.classifier.state_dict(), second.classifier.state_dict()
    odd = [n for n in sorted(a.keys() | b.keys()) if n not in a or n not in b or a[n].shape != b[n].shape]
    if odd:
        raise ConfigError(f"expo: {weak} and {strong} are not the same architecture: they differ in {odd[0]}")
    return second, {n: t.clone() for n, t in a.items()}, {n: t.clone() for n, t in b.items()}


def move(model: PreferenceModel, weak: Mapping[str, Tensor], strong: Mapping[str, Tensor], a: float) -> None:
    """Set the model's weights to weak + a (strong - weak), in place; exact at a = 0 and a = 1."""
    import torch

    with torch.no_grad():
        for name, tensor in model.classifier.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.lerp(weak[name], strong[name], a))


def _measure(
    model: PreferenceModel, records: Sequence[PreferenceRecord], factor: float, config: ExpoConfig
) -> dict[str, Any]:
    """Metrics of the model as it stands, after its temperature is refitted: one row of the grid."""
    from reward_models.evaluate import evaluate_tables
    from reward_models.judged import answer
    from reward_models.oracles import ModelOracle

    oracle = ModelOracle(model, f"expo {factor:g}")
    tables = answer(oracle, records)
    options: dict[str, Any] = {"seed": config.seed, "resamples": config.resamples}
    tau = evaluate_tables(oracle.name, records, tables, **options)["tau"]
    if tau is None:
        raise DataError("no decided validation pairs to choose the factor on", file=config.valid_data or config.data)
    metrics = evaluate_tables(oracle.name, records, [table / tau for table in tables], **options)
    wanted = ("accuracy", "accuracy_low", "accuracy_high", "nll", "nll_low", "nll_high", "ece", "n", "n_dropped")
    return {"factor": factor, "tau": tau, **{name: metrics[name] for name in (*wanted, "n_ties")}}


def _require_inputs(config: ExpoConfig) -> None:
    if not (config.weak and config.strong and config.data):
        raise ConfigError("expo needs two models and validation pairs (--weak, --strong, --data)")


def expo_command(argv: Sequence[str]) -> int:
    """``prefeval expo [RECIPE.yaml] --weak DIR --strong DIR --data FILE [--a.b value ...] [--json]``."""
    from prefeval.config import load_config, to_dict
    from prefeval.files import dumps
    from prefeval.runs import RunDir
    from reward_models.arguments import say

    rest = [a for a in argv if a != "--json"]
    recipe = rest.pop(0) if rest and not rest[0].startswith("-") else None
    config = load_config(ExpoConfig, recipe, rest, command="expo")
    _require_inputs(config)  # before a directory is made for it
    run = RunDir(config.out, to_dict(config), command=f"prefeval expo {' '.join(argv)}")
    with run.lock():
        result = extrapolate(config, run)
    say(dumps(result) if "--json" in argv else f"{run.path / 'final'}\n{grid_table(result)}")
    return 0


def grid_table(result: Mapping[str, Any]) -> str:
    """The grid for a person: a row a factor, the chosen one marked."""
    lines = ["factor  NLL                      accuracy                 n (dropped, ties)"]
    for row in result["grid"]:
        nll, accuracy = (f"{row[n]:.4f} [{row[f'{n}_low']:.4f}, {row[f'{n}_high']:.4f}]" for n in ("nll", "accuracy"))
        mark = "  <- chosen" if row["factor"] == result["factor"] else ""
        lines.append(f"{row['factor']:<7g} {nll} {accuracy} {row['n']} ({row['n_dropped']}, {row['n_ties']}){mark}")
    lines.append("The factor was chosen on these pairs, so its row is slightly optimistic.")
    return "\n".join(lines)
