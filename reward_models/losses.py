"""Losses of preference models as pure functions, one value an item (reduce as you like).

`d` is a log-odds score of first over second with the temperature applied, `p` the label P(first beats second) in
[0, 1], all of shape (n,). With p = 1 the first response is the chosen one and the soft form is plain Bradley-Terry,
-logsigmoid(d), whose value at d = 0 is log 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prefeval.adaptive import adaptive_scale


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


def ranked(rewards: Tensor, ranks: Tensor, *, top_only: bool = False) -> Tensor:
    """Negative log-likelihood of a ranking with ties, rank 0 best: (K,), (K,) -> the sum of its terms, a scalar.

    Each response k above the last rank is chosen from itself and all of strictly lower rank: the sum of
    logsumexp_{j = k or rank_j > rank_k} r_j - r_k. Without ties it is `plackett_luce`; `top_only` keeps the terms of
    rank 0 (the best against all others).
    """
    below = ranks[None, :] > ranks[:, None]
    pool = below | torch.eye(len(ranks), dtype=torch.bool, device=ranks.device)
    terms = torch.logsumexp(torch.where(pool, rewards[None, :], -torch.inf), dim=1) - rewards
    counted = (ranks == 0) & below.any(dim=1) if top_only else below.any(dim=1)
    return terms[counted].sum()


def outcome_weights(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(win, tie, loss) weights of a label p = win + tie / 2: 1 is a win, 0 a loss, 0.5 a tie, linear in between."""
    win, loss = torch.relu(2 * p - 1), torch.relu(1 - 2 * p)
    return win, 1 - win - loss, loss


def rao_kupper(d: Tensor, p: Tensor, theta: float | Tensor) -> Tensor:
    """Three-way negative log-likelihood with threshold theta > 1 (Rao and Kupper 1967): (n,).

    P(i > j) = e^{r_i} / (e^{r_i} + theta e^{r_j}), P(tie) = (theta^2 - 1) P(i > j) P(j > i). Without ties and with
    theta = 1 it is Bradley-Terry.
    """
    win, tie, loss = outcome_weights(p)
    theta = torch.as_tensor(theta, dtype=d.dtype, device=d.device)
    shift = theta.log()
    log_win, log_loss = -softplus(shift - d), -softplus(shift + d)
    log_tie = (theta**2 - 1).log() + log_win + log_loss if theta > 1 else torch.zeros_like(d)
    return -(win * log_win + tie * log_tie + loss * log_loss)


def davidson(d: Tensor, p: Tensor, nu: float | Tensor) -> Tensor:
    """Three-way negative log-likelihood with tie weight nu > 0 (Davidson 1970): (n,).

    P(i > j) : P(tie) : P(j > i) = e^{d/2} : nu : e^{-d/2}. Without ties and with nu = 0 it is Bradley-Terry.
    """
    win, tie, loss = outcome_weights(p)
    log_nu = torch.as_tensor(nu, dtype=d.dtype, device=d.device).log()
    three = torch.stack((d / 2, log_nu.expand_as(d), -d / 2))
    log_tie = three[1] if nu > 0 else torch.zeros_like(d)
    return torch.logsumexp(three, dim=0) - (win * three[0] + tie * log_tie + loss * three[2])


def degree_ce(logits: Tensor, degree: Tensor) -> Tensor:
    """-log softmax(logits)[degree]: (n, degrees), (n,) -> (n,). How much of a text was deleted (arXiv 2409.17791)."""
    return torch.nn.functional.cross_entropy(logits, degree, reduction="none")


def adaptive_bce(d: Tensor, p: Tensor | float, rho: float, low: float = 0.1, high: float = 5.0) -> Tensor:
    """kappa soft_bce(d / kappa, p) + (rho - log 2) kappa with `adaptive_scale`: (n,), may be negative."""
    kappa = adaptive_scale(d, rho, low, high)
    return kappa * soft_bce(d / kappa, p) + (rho - math.log(2)) * kappa
