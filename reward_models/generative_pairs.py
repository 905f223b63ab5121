"""The pair model that is a language model read at its verdict, A or B (RLHFlow, 2405.07863); and `pair:` specs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prefeval import chat
from prefeval.errors import ConfigError
from prefeval.files import atomic_directory, read_json, read_object, write_json
from prefeval.models import hushed, load_causal, load_tokenizer
from prefeval.types import Comparison, Prompt
from reward_models.forward import Layout
from reward_models.pairwise import EncodedPairOracle, PairOracle

_BUDGET = 8192


def pair_text(item: Comparison) -> str:
    """The user message of an A/B model: [CONTEXT] .. [RESPONSE A] .. [RESPONSE B] .., turns marked as in training."""
    context = "".join(f"\n\n<turn> {m.role}\n {m.content}" for m in item.prompt.messages) + "\n\n\n"
    return f"[CONTEXT] {context} [RESPONSE A] {item.first} [RESPONSE B] {item.second} \n"


class ABTokens:
    """The A/B question as token ids through the model's chat template, without BOS (it is trained without).

    A question beyond `max_length` loses its beginning, counted in `truncated`. Raises ConfigError unless "A" and "B"
    are one token each.
    """

    def __init__(self, tokenizer: Any, max_length: int = 3072) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        verdicts = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in "AB"]
        if any(len(ids) != 1 for ids in verdicts) or verdicts[0] == verdicts[1]:
            raise ConfigError(
                f"the tokenizer writes A and B as {verdicts[0]} and {verdicts[1]}: one token each is needed"
            )
        self.verdicts = (int(verdicts[0][0]), int(verdicts[1][0]))
        self.encoded = self.truncated = 0

    def __call__(self, item: Comparison) -> tuple[int, ...]:
        ids = chat.encode_prompt(self.tokenizer, Prompt.from_text(pair_text(item)))
        ids = ids[1:] if ids and ids[0] == self.tokenizer.bos_token_id else ids
        self.encoded += 1
        self.truncated += len(ids) > self.max_length
        return tuple(ids[-self.max_length :])


class ABModel(nn.Module):
    """A causal language model read at the verdict token."""

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int = 3072) -> None:
        super().__init__()
        limit = getattr(model.config, "max_position_embeddings", None) or max_length
        self.model, self.tokenizer = model, tokenizer
        self.tokens = ABTokens(tokenizer, min(max_length, int(limit)))

    @classmethod
    def from_pretrained(cls, spec: str, *, dtype: torch.dtype | None = None, max_length: int = 3072) -> ABModel:
        """Any causal language model by path or id. Raises ConfigError, one line."""
        saved = read_json(Path(spec) / "config.json") if (Path(spec) / "config.json").is_file() else {}
        limit = int(saved.get("pair", {}).get("max_length", max_length))
        return cls(load_causal(spec, dtype=dtype), load_tokenizer(spec), max_length=limit).eval()

    def save_pretrained(self, path: str | Path) -> Path:
        """A plain causal language model; config.json also tells the kind of pair model. Written atomically."""
        return save_pair(self, path, {"kind": "ab", "max_length": self.tokens.max_length})

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def layout(self, budget: int = _BUDGET) -> Layout:
        return Layout(budget, chat.safe_pad_id(self.tokenizer), self.device)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Log-probabilities of "A" and "B" as the next token, over the whole vocabulary: (B, 2) float32."""
        ends, place = torch.unique(lengths - 1, return_inverse=True)
        logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=ends).logits
        rows = logits[torch.arange(len(ids), device=ids.device), place].float()
        out: Tensor = torch.log_softmax(rows, dim=-1)[:, list(self.tokens.verdicts)]
        return out


class ABOracle(EncodedPairOracle):
    """P(A) = softmax over the logits of "A" and "B", at temperature 1, averaged over both orders."""

    def log_odds(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0] - outputs[:, 1]


def save_pair(pair: Any, path: str | Path, told: Mapping[str, Any]) -> Path:
    """A plain causal language model and its tokenizer; config.json also tells what kind of pair model it is."""
    with atomic_directory(path) as folder, hushed():
        pair.model.save_pretrained(folder)
        pair.tokenizer.save_pretrained(folder)
        write_json(folder / "config.json", {**read_object(folder / "config.json"), "pair": dict(told)})
    return Path(path)


def open_pair(spec: str, device: str) -> PairOracle:
    """The oracle behind `pair:SPEC`: a cross encoder, an A/B model or a justifier.

    A local directory tells its kind in config.json (`pair`), LLM-Blender's by `head_layer` weights; a causal language
    model without either is an A/B model, or with `#justify` a justifier. Raises ConfigError for what is none of them.
    """
    from reward_models.justifier import JustifierModel, JustifierOracle
    from reward_models.pairwise import CrossEncoder, CrossPairOracle

    path, _, mode = spec.partition("#")
    if mode not in ("", "justify"):
        raise ConfigError(f"oracle 'pair:{spec}': behind # only 'justify' is known, not '{mode}'")
    name, kind = f"pair:{spec}", mode or _kind(Path(path))
    if kind == "justify":
        return JustifierOracle(JustifierModel.from_pretrained(path).to(device), name)
    if kind == "cross":
        return CrossPairOracle(CrossEncoder.from_pretrained(path).to(device), name)
    return ABOracle(ABModel.from_pretrained(path).to(device), name)


def _kind(folder: Path) -> str:
    """What the config.json of a directory says, 'ab' where it says nothing."""
    if not (folder / "config.json").is_file():
        return "ab"
    saved = read_object(folder / "config.json")
    if "pair" in saved:
        return str(saved["pair"].get("kind"))
    blender = any("PairRM" in str(kind) for kind in saved.get("architectures") or []) or "candidate_maxlength" in saved
    return "cross" if blender else "ab"
