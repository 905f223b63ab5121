"""The preference model: a stock Hugging Face sequence classifier whose labels are the outputs of a head.

Checkpoints are stock: `config.json` (with one extra mapping, `preference`), `model.safetensors`, the tokenizer; every
one loads with AutoModelForSequenceClassification and gives the same outputs. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prefeval.chat import safe_pad_id, template_hash
from prefeval.errors import ConfigError
from prefeval.files import atomic_directory
from prefeval.log import progress
from prefeval.lora import LoraConfig, add_adapters, merge_into
from prefeval.models import hushed, load_tokenizer
from prefeval.types import Prompt
from reward_models import loading
from reward_models.config import HeadConfig
from reward_models.encoding import Encoding, PairEncoder
from reward_models.forward import Encoded, Layout, run_ragged
from reward_models.gating import Gate, gate_for, load_gate

POOLINGS = ("last", "stock")
Reading = Literal["outputs", "features"]


class PreferenceModel(nn.Module):
    """Token ids in, one head output vector a response out; see `heads` for what the vectors mean.

    Causal backbones read right-padded ids without an attention mask: no real token can see the padding behind it, and
    the pooled token is the last real one (`pooling` 'last') or, for stock checkpoints that were trained with EOS as
    padding, the last one that is not the config's padding id ('stock'). Encoders get the mask and their own pooling.
    """

    def __init__(
        self,
        classifier: Any,
        tokenizer: Any,
        head: HeadConfig,
        *,
        max_length: int = 2048,
        pooling: str = "last",
        encoding: Encoding = "chat",
        gate: Gate | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling '{pooling}' is none of {', '.join(POOLINGS)}")
        self.classifier, self.gate = classifier, gate
        self.auxiliary: Any = None  # what training learns beside the model; see `auxiliary`
        self.ties: dict[str, Any] | None = None  # rule, value and tau of a tie-aware loss
        self.tokenizer, self.head, self.pooling = tokenizer, head, pooling
        self.encoder = PairEncoder(tokenizer, max_length, encoding)
        self.is_causal = loading.pools_last_token(classifier)
        if head.prompt_columns() and not self.is_causal:
            raise ConfigError(
                f"{type(classifier).__name__}: prompt_scales are read where a causal model has seen the prompt alone"
            )

    @classmethod
    def from_base(
        cls,
        base: Any,
        tokenizer: Any,
        head: HeadConfig,
        *,
        seed: int = 0,
        max_length: int = 2048,
        keep_head: bool = False,
        layers: int = 0,
    ) -> PreferenceModel:
        """A model to train from a base model spec or a loaded causal model, in float32.

        `layers` keeps only that many layers of the backbone (0: all of them). The head is drawn from
        N(0, std = 1 / (hidden + 1)) by `seed`; `keep_head` keeps that of a preference model of the same width, or the
        utility of a regression model for a bt head (two-stage training). Raises ConfigError for an unusable base or a
        tokenizer without padding.
        """
        classifier = loading.classifier_from_base(base, head, seed, keep_head)
        if layers:
            loading.cut_layers(classifier, layers)
        pad = safe_pad_id(tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
        classifier.config.pad_token_id = classifier.config.get_text_config().pad_token_id = pad
        encoding: Encoding = "chat" if loading.pools_last_token(classifier) else "stock"
        limit = loading.position_limit(classifier, max_length)
        gate = gate_for(classifier, head, seed)
        return cls(classifier, tokenizer, head, max_length=limit, encoding=encoding, gate=gate).eval()

    @classmethod
    def from_pretrained(cls, path: str | Path, *, dtype: torch.dtype | None = None) -> PreferenceModel:
        """A saved preference model, in the dtype it was saved in unless `dtype` is given, in eval mode.

        Raises ConfigError, one line, when `path` is no preference model, has no tokenizer, no head or pickled weights,
        or when its tokenizer's chat template is not the one it was trained with.
        """
        classifier, tokenizer, saved = loading.load_saved(Path(path), dtype)
        head = loading.checked_head(classifier, saved, path)
        reading = {name: saved[name] for name in loading.READING}
        model = cls(classifier, tokenizer, head, gate=load_gate(Path(path), classifier, head), **reading)
        model.ties = saved.get("ties")
        return model.eval()

    @classmethod
    def from_stock(cls, spec: str, *, dtype: torch.dtype | None = None, max_length: int = 4096) -> PreferenceModel:
        """A published scalar reward model (one label), pooled and encoded the way its authors' stock code does.

        Raises ConfigError when the checkpoint has more than one output or no trained head.
        """
        classifier, missing = loading.load_classifier(spec, dtype)
        if missing:
            raise ConfigError(f"model {spec}: not a reward model: its checkpoint has no {', '.join(missing[:3])}")
        if classifier.config.num_labels != 1:
            raise ConfigError(
                f"model {spec}: {classifier.config.num_labels} outputs; only scalar reward models are known"
            )
        head = HeadConfig(kind="bt")
        tokenizer = load_tokenizer(spec)
        limit = loading.position_limit(classifier, max_length)
        return cls(classifier, tokenizer, head, max_length=limit, pooling="stock", encoding="stock").eval()

    def save_pretrained(self, path: str | Path) -> Path:
        """Write the checkpoint atomically; reloading it gives bit-equal outputs."""
        config = self.classifier.config
        config.preference = self.description()
        if self.head.attributes:
            config.id2label = dict(enumerate(self.head.attributes))
            config.label2id = {name: i for i, name in enumerate(self.head.attributes)}
        with atomic_directory(path) as folder, hushed():
            self.classifier.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            if self.gate is not None:
                self.gate.save(folder)
        return Path(path)

    def description(self) -> dict[str, Any]:
        """The `preference` mapping of config.json."""
        return {
            "format_version": loading.FORMAT_VERSION,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self.head).items()},
            "pooling": self.pooling,
            "encoding": self.encoder.encoding,
            "max_length": self.encoder.max_length,
            "template_hash": template_hash(self.tokenizer),
            **({"ties": self.ties} if self.ties else {}),
        }

    def set_tau(self, tau: float) -> None:
        """Replace the temperature, as calibration does."""
        self.head = dataclasses.replace(self.head, tau=tau)

    @property
    def pad_id(self) -> int:
        """The id to pad batches with (any id will do for causal backbones, which never look at it)."""
        pad = self.classifier.config.get_text_config().pad_token_id
        return int(pad) if pad is not None else 0

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def layout(self, budget: int) -> Layout:
        """How batches for this model are laid out, `budget` padded tokens each."""
        return Layout(budget, self.pad_id, self.device)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Head outputs of right-padded ids (B, L) with real lengths (B,): (B, width) float32."""
        if self.is_causal:
            return self.head_outputs(self.features(ids, lengths))
        mask = torch.arange(ids.shape[1], device=ids.device)[None, :] < lengths[:, None]
        logits: Tensor = self.classifier(input_ids=ids, attention_mask=mask.long()).logits
        return logits.float()

    def features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Final hidden states at the pooled tokens of a causal backbone: (B, hidden), in the backbone's dtype."""
        hidden: Tensor = self.classifier.base_model(input_ids=ids, use_cache=False).last_hidden_state
        pooled: Tensor = hidden[torch.arange(len(ids), device=ids.device), self._pooled(ids, lengths)]
        return pooled

    def head_outputs(self, features: Tensor) -> Tensor:
        """The head in float32, also under autocast and for a bfloat16 backbone: (B, hidden) -> (B, columns).

        In training with a degree loss the logits of the degrees follow.
        """
        with torch.autocast(features.device.type, enabled=False):
            extra = [] if self.gate is None else [self.gate(features)]
            linear = [self.classifier.score, getattr(self.auxiliary, "degrees", None)]
            parts = [
                nn.functional.linear(features.float(), m.weight.float(), None if m.bias is None else m.bias.float())
                for m in linear
                if m is not None
            ]
            return torch.cat([parts[0], *extra, *parts[1:]], dim=-1)

    def trained_head(self, which: str) -> nn.Module:
        """What is fitted on cached hidden states: the linear 'head' or the 'gate', with what is learned beside it."""
        head: nn.Module = self.classifier.score if self.gate is None or which == "head" else self.gate
        return head if self.auxiliary is None else nn.ModuleList([head, self.auxiliary])

    def tie_value(self) -> Tensor | None:
        """The tie parameter that is being learned, with its graph."""
        tie = getattr(self.auxiliary, "tie", None)
        value: Tensor | None = None if tie is None else tie.value()
        return value

    def encode(self, prompt: Prompt, responses: Sequence[str]) -> list[Encoded]:
        """Token ids of each response to one prompt."""
        return [self.encoder(prompt, text) for text in responses]

    def group(self, prompt: Prompt, responses: Sequence[str]) -> list[Encoded]:
        """What the head needs of one prompt: its responses and, for a head with prompt columns, then the prompt."""
        encoded = self.encode(prompt, responses)
        return [*encoded, self.encoder.prompt(prompt)] if self.head.prompt_columns() else encoded

    def read(
        self,
        groups: Sequence[Sequence[Encoded]],
        what: Reading = "outputs",
        *,
        budget: int,
        known: Mapping[Encoded, Tensor] | None = None,
        title: str = "",
    ) -> list[Tensor]:
        """Rows (k, width or hidden) float32 of each group's k sequences, on the model's device, without gradients.

        Every distinct sequence is read once, in batches of `budget` padded tokens; those whose hidden states (hidden,)
        are `known` are not read at all. Without a `title` nothing tells how far it is.
        """
        known = known or {}
        distinct = {ids for group in groups for ids in group}
        there, new = sorted(distinct & known.keys()), sorted(distinct - known.keys())

        def call(ids: Tensor, lengths: Tensor) -> Tensor:
            return self(ids, lengths) if what == "outputs" else self.features(ids, lengths).float()

        rows: list[Tensor] = []
        with torch.inference_mode():
            if there:
                states = torch.stack([known[ids] for ids in there]).to(self.device)
                rows.append(self.head_outputs(states) if what == "outputs" else states)
            if new:
                with progress(title, len(new)) if title else nullcontext() as bar:
                    rows.append(run_ragged(call, new, self.layout(budget), done=bar.advance if bar else None))
            place = {ids: n for n, ids in enumerate((*there, *new))}
            table = torch.cat(rows) if rows else torch.zeros(0, self.head.columns(), device=self.device)
            return [table[[place[ids] for ids in group]].reshape(len(group), table.shape[1]) for group in groups]

    def set_backbone_dtype(self, dtype: torch.dtype) -> None:
        """Cast the backbone for scoring; a causal model's head keeps its precision."""
        (self.classifier.base_model if self.is_causal else self.classifier).to(dtype)

    def set_trainable(self, which: str) -> int:
        """Choose what is trained: 'full', 'head' or 'top:N' (last N layers, final norm, head); the parameter count.

        Raises ConfigError for anything else, or when the model has fewer layers.
        """
        gate: list[nn.Module] = [] if self.gate is None else [self.gate]
        parts: list[nn.Module] = [self] if which == "full" else gate
        if which not in ("full", "gate"):
            parts = [*loading.top_parts(self.classifier, which), *gate]
        self.requires_grad_(False)
        for part in parts:
            part.requires_grad_(True)
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def add_adapters(self, config: LoraConfig, seed: int) -> int:
        """Train low-rank adapters and the whole head instead of the backbone; the parameter count."""
        self.requires_grad_(False)
        count = add_adapters(self.classifier.base_model, config, seed)
        for part in self._heads():
            part.requires_grad_(True)
            count += sum(p.numel() for p in part.parameters())
        return count

    def take_adapters(self, adapted: PreferenceModel) -> None:
        """Add to this model, untrained, what the adapters and the head of `adapted` have learned."""
        merge_into(self.classifier.base_model, adapted.classifier.base_model)
        for mine, theirs in zip(self._heads(), adapted._heads(), strict=True):
            mine.load_state_dict(theirs.state_dict())
        self.head, self.ties = adapted.head, adapted.ties

    def _heads(self) -> list[nn.Module]:
        return [*loading.heads_of(self.classifier), *([] if self.gate is None else [self.gate])]

    def _pooled(self, ids: Tensor, lengths: Tensor) -> Tensor:
        pad = self.classifier.config.get_text_config().pad_token_id
        if self.pooling == "last" or pad is None:
            return lengths - 1
        positions = torch.arange(ids.shape[1], device=ids.device)[None, :]
        real = (positions < lengths[:, None]) & (ids != pad)
        last: Tensor = (positions * real).argmax(-1)
        return last
