"""The decode loop of the Llama family: replies share their prompt's keys and values, and new prompts may join.

Attention looks at two parts. The prompt's part exists once a prompt, and the queries of all its rows meet it in one
product. A row's own part is a ring of columns: each step all rows write the same column, and a row does not look at
columns older than itself. A ring of as many columns as a row may have tokens never loses one that is still needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from prefeval.generate.decoding import left_padded, owners
from prefeval.generate.llama import Layer, Network


class LlamaDecoder:
    """The Decoder protocol for models that `is_known` knows. Keys are kept transposed, as the product reads them."""

    refills = True

    def __init__(self, model: Any, *, pad: int, rows: int, tokens: int) -> None:
        self.model, self.pad, self.rows, self.columns = model, pad, rows, tokens
        self.device, self.dtype = model.device, next(model.parameters()).dtype
        self.kv_heads = model.config.num_key_value_heads
        self.network: Network | None = None
        self.own_mask = torch.zeros(rows, tokens, dtype=self.dtype, device=self.device)
        # of each layer, for its rows' own tokens: keys (rows * kv heads, d, columns), values (.., columns, d)
        self.own: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._clear()

    def _clear(self) -> None:
        self.clock = 0  # steps taken
        self.count = 0  # rows under way, the first of the buffers
        self.owner = torch.zeros(0, dtype=torch.long, device=self.device)  # the prompt of each row
        self.position = torch.zeros(0, dtype=torch.long, device=self.device)  # of each row's last token
        self.prompt_mask = torch.zeros(0, 0, dtype=self.dtype, device=self.device)  # (prompts, width), 0 or -inf
        # of each layer: keys (prompts * kv heads, d, width), values (prompts * kv heads, width, d)
        self.prompts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def admit(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> torch.Tensor:
        """One pass of the model itself over the prompts; prompts without rows make room."""
        ids, mask, position = left_padded(prompts, self.pad, self.device)
        cache = DynamicCache(config=self.model.config)
        logits: torch.Tensor = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self._drop_prompts()
        new, before = owners(repeats, self.device), len(self.prompt_mask)
        bias = torch.zeros(mask.shape, dtype=self.dtype, device=self.device).masked_fill(mask == 0, float("-inf"))
        self.prompt_mask = _below(self.prompt_mask, bias, float("-inf"))
        fresh = [(c.keys.flatten(0, 1).mT.contiguous(), c.values.flatten(0, 1)) for c in cache.layers]
        if before:
            both = zip(self.prompts, fresh, strict=True)
            fresh = [(_below(k, more), _below(v.mT, values.mT).mT.contiguous()) for (k, v), (more, values) in both]
        self.prompts = fresh
        self.owner = torch.cat([self.owner, new + before])
        self.position = torch.cat([self.position, position[new, -1]])
        self.own_mask[self.count : len(self.owner)] = float("-inf")
        self.count = len(self.owner)
        self._group()
        return logits[new]

    def keep(self, order: Sequence[int]) -> None:
        """Only the rows that fill holes are copied; the buffers stay where they are."""
        if not order:
            return self._clear()
        index = torch.tensor(order, device=self.device)
        holes = torch.tensor([n for n, old in enumerate(order) if n != old], dtype=torch.long, device=self.device)
        for buffer in (*(b for pair in self.own for b in pair), self.own_mask):
            rows = buffer.view(self.rows, -1)
            rows[holes] = rows[index[holes]]
        self.owner, self.position, self.count = self.owner[index], self.position[index], len(order)
        if 4 * len(set(self.owner.tolist())) <= 3 * len(self.prompt_mask):  # rarely, because it copies the others
            self._drop_prompts()
        self._group()

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.network is None:  # not before the first step: a reply of one token needs none
            self.network = Network(self.model)
            self.own = [self._buffers(self.network) for _ in self.network.layers]
        net, column = self.network, self.clock % self.columns
        self.clock += 1
        self.position = self.position + 1
        self.own_mask[: self.count, column] = 0.0
        own = self.own_mask[: self.count, : min(self.clock, self.columns)]
        mask = torch.cat([self.prompt_mask[self.owner], own], dim=1)[:, None]
        x = net.embed(tokens)
        cos, sin = net.rotary(x, self.position[:, None])
        sin = torch.cat([-sin[..., : net.head_dim // 2], sin[..., net.head_dim // 2 :]], dim=-1)
        for number, layer in enumerate(net.layers):
            q, k, v = _heads(net, layer, layer.input_norm(x), cos, sin)
            keys, values = self.own[number]
            keys.view(self.rows, net.kv_heads, net.head_dim, -1)[: self.count, ..., column] = k
            values.view(self.rows, net.kv_heads, -1, net.head_dim)[: self.count, :, column] = v
            x = x + layer.output(self._attend(number, q, mask))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = x + layer.down(layer.activation(gate) * up)
        return net.head(net.norm(x))

    def _attend(self, number: int, q: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Attention of queries (rows, heads, d) to both parts under a mask (rows, 1, columns): (rows, heads * d).

        A pair is a row and a head of keys; all query heads of that head, and in the prompt's part those of all rows of
        a prompt, are the rows of one matrix.
        """
        (prompt_keys, prompt_values), (keys, values) = self.prompts[number], self.own[number]
        rows, heads, dim = q.shape
        pairs, group, width = rows * self.kv_heads, heads // self.kv_heads, self.prompt_mask.shape[1]
        q = q.reshape(pairs, group, dim)
        far = torch.bmm(q[self.cells].view(len(prompt_keys), -1, dim), prompt_keys)
        near = torch.bmm(q, keys[:pairs, :, : mask.shape[-1] - width])
        scores = torch.cat([far.view(-1, group, width)[self.back], near], dim=-1).view(rows, heads, -1)
        weights = torch.softmax(torch.add(mask, scores, alpha=dim**-0.5), dim=-1).view(pairs, group, -1)
        far = torch.bmm(weights[..., :width][self.cells].view(len(prompt_keys), -1, width), prompt_values)
        near = torch.bmm(weights[..., width:], values[:pairs, : mask.shape[-1] - width])
        return (near + far.view(-1, group, dim)[self.back]).view(rows, heads * dim)

    def _group(self) -> None:
        """`cells`: the pair in each place of (prompts, kv heads, rows of a prompt); `back`: each pair's place there.

        Places beyond a prompt's own rows repeat row 0; nothing reads them.
        """
        count = self.owner.bincount(minlength=len(self.prompt_mask))
        order = self.owner.argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=self.device) - (count.cumsum(0) - count)[self.owner[order]]
        most, kv = int(count.max()), torch.arange(self.kv_heads, device=self.device)
        rows = torch.zeros(len(count), most, dtype=torch.long, device=self.device)
        rows[self.owner, rank] = torch.arange(len(order), device=self.device)
        self.cells = (rows[:, None] * self.kv_heads + kv[:, None]).flatten()
        self.back = ((self.owner[:, None] * self.kv_heads + kv) * most + rank[:, None]).flatten()

    def _drop_prompts(self) -> None:
        """Forget the prompts without rows."""
        used, self.owner = torch.unique(self.owner, return_inverse=True)
        if len(used) < len(self.prompt_mask):
            pairs = (used[:, None] * self.kv_heads + torch.arange(self.kv_heads, device=self.device)).flatten()
            self.prompt_mask = self.prompt_mask[used]
            self.prompts = [(k[pairs], v[pairs]) for k, v in self.prompts]

    def _buffers(self, net: Network) -> tuple[torch.Tensor, torch.Tensor]:
        """Zeros: what was never written is masked, but must not be NaN. The system maps pages when they are written."""
        pairs = self.rows * self.kv_heads
        return (
            torch.zeros(pairs, net.head_dim, self.columns, dtype=self.dtype, device=self.device),
            torch.zeros(pairs, self.columns, net.head_dim, dtype=self.dtype, device=self.device),
        )


def _heads(
    net: Network, layer: Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotated queries (rows, heads, d) and keys (rows, kv, d), and values (rows, kv, d); `sin` carries the sign."""
    qkv = layer.qkv(x).view(len(x), -1, net.head_dim)
    q, k, v = torch.split(qkv, [net.heads, net.kv_heads, net.kv_heads], dim=1)
    if layer.q_norm is not None and layer.k_norm is not None:
        both = torch.cat([layer.q_norm(q), layer.k_norm(k)], dim=1)
    else:
        both = qkv[:, : net.heads + net.kv_heads]
    both = both * cos + both.roll(net.head_dim // 2, dims=-1) * sin
    return both[:, : net.heads], both[:, net.heads :], v


def _below(old: torch.Tensor, new: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
    """Rows of two tensors one below the other, the narrower ones padded on the left of their last dimension."""
    width = max(old.shape[-1], new.shape[-1])
    padded = [torch.nn.functional.pad(part, (width - part.shape[-1], 0), value=fill) for part in (old, new)]
    return torch.cat(padded)
