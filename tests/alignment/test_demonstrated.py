"""IRFT, SPIN and SAPO: by hand, their exact updates, where they rest; demonstrations as data of the round loop."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny_tokenizer
from toys import SLOTS

from alignment.algorithm import Group, get_algorithm, list_algorithms
from alignment.config import AlignConfig
from alignment.demonstrated import demonstrated
from alignment.demonstrations import Demonstrations, choose_segment, shown_prompts
from alignment.labels import unjudged
from alignment.samples import SampledGroup, read_samples, token_sequences, write_samples
from alignment.tabular import Sampling, play, play_sampled
from prefeval import chat
from prefeval.errors import ConfigError
from prefeval.games import log_normalise, open_game
from prefeval.types import FloatArray, Message, Prompt, Response

DATA = np.log([0.2, 0.7, 0.1])
ROLES = ("policy", "policy", "data")


def shown_group(logp: Any, anchors: dict[str, Any], role: tuple[str, ...] = ROLES) -> Group:
    """A group of plain numbers of which nothing was judged."""
    logp = logp if isinstance(logp, torch.Tensor) else torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    fixed = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in anchors.items()}
    return Group(logp, fixed, torch.from_numpy(unjudged(len(role))), torch.ones(len(role)), role)


@pytest.mark.parametrize(("name", "slot"), [("irft", "magnet"), ("spin", "magnet"), ("sapo", "ema")])
def test_by_hand(name: str, slot: str) -> None:
    """-log s(beta (h(shown) - h(own))), a mean over own replies: what was shown rises, own replies fall."""
    algorithm = get_algorithm(name, step=2.0)
    (phase,) = algorithm.phases(1)
    assert phase.anchors == (slot,)
    assert not phase.verdicts
    group = shown_group([-3.0, -6.0, -4.0], {slot: [-2.0, -4.0, -5.0]})
    loss = algorithm.loss(group, phase)
    margins = [(1.0 - -1.0) / 2.0, (1.0 - -2.0) / 2.0]
    assert loss.item() == pytest.approx(np.mean([math.log1p(math.exp(-m)) for m in margins]), rel=1e-12)
    loss.backward()
    falls = [0.5 * 0.5 / (1 + math.exp(m)) for m in margins]
    np.testing.assert_allclose(group.logp.grad, [*falls, -sum(falls)], rtol=1e-12)
    for role in (("policy",) * 3, ("data",) * 3):
        assert algorithm.loss(shown_group([-3.0, -6.0, -4.0], {slot: [0.0] * 3}, role), phase).item() == 0.0


def test_it_is_dpo_with_the_demonstration_as_the_winner() -> None:
    """One own reply; to the last digit."""
    logp, anchor = [-3.0, -4.5], [-2.0, -5.0]
    spin, dpo = get_algorithm("spin", step=3.0), get_algorithm("dpo", step=3.0)
    group = Group(
        torch.tensor(logp), {"start": torch.tensor(anchor)}, torch.tensor([[0.5, 0.0], [1.0, 0.5]]), torch.ones(2),
        ("policy", "policy"),
    )  # fmt: skip
    given = shown_group(logp, {"magnet": anchor}, ("policy", "data"))
    expected = dpo.loss(group, dpo.phases(1)[0]).item()
    assert spin.loss(given, spin.phases(1)[0]).item() == pytest.approx(expected, rel=1e-6)


def minimiser(name: str, step: float) -> FloatArray:
    """The exact expectation of the loss over one demonstration and two own replies, minimised by LBFGS."""
    algorithm = get_algorithm(name, step=step)
    (phase,) = algorithm.phases(1)
    (slot,) = phase.anchors
    logits = torch.tensor(SLOTS["policy"], requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=300, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )
    own, data = np.exp(SLOTS[phase.sample_from]), np.exp(DATA)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logp = torch.log_softmax(logits, 0)
        total = torch.zeros((), dtype=torch.float64)
        for actions in itertools.product(range(3), repeat=3):
            a = list(actions)
            group = shown_group(logp[a], {slot: SLOTS[slot][a]})
            total = total + own[a[0]] * own[a[1]] * data[a[2]] * algorithm.loss(group, phase)
        total.backward()
        return total

    optimiser.step(closure)
    return log_normalise(logits.detach().numpy())


@pytest.mark.parametrize("name", ["irft", "sapo"])
def test_loss_minimiser_is_the_closed_form(name: str) -> None:
    """anchor (data / sampler)^step; the sampler of IRFT is the policy, SAPO's its anchor, so neither is the other."""
    state = demonstrated(SLOTS["policy"], DATA, SLOTS["start"])
    memory = {**state.memory, "magnet": SLOTS["magnet"], "ema": SLOTS["ema"]}
    algorithm = get_algorithm(name, step=0.6)
    found = algorithm.population(np.full((3, 3), 0.5), type(state)(state.log_policy, state.log_ref, 0, memory))
    slot, sampler = {"irft": ("magnet", "policy"), "sapo": ("ema", "ema")}[name]
    expected = log_normalise(SLOTS[slot] + 0.6 * (DATA - SLOTS[sampler]))
    np.testing.assert_allclose(found.log_policy, expected, atol=1e-13)
    np.testing.assert_allclose(minimiser(name, 0.6), expected, atol=1e-6)


