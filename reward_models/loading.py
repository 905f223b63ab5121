"""Reading checkpoints and base models into stock sequence classifiers, with one clear line when that cannot be done."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prefeval.chat import template_hash
from prefeval.config import from_dict
from prefeval.errors import ConfigError
from prefeval.files import read_json, read_object, write_json
from prefeval.models import load_pretrained, load_tokenizer, refuse_pickles
from reward_models.config import HeadConfig

FORMAT_VERSION = 1
READING = ("max_length", "pooling", "encoding")  # how texts are read, beside the head's own fields
_HEAD_FIELDS = ("kind", "attributes", "weights", "blocks", "unit_norm", "prompt_scales", "tau", "gate")


def pools_last_token(classifier: Any) -> bool:
    """Whether this is a causal backbone with a linear `score` on its last token (not an encoder)."""
    bidirectional = getattr(classifier.config.get_text_config(), "use_bidirectional_attention", False)
    return isinstance(getattr(classifier, "score", None), nn.Linear) and not bidirectional


def position_limit(classifier: Any, wanted: int) -> int:
    """`wanted` tokens, or as many as the backbone has positions for."""
    limit = getattr(classifier.config.get_text_config(), "max_position_embeddings", None)
    return min(wanted, int(limit)) if limit else wanted


def classifier_from_base(base: Any, head: HeadConfig, seed: int, keep_head: bool) -> Any:
    """A float32 sequence classifier for a head, from a spec or a loaded model; a fresh head unless kept.

    A bt head is kept from a regression model as its utility (`as_scalar`), any other from one of the same width.
    """
    width = head.width()
    if keep_head and isinstance(base, str) and head.kind == "bt" and is_saved(Path(base)):
        saved = head_from(read_json(Path(base) / "config.json")["preference"], base)
        if saved.kind == "regression":
            classifier, _, _ = load_saved(Path(base), torch.float32)
            as_scalar(classifier, saved)
            return classifier
    if isinstance(base, str):
        classifier, missing = load_classifier(
            base, torch.float32, num_labels=width, fresh_head=not keep_head, seed=seed
        )
        if keep_head and missing:
            raise ConfigError(
                f"model {base}: keep_head needs a head of {width} outputs, and it has none ({missing[0]})"
            )
    else:
        classifier = _classifier_around(base, width)
    if not keep_head and pools_last_token(classifier):
        init_head(classifier.score, seed)
    return classifier.float()


def as_scalar(classifier: Any, head: HeadConfig) -> None:
    """Turn a regression head into the one output weights @ rows / tau, in place: as a bt head with tau 1 it gives the
    probabilities that the regression gave. Raises ConfigError for a backbone without a linear `score`.
    """
    if not pools_last_token(classifier):
        raise ConfigError(f"{type(classifier).__name__}: only a causal model's regression head becomes a bt head")
    old = classifier.score
    weights = old.weight.new_tensor(head.weights or (1.0,) * len(head.attributes)) / head.tau
    new = nn.Linear(old.in_features, 1, bias=old.bias is not None, device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        new.weight.copy_(weights[None] @ old.weight)
        if old.bias is not None:
            new.bias.copy_(weights[None] @ old.bias)
    classifier.score = new
    classifier.num_labels = classifier.config.num_labels = 1


def init_head(score: nn.Linear, seed: int) -> None:
    """Draw the head from N(0, std = 1 / (hidden + 1)) with its own generator; a bias, where there is one, is zero."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(score.weight.shape, generator=generator) / (score.in_features + 1)
    with torch.no_grad():
        score.weight.copy_(weight)
        if score.bias is not None:
            score.bias.zero_()


def load_classifier(
    spec: str, dtype: torch.dtype | None, *, num_labels: int | None = None, fresh_head: bool = False, seed: int = 0
) -> tuple[Any, list[str]]:
    """(AutoModelForSequenceClassification of a model spec, names of weights the checkpoint lacks).

    `fresh_head` accepts a checkpoint whose head has another width. Raises ConfigError for pickled or broken weights.
    """
    from transformers import AutoModelForSequenceClassification

    labels = {} if num_labels is None else {"num_labels": num_labels}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # encoders draw their fresh heads while loading
        return load_pretrained(
            AutoModelForSequenceClassification, spec, dtype, ignore_mismatched_sizes=fresh_head, **labels
        )


def store_tau(path: Path, tau: float) -> None:
    """Replace the temperature of a saved preference model, as calibration does; its weights stay as they are."""
    config = read_object(path / "config.json")
    write_json(path / "config.json", {**config, "preference": {**config["preference"], "tau": tau}})


