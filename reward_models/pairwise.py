"""Oracles that read two responses at once; and the PairRM cross encoder (2306.02561).

A pair model's answer depends on which response it is shown first, so every pair is asked in both orders: K (K - 1)
forward passes for K responses, where a scalar model needs K.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefeval.errors import ConfigError
from prefeval.files import atomic_directory, read_object, write_json
from prefeval.judges.as_oracle import Consistency, tally_orders
from prefeval.log import logger
from prefeval.models import hushed, load_config, load_tokenizer, one_line_errors, refuse_pickles
from prefeval.oracle import Group, MatrixOracle, sigmoid_matrix, symmetrise
from prefeval.seeds import derive_seed
from prefeval.types import Comparison, FloatArray, Prompt, all_pairs
from reward_models.calibrate import expit
from reward_models.forward import Layout, run_ragged

SOURCE, FIRST, SECOND = PREFIXES = ("<|source|>", "<|candidate1|>", "<|candidate2|>")
_BUDGET = 8192


class PairOracle(MatrixOracle):
    """An oracle from one ordered question: subclasses define `shown`. P is the mean of the two orders.

    P(i beats j) = (P(first wins | i, j) + 1 - P(first wins | j, i)) / 2; NaN where either order failed. `consistency`
    tells how often the order decided.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.consistency = Consistency()

    def shown(self, items: Sequence[Comparison]) -> FloatArray:
        """Log-odds that the response shown first wins: (n,), infinite for a hard verdict, NaN for a failure."""
        raise TypeError(f"{type(self).__name__} must define shown()")

    def ordered(self, items: Sequence[Comparison]) -> FloatArray:
        """P(first beats second) with `first` shown first, then with it shown second: (n, 2)."""
        return expit(self._both(items))

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        return [symmetrise(t) for t in self._tables(prompts, groups, lambda both: expit(both).mean(axis=1), 0.5)]

    def _both(self, items: Sequence[Comparison]) -> FloatArray:
        """Log-odds of first over second in the two orders: (n, 2)."""
        if not items:
            return np.zeros((0, 2))
        asked = self.shown([c for item in items for c in (item, item.swap())]).reshape(-1, 2)
        both: FloatArray = asked * np.array([1.0, -1.0])
        self.consistency = tally_orders(self.consistency, expit(both))
        return both

    def _tables(
        self, prompts: Sequence[Prompt], groups: Sequence[Group], combine: Any, same: float
    ) -> list[FloatArray]:
        """Tables (k, k) of `combine(both (n, 2)) -> (n,)` above the diagonal, `same` for identical texts, else 0."""
        asked: dict[Comparison, int] = {}
        for prompt, group in zip(prompts, groups, strict=True):
            for a, b in _text_pairs(group):
                asked.setdefault(Comparison(prompt, a, b), len(asked))
        values = combine(self._both(list(asked)))
        tables = []
        for prompt, group in zip(prompts, groups, strict=True):
            table = np.full((len(group), len(group)), same)
            for i, j in all_pairs(len(group)):
                a, b = sorted((group[i], group[j]))
                if a != b:
                    value = values[asked[Comparison(prompt, a, b)]]
                    turned = 2 * same - value  # 1 - p for probabilities, -s for log-odds
                    table[i, j], table[j, i] = (value, turned) if group[i] == a else (turned, value)
            tables.append(table)
        return tables


