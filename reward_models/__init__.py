"""Preference models: heads, losses, training, and the oracles that answer P[i, j].

Three calls for notebooks and scripts; nothing heavy is imported before one of them is made.

- `preferences(oracle, prompt, responses)`: the matrix P of any oracle.
- `measure(oracle, data)`: what `prefeval evaluate` prints.
- `train_model(data, out)`: what `prefeval train` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefeval.oracle import Oracle
    from prefeval.types import FloatArray, Prompt

__all__ = ["measure", "preferences", "train_model"]


def preferences(oracle: str | Oracle, prompt: str | Prompt, responses: Sequence[str]) -> FloatArray:
    """P (k, k) of k responses to one prompt: P[i, j] is the probability that i beats j, NaN where no answer came.

    `oracle` is a spec such as model:PATH, or what `reward_models.oracles.open_oracle` gave, which is not loaded again.

    >>> preferences("rules:longer", "Why is the sky blue?", ["Air.", "Air scatters blue light."]).tolist()
    [[0.5, 0.0], [1.0, 0.5]]
    """
    from prefeval.types import Prompt

    asked = Prompt.from_text(prompt, id="0") if isinstance(prompt, str) else prompt
    return _opened(oracle).matrix([asked], [tuple(responses)])[0]


def measure(oracle: str | Oracle, data: str, *, format: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Accuracy with its interval, calibration, length bias and cycles of an oracle on preference data.

    The mapping is that of metrics.json. `data` is a file, a directory or a hub id; DataError names what cannot be read.

    >>> found = measure("rules:longer", "pairs.jsonl")
    >>> found["accuracy"], found["n"], found["n_dropped"]
    (0.5, 2, 0)
    """
    from prefeval.data.readers import load_records
    from reward_models.evaluate import evaluate

    records = [r for r in load_records(data, format=format).records if r.pairs]
    return evaluate(_opened(oracle), records, seed=seed)


def train_model(data: str, out: str, **options: Any) -> dict[str, Any]:
    """Train a preference model into the run directory `out`; a call that was cut off goes on when it is made again.

    `options` are those of `prefeval train`, nested ones as mappings. `path` of the result is the model (`model:PATH`),
    `metrics` are of the validation pairs.

    >>> found = train_model("pairs.jsonl", "run", model="base", valid_data="pairs.jsonl", trainable="head",
    ...                     head={"kind": "bt"}, fit={"epochs": 50, "learning_rate": 0.05, "precision": "fp32"})
    >>> found["path"], found["metrics"]["accuracy"]
    ('run/final', 1.0)
    """
    from prefeval.config import from_dict, to_dict
    from prefeval.runs import RunDir
    from reward_models.config import TrainConfig
    from reward_models.train import train

    config = from_dict(TrainConfig, {"data": data, "out": out, **options}, where="train_model")
    run = RunDir(out, to_dict(config), command="reward_models.train_model")
    with run.lock():
        return {**train(config, run), "path": str(run.path / "final")}


def _opened(oracle: str | Oracle) -> Oracle:
    from reward_models.oracles import open_oracle

    return open_oracle(oracle) if isinstance(oracle, str) else oracle
