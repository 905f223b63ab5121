"""Losses of preference models as pure functions, one value an item (reduce as you like).

`d` is a log-odds score of first over second with the temperature applied, `p` the label P(first beats second) in
[0, 1], all of shape (n,). With p = 1 the first response is the chosen one and the soft form is plain Bradley-Terry,
-logsigmoid(d), whose value at d = 0 is log 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def soft_bce(d: Tensor, p: Tensor | float = 1.0) -> Tensor:
    """-p logsigmoid(d) - (1 - p) logsigmoid(-d): (n,). arXiv 2410.02197, eq. A.1; p = 0.5 for ties."""
    return p * softplus(-d) + (1 - p) * softplus(d)


def margin_bce(d: Tensor, margin: Tensor, p: Tensor | float = 1.0) -> Tensor:
    """-logsigmoid(d - m) for p = 1, m >= 0: the winner must lead by m (Llama 2, arXiv 2307.09288). (n,).

    For p = 0 the second response must lead by m; in between the two terms are mixed.
    """
    return p * softplus(margin - d) + (1 - p) * softplus(margin + d)


def scaled_bce(d: Tensor, margin: Tensor, p: Tensor | float = 1.0) -> Tensor:
    """-m logsigmoid(d) for p = 1: as if the pair were repeated m times (arXiv 2410.01257). (n,)."""
    return margin * soft_bce(d, p)


def smoothed(p: Tensor, epsilon: float) -> Tensor:
    """Labels pulled towards 1/2: (1 - e) p + e (1 - p); with p = 1 the optimum is d = log((1 - e) / e)."""
    return (1 - epsilon) * p + epsilon * (1 - p)


def robust_bce(d: Tensor, p: Tensor | float, epsilon: float) -> Tensor:
    """The loss whose mean over labels flipped with probability e is the clean loss: (n,), may be negative.

    [(1 - e) soft_bce(d, p) - e soft_bce(d, 1 - p)] / (1 - 2e), for p = 1 the robust DPO form (arXiv 2403.00409).
    """
    return ((1 - epsilon) * soft_bce(d, p) - epsilon * soft_bce(d, 1 - p)) / (1 - 2 * epsilon)


def hinge(d: Tensor, margin: Tensor | float = 1.0, p: Tensor | float = 1.0) -> Tensor:
    """max(0, m - d) for p = 1: (n,)."""
    return p * torch.relu(margin - d) + (1 - p) * torch.relu(margin + d)


def log_odds_mse(d: Tensor, p: Tensor, clip: float = 1e-3) -> Tensor:
    """(d - logit p)^2 with p clipped to [clip, 1 - clip]: (n,). The regression form of arXiv 2410.02197, eq. A.1."""
    return (d - torch.logit(p, eps=clip)) ** 2


def centring(first: Tensor, second: Tensor) -> Tensor:
    """(r_1 + r_2)^2, the square of the sum (arXiv 2312.09244, eq. 2): (n,). Pins the shift that pairs leave free."""
    return (first + second) ** 2


def attribute_mse(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error summed over the labels that exist, and their number; NaN in `target` is a missing label.

    predicted, target: (..., n attributes). arXiv 2406.08673 trains on sum / number of known labels.
    """
    known = ~torch.isnan(target)
    error = torch.where(known, predicted - torch.where(known, target, 0.0), 0.0)
    return (error**2).sum(), known.sum()


def plackett_luce(rewards: Tensor) -> Tensor:
    """Negative log-likelihood of a full ranking, best first: (..., K) -> (...).

    -sum_{k < K} [r_k - logsumexp_{j >= k} r_j]; K = 2 is Bradley-Terry.
    """
    tails = torch.logcumsumexp(rewards.flip(-1), dim=-1).flip(-1)
    return (tails - rewards)[..., :-1].sum(-1)