class PairTokens:
    """[CLS] <|source|> x [SEP] <|candidate1|> y1 [SEP] <|candidate2|> y2 [SEP], as LLM-Blender cuts it.

    The source keeps at most `source_length` tokens, each candidate half of what is left of `max_length`; the end of a
    longer text is lost, and counted in `truncated`.
    """

    def __init__(self, tokenizer: Any, source_length: int = 1224, max_length: int = 2048) -> None:
        self.tokenizer, self.source_length, self.max_length = tokenizer, source_length, max_length
        start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.start = tokenizer.bos_token_id if start is None else start
        self.end = tokenizer.eos_token_id if end is None else end
        self.marks = [tokenizer.convert_tokens_to_ids(t) for t in PREFIXES]
        if self.end is None or any(m is None or m == tokenizer.unk_token_id for m in self.marks):
            raise ConfigError(f"the tokenizer has no {', '.join(PREFIXES)} or no separator: not a pair model's")
        self.encoded = self.truncated = 0

    def __call__(self, item: Comparison) -> tuple[int, ...]:
        """Token ids, at most `max_length`, with each of the three marks once."""
        start = [] if self.start is None else [int(self.start)]
        source, cut = self._part(0, source_text(item.prompt), self.source_length - len(start))
        room = (self.max_length - len(source) - len(start)) // 2
        first, cut_first = self._part(1, item.first, room)
        second, cut_second = self._part(2, item.second, room)
        self.encoded += 1
        self.truncated += cut or cut_first or cut_second
        return (*start, *source, *first, *second)

    def _part(self, mark: int, text: str, room: int) -> tuple[list[int], bool]:
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [i for i in ids if i not in self.marks]  # a text that quotes a mark must not move it
        return [self.marks[mark], *ids[: room - 2], self.end], len(ids) > room - 2


