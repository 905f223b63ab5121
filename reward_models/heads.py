"""Heads: how two responses' output vectors become one log-odds score. Pure functions of tensors.

Every head maps a response to a vector o of `width` numbers and answers s(i > j), antisymmetric by construction, in nats
with the temperature applied. Layout of o and score before the temperature:

| kind       | width   | s(i > j)                                                             |
|------------|---------|----------------------------------------------------------------------|
| bt         | 1       | r_i - r_j                                                            |
| regression | n       | w . (o_i - o_j), n attributes with weights w, or of a gate w(x)      |
| gpm        | 2k      | <R v_i, v_j> = sum_l v_i[2l] v_j[2l+1] - v_i[2l+1] v_j[2l]           |
| hybrid     | 1 + 2k  | r_i - r_j + <R v_i, v_j>                                             |

The sign is that of Definition 4.3 of arXiv 2410.02197; its Theorems 4.4 and 4.5 write the negative. The hybrid head is
that of arXiv 2605.17342: a scalar part for strength, k skew blocks for cycles.

Prompt scales (the eigenvalue gate of arXiv 2410.02197) add k last outputs z, read at the last token of the prompt:
block l counts lambda_l(x) = softplus(z_l + log(e - 1)) > 0 times, 1 at z = 0. sqrt(lambda_l) is a factor of v, as in
that paper's proof, so that every formula for v holds as it stands. A causal backbone gives that token the same state
whatever follows it; it is read from the prompt alone, once for all responses, so they share it bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from reward_models.config import HeadConfig

_ONE = math.log(math.e - 1.0)  # softplus of it is 1


def scalar_part(outputs: Tensor, head: HeadConfig) -> Tensor:
    """The reward r of each response before the temperature: (..., width) -> (...), zeros for gpm."""
    if head.kind == "gpm":
        return torch.zeros_like(outputs[..., 0])
    if head.gate.hidden:
        return gated_utility(outputs, head)
    if head.kind == "regression":
        weights = outputs.new_tensor(head.weights or (1.0,) * len(head.attributes))
        return (outputs * weights).sum(-1)
    return outputs[..., 0]


def gated_utility(outputs: Tensor, head: HeadConfig) -> Tensor:
    """g(x)' r' of n attributes r and their gate g, with r'_i = r_i - lam_i r_verbosity: (..., 2n) -> (...)."""
    n = len(head.attributes)
    r, gate = outputs[..., :n], outputs[..., n:]
    if head.gate.penalties:
        place = head.attributes.index(head.gate.verbosity)
        r = r - outputs.new_tensor(head.gate.penalties) * r[..., place : place + 1]
    return (gate * r).sum(-1)


def embedding_part(outputs: Tensor, head: HeadConfig) -> Tensor:
    """The skew embedding v of each response, normalised and then scaled if the head says so: (..., width) -> (..., 2k).

    No columns for heads without skew blocks.
    """
    if head.kind not in ("gpm", "hybrid"):
        return outputs[..., :0]
    first = 0 if head.kind == "gpm" else 1
    v = outputs[..., first : first + 2 * head.blocks]
    v = torch.nn.functional.normalize(v, dim=-1) if head.unit_norm else v
    return v * prompt_scales(outputs, head).sqrt().repeat_interleave(2, dim=-1) if head.prompt_scales else v


def prompt_scales(outputs: Tensor, head: HeadConfig) -> Tensor:
    """lambda of each block, positive: (..., width) -> (..., k)."""
    return softplus(outputs[..., -head.blocks :] + _ONE)


def share_prompt(outputs: Tensor, sizes: Sequence[int], head: HeadConfig) -> Tensor:
    """Give all rows of a group the prompt columns of its last row, the prompt's own: (sum of sizes, width), same shape.

    A group is the K responses to one prompt and then that prompt; `sizes` are their K + 1.
    """
    counts = torch.tensor(sizes, device=outputs.device)
    last = torch.repeat_interleave(counts.cumsum(0) - 1, counts)
    own = outputs.shape[-1] - head.prompt_columns()
    return torch.cat((outputs[:, :own], outputs[last][:, own:]), dim=-1)


def rotate(v: Tensor) -> Tensor:
    """R v with R = blockdiag([[0, -1], [1, 0]]): (..., 2k) -> (..., 2k), block l being components 2l and 2l + 1."""
    return torch.stack((-v[..., 1::2], v[..., 0::2]), dim=-1).flatten(-2)


def pair_logits(first: Tensor, second: Tensor, head: HeadConfig) -> Tensor:
    """Log-odds that each first response beats its second: two (..., width) -> (...), temperature applied."""
    score = scalar_part(first, head) - scalar_part(second, head)
    skew = (rotate(embedding_part(first, head)) * embedding_part(second, head)).sum(-1)
    return (score + skew) / head.tau


def score_matrix(outputs: Tensor, head: HeadConfig) -> Tensor:
    """S with S[i, j] = log-odds that i beats j: (..., K, width) -> (..., K, K), exactly antisymmetric.

    K forwards serve all K^2 pairs. The halved difference with the transpose removes rounding only; an already
    antisymmetric table must not be doubled (a bug of the published GPM alignment scripts).
    """
    return (_difference(scalar_part(outputs, head)) + _skew(embedding_part(outputs, head))) / head.tau


def split_parts(outputs: Tensor, head: HeadConfig) -> tuple[Tensor, Tensor]:
    """(transitive, cyclic) parts of the score matrix, each (..., K, K); they add up to it.

    The embeddings are centred over the K candidates, without which the split is not identified; what centring takes
    out, <R v_i, mean v> - <R v_j, mean v>, is a difference of potentials and joins the transitive part. So each row of
    the cyclic part sums to zero: the split is the Hodge decomposition of S on the complete graph.
    """
    v = embedding_part(outputs, head)
    mean = v.mean(dim=-2, keepdim=True)
    potential = scalar_part(outputs, head) + (rotate(v) * mean).sum(-1)
    return _difference(potential) / head.tau, _skew(v - mean) / head.tau


def skew_factors(skew: Tensor) -> Tensor:
    """V (K, 2k) with <R v_i, v_j> = S[i, j] exactly, for any real skew-symmetric S (K, K); k is half the rank of S.

    From the eigenpairs lam > 0, z of the Hermitian matrix iS: columns sqrt(2 lam) (Im z, Re z), largest lam first, so
    that the leading 2m columns give the best rank-2m approximation.
    """
    values, vectors = torch.linalg.eigh(1j * skew.to(torch.complex128))
    order = torch.argsort(values, descending=True)
    keep = order[values[order] > values.abs().max() * 1e-12]
    z = vectors[:, keep] * torch.sqrt(2 * values[keep])
    return torch.stack((z.imag, z.real), dim=-1).flatten(-2)


def _difference(r: Tensor) -> Tensor:
    return r[..., :, None] - r[..., None, :]


def _skew(v: Tensor) -> Tensor:
    product = rotate(v) @ v.transpose(-1, -2)
    return 0.5 * (product - product.transpose(-1, -2))
