"""Frozen log-probs of a fit's replies: computed once, kept on disk, and checked bit for bit when they are taken up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.logprobs import FROZEN_TOKENS, TokenSequence
from prefeval.batching import token_batches
from prefeval.errors import RunError
from prefeval.files import sha256_json, write_bytes
from prefeval.log import logger
from prefeval.models import default_device

Sums = Callable[[str, Sequence[TokenSequence]], list[float]]  # (slot, sequences) -> summed log-probs


@dataclass(frozen=True)
class Anchors:
    """Log-probs by slot of the sequences of a fit: sums, and those of single tokens where the method asks for them."""

    sums: Mapping[str, list[float]]
    tokens: Mapping[str, list[list[float]]]


def about(tokenizer: Any, dtype: Any, data: str) -> dict[str, str]:
    """What log-probs depend on: template and dtype, and a hash of replies and weights."""
    return {"template": sha256_json(tokenizer.chat_template)[:16], "dtype": str(dtype), "data": data}


def write_anchors(path: Path, anchors: Anchors, about: Mapping[str, str]) -> None:
    """float64 tensors: `sum.SLOT` (N,) and `token.SLOT` (T,), the tokens of all sequences in a row."""
    from safetensors.numpy import save

    found = {f"sum.{slot}": np.array(values, dtype=np.float64) for slot, values in anchors.sums.items()}
    for slot, rows in anchors.tokens.items():
        found[f"token.{slot}"] = np.array([v for row in rows for v in row], dtype=np.float64)
    # one entry: several would be written in another order every time
    write_bytes(path, save(found, metadata={"about": json.dumps(dict(about), sort_keys=True)}))


def read_anchors(path: Path, sequences: Sequence[TokenSequence]) -> Anchors:
    """What `write_anchors` wrote for these sequences."""
    from safetensors.numpy import load_file

    sums: dict[str, list[float]] = {}
    tokens: dict[str, list[list[float]]] = {}
    cuts = np.cumsum([s.response_length for s in sequences])[:-1]
    for name, values in load_file(path).items():
        kind, _, slot = name.partition(".")
        if kind == "sum":
            sums[slot] = values.tolist()
        else:
            tokens[slot] = [row.tolist() for row in np.split(values, cuts)]
    return Anchors(sums, tokens)


def is_kept(path: Path, facts: Mapping[str, str]) -> bool:
    """Whether the file holds what `facts` describe. Warns of log-probs under another template or dtype."""
    from safetensors import safe_open

    if not path.exists():
        return False
    with safe_open(path, "numpy") as file:
        kept = json.loads((file.metadata() or {}).get("about", "{}"))
    differ = [f"{n} {kept.get(n)} (now {facts[n]})" for n in ("template", "dtype") if kept.get(n) != facts[n]]
    if differ:
        logger.warning("%s: anchors were computed with %s; they are computed again", path.name, " and ".join(differ))
    return bool(kept == dict(facts))


def check_bits(path: Path, anchors: Anchors, sequences: Sequence[TokenSequence], sums: Sums) -> None:
    """Compute the first batch of each slot once more. Raises RunError where a CPU gives other bits than the file.

    Kernels of accelerators need not repeat themselves to the bit: there a difference of 1e-2 nats is let pass.
    """
    chosen = next(iter(token_batches([len(s.ids) for s in sequences], FROZEN_TOKENS)))
    allowed = 0.0 if default_device() == "cpu" else 1e-2
    for slot, values in anchors.sums.items():
        again = np.array(sums(slot, [sequences[i] for i in chosen]))
        worst = float(np.max(np.abs(again - np.array([values[i] for i in chosen]))))
        if not worst <= allowed:
            raise RunError(
                f"{path}: the log-probs of anchor '{slot}' differ by up to {worst:.3g} nats from what its weights give "
                "now; remove the file to compute them again"
            )