class CrossEncoder(nn.Module):
    """PairRM: an encoder read at the three marks, f = MLP(h_source, h_candidate), logit = mean over tasks of f_1 - f_2.

    State-dict keys are LLM-Blender's: `pretrained_model.*` and `head_layer.{1,4}.{weight,bias}`.
    """

    def __init__(self, backbone: Any, tokenizer: Any, *, tasks: int = 1, dropout: float = 0.05, **lengths: int) -> None:
        super().__init__()
        hidden = backbone.config.hidden_size
        self.pretrained_model = backbone
        self.head_layer = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, tasks)
        )
        self.tokens = PairTokens(tokenizer, **lengths)
        self.tokenizer = tokenizer

    @classmethod
    def from_base(cls, spec: str, *, seed: int = 0, max_length: int = 2048, source_length: int = 1224) -> CrossEncoder:
        """A model to train from an encoder spec: three new tokens, the head drawn by `seed`. Raises ConfigError."""
        from transformers import AutoModel

        from prefeval.models import load_pretrained

        tokenizer = load_tokenizer(spec)
        tokenizer.add_special_tokens({"additional_special_tokens": list(PREFIXES)})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("pair", seed) % 2**32)
            backbone, _ = load_pretrained(AutoModel, spec, torch.float32)
            with hushed():
                backbone.resize_token_embeddings(max(len(tokenizer), backbone.config.vocab_size), mean_resizing=False)
            limit = min(max_length, int(getattr(backbone.config, "max_position_embeddings", None) or max_length))
            share = min(source_length, int(limit * source_length / max_length))
            return cls(backbone, tokenizer, source_length=share, max_length=limit).eval()

    @classmethod
    def from_pretrained(cls, path: str | Path) -> CrossEncoder:
        """A saved model, ours or LLM-Blender's, from safetensors. Raises ConfigError for anything else."""
        from safetensors.torch import load_file
        from transformers import AutoModel

        folder = Path(path)
        refuse_pickles(folder, str(path))
        saved = read_object(folder / "config.json")
        pair = saved.get("pair", {})
        # the original's config.json names its backbone; ours and PairRM-hf are the backbone's own config
        config = load_config(saved["model_name"] if "model_name" in saved else str(path))
        tokenizer = load_tokenizer(str(path))
        with one_line_errors(str(path)):
            backbone = AutoModel.from_config(config)
            state: dict[str, Tensor] = {}
            for file in sorted(folder.glob("*.safetensors")):
                state |= load_file(file)
            embedding = state.get("pretrained_model.embeddings.word_embeddings.weight")
            if embedding is not None and len(embedding) != backbone.get_input_embeddings().num_embeddings:
                backbone.resize_token_embeddings(len(embedding), mean_resizing=False)
            tasks = len(state["head_layer.4.bias"]) if "head_layer.4.bias" in state else 1
            source = int(pair.get("source_length", saved.get("source_maxlength") or 1224))
            limit = int(pair.get("max_length", source + 2 * int(saved.get("candidate_maxlength") or 412)))
            model = cls(backbone, tokenizer, tasks=tasks, source_length=source, max_length=limit)
            missing, _ = model.load_state_dict(state, strict=False)
        absent = [name for name in missing if not name.endswith("position_ids")]
        if absent:
            raise ConfigError(f"model {path}: not a whole pair model: its checkpoint has no {', '.join(absent[:3])}")
        return model.eval()

    def save_pretrained(self, path: str | Path) -> Path:
        """config.json (the backbone's, with a `pair` mapping), model.safetensors, tokenizer; written atomically."""
        from safetensors.torch import save_file

        pair = {"kind": "cross", "source_length": self.tokens.source_length, "max_length": self.tokens.max_length}
        with atomic_directory(path) as folder, hushed():
            write_json(folder / "config.json", {**self.pretrained_model.config.to_dict(), "pair": pair})
            state = {k: v.detach().clone().contiguous() for k, v in self.state_dict().items()}
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
            self.tokenizer.save_pretrained(folder)
        return Path(path)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def layout(self, budget: int = _BUDGET) -> Layout:
        return Layout(budget, int(self.tokenizer.pad_token_id or 0), self.device)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Log-odds that the first candidate wins, of right-padded ids (B, L): (B, 1) float32."""
        inside = torch.arange(ids.shape[1], device=ids.device)[None, :] < lengths[:, None]
        hidden = self.pretrained_model(input_ids=ids, attention_mask=inside.long()).last_hidden_state
        rows = torch.arange(len(ids), device=ids.device)
        source, first, second = (hidden[rows, (ids == mark).int().argmax(1)] for mark in self.tokens.marks)
        f_first = self.head_layer(torch.cat([source, first], dim=-1))
        f_second = self.head_layer(torch.cat([source, second], dim=-1))
        out: Tensor = (f_first - f_second).float().mean(-1, keepdim=True)
        return out


class EncodedPairOracle(PairOracle):
    """A pair oracle whose model reads one sequence a question; subclasses say what its outputs mean."""

    def __init__(self, model: Any, name: str, *, budget: int = _BUDGET) -> None:
        super().__init__(name)
        self.model, self.encoder, self.budget = model.eval(), model.tokens, budget

    def log_odds(self, outputs: Tensor) -> Tensor:
        """Log-odds that the response shown first wins: (n, width) -> (n,)."""
        raise TypeError(f"{type(self).__name__} must define log_odds()")

    def shown(self, items: Sequence[Comparison]) -> FloatArray:
        with torch.inference_mode():
            rows = run_ragged(self.model, [self.encoder(c) for c in items], self.model.layout(self.budget))
        warn_truncated(self.name, self.encoder)
        return self.log_odds(rows).double().cpu().numpy()


class CrossPairOracle(EncodedPairOracle):
    """A cross encoder as an oracle: S_ij = (logit(i, j) - logit(j, i)) / 2, antisymmetric by construction."""

    def log_odds(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0]

    def scores(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        return self._tables(prompts, groups, lambda both: both.mean(axis=1), 0.0)

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        return [sigmoid_matrix(s) for s in self.scores(prompts, groups)]


def source_text(prompt: Prompt) -> str:
    """The prompt as one text: a single user turn as it is, a conversation with the role in front of each turn."""
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return "\n".join(f"{m.role.upper()}: {m.content}" for m in prompt.messages)


def warn_truncated(name: str, encoder: Any) -> None:
    if encoder.truncated:
        logger.warning("%s: %d of %d sequences so far were cut to fit", name, encoder.truncated, encoder.encoded)


def _text_pairs(group: Group) -> list[tuple[str, str]]:
    texts = sorted(set(group))
    return [(texts[i], texts[j]) for i, j in all_pairs(len(texts))]
