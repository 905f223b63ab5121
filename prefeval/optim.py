"""AdamW on fp32 master weights, learning-rate schedules, and the choice of precision.

Plain bf16 AdamW loses small updates: bf16 keeps 8 significant bits, so a step below about 1/256 of a weight's size
rounds away, and with a learning rate of 1e-5 that is nearly every step. Here bf16 parameters only carry the forward and
backward pass; gradients are summed and the update is made in fp32, and the parameters are the rounded masters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from prefeval.errors import ConfigError
from prefeval.fit import Precision, Schedule

_FUSED = ("cpu", "cuda", "xpu", "mps")  # devices with a fused AdamW since torch 2.6


def learning_rate_factor(step: int, total: int, schedule: Schedule, warmup: int, floor: float = 0.0) -> float:
    """Share of the peak learning rate at `step` (0-based) of `total` steps.

    The first `warmup` steps rise as (step + 1) / (warmup + 1), never zero, so that no step is wasted; step `warmup`
    is at the peak. Then with x = (step - warmup) / (total - warmup) in [0, 1): linear is floor + (1 - floor)(1 - x),
    cosine is floor + (1 - floor)(1 + cos(pi x)) / 2, constant stays at 1 whatever the floor.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    x = (step - warmup) / max(total - warmup, 1)
    fall = 1.0 - x if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * x))
    return floor + (1.0 - floor) * fall


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """'auto' becomes 'bf16' where the device multiplies bf16 in hardware, 'fp32' elsewhere."""
    from prefeval.models import fast_dtype

    if precision != "auto":
        return precision
    return "bf16" if fast_dtype(str(device)) == torch.bfloat16 else "fp32"


class MasterAdamW:
    """AdamW over the trainable parameters of a model, exact in fp32 whatever the model's own precision.

    With precision 'bf16' all floating parameters of the model become bf16 (buffers keep their type, as rotary tables
    must), the masters start from the weights as given, and a hook adds each gradient to an fp32 sum and frees it. Else
    all floating parameters become fp32 and are their own masters. Weight decay applies to tensors of two or more
    dimensions, as is usual: biases and norm scales are left alone. Every trainable parameter is updated at every step,
    also when no loss reached it (its gradient is then zero). Raises ConfigError when nothing is trainable.
    """

    def __init__(
        self, model: nn.Module, *, precision: Precision, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        self.split = precision == "bf16"
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ConfigError("the model has no trainable parameter (requires_grad is off everywhere)")
        self.names = [n for n, _ in named]
        self.parameters = [p for _, p in named]
        self.masters = [p.detach().float() for p in self.parameters] if self.split else list(self.parameters)
        _cast(model, torch.bfloat16 if self.split else torch.float32)
        if self.split:  # a bf16 model's fp32 copies are new; an fp32 model's masters are its old memory
            self.masters = [nn.Parameter(m) for m in self.masters]
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        # which sums hold the step before: the first gradient of a step replaces them, which spares a pass over memory
        self._stale = [False] * len(self.masters)
        self._hooks = [
            p.register_post_accumulate_grad_hook(self._adder(n))  # type: ignore[no-untyped-call]
            for n, p in enumerate(self.parameters)
            if self.split
        ]
        groups = [
            {"params": [m for m in self.masters if m.ndim >= 2], "weight_decay": weight_decay},
            {"params": [m for m in self.masters if m.ndim < 2], "weight_decay": 0.0},
        ]
        fused = self.masters[0].device.type in _FUSED
        self._adam = torch.optim.AdamW([g for g in groups if g["params"]], betas=betas, eps=eps, fused=fused)

    def gradients(self) -> list[Tensor]:
        """The fp32 gradient sums of the step, in the order of `names`; zero where no loss has reached."""
        for n, master in enumerate(self.masters):
            if self._stale[n] and master.grad is not None:
                master.grad.zero_()
                self._stale[n] = False
        return [m.grad for m in self.masters if m.grad is not None]

    def gradient_norm(self) -> Tensor:
        """L2 norm over all gradients, a scalar on the device."""
        return torch.nn.utils.get_total_norm(self.gradients())

    def update(self, learning_rate: float, norm: Tensor, max_norm: float) -> None:
        """One AdamW step on gradients scaled to a norm of at most `max_norm` (0 = no limit); gradients become zero."""
        if max_norm > 0 and not norm + 1e-6 <= max_norm:  # below it every gradient would be multiplied by one
            torch.nn.utils.clip_grads_with_norm_(self.masters, max_norm, norm)
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._adam.step()
        if self.split:
            self._stale = [True] * len(self.masters)
        else:
            self._adam.zero_grad(set_to_none=False)
        self.publish()

    def _adder(self, n: int) -> Callable[[Tensor], None]:
        def add(parameter: Tensor) -> None:
            total = self.masters[n].grad
            if parameter.grad is not None and total is not None:
                if self._stale[n]:
                    total.copy_(parameter.grad)
                    self._stale[n] = False
                else:
                    total.add_(parameter.grad)
                parameter.grad = None

        return add

    @torch.no_grad()
    def publish(self) -> None:
        """Overwrite the bf16 parameters with their rounded masters."""
        if self.split:
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                parameter.copy_(master)

    def state(self) -> dict[str, Tensor]:
        """Masters and Adam moments by name, without copies: valid until the next update."""
        tensors: dict[str, Tensor] = {}
        for name, master in zip(self.names, self.masters, strict=True):
            tensors[f"weight.{name}"] = master.detach()
            for moment in ("exp_avg", "exp_avg_sq"):
                if master in self._adam.state:
                    tensors[f"{moment}.{name}"] = self._adam.state[master][moment]
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take up the state after `step` updates. The caller has checked that names and shapes are this model's."""
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(tensors[f"weight.{name}"])
            if step:
                self._adam.state[master] = {
                    "step": torch.tensor(float(step), dtype=torch.float32, device=master.device),
                    # copies: what was read may still be a view of the file
                    "exp_avg": torch.empty_like(master).copy_(tensors[f"exp_avg.{name}"]),
                    "exp_avg_sq": torch.empty_like(master).copy_(tensors[f"exp_avg_sq.{name}"]),
                }
        self.publish()

    def close(self) -> None:
        """Remove the hooks and free gradients; the model is as it was but for its weights and their type."""
        for hook in self._hooks:
            hook.remove()
        for tensor in (*self.parameters, *self.masters):
            tensor.grad = None


def export_masters(model: nn.Module, masters: Mapping[str, Tensor]) -> None:
    """Make the model fp32 and give the named parameters their fp32 masters (shared memory, no copy)."""
    _cast(model, torch.float32, masters)


def _cast(model: nn.Module, dtype: torch.dtype, replace: Mapping[str, Tensor] | None = None) -> None:
    for name, parameter in model.named_parameters():
        if replace is not None and name in replace:
            parameter.data = replace[name].detach()
        elif parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
