"""The README.md beside a trained preference model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_models.config import TrainConfig

_ROWS = (
    "accuracy",
    "nll",
    "brier",
    "ece",
    "length_only_accuracy",
    "accuracy_longer",
    "accuracy_shorter",
    "cycle_rate",
    "curl_ratio",
)


def model_card(config: TrainConfig, result: dict[str, Any], training: int, validation: int) -> str:
    """README.md of a trained preference model."""
    metrics = result["metrics"]

    def cell(name: str) -> str:
        point, low, high = (metrics.get(f"{name}{end}") for end in ("", "_low", "_high"))
        interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        return "not available" if point is None else f"{point:.3f}{interval}"

    rows = "\n".join(f"| {name} | {cell(name)} |" for name in _ROWS)
    head = ", ".join(f"{k}={v}" for k, v in dataclasses.asdict(config.head).items() if k != "tau")
    trained = f"LoRA of rank {config.lora.rank}" if config.lora.rank else config.trainable
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [preference-model, reward-model]
---
# Preference model

Answers P(response i beats response j | prompt). Base model: `{config.model}`. Head: {head}; tau {result["tau"]:.4g}.

Trained on `{config.data}` ({training} prompts; trainable: {trained}; {result["fit"]["steps"]} steps,
learning rate {config.fit.learning_rate:g}, seed {config.seed}).

## Held-out pairs
{metrics["n"]} decided pairs of {validation} prompts; dropped {metrics["n_dropped"]}, ties left out {metrics["n_ties"]};
95% intervals by bootstrap over prompts. The temperature was fitted on the same pairs.

| metric | value |
| --- | --- |
{rows}

## Use
`prefeval score --oracle model:PATH --input rows.jsonl --out scores.jsonl`. It also loads with
`AutoModelForSequenceClassification`; the outputs are those of the head, in the layout and with the temperature that the
`preference` mapping of config.json describes. Scores compare responses to one prompt, not across prompts.
"""
