"""Low-rank adapters (LoRA, 2106.09685) by peft: trained in place of the weights, then added to them exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefeval.errors import ConfigError, UserError


@dataclass(frozen=True)
class LoraConfig:
    """`rank` 0 trains the weights themselves. The adapters' product is scaled by alpha / rank.

    Raises ConfigError for a value out of range.
    """

    rank: int = 0
    alpha: float = 0.0  # 0: twice the rank
    targets: tuple[str, ...] = ()  # endings of module names; none: every linear layer but the output

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha < 0:
            raise ConfigError("lora: rank and alpha must not be negative")


def add_adapters(model: Any, config: LoraConfig, seed: int) -> int:
    """Put adapters into the linear layers of `model`, in place, freeze all else; the number of trained parameters.

    At first they change nothing (B = 0); A is drawn by `seed`. Raises UserError without peft, ConfigError where no
    module has one of the target names.
    """
    try:
        import peft
    except ImportError:
        raise UserError("LoRA needs the peft package: pip install 'prefeval[peft]'") from None
    import torch

    plan = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or 2.0 * config.rank,
        target_modules=list(config.targets) or "all-linear",
        lora_dropout=0.0,
        bias="none",
    )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(plan, model)
        except ValueError as error:
            raise ConfigError(f"lora.targets: {str(error).splitlines()[0]}") from None
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def merge_into(base: Any, model: Any) -> None:
    """Add what the adapters of `model` learned to the weights of `base`, the same architecture without adapters.

    In the precision of `base`: give it in fp32 and nothing of a small change is rounded away.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, LoraLayer):
                weight = base.get_submodule(name).weight
                weight.add_(module.get_delta_weight("default").to(weight))
