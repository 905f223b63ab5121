"""The Llama family's layers as plain products, for decoding: Llama (SmolLM), Mistral, Qwen2 and Qwen3.

`is_known` says whether a model is one of them in every part: a hook, an adapter, a quantised layer or a sliding window
sends it back to its own forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_CLASSES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_ROPES = ("default", "linear", "llama3", "yarn")  # the others' frequencies depend on the longest row of the batch
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_HELD_BYTES = 4 * 2**30  # of weights; a second, packed copy of more is not worth its memory

Product = Callable[[torch.Tensor], torch.Tensor]


def is_known(model: Any) -> bool:
    """Whether `Network` computes what the model's own forward pass does."""
    if type(model).__name__ not in _CLASSES or not type(model).__module__.startswith("transformers.models."):
        return False
    config = model.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    sliding = getattr(config, "sliding_window", None) if type(model).__name__ == "MistralForCausalLM" else None
    parameters = list(model.parameters())
    return (
        set(kinds) == {"full_attention"}
        and not sliding
        and config.rope_parameters.get("rope_type", "default") in _ROPES
        and len({(p.dtype, p.device) for p in parameters}) == 1
        and parameters[0].dtype in (torch.float32, torch.bfloat16, torch.float16)
        and not torch.is_autocast_enabled(parameters[0].device.type)
        and all(_is_plain(name, module) for name, module in model.named_modules())
    )


def _is_plain(name: str, module: nn.Module) -> bool:
    """Nothing is hooked to the module, its forward pass is its class's, and a projection is a matrix product."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    return name.rsplit(".", 1)[-1] not in (*_PROJECTIONS, "lm_head") or type(module) is nn.Linear


@dataclass(frozen=True)
class Layer:
    """One transformer layer; `q_norm` and `k_norm` are Qwen3's norms of each head."""

    input_norm: nn.Module
    qkv: Product
    q_norm: nn.Module | None
    k_norm: nn.Module | None
    output: Product
    mlp_norm: nn.Module
    gate_up: Product
    activation: nn.Module
    down: Product


class Network:
    """A model's layers with the matrices of one input put side by side, packed for the CPU's kernels.

    The copy of the weights is made when this is built: a change of the model's weights does not reach it.
    """

    def __init__(self, model: Any) -> None:
        config, parameter = model.config, next(model.parameters())
        held = sum(p.numel() * p.element_size() for p in model.parameters())
        fuse = _packed if held <= _HELD_BYTES and _packs(parameter) else _side_by_side
        self.embed, self.rotary, self.norm = model.model.embed_tokens, model.model.rotary_emb, model.model.norm
        self.head = fuse(model.lm_head)
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.layers = [_layer(block, fuse) for block in model.model.layers]


def _layer(block: Any, fuse: Callable[..., Product]) -> Layer:
    attention, mlp = block.self_attn, block.mlp
    return Layer(
        block.input_layernorm,
        fuse(attention.q_proj, attention.k_proj, attention.v_proj),
        getattr(attention, "q_norm", None),
        getattr(attention, "k_norm", None),
        fuse(attention.o_proj),
        block.post_attention_layernorm,
        fuse(mlp.gate_proj, mlp.up_proj),
        mlp.act_fn,
        fuse(mlp.down_proj),
    )


def _side_by_side(*parts: nn.Linear) -> Product:
    """The products of one input, one behind the other, on the weights as they are."""
    if len(parts) == 1:
        return parts[0]
    return lambda x: torch.cat([part(x) for part in parts], dim=-1)


def _packs(parameter: torch.Tensor) -> bool:
    """Whether oneDNN has a kernel for weights it has brought into its own order beforehand.

    With few rows, ordering them anew at each call takes about as long as the product; in fp32 the library that
    torch.nn.functional.linear calls is moreover a few times slower on some CPUs than oneDNN.
    """
    if parameter.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    operations = torch.ops.mkldnn
    if not hasattr(operations, "_linear_pointwise") or not hasattr(operations, "_reorder_linear_weight"):
        return False
    if parameter.dtype == torch.bfloat16:
        return bool(operations._is_mkldnn_bf16_supported())
    return parameter.dtype == torch.float32


def _packed(*parts: nn.Linear) -> Product:
    """The same as one product with packed weights."""
    weight = torch.ops.mkldnn._reorder_linear_weight(torch.cat([p.weight.detach() for p in parts]))
    bias = None if parts[0].bias is None else torch.cat([p.bias.detach() for p in parts])
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
