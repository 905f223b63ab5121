"""Training items: one prompt's responses, encoded once each, with all labels among them; and their loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from prefeval.fit import LossOutput
from prefeval.types import PairLabel, PreferenceRecord
from reward_models import losses
from reward_models.config import RANKED, HeadConfig, LossConfig
from reward_models.cyclicity import gold_matrix
from reward_models.degrees import degraded, rarity
from reward_models.encoding import PairEncoder
from reward_models.forward import Encoded
from reward_models.heads import pair_logits, scalar_part, share_prompt
from reward_models.pair_loss import pair_loss


@dataclass(frozen=True)
class Item:
    """K encoded responses to one prompt with labels among them: pairs, ratings (K, n) with NaN for missing, or ranks.

    `terms` is how many terms of the likelihood the ranks (0 = best) give. In `ids` the responses are followed by their
    degraded copies, if any, whose `degrees` count from 1, and for heads with prompt columns by the prompt.
    """

    ids: tuple[Encoded, ...]
    pairs: tuple[PairLabel, ...] = ()
    ratings: tuple[tuple[float, ...], ...] = ()
    ranks: tuple[int, ...] = ()
    terms: int = 0
    degrees: tuple[int, ...] = ()

    def responses(self, head: HeadConfig) -> tuple[Encoded, ...]:
        """The sequences of the responses themselves."""
        return self.ids[: len(self.ids) - len(self.degrees) - bool(head.prompt_columns())]

    @property
    def units(self) -> float:
        """What the loss is averaged over: labelled pairs and known ratings, or the terms of a ranking."""
        if self.ranks:
            return float(self.terms)
        return float(len(self.pairs) + sum(not math.isnan(v) for row in self.ratings for v in row))

    @property
    def cost(self) -> int:
        """Padded tokens of a forward pass."""
        return len(self.ids) * max(len(s) for s in self.ids)


def make_items(
    records: Sequence[PreferenceRecord],
    encoder: PairEncoder,
    head: HeadConfig,
    max_group: int,
    loss: LossConfig | None = None,
) -> list[Item]:
    """Items of at most `max_group` responses; a larger record is cut into several, its responses still encoded once.

    For a loss on rankings an item is a whole record; records whose labels are no complete ranking are left out.
    """
    loss = loss or LossConfig()
    items: list[Item] = []
    words = rarity(text for record in records for text in record.responses) if loss.degree else {}
    for record in records:
        known: dict[int, Encoded] = {}

        def encoded(index: int, record: PreferenceRecord = record, known: dict[int, Encoded] = known) -> Encoded:
            if index not in known:
                known[index] = encoder(record.prompt, record.responses[index])
            return known[index]

        prompt = (encoder.prompt(record.prompt),) if head.prompt_columns() else ()
        if loss.kind in RANKED:
            items += _ranked(record, loss, encoded, prompt)
        elif head.kind != "regression" or head.gate.hidden or (loss.joint and record.pairs):
            paired = _paired(record, max_group, encoded, _rows(record, head))
            items += [_completed(item, record, loss, encoder, words, prompt) for item in paired]
        else:
            items += _rated(record, head, max_group, encoded)
    return items


def _rows(record: PreferenceRecord, head: HeadConfig) -> list[tuple[float, ...]]:
    """The ratings of each response by the head's attributes, NaN where missing; empty rows for heads on pairs alone."""
    if head.gate.hidden:
        return [()] * len(record.responses)
    missing = (math.nan,) * len(record.responses)
    columns = [record.ratings.get(name, missing) for name in head.attributes]
    return list(zip(*columns, strict=True)) if columns else [()] * len(record.responses)


def _completed(
    item: tuple[Item, list[int]],
    record: PreferenceRecord,
    loss: LossConfig,
    encoder: PairEncoder,
    words: Mapping[str, float],
    prompt: tuple[Encoded, ...],
) -> Item:
    """The item with degraded copies of its responses, for a degree loss, and with the prompt."""
    plain, indices = item
    ratios = loss.degree_ratios if loss.degree else ()
    copies = [
        (encoder(record.prompt, degraded(record.responses[i], ratio, words)), degree)
        for i in indices
        for degree, ratio in enumerate(ratios, start=1)
    ]
    ids = (*plain.ids, *(c for c, _ in copies), *prompt)
    return replace(plain, ids=ids, degrees=tuple(degree for _, degree in copies))


