"""One token a row from next-token logits: temperature, truncation, and the inversion of the distribution's CDF."""

from __future__ import annotations

import torch

from prefeval.generate.base import SamplingParams

BLOCK = 256  # tokens whose probabilities are first summed up together


def draw(logits: torch.Tensor, uniforms: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B,) drawn from fp32 logits (B, V) with uniforms (B,); their log-probs (B,) in nats at temperature 1."""
    plain = torch.softmax(logits, dim=-1)
    if params.temperature == 0:
        tokens = logits.argmax(dim=-1)
    elif params.temperature == 1 and not params.top_k and params.top_p == 1:
        tokens = invert(plain, uniforms)
    else:
        tokens = invert(truncate(logits, params), uniforms)
    # log p(token) by way of the likeliest one, whose probability cannot underflow
    above = logits.gather(1, tokens[:, None])[:, 0] - logits.amax(dim=-1)
    return tokens, above + plain.amax(dim=-1).log()


def invert(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first token (B,) at which the CDF of weights (B, V), scaled to end at 1, exceeds uniforms (B,) in [0, 1).

    In two levels: the CDF of blocks of tokens finds the block, the CDF within that block the token, so that no
    double-precision array over the vocabulary is made. Tokens of weight 0 are never drawn.
    """
    whole = -(-weights.shape[1] // BLOCK) * BLOCK
    blocks = torch.nn.functional.pad(weights, (0, whole - weights.shape[1])).view(len(weights), -1, BLOCK)
    cdf = blocks.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    target = (uniforms * cdf[:, -1])[:, None]
    block = _first_above(cdf, target)
    before = torch.where(block > 0, cdf.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(len(weights), device=weights.device), block[:, 0]]
    token = _first_above(inside.cumsum(dim=-1, dtype=torch.float64), target - before)
    return (block * BLOCK + token)[:, 0]


def _first_above(cdf: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Index (B, 1) of the first value above the target; a target that rounding put beyond the end is moved inside."""
    last = torch.nextafter(cdf[:, -1:], torch.zeros_like(target))
    return torch.searchsorted(cdf, torch.minimum(target, last), right=True)


def truncate(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Probabilities (B, V) after temperature, top-k and top-p (the smallest set whose mass reaches top_p)."""
    scaled = logits if params.temperature == 1 else logits / params.temperature
    if params.top_k and params.top_k < logits.shape[-1]:
        threshold = scaled.topk(params.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < threshold, float("-inf"))
    probs = torch.softmax(scaled, dim=-1)
    if params.top_p < 1:
        ordered, index = probs.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= params.top_p
        probs = probs.masked_fill(torch.zeros_like(outside).scatter(1, index, outside), 0.0)
    return probs