def rounds_of(name: str, options: dict[str, Any], rounds: int) -> list[FloatArray]:
    algorithm, state = get_algorithm(name, **options), demonstrated(SLOTS["start"], DATA)
    found = []
    for _ in range(rounds):
        state = algorithm.population(np.full((3, 3), 0.5), state)
        found.append(state.log_policy)
    return found


def test_where_they_rest() -> None:
    """SPIN at the data, by 1 - step a round; IRFT with a reference that rests short of them; SAPO at the data."""
    first, second = rounds_of("spin", {"step": 0.4}, 2)
    np.testing.assert_allclose(first, log_normalise(0.6 * SLOTS["start"] + 0.4 * DATA), atol=1e-13)
    np.testing.assert_allclose(second, log_normalise(0.36 * SLOTS["start"] + 0.64 * DATA), atol=1e-13)
    np.testing.assert_allclose(rounds_of("spin", {"step": 1.0}, 1)[0], DATA, atol=1e-13)
    np.testing.assert_allclose(rounds_of("irft", {"step": 0.4, "refresh": 1}, 5), rounds_of("spin", {"step": 0.4}, 5))
    resting = rounds_of("irft", {"step": 0.5, "refresh": 1000}, 80)[-1]
    np.testing.assert_allclose(resting, log_normalise((SLOTS["start"] + 0.5 * DATA) / 1.5), atol=1e-12)
    for refresh in (2, 5):
        np.testing.assert_allclose(rounds_of("irft", {"step": 0.5, "refresh": refresh}, 300)[-1], DATA, atol=1e-9)
    np.testing.assert_allclose(rounds_of("sapo", {"step": 0.8}, 200)[-1], DATA, atol=1e-9)


def test_sapo_keeps_an_average_of_parameters() -> None:
    (phase,) = get_algorithm("sapo", decay=0.25).phases(1)
    assert (phase.output_average, phase.average_weight, phase.average_parameters) == ("ema", 0.75, True)
    assert (phase.sample_from, phase.anchors, phase.segment) == ("ema", ("ema",), 256)


def test_a_matrix_game_has_no_demonstrations() -> None:
    game = open_game("rps")
    for rounds in (play(get_algorithm("spin"), game, 1), play_sampled(get_algorithm("spin"), game, 1, Sampling(4))):
        with pytest.raises(ConfigError, match="irft learns from demonstrations, and a matrix game has none"):
            list(rounds)


# ---- data of the round loop

TOKENIZER = make_tiny_tokenizer()
PROMPT, OTHER = Prompt.from_text("Say fox.", id="a"), Prompt.from_text("Say dog.", id="b")


