"""Thinned records: no more pairs than asked for, and each of them says what it said before."""

from __future__ import annotations

from prefeval.data.thin import thin
from prefeval.types import PairLabel, PreferenceRecord, Prompt, all_pairs

K = 6


def record(name: str) -> PreferenceRecord:
    texts = tuple(f"{name}-{i}" for i in range(K))
    pairs = tuple(PairLabel(i, j, p=(i + j) / 20, margin=float(i), source=f"s{j}") for i, j in all_pairs(K))
    meta = {"models": [[f"m{i}"] for i in range(K)]}
    return PreferenceRecord(name, Prompt.from_text(name), texts, pairs, {"help": tuple(map(float, range(K)))}, "", meta)


def facts(r: PreferenceRecord) -> set[tuple[object, ...]]:
    return {(r.responses[p.i], r.responses[p.j], p.p, p.margin, p.source) for p in r.pairs}


def test_drawn_pairs_keep_their_texts_labels_ratings_and_models() -> None:
    whole = [record("a"), record("b")]
    thinned = thin(whole, 4, seed=0)
    for before, after in zip(whole, thinned, strict=True):
        assert len(after.pairs) == 4
        assert facts(after) < facts(before)
        assert set(after.responses) == {after.responses[i] for p in after.pairs for i in (p.i, p.j)}
        for text, help_, models in zip(after.responses, after.ratings["help"], after.meta["models"], strict=True):
            index = before.responses.index(text)
            assert (help_, models) == (float(index), [f"m{index}"])


def test_draws_depend_on_seed_and_record_only() -> None:
    whole = [record("a"), record("b")]
    assert thin(whole, 4, seed=0)[1] == thin(whole[1:], 4, seed=0)[0]
    assert any(facts(x) != facts(y) for x, y in zip(thin(whole, 4, 0), thin(whole, 4, 1), strict=True))
    assert thin(whole, K * (K - 1) // 2, 0) == whole


def test_every_pair_is_as_likely_as_any_other() -> None:
    """15 pairs, 5 drawn 600 times: each 200 times, standard deviation sqrt(600 / 3 * 2 / 3) = 11.5."""
    counts: dict[tuple[object, ...], int] = {}
    for seed in range(600):
        for fact in facts(thin([record("a")], 5, seed)[0]):
            counts[fact] = counts.get(fact, 0) + 1
    assert len(counts) == 15
    assert max(abs(n - 200) for n in counts.values()) < 5 * 11.5
