"""The model specs that hold others: a mixture of models, a choice among candidates of one, a model that is steered."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from prefeval.errors import ConfigError
from prefeval.generate.select import Rule
from prefeval.oracle import Oracle

if TYPE_CHECKING:
    import torch

    from prefeval.generate.hf import HFGenerator

OracleOpener = Callable[[str], Oracle]
_MIX = "mix:"
_SELECTION = re.compile(r"(best|nash)-of-(\d+)\[(.+?)\]:(.+)", re.DOTALL)
_LINEAR = re.compile(r"linear:([^\[]*)\[(.+?)\]:(.+)", re.DOTALL)
_MEMBER = re.compile(r"([0-9.eE-]+)\*(.+)", re.DOTALL)


@dataclass(frozen=True)
class Selection:
    """`best-of-N[ORACLE]:MODEL` or `nash-of-N[ORACLE]:MODEL`."""

    rule: Rule
    n: int
    oracle: str
    model: str


def parse_selection(spec: str) -> Selection | None:
    """A choice among candidates, None where the spec is another kind. Raises ConfigError for one written wrongly."""
    if not spec.startswith(("best-of-", "nash-of-")):
        return None
    found = _SELECTION.fullmatch(spec)
    if found is None or int(found[2]) < 2:
        raise ConfigError(f"model {spec}: a choice among N >= 2 candidates is written best-of-N[ORACLE]:MODEL")
    return Selection(cast(Rule, found[1]), int(found[2]), found[3], found[4])


def parse_mixture(spec: str) -> tuple[tuple[float, str], ...] | None:
    """(weight, model spec) of `mix:W*MODEL+W*MODEL`, None where the spec is another kind.

    Raises ConfigError where it is written wrongly or the weights are negative or do not sum to 1.
    """
    if not spec.startswith(_MIX):
        return None
    # a '+' inside of a path is followed by no weight
    parts = re.split(r"\+(?=[0-9.]+(?:[eE]-?\d+)?\*)", spec.removeprefix(_MIX))
    found = [_MEMBER.fullmatch(part) for part in parts]
    members = tuple((_weight(m[1], spec), m[2]) for m in found if m is not None)
    if len(members) != len(parts) or len(members) < 2:
        raise ConfigError(f"model {spec}: a mixture of two models or more is written mix:0.5*MODEL+0.5*MODEL")
    if any(w < 0 for w, _ in members) or abs(math.fsum(w for w, _ in members) - 1.0) > 1e-9:
        raise ConfigError(f"model {spec}: the weights must be at least 0 and sum to 1")
    return members


@dataclass(frozen=True)
class Steering:
    """`linear:GAMMA[INSTRUCTION]:MODEL`."""

    gamma: float
    instruction: str
    model: str


def parse_linear(spec: str) -> Steering | None:
    """A model steered by an instruction, None where the spec is another kind. Raises ConfigError for a wrong one."""
    if not spec.startswith("linear:"):
        return None
    found = _LINEAR.fullmatch(spec)
    if found is None or not found[2].strip():
        raise ConfigError(f"model {spec}: linear alignment is written linear:GAMMA[INSTRUCTION]:MODEL")
    gamma = _weight(found[1], spec)
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise ConfigError(f"model {spec}: gamma must be a number >= 0")
    return Steering(gamma, found[2], found[3])


def is_combined(spec: str) -> bool:
    """Whether a spec stands for something other than one model: a mixture, a choice, a steered model."""
    return any(parse(spec) is not None for parse in (parse_selection, parse_mixture, parse_linear))


def open_mixture(
    spec: str, members: tuple[tuple[float, str], ...], name: str, dtype: torch.dtype, batch_rows: int
) -> HFGenerator:
    """A token-level mixture as one generator, with the first member's tokenizer and chat template.

    Raises ConfigError where another member reads token ids otherwise.
    """
    from prefeval.generate.hf import HFGenerator
    from prefeval.generate.mixture import MixtureModel
    from prefeval.models import default_device, load_causal, load_tokenizer

    tokenizers = [load_tokenizer(model) for _, model in members]
    for (_, model), tokenizer in zip(members[1:], tokenizers[1:], strict=True):
        _refuse_other_ids(spec, model, tokenizers[0], tokenizer)
    models = [(w, load_causal(model, dtype=dtype).to(default_device())) for w, model in members]
    widths = {m.get_input_embeddings().weight.shape[0] for _, m in models}
    if len(widths) > 1:
        raise ConfigError(f"model {spec}: the models have {sorted(widths)} token ids, and a mixture needs one number")
    return HFGenerator(MixtureModel(models), tokenizers[0], name=name or spec, batch_rows=batch_rows)


def _refuse_other_ids(spec: str, model: str, first: Any, other: Any) -> None:
    if first.get_vocab() != other.get_vocab():
        raise ConfigError(f"model {spec}: {model} has another vocabulary than the first model of the mixture")


def _weight(text: str, spec: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"model {spec}: '{text}' is no weight") from None
