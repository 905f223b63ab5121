"""Heads: antisymmetry, closed forms, and what each head can and cannot express (reference section 9, items 1, 3, 5)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from reward_models.config import HeadConfig
from reward_models.heads import pair_logits, rotate, score_matrix, skew_factors, split_parts
from reward_models.losses import soft_bce

HEADS = [
    HeadConfig("bt"),
    HeadConfig("bt", tau=0.1),
    HeadConfig("regression", attributes=("help", "verbosity"), weights=(0.65, -0.4)),
    HeadConfig("regression", attributes=("a", "b", "c")),
    HeadConfig("gpm", blocks=1),
    HeadConfig("gpm", blocks=3, unit_norm=True, tau=0.1),
    HeadConfig("hybrid", blocks=1),
    HeadConfig("hybrid", blocks=2, unit_norm=True, tau=0.5),
    HeadConfig("hybrid", blocks=2, prompt_scales=True),
]


def outputs(head: HeadConfig, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, head.width(), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cyclic_part(embedding: torch.Tensor) -> list[list[float]]:
    """<R v_i, v_j> written out as sums over blocks, independently of the vectorised code."""
    k = embedding.shape[-1] // 2
    return [
        [float(sum(a[2 * b] * c[2 * b + 1] - a[2 * b + 1] * c[2 * b] for b in range(k))) for c in embedding]
        for a in embedding
    ]


@pytest.mark.parametrize(("head", "width"), list(zip(HEADS, [1, 1, 2, 3, 2, 6, 3, 5, 7], strict=True)))
def test_widths(head: HeadConfig, width: int) -> None:
    assert head.width() == width


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_exactly_antisymmetric_and_complementary(head: HeadConfig, dtype: torch.dtype) -> None:
    s = score_matrix(outputs(head, 4, 6, dtype=dtype), head)
    assert s.shape == (4, 6, 6)
    assert torch.equal(s, -s.transpose(-1, -2))
    assert torch.all(s.diagonal(dim1=-2, dim2=-1) == 0)
    p = torch.sigmoid(s)
    torch.testing.assert_close(p + p.transpose(-1, -2), torch.ones_like(p))


@pytest.mark.parametrize("head", HEADS)
def test_pair_logits_are_the_entries_of_the_matrix(head: HeadConfig) -> None:
    o = outputs(head, 5)
    s = score_matrix(o, head)
    for i, j in itertools.product(range(5), repeat=2):
        torch.testing.assert_close(pair_logits(o[i], o[j], head), s[i, j])


def test_gpm_has_the_sign_of_definition_4_3() -> None:
    head = HeadConfig("gpm", blocks=2, tau=0.5)
    o = outputs(head, 4)
    torch.testing.assert_close(score_matrix(o, head), 2.0 * torch.tensor(cyclic_part(o), dtype=torch.float64))
    # <R v_i, v_j> by the matrix R of the paper
    r = torch.block_diag(*[torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)] * 2)
    torch.testing.assert_close(rotate(o), o @ r.T)


def test_one_block_with_a_constant_is_bradley_terry() -> None:
    r = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    v = torch.stack((r, torch.ones_like(r)), dim=-1)
    expected = r[:, None] - r[None, :]
    torch.testing.assert_close(score_matrix(v, HeadConfig("gpm", blocks=1)), expected)


def test_unit_norm_with_one_block_is_the_sine_of_the_angle_and_bounded() -> None:
    angle = torch.tensor([0.1, 1.0, 2.5], dtype=torch.float64)
    v = 7.0 * torch.stack((angle.cos(), angle.sin()), dim=-1)
    head = HeadConfig("gpm", blocks=1, unit_norm=True)
    torch.testing.assert_close(score_matrix(v, head), torch.sin(angle[None, :] - angle[:, None]))
    many = HeadConfig("gpm", blocks=3, unit_norm=True)
    assert score_matrix(outputs(many, 50), many).abs().max() <= 1.0


def test_scores_ignore_a_shift_of_the_scalar_part() -> None:
    for head in (HeadConfig("bt"), HeadConfig("hybrid")):
        o = outputs(head, 5)
        shifted = o.clone()
        shifted[:, 0] += 3.7
        torch.testing.assert_close(score_matrix(o, head), score_matrix(shifted, head))


@pytest.mark.parametrize("head", HEADS)
def test_split_adds_up_and_its_cyclic_part_is_orthogonal_to_rankings(head: HeadConfig) -> None:
    o = outputs(head, 3, 5)
    transitive, cyclic = split_parts(o, head)
    s = score_matrix(o, head)
    torch.testing.assert_close(transitive + cyclic, s)
    torch.testing.assert_close(cyclic.sum(-1), torch.zeros(3, 5, dtype=torch.float64), atol=1e-12, rtol=0)
    # the transitive part is a difference of potentials: u_i = row mean of S (reference 5.4)
    u = s.mean(-1)
    torch.testing.assert_close(transitive, u[..., :, None] - u[..., None, :])


@pytest.mark.parametrize("size", [2, 3, 6, 7])
def test_factorisation_of_any_skew_matrix_is_exact(size: int) -> None:
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    s = a - a.T
    v = skew_factors(s)
    assert v.shape == (size, 2 * (size // 2))
    assert (score_matrix(v, HeadConfig("gpm", blocks=v.shape[1] // 2)) - s).abs().max() < 1e-12


def edges_right(head: HeadConfig, edges: list[tuple[int, int]], count: int, seed: int = 0) -> float:
    """Share of edges (i beats j) right after fitting free output vectors by gradient descent."""
    o = outputs(head, count, seed=seed).mul_(0.5).requires_grad_()
    i, j = [a for a, _ in edges], [b for _, b in edges]
    adam = torch.optim.Adam([o], lr=0.05)
    for _ in range(400):
        adam.zero_grad()
        soft_bce(pair_logits(o[i], o[j], head)).sum().backward()
        adam.step()
    return float((pair_logits(o[i], o[j], head) > 1e-6).double().mean())


CYCLE = [(0, 1), (1, 2), (2, 0)]
SQUARE = [(0, 1), (1, 2), (2, 3), (3, 0)]
DOMINATED = [*CYCLE, (3, 0), (3, 1), (3, 2)]


def test_cycles_need_a_skew_block() -> None:
    assert edges_right(HeadConfig("gpm", blocks=1), CYCLE, 3) == 1.0
    assert edges_right(HeadConfig("hybrid", blocks=1), CYCLE, 3) == 1.0
    assert edges_right(HeadConfig("gpm", blocks=1), SQUARE, 4) == 1.0
    # no scalar does better than 2/3: all 3! rankings by brute force, and what gradient descent finds
    best = max(sum(order[a] > order[b] for a, b in CYCLE) for order in itertools.permutations(range(3)))
    assert best == 2
    assert edges_right(HeadConfig("bt"), CYCLE, 3) <= 2 / 3


def test_a_cycle_with_a_dominator_needs_two_blocks_or_a_scalar() -> None:
    assert edges_right(HeadConfig("gpm", blocks=2), DOMINATED, 4) == 1.0
    assert edges_right(HeadConfig("hybrid", blocks=1), DOMINATED, 4) == 1.0
    assert all(edges_right(HeadConfig("gpm", blocks=1), DOMINATED, 4, seed) < 1.0 for seed in range(3))


def test_a_fitted_cycle_has_vectors_120_degrees_apart() -> None:
    head = HeadConfig("gpm", blocks=1, unit_norm=True)
    o = outputs(head, 3, seed=2).requires_grad_()
    adam = torch.optim.Adam([o], lr=0.05)
    i, j = [a for a, _ in CYCLE], [b for _, b in CYCLE]
    for _ in range(500):
        adam.zero_grad()
        soft_bce(pair_logits(o[i], o[j], head)).sum().backward()
        adam.step()
    v = torch.nn.functional.normalize(o.detach(), dim=-1)
    cosines = (v[i] * v[j]).sum(-1)
    torch.testing.assert_close(
        cosines, torch.full((3,), math.cos(2 * math.pi / 3), dtype=torch.float64), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "bt", "tau": 0.0},
        {"kind": "gpm", "blocks": 0},
        {"kind": "regression"},
        {"kind": "regression", "attributes": ("a",), "weights": (1.0, 2.0)},
        {"kind": "scalar"},
        {"kind": "bt", "prompt_scales": True},
    ],
)
def test_unusable_heads_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        HeadConfig(**options)  # type: ignore[arg-type]
