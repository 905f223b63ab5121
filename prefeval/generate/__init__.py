"""Generators: whatever can answer prompts. `open_generator` is the only parser of model specs that answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefeval.errors import ConfigError
from prefeval.generate.base import Generator, SamplingParams

if TYPE_CHECKING:
    import torch

    from prefeval.generate.specs import OracleOpener

__all__ = ["Generator", "SamplingParams", "open_generator"]


def open_generator(
    spec: str,
    *,
    name: str = "",
    dtype: torch.dtype | None = None,
    batch_rows: int = 96,
    open_oracle: OracleOpener | None = None,
) -> Generator:
    """A generator from a spec: a directory, hub id `[@REV]`, `FILE.gguf`, `quickstart` or `server:MODEL@BASE_URL`.

    Three forms hold other specs: `mix:W*MODEL+W*MODEL`, the token-level mixture of models in this process;
    `linear:GAMMA[INSTRUCTION]:MODEL`, a model in this process steered towards what it says under an instruction; and
    `best-of-N[ORACLE]:MODEL` or `nash-of-N[ORACLE]:MODEL`, a choice among N candidates of any of these, for which
    `open_oracle` opens the oracle. Raises ConfigError for a spec that cannot be opened. `dtype` None takes what the
    device multiplies fastest.
    """
    from prefeval.generate.specs import open_mixture, parse_linear, parse_mixture, parse_selection

    selection = parse_selection(spec)
    if selection is not None:
        from prefeval.generate.select import SelectingGenerator

        if open_oracle is None:
            raise ConfigError(f"model {spec}: nothing here opens the oracle that chooses; give the model alone")
        inner = open_generator(selection.model, dtype=dtype, batch_rows=batch_rows, open_oracle=open_oracle)
        return SelectingGenerator(inner, open_oracle(selection.oracle), selection.n, selection.rule, title=name)
    if spec.startswith("server:"):
        from prefeval.generate.server import open_server

        return open_server(spec, name=name)
    from prefeval.generate.hf import HFGenerator
    from prefeval.models import default_device, fast_dtype, load_causal, load_tokenizer

    steering = parse_linear(spec)
    if steering is not None:
        from prefeval.generate.linear import LinearGenerator

        steered = open_generator(steering.model, name=name or spec, dtype=dtype, batch_rows=batch_rows)
        if not isinstance(steered, HFGenerator):
            raise ConfigError(f"model {spec}: linear alignment needs the logits of one model in this process")
        return LinearGenerator(steered, steering.gamma, steering.instruction)
    kind = dtype or fast_dtype()
    members = parse_mixture(spec)
    if members is not None:
        return open_mixture(spec, members, name, kind, batch_rows)
    tokenizer = load_tokenizer(spec)
    model = load_causal(spec, dtype=kind).to(default_device())
    return HFGenerator(model, tokenizer, name=name or spec, batch_rows=batch_rows)