def load_saved(path: Path, dtype: torch.dtype | None) -> tuple[Any, Any, Mapping[str, Any]]:
    """(classifier, tokenizer, `preference` mapping) of a saved preference model. Raises ConfigError, one line."""
    if not (path / "config.json").is_file():
        raise ConfigError(f"model {path}: no such preference model (no config.json there)")
    saved = read_object(path / "config.json").get("preference")
    if not isinstance(saved, Mapping):
        raise ConfigError(f"model {path}: not a preference model; a stock reward model is opened as hf:{path}")
    if saved.get("format_version") != FORMAT_VERSION:
        raise ConfigError(f"model {path}: its format version is {saved.get('format_version')}, not {FORMAT_VERSION}")
    refuse_pickles(path, str(path))
    tokenizer = load_tokenizer(str(path))
    found = template_hash(tokenizer)
    if found != saved.get("template_hash"):
        raise ConfigError(
            f"model {path}: its chat template is not the one it was trained with (template hash {found}, trained with "
            f"{saved.get('template_hash')}); put the original tokenizer files back"
        )
    classifier, missing = load_classifier(str(path), dtype)
    if missing:
        raise ConfigError(f"model {path}: the checkpoint has no {', '.join(missing[:3])}; it is not a complete model")
    return classifier, tokenizer, saved


def is_saved(path: Path) -> bool:
    """Whether a directory holds one of our preference models."""
    config = path / "config.json"
    return config.is_file() and isinstance(read_object(config).get("preference"), Mapping)


def head_from(saved: Mapping[str, Any], where: object) -> HeadConfig:
    """The head that a `preference` mapping describes."""
    fields = {name: saved[name] for name in _HEAD_FIELDS if name in saved}
    return from_dict(HeadConfig, fields, where=f"{where}/config.json")


def checked_head(classifier: Any, saved: Mapping[str, Any], where: object) -> HeadConfig:
    """`head_from`, but a ConfigError where the mapping lacks how texts are read, or the weights are another head's."""
    head = head_from(saved, where)
    missing = next((name for name in READING if name not in saved), None)
    if missing is not None:
        raise ConfigError(f"{where}/config.json: 'preference' has no '{missing}'")
    if classifier.config.num_labels != head.width():
        have, told = classifier.config.num_labels, head.width()
        raise ConfigError(f"model {where}: its weights have {have} outputs, and config.json describes a head of {told}")
    return head


def layers_of(classifier: Any) -> nn.ModuleList:
    """The backbone's layers: its longest list of modules."""
    lists = (m for m in classifier.base_model.modules() if isinstance(m, nn.ModuleList))
    return max(lists, key=len, default=nn.ModuleList())


def cut_layers(classifier: Any, count: int) -> None:
    """Drop all but the first `count` layers of the backbone, in place and in its config, which stays a stock one.

    Raises ConfigError when there are fewer, or when the architecture does not count them as num_hidden_layers.
    """
    layers, config = layers_of(classifier), classifier.config.get_text_config()
    if not 1 <= count <= len(layers):
        raise ConfigError(f"layers: the model has {len(layers)} layers, not {count}")
    if getattr(config, "num_hidden_layers", None) != len(layers):
        raise ConfigError(f"layers: {type(classifier).__name__} cannot be cut")
    del layers[count:]
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    config.num_hidden_layers = count


def heads_of(classifier: Any) -> list[nn.Module]:
    """What stands on top of the backbone."""
    return [child for child in classifier.children() if child is not classifier.base_model]


def top_parts(classifier: Any, which: str) -> list[nn.Module]:
    """The modules that 'head' or 'top:N' train."""
    base, heads = classifier.base_model, heads_of(classifier)
    if which == "head":
        return heads
    kind, _, count = which.partition(":")
    if kind != "top" or not count.isdigit() or int(count) < 1:
        raise ConfigError(f"trainable '{which}' is none of full, head, top:N")
    layers = layers_of(classifier)
    if int(count) > len(layers):
        raise ConfigError(f"trainable '{which}': the model has {len(layers)} layers")
    inner = [m for m in base.children() if not any(isinstance(s, nn.Embedding) or s is layers for s in m.modules())]
    return [*layers[len(layers) - int(count) :], *inner, *heads]


def _classifier_around(model: Any, width: int) -> Any:
    """A classifier that takes over the backbone of a loaded causal model (or classifier), without a second copy."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(model.config)
    config.num_labels = width
    try:
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise ConfigError(f"{type(model).__name__}: no sequence classifier for this architecture: {error}") from None
    if not pools_last_token(classifier):
        raise ConfigError(f"{type(model).__name__}: give encoders by name, not as a loaded model")
    backbone = model.base_model
    setattr(classifier, classifier.base_model_prefix, backbone)
    device = next(backbone.parameters()).device
    score = nn.Linear(classifier.score.in_features, width, bias=classifier.score.bias is not None, device=device)
    classifier.score = score
    return classifier
