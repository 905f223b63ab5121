"""The pairwise justifier: a language model that writes a comparison of two replies, then its verdict.

Trained by supervised fine-tuning on comparisons that people or judges wrote, as the Pairwise Justifier of arXiv
2410.01257 is; read by greedy decoding in both orders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefeval import chat
from prefeval.files import read_json
from prefeval.fit import LossOutput
from prefeval.generate.base import SamplingParams
from prefeval.generate.hf import HFGenerator
from prefeval.log import logger
from prefeval.models import load_causal, load_tokenizer
from prefeval.seeds import rng
from prefeval.types import Comparison, FloatArray, PreferenceRecord, Prompt
from reward_models.generative_pairs import save_pair
from reward_models.pairwise import PairOracle

_JUSTIFY = (
    "Below are a conversation and two replies to it. Compare the replies: correctness first, then how well each does "
    "what was asked. Neither their order nor their length is a merit. Write a short comparison, then end with [[A]] if "
    "reply A is better, [[B]] if reply B is better, or [[C]] if they are equally good.\n\n"
)
_NUMBERED = re.compile(r"@?\bresponse[\s_]*([12])\b", re.IGNORECASE)
SPARE = 16  # tokens of the verdict and its end, beside the comparison's own
_VERDICT = re.compile(r"\[\[([ABC])\]\]")


class JustifierModel(nn.Module):
    """A causal language model with the limits that it was trained under, in tokens."""

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int = 3072, max_new_tokens: int = 256) -> None:
        super().__init__()
        limit = getattr(model.config, "max_position_embeddings", None) or max_length
        self.model, self.tokenizer = model, tokenizer
        self.max_length, self.max_new_tokens = min(max_length, int(limit)), max_new_tokens

    @classmethod
    def from_pretrained(cls, spec: str, *, max_length: int = 3072, max_new_tokens: int = 256) -> JustifierModel:
        """Any causal language model by path or id. Raises ConfigError, one line."""
        saved = read_json(Path(spec) / "config.json") if (Path(spec) / "config.json").is_file() else {}
        known = {"max_length": max_length, "max_new_tokens": max_new_tokens, **saved.get("pair", {})}
        limits = {name: int(known[name]) for name in ("max_length", "max_new_tokens")}
        return cls(load_causal(spec), load_tokenizer(spec), **limits).eval()

    def save_pretrained(self, path: str | Path) -> Path:
        """A plain causal language model; config.json also tells that it is a justifier. Written atomically."""
        limits = {"max_length": self.max_length, "max_new_tokens": self.max_new_tokens}
        return save_pair(self, path, {"kind": "justify", **limits})

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, ids: Tensor, first: int) -> Tensor:
        """Logits of the tokens from position `first` on: right-padded ids (B, L) -> (B, L - first, vocabulary)."""
        places = torch.arange(first - 1, ids.shape[1] - 1, device=ids.device)
        logits: Tensor = self.model(input_ids=ids, use_cache=False, logits_to_keep=places).logits
        return logits.float()


class JustifierOracle(PairOracle):
    """[[A]], [[B]] or [[C]] for a tie behind a comparison, greedily decoded, averaged over both orders.

    A reply without a verdict is a failure (NaN), never a tie. `texts` keeps the last call's comparisons by their order.
    """

    def __init__(self, model: JustifierModel, name: str) -> None:
        super().__init__(name)
        self.model, self.texts = model.eval(), list[str]()
        self._generator = HFGenerator(model.model, model.tokenizer, name=name, batch_rows=16)
        self._params = SamplingParams(model.max_new_tokens, temperature=0.0)

    def shown(self, items: Sequence[Comparison]) -> FloatArray:
        prompts = [Prompt.from_text(justify_text(item), id=str(n)) for n, item in enumerate(items)]
        self.texts = [replies[0].text for replies in self._generator.sample(prompts, 1, self._params, seed=0)]
        return np.array([verdict_log_odds(text) for text in self.texts], dtype=np.float64)


def justify_text(item: Comparison) -> str:
    """The question of a justifier."""
    turns = "\n\n".join(f"<|{m.role}|>\n{m.content}" for m in item.prompt.messages)
    return (
        f"{_JUSTIFY}<|The Conversation|>\n{turns}\n<|End of the Conversation|>\n\n"
        f"<|Reply A|>\n{item.first}\n<|End of Reply A|>\n\n<|Reply B|>\n{item.second}\n<|End of Reply B|>"
    )


def verdict_log_odds(text: str) -> float:
    """+inf where the last label is [[A]], -inf for [[B]], 0 for [[C]], NaN without any."""
    found = _VERDICT.findall(text)
    return {"A": float("inf"), "B": float("-inf"), "C": 0.0}[found[-1]] if found else float("nan")


def comparison(record: PreferenceRecord, a: int, b: int) -> tuple[str, ...]:
    """What somebody wrote about two responses, a shown as reply A and b as B; empty where nobody did.

    One text about both (meta["comparisons"]), else one about each (meta["comments"]).
    """
    for first, second, text in record.meta.get("comparisons", ()):
        if {first, second} == {a, b}:
            return (_lettered(text, "AB" if first == a else "BA"),)
    comments = record.meta.get("comments", ())
    if max(a, b) < len(comments) and comments[a] and comments[b]:
        return f"Reply A: {comments[a]}", f"Reply B: {comments[b]}"
    return ()


def _lettered(text: str, letters: str) -> str:
    """The text with "Response 1" and "Response 2" called by the two letters."""
    return _NUMBERED.sub(lambda m: f"reply {letters[int(m[1]) - 1]}", text)


@dataclass(frozen=True)
class JustifyItem:
    """Token ids of question, comparison and verdict; the first `head` are the question, the last `verdict` its end."""

    ids: tuple[int, ...]
    head: int
    verdict: int


def justify_items(model: JustifierModel, records: Sequence[PreferenceRecord], seed: int) -> list[JustifyItem]:
    """Every labelled pair with a comparison, in a random order of the two replies drawn from (seed, record id).

    A comparison beyond the model's limit loses its end, never its verdict; a pair beyond `max_length` in all is left
    out. Both are counted in the log.
    """
    items, counts = [], {"without a comparison": 0, "too long": 0, "comparisons cut": 0}
    for record in records:
        flips = rng("pair order", seed, record.id).random(len(record.pairs)) < 0.5
        for pair, flip in zip(record.pairs, flips, strict=True):
            a, b, p = (pair.j, pair.i, 1.0 - pair.p) if flip else (pair.i, pair.j, pair.p)
            texts = comparison(record, a, b)
            if not texts:
                counts["without a comparison"] += 1
                continue
            label = "C" if p == 0.5 else "A" if p > 0.5 else "B"
            item, cut = _encoded(
                model, Comparison(record.prompt, record.responses[a], record.responses[b]), texts, label
            )
            counts["comparisons cut"] += cut
            counts["too long"] += len(item.ids) > model.max_length
            items += [item] if len(item.ids) <= model.max_length else []
    logger.info("%d comparisons to learn from; %s", len(items), ", ".join(f"{n} {k}" for k, n in counts.items()))
    return items


def justify_loss(model: nn.Module, batch: Sequence[JustifyItem], pad_id: int, device: torch.device) -> LossOutput:
    """The mean of -log p over an item's comparison and verdict, summed over items; `verdict`: its tokens are right."""
    from prefeval.batching import pad_right

    ids, _ = pad_right([item.ids for item in batch], pad_id)
    ids, first = ids.to(device), min(item.head for item in batch)
    places = torch.arange(first, ids.shape[1], device=device)[None, :]
    heads = torch.tensor([item.head for item in batch], device=device)[:, None]
    ends = torch.tensor([len(item.ids) for item in batch], device=device)[:, None]
    learned = (places >= heads) & (places < ends)
    logits, target = model(ids, first), ids[:, first:]
    terms = torch.nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="none") * learned
    tails = torch.tensor([item.verdict for item in batch], device=device)[:, None]
    asked = learned & (places >= ends - tails)
    right = ((logits.argmax(-1) == target) | ~asked).all(dim=1)
    loss = (terms.sum(1) / learned.sum(1)).sum()
    return LossOutput(loss, float(len(batch)), {"verdict": float(right.sum().item())})


def _encoded(model: JustifierModel, item: Comparison, texts: Sequence[str], label: str) -> tuple[JustifyItem, bool]:
    """The item, and whether its comparison was cut to the limit."""
    room = (model.max_new_tokens - SPARE) // len(texts)
    parts = [
        model.tokenizer(text if n == 0 else f"\n\n{text}", add_special_tokens=False)["input_ids"]
        for n, text in enumerate(texts)
    ]
    head = chat.encode_prompt(model.tokenizer, Prompt.from_text(justify_text(item)))
    verdict = chat.encode_completion(model.tokenizer, f"\n\n[[{label}]]")
    body = [i for part in parts for i in part[:room]]
    return JustifyItem((*head, *body, *verdict), len(head), len(verdict)), any(len(p) > room for p in parts)