def _ranked(
    record: PreferenceRecord, loss: LossConfig, encoded: Callable[[int], Encoded], prompt: tuple[Encoded, ...]
) -> list[Item]:
    ranks = ranks_of(record) or (winner_ranks(record) if loss.kind == "top_1" else None)
    if ranks is None:
        return []
    last = max(ranks)
    terms = sum(rank == 0 if loss.kind == "top_1" else rank < last for rank in ranks)
    return [Item((*(encoded(i) for i in range(len(ranks))), *prompt), ranks=ranks, terms=terms)]


def ranks_of(record: PreferenceRecord) -> tuple[int, ...] | None:
    """Each response's rank (0 = best, ties share one), or None unless the labels are a complete ranking.

    Every pair must be labelled, won outright by the better rank or tied (p = 0.5) within a rank.
    """
    k = len(record.responses)
    p = gold_matrix(record)
    if k < 2 or not record.pairs or np.isnan(p).any():
        return None
    wins = p.sum(axis=1)
    levels = sorted(set(wins.tolist()), reverse=True)
    ranks = tuple(levels.index(w) for w in wins.tolist())
    expected = [[0.5 if a == b else float(a < b) for b in ranks] for a in ranks]
    return ranks if len(levels) > 1 and np.array_equal(p, expected) else None


def winner_ranks(record: PreferenceRecord) -> tuple[int, ...] | None:
    """Rank 0 for the one response that outright beats each of the others, 1 for these; None where there is none.

    What the others are worth among themselves is not asked, as a demonstration beside sampled answers has it.
    """
    p = gold_matrix(record)
    np.fill_diagonal(p, 1.0)
    best = np.flatnonzero((p == 1.0).all(axis=1))
    return tuple(int(i != best[0]) for i in range(len(p))) if len(p) > 1 and len(best) else None


def _rated(record: PreferenceRecord, head: HeadConfig, max_group: int, encoded: Callable[[int], Encoded]) -> list[Item]:
    table = _rows(record, head)
    rated = [i for i, row in enumerate(table) if not all(math.isnan(v) for v in row)]
    groups = [rated[start : start + max_group] for start in range(0, len(rated), max_group)]
    return [Item(tuple(encoded(i) for i in g), ratings=tuple(table[i] for i in g)) for g in groups]


def _paired(
    record: PreferenceRecord,
    max_group: int,
    encoded: Callable[[int], Encoded],
    rows: Sequence[tuple[float, ...]],
) -> list[tuple[Item, list[int]]]:
    """Pairs in order, a new item whenever one more pair would need more than `max_group` (at least two) responses.

    Each with the record's indices of its responses.
    """
    items: list[tuple[Item, list[int]]] = []
    place: dict[int, int] = {}
    pairs: list[PairLabel] = []
    for pair in (*record.pairs, None):
        if pairs and (pair is None or len({*place, pair.i, pair.j}) > max(max_group, 2)):
            ratings = tuple(rows[i] for i in place) if any(rows) else ()
            items.append((Item(tuple(encoded(i) for i in place), tuple(pairs), ratings), list(place)))
            place, pairs = {}, []
        if pair is not None:
            i, j = (place.setdefault(n, len(place)) for n in (pair.i, pair.j))
            pairs.append(PairLabel(i, j, pair.p, pair.margin, pair.source))
    return items


def item_loss(
    outputs: Tensor, items: Sequence[Item], head: HeadConfig, config: LossConfig, tie: Tensor | None = None
) -> LossOutput:
    """The summed loss of items whose sequences' outputs are the rows of `outputs` (sum of K, columns), in order.

    `tie` is a tie parameter that is being learned, in place of the config's. With a degree loss the logits of the
    degrees are the last columns.
    """
    outputs, degrees = outputs[:, : head.columns()], outputs[:, head.columns() :]
    main = _main_loss(outputs, items, head, config, tie)
    if not config.degree:
        return main
    extra = _degree_loss(degrees, items, head)
    metrics = {**main.metrics, "degree_nll": float(extra.item())}
    return LossOutput(main.loss_sum + config.degree * extra, main.weight, metrics)