def shown(limit: int = 40) -> Demonstrations:
    return Demonstrations({PROMPT.messages: "The quick brown fox."}, TOKENIZER, limit, "shown.jsonl")


def test_a_demonstration_is_trained_on_as_a_sample_is() -> None:
    """Prompt and ids by the chat template, the end of the turn included; the opponent's replies stay last."""
    group = SampledGroup(PROMPT, (Response("x", (70, 2), "stop"), Response("y", (71,), "length")), opponents=1)
    (beside,) = shown().beside([group])
    assert beside.roles == ("policy", "data", "opponent")
    assert [r.text for r in beside.own] == ["x"]
    [rows] = token_sequences(TOKENIZER, [beside], "Be brief.")
    asked = Prompt.from_text("Say fox. Be brief.")
    ids, head = chat.encode_pair(TOKENIZER, asked, "The quick brown fox.")
    assert [len(rows), rows[1].ids, rows[1].prompt_length] == [2, tuple(ids), head]
    assert ids[-1] == chat.end_token_id(TOKENIZER)
    [whole] = token_sequences(TOKENIZER, [beside], "", opponents=True)
    assert [s.response_length for s in whole] == [2, rows[1].response_length, 1]
    cut = shown(limit=3).response(PROMPT)
    assert cut.finish_reason == "length"
    assert cut.token_ids == tuple(ids[head : head + 3])


def test_groups_with_demonstrations_come_back_from_disk(tmp_path: Path) -> None:
    groups = shown().beside([SampledGroup(PROMPT, (Response("x", (70, 2), "stop", -1.0),))])
    write_samples(tmp_path / "s.jsonl", groups)
    assert read_samples(tmp_path / "s.jsonl") == groups


def test_a_segment_is_all_that_changes() -> None:
    whole, end = shown().response(PROMPT), chat.end_token_id(TOKENIZER) or 0
    ids, length = whole.token_ids or (), 2
    segments = [choose_segment(whole, length, 0, "segment", index) for index in range(200)]
    for segment in segments:
        assert (*segment.before, *ids[len(segment.before) : len(segment.before) + length], *segment.after) == ids
    assert {len(segment.before) for segment in segments} == set(range(len(ids) - length + 1))
    segment = next(segment for segment in segments if segment.after)
    kept = segment.filled(TOKENIZER, Response("", (90, 91), "length"), (end,))
    assert (kept.token_ids, kept.finish_reason) == ((*segment.before, 90, 91, *segment.after), "stop")
    assert kept.text == chat.decode(TOKENIZER, (kept.token_ids or ())[:-1])
    ended = segment.filled(TOKENIZER, Response("", (90, end), "stop"), (end,))
    assert (ended.token_ids, ended.finish_reason) == ((*segment.before, 90, end), "stop")
    every = choose_segment(whole, 99, 0)
    assert (every.before, every.after) == ((), ())
    assert every.filled(TOKENIZER, Response("", (90, 91), "length"), (end,)).finish_reason == "length"


def test_one_clear_message_where_they_are_missing() -> None:
    for name in ("irft", "spin", "sapo"):
        with pytest.raises(ConfigError, match=f"demonstrations: {name} learns from written answers"):
            AlignConfig(algorithm=name)
    with pytest.raises(ConfigError, match="onpo does not learn from any"):
        AlignConfig(demonstrations="shown.jsonl")
    with pytest.raises(ConfigError, match=r"shown\.jsonl has none for 1 of 2 prompts, such as prompt 'b'"):
        shown().check([PROMPT, OTHER])


def test_prompts_of_demonstrations_are_each_taken_once() -> None:
    again = Prompt("c", (Message("user", "Say fox."),))
    assert [p.id for p in shown_prompts([(PROMPT, "one"), (OTHER, "two"), (again, "three")])] == ["a", "b"]


def test_spin_is_in_the_table() -> None:
    rows = {row.name: row for row in list_algorithms()}
    assert (rows["spin"].arxiv, rows["spin"].alias_of) == ("2401.01335", "irft")
