"""Token-budget batches, seeded step batches and padding."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefeval.batching import least_work_batches, pad_right, step_batches, steps_per_epoch, token_batches


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 120), st.one_of(st.none(), st.integers(1, 5)))
def test_token_batches_keep_every_index_once_within_the_budget(lengths, budget, max_items):
    batches = token_batches(lengths, budget, max_items=max_items)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget
        assert max_items is None or len(batch) <= max_items
    order = [lengths[i] for b in batches for i in b]
    assert order == sorted(order)


def test_token_batches_by_hand():
    # sorted: 2 (index 1), 3 (3), 4 (0), 9 (2); 3 * 3 > 8 ends the first at two items, 9 > 8 comes alone
    assert token_batches([4, 2, 9, 3], 8) == [[1, 3], [0], [2]]
    assert token_batches([1, 1, 1], 100, max_items=2) == [[0, 1], [2]]
    assert token_batches([], 5) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 70), st.sampled_from([0.0, 4.0, 25.0, 1e4]))
def test_least_work_batches_are_no_dearer_than_any_partition(lengths, budget, call_cost):
    """Against every way to cut the sorted lengths; no other partition does better, since swaps only widen batches."""
    batches = least_work_batches(lengths, budget, call_cost)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget

    def work(parts):
        return sum(max(part) * len(part) + call_cost for part in parts)

    ordered, cheapest = sorted(lengths), float("inf")
    for cuts in itertools.product([False, True], repeat=max(0, len(ordered) - 1)):
        places = [0, *(n for n, cut in enumerate(cuts, 1) if cut), len(ordered)]
        parts = [ordered[a:b] for a, b in itertools.pairwise(places) if b > a]
        if all(len(part) == 1 or max(part) * len(part) <= budget for part in parts):
            cheapest = min(cheapest, work(parts))
    assert work([[lengths[i] for i in batch] for batch in batches]) == pytest.approx(cheapest)


def test_least_work_batches_by_hand():
    # together 4 * 900 = 3600 padded tokens; apart 2 * 150 + 2 * 900 and two calls
    assert least_work_batches([900, 100, 150, 890], 6144, 128) == [[1, 2], [3, 0]]
    assert least_work_batches([900, 100, 150, 890], 6144, 5000) == [[1, 2, 3, 0]]
    assert least_work_batches([], 5, 1) == []
    for bad in (([1], 0, 1), ([-1], 4, 1), ([1], 4, -1)):
        with pytest.raises(ValueError):
            least_work_batches(*bad)


@pytest.mark.parametrize(("lengths", "budget", "limit"), [([1], 0, None), ([-1], 4, None), ([1], 4, 0)])
def test_token_batches_refuse_nonsense(lengths, budget, limit):
    with pytest.raises(ValueError):
        token_batches(lengths, budget, max_items=limit)


def test_step_batches_visit_every_item_once_an_epoch_in_another_order_each_time():
    steps = step_batches(10, 4, 3, seed=1)
    assert [len(s) for s in steps] == [4, 4, 2] * 3
    epochs = [[i for s in steps[k : k + 3] for i in s] for k in (0, 3, 6)]
    assert all(sorted(e) == list(range(10)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    assert steps == step_batches(10, 4, 3, seed=1)
    assert steps != step_batches(10, 4, 3, seed=2)
    assert step_batches(10, 4, 1, seed=1) == steps[:3]  # a longer fit begins like a shorter one


@pytest.mark.parametrize(
    ("count", "size", "epochs", "want"), [(30, 1, 0.1, 3), (10, 4, 0.5, 2), (10, 4, 1.34, 5), (3, 8, 1.0, 1)]
)
def test_fractional_epochs_round_up_to_whole_steps(count, size, epochs, want):
    assert len(step_batches(count, size, epochs, seed=0)) == want
    assert steps_per_epoch(10, 4) == 3


@pytest.mark.parametrize("bad", [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0), (1, 1, float("nan")), (1, 1, float("inf"))])
def test_step_batches_refuse_nonsense(bad):
    with pytest.raises(ValueError):
        step_batches(*bad, seed=0)


def test_pad_right():
    ids, lengths = pad_right([[5, 6, 7], [], [8]], pad_id=-1)
    assert ids.tolist() == [[5, 6, 7], [-1, -1, -1], [8, -1, -1]]
    assert lengths.tolist() == [3, 0, 1]
    assert ids.dtype == lengths.dtype == torch.int64
    assert pad_right([], 0)[0].shape == (0, 0)