def averages(outputs: Sequence[LossOutput]) -> dict[str, float]:
    """Loss and metrics a unit over held-out items."""
    weight = sum(out.weight for out in outputs)
    rows = [{"loss": float(out.loss_sum.item()), **out.metrics} for out in outputs]
    return {f"valid_{name}": sum(row[name] for row in rows) / weight for name in rows[0]}


def _degree_loss(logits: Tensor, items: Sequence[Item], head: HeadConfig) -> Tensor:
    """Cross entropy of the degrees (0 = untouched), averaged over each item's texts and weighted by its units."""
    total = logits.new_zeros(())
    start = 0
    for item in items:
        count = len(item.ids) - bool(head.prompt_columns())
        target = torch.tensor([0] * (count - len(item.degrees)) + list(item.degrees), device=logits.device)
        total = total + item.units * losses.degree_ce(logits[start : start + count], target).mean()
        start += len(item.ids)
    return total


def _main_loss(
    outputs: Tensor, items: Sequence[Item], head: HeadConfig, config: LossConfig, tie: Tensor | None
) -> LossOutput:
    starts = [0]
    for item in items:
        starts.append(starts[-1] + len(item.ids))
    if head.prompt_columns():
        outputs = share_prompt(outputs, [len(item.ids) for item in items], head)
    if config.kind in RANKED:
        return _ranking_loss(outputs, items, starts, head, config)
    rated = _rating_loss(outputs, items) if head.kind == "regression" and not head.gate.hidden else None
    if rated is not None and not any(item.pairs for item in items):
        return rated
    paired = _pair_loss(outputs, items, starts, head, config, tie)
    if rated is None:
        return paired
    total = rated.loss_sum + config.joint * paired.loss_sum
    return LossOutput(total, rated.weight + paired.weight, rated.metrics | paired.metrics)


def _ranking_loss(
    outputs: Tensor, items: Sequence[Item], starts: Sequence[int], head: HeadConfig, config: LossConfig
) -> LossOutput:
    rewards = scalar_part(outputs, head) / head.tau
    total = rewards.new_zeros(())
    for start, item in zip(starts, items, strict=False):
        ranks = torch.tensor(item.ranks, device=rewards.device)
        total = total + losses.ranked(rewards[start : start + len(ranks)], ranks, top_only=config.kind == "top_1")
    return LossOutput(total, float(sum(item.terms for item in items)))


def _rating_loss(outputs: Tensor, items: Sequence[Item]) -> LossOutput:
    target = outputs.new_tensor([row for item in items for row in item.ratings])
    total, known = losses.attribute_mse(outputs, target)
    return LossOutput(total, float(known.item()), {"mse": float(total.item())})


def _pair_loss(
    outputs: Tensor,
    items: Sequence[Item],
    starts: Sequence[int],
    head: HeadConfig,
    config: LossConfig,
    tie: Tensor | None,
) -> LossOutput:
    labelled = [(start + p.i, start + p.j, p) for start, item in zip(starts, items, strict=False) for p in item.pairs]
    first, second = outputs[[a for a, _, _ in labelled]], outputs[[b for _, b, _ in labelled]]
    p = outputs.new_tensor([label.p for _, _, label in labelled])
    unknown = 0.0 if config.kind == "margin" else 1.0
    margin = outputs.new_tensor([unknown if x.margin is None else x.margin for _, _, x in labelled])
    d = pair_logits(first, second, head)
    loss = pair_loss(d, p, margin, config, tie)
    if config.centring:
        loss = loss + config.centring * losses.centring(scalar_part(first, head), scalar_part(second, head))
    hits = 0.5 * (1.0 + torch.sign(d.detach()) * torch.sign(p - 0.5))
    return LossOutput(loss.sum(), float(len(labelled)), {"accuracy": float(hits.sum().item())})
