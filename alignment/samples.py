"""A round's data on disk: sampled replies as JSON lines, P blocks as safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.logprobs import TokenSequence
from prefeval import chat
from prefeval.errors import DataError
from prefeval.files import read_jsonl, write_bytes, write_jsonl
from prefeval.types import FloatArray, Message, Prompt, Response

REWARDS = "rewards.safetensors"  # beside preferences.safetensors, where the method trains on rewards


@dataclass(frozen=True)
class SampledGroup:
    """One prompt (as the oracle sees it) and its replies, the last `opponents` of them by the opponent.

    The `demonstrations` before those were written by somebody: they are trained on, and were not sampled.
    """

    prompt: Prompt
    responses: tuple[Response, ...]
    opponents: int = 0
    demonstrations: int = 0

    @property
    def roles(self) -> tuple[str, ...]:
        """Who wrote each reply, in the words of `Group.role`."""
        return ("policy",) * len(self.own) + ("data",) * self.demonstrations + ("opponent",) * self.opponents

    @property
    def texts(self) -> list[str]:
        return [r.text for r in self.responses]

    @property
    def own(self) -> tuple[Response, ...]:
        """The policy's replies."""
        return self.responses[: len(self.responses) - self.opponents - self.demonstrations]


def write_samples(path: Path, groups: Sequence[SampledGroup]) -> None:
    rows = [
        {
            "id": g.prompt.id,
            "prompt": g.prompt.as_dicts(),
            **({"reference": g.prompt.meta["reference"]} if "reference" in g.prompt.meta else {}),
            "opponents": g.opponents,
            **({"demonstrations": g.demonstrations} if g.demonstrations else {}),
            "responses": [
                {"text": r.text, "token_ids": r.token_ids, "finish_reason": r.finish_reason, "logprob": r.logprob}
                for r in g.responses
            ],
        }
        for g in groups
    ]
    write_jsonl(path, rows)


def read_samples(path: Path) -> list[SampledGroup]:
    out = []
    for row in read_jsonl(path):
        meta = {"reference": row["reference"]} if "reference" in row else {}  # oracles that check replies read it
        prompt = Prompt(row["id"], tuple(Message(m["role"], m["content"]) for m in row["prompt"]), meta)
        replies = [
            Response(
                r["text"],
                tuple(r["token_ids"]) if r["token_ids"] is not None else None,
                r["finish_reason"],
                r["logprob"],
            )
            for r in row["responses"]
        ]
        out.append(SampledGroup(prompt, tuple(replies), row.get("opponents", 0), row.get("demonstrations", 0)))
    return out


def write_tables(path: Path, tables: Sequence[FloatArray]) -> None:
    """P blocks of possibly different sizes, or rewards of the replies, one tensor a prompt."""
    from safetensors.numpy import save

    write_bytes(path, save({f"{i:06d}": np.ascontiguousarray(t) for i, t in enumerate(tables)}))


def read_tables(path: Path) -> list[FloatArray]:
    from safetensors.numpy import load_file

    blocks = load_file(path)
    return [np.asarray(blocks[name], dtype=np.float64) for name in sorted(blocks)]


def token_sequences(
    tokenizer: Any,
    groups: Sequence[SampledGroup],
    instruction: str,
    told: Sequence[Sequence[str]] | None = None,
    *,
    opponents: bool = False,
) -> list[list[TokenSequence]]:
    """Prompt ids and the very ids of the replies that are trained on: own and shown ones, the opponent's if asked for.

    `told` are further instructions behind the prompt, one a reply. Raises DataError for replies without token ids
    (served ones).
    """
    out = []
    for n, g in enumerate(groups):
        trained = g.responses[: len(g.responses) if opponents else len(g.responses) - g.opponents]
        each = [""] * len(trained) if told is None else told[n]
        heads = {text: _head(tokenizer, g.prompt, instruction, text) for text in set(each)}
        rows = []
        for r, text in zip(trained, each, strict=True):
            if not r.token_ids:
                raise DataError(f"prompt {g.prompt.id}: a reply has no token ids, so it cannot be trained on")
            rows.append(TokenSequence((*heads[text], *r.token_ids), len(heads[text])))
        out.append(rows)
    return out


def _head(tokenizer: Any, prompt: Prompt, *instructions: str) -> list[int]:
    for instruction in instructions:
        prompt = chat.with_instruction(prompt, instruction)
    return chat.encode_prompt(tokenizer, prompt)
