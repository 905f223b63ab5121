"""Training items: one prompt's responses, encoded once each, with all labels among them; and their loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefeval.fit import LossOutput
from prefeval.types import PairLabel, PreferenceRecord
from reward_models import losses
from reward_models.config import HeadConfig, LossConfig
from reward_models.encoding import PairEncoder
from reward_models.forward import Encoded
from reward_models.heads import pair_logits, scalar_part


@dataclass(frozen=True)
class Item:
    """K encoded responses to one prompt with labels among them: pairs, or ratings (K, n) with NaN for missing."""

    ids: tuple[Encoded, ...]
    pairs: tuple[PairLabel, ...] = ()
    ratings: tuple[tuple[float, ...], ...] = ()

    @property
    def units(self) -> float:
        """What the loss is averaged over: labelled pairs, or known ratings."""
        return float(len(self.pairs) or sum(not math.isnan(v) for row in self.ratings for v in row))

    @property
    def cost(self) -> int:
        """Padded tokens of a forward pass."""
        return len(self.ids) * max(len(s) for s in self.ids)


def make_items(
    records: Sequence[PreferenceRecord], encoder: PairEncoder, head: HeadConfig, max_group: int
) -> list[Item]:
    """Items of at most `max_group` responses; a larger record is cut into several, its responses still encoded once."""
    items: list[Item] = []
    for record in records:
        known: dict[int, Encoded] = {}

        def encoded(index: int, record: PreferenceRecord = record, known: dict[int, Encoded] = known) -> Encoded:
            if index not in known:
                known[index] = encoder(record.prompt, record.responses[index])
            return known[index]

        items += (
            _rated(record, head, max_group, encoded)
            if head.kind == "regression"
            else _paired(record, max_group, encoded)
        )
    return items


def _rated(record: PreferenceRecord, head: HeadConfig, max_group: int, encoded: Callable[[int], Encoded]) -> list[Item]:
    missing = (math.nan,) * len(record.responses)
    table = list(zip(*(record.ratings.get(name, missing) for name in head.attributes), strict=True))
    rated = [i for i, row in enumerate(table) if not all(math.isnan(v) for v in row)]
    groups = [rated[start : start + max_group] for start in range(0, len(rated), max_group)]
    return [Item(tuple(encoded(i) for i in g), ratings=tuple(table[i] for i in g)) for g in groups]


def _paired(record: PreferenceRecord, max_group: int, encoded: Callable[[int], Encoded]) -> list[Item]:
    """Pairs in order, a new item whenever one more pair would need more than `max_group` (at least two) responses."""
    items: list[Item] = []
    place: dict[int, int] = {}
    pairs: list[PairLabel] = []
    for pair in (*record.pairs, None):
        if pairs and (pair is None or len({*place, pair.i, pair.j}) > max(max_group, 2)):
            items.append(Item(tuple(encoded(i) for i in place), tuple(pairs)))
            place, pairs = {}, []
        if pair is not None:
            i, j = (place.setdefault(n, len(place)) for n in (pair.i, pair.j))
            pairs.append(PairLabel(i, j, pair.p, pair.margin, pair.source))
    return items


def item_loss(outputs: Tensor, items: Sequence[Item], head: HeadConfig, config: LossConfig) -> LossOutput:
    """The summed loss of items whose responses' outputs are the rows of `outputs` (sum of K, width), in order."""
    if head.kind == "regression":
        target = outputs.new_tensor([row for item in items for row in item.ratings])
        total, known = losses.attribute_mse(outputs, target)
        return LossOutput(total, float(known.item()), {"mse": float(total.item())})
    starts = [0]
    for item in items:
        starts.append(starts[-1] + len(item.ids))
    labelled = [(start + p.i, start + p.j, p) for start, item in zip(starts, items, strict=False) for p in item.pairs]
    first, second = outputs[[a for a, _, _ in labelled]], outputs[[b for _, b, _ in labelled]]
    p = outputs.new_tensor([label.p for _, _, label in labelled])
    unknown = 0.0 if config.kind == "margin" else 1.0
    margin = outputs.new_tensor([unknown if x.margin is None else x.margin for _, _, x in labelled])
    d = pair_logits(first, second, head)
    loss = pair_loss(d, p, margin, config)
    if config.centring:
        loss = loss + config.centring * losses.centring(scalar_part(first, head), scalar_part(second, head))
    hits = 0.5 * (1.0 + torch.sign(d.detach()) * torch.sign(p - 0.5))
    return LossOutput(loss.sum(), float(len(labelled)), {"accuracy": float(hits.sum().item())})


def pair_loss(d: Tensor, p: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """The configured loss of each pair: (n,) log-odds, labels and margins -> (n,)."""
    if config.kind == "robust":
        return losses.robust_bce(d, p, config.smoothing)
    p = losses.smoothed(p, config.smoothing)
    if config.kind == "margin":
        return losses.margin_bce(d, margin, p)
    if config.kind == "scaled":
        return losses.scaled_bce(d, margin, p)
    if config.kind == "hinge":
        return losses.hinge(d, margin, p)
    return losses.log_odds_mse(d, p) if config.kind == "log_odds" else losses.soft_bce(d, p)
