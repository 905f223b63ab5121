"""Options of the round loop on a tiny model: replay, early stop, length, distillation, kept anchors; each resumes."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from test_align_rounds import Killed, config_for, no_fsync, open_loop, outcome, play, tiny, until_done, weights
from tiny import make_tiny_tokenizer

from alignment.alarms import fixed_point
from alignment.algorithm import get_algorithm
from alignment.anchors import about, is_kept
from alignment.config import AlignConfig, ProbeConfig, StopConfig
from alignment.items import group_loss, hold_out, mean_loss
from alignment.logprobs import frozen_logprobs
from alignment.policy import Slots, load_policy
from alignment.samples import read_samples, read_tables, token_sequences
from alignment.stopping import best_round, criterion, has_stalled
from prefeval import fit_loop
from prefeval.errors import ConfigError, RunError
from prefeval.fit import FitConfig
from prefeval.fit_stop import FitStop
from prefeval.runs import MetricsLog, RunDir

__all__ = ["no_fsync", "tiny"]  # fixtures

ALL: dict[str, Any] = {
    "rounds": 3,
    "prompts_per_round": 2,
    "replay": 1,
    "length_slope": 0.05,
    "held_out": 0.4,
    "fit": FitConfig(
        precision="fp32",
        learning_rate=1e-2,
        epochs=2,
        batch_size=2,
        checkpoint_every=1,
        stop=FitStop(patience=1, every=1),
    ),
    "deploy": "distilled",
    "stop": StopConfig(patience=1, by="kl", lower_is_better=True),
}


def test_replayed_rounds_are_trained_on_again_under_todays_anchors(tiny: Path, tmp_path: Path) -> None:
    config = config_for(tiny, tmp_path / "run", "inpo", replay=2, prompts_per_round=3, rounds=4)
    loop = open_loop(config)
    slots = Slots.from_start(loop.start)
    for number in (1, 2, 3):
        slots = loop.play_round(number, slots)
    phase, folder = loop.algorithm.phases(4)[0], tmp_path / "run" / "rounds" / "004" / "fit"
    loop._collect(4, phase, slots)
    items = loop.fitter.items(4, phase, slots, folder)
    asked = [f"{n}/{p.id}" for n in (4, 3, 2) for p in loop.round_prompts(n)]
    assert [i.key for i in items] == asked
    policy = load_policy(slots.checkpoint("policy"), torch.float32)
    for item in items:
        under = frozen_logprobs(policy, item.sequences, loop.pad)
        assert item.anchors["policy"] == pytest.approx(under, abs=1e-4)
    old = read_tables(tmp_path / "run" / "rounds" / "002" / "fit" / "preferences.safetensors")
    for item, table in zip(items[6:], old, strict=True):
        np.testing.assert_array_equal(item.table, table)
    assert len(replace(loop.fitter, config=replace(config, replay=0)).folders(4, folder)) == 1
    rows = {r.stage: r.values for r in MetricsLog(tmp_path / "run" / "metrics.jsonl").rows() if r.kind == "fit"}
    steps = {n: rows[f"round{n}/fit/fit"]["epoch"] for n in (1, 3)}
    assert steps == {1: 1.0, 3: 1.0}


def test_a_run_stops_at_its_criterion_and_deploys_its_best_round(tiny: Path, tmp_path: Path) -> None:
    """KL from the start grows from round to round, so the first round is the best by it."""
    stop = StopConfig(patience=1, by="kl", lower_is_better=True)
    fit = FitConfig(precision="fp32", learning_rate=1e-2, epochs=3, batch_size=2, schedule="constant")
    result = play(config_for(tiny, tmp_path / "run", "inpo", rounds=6, fit=fit, stop=stop, deploy="best"))
    kl = [r.values["kl"] for r in MetricsLog(tmp_path / "run" / "metrics.jsonl").rows() if r.kind == "probe"]
    assert kl[1] < kl[2]
    assert result["rounds"] == 2
    assert not (tmp_path / "run" / "rounds" / "003").exists()
    assert torch.equal(weights(result["policy"]), weights(tmp_path / "run" / "rounds" / "001" / "fit-policy"))


def test_when_a_run_has_stalled() -> None:
    stop = StopConfig(patience=2, least=0.1)
    values = [0.5, 0.7, 0.75, 0.6]
    assert [has_stalled(values[:n], stop) for n in range(1, 5)] == [False, False, False, True]
    assert best_round(values, stop) == 2
    assert best_round(values, StopConfig()) == 3
    assert best_round([0.5, float("nan"), 0.4], StopConfig(lower_is_better=True)) == 3
    assert not has_stalled(values, StopConfig())
    with pytest.raises(ConfigError, match=r"did you mean 'oracle/win_rate'"):
        criterion({"oracle/win_rate": 0.5, "kl": 0.1}, StopConfig(by="oracle/winrate"))


def test_prompts_that_are_held_out_are_whole_prompts_and_measured_as_the_fit_measures(
    tiny: Path, tmp_path: Path
) -> None:
    config = config_for(tiny, tmp_path / "run", "inpo", rounds=1, held_out=0.3)
    loop = open_loop(config)
    slots, phase = Slots.from_start(loop.start), loop.algorithm.phases(1)[0]
    loop._collect(1, phase, slots)
    items = loop.fitter.items(1, phase, slots, tmp_path / "run" / "rounds" / "001" / "fit")
    replayed = [copy.copy(item) for item in items]
    for item in replayed:
        item.key = item.key.replace("1/", "0/")
    trained, kept = hold_out([*items, *replayed], 0.3, seed=4)
    assert (len(trained), len(kept)) == (16, 8)  # 4 of 12 prompts, with what is replayed of them
    assert not {i.key[2:] for i in trained} & {i.key[2:] for i in kept}
    assert [i.key for i in hold_out(items, 0.3, seed=4)[1]] == [i.key for i in kept[:4]]
    assert len(hold_out(items[:2], 0.01, seed=0)[1]) == 1
    policy = load_policy(loop.start, torch.float32)
    alone = [float(group_loss(policy, [i], loop.algorithm, phase, loop.pad).loss_sum.detach()) for i in kept]
    assert mean_loss(policy, kept, loop.algorithm, phase, loop.pad, 200) == pytest.approx(np.mean(alone), rel=1e-4)
    with pytest.raises(ConfigError, match="at least two prompts"):
        hold_out(items[:1], 0.5, seed=0)
    with pytest.raises(ConfigError, match="give held_out a share"):
        replace(config, held_out=0.0, fit=FitConfig(stop=FitStop(patience=2)))


def test_length_is_taken_out_of_the_verdicts_that_are_trained_on(tiny: Path, tmp_path: Path) -> None:
    """'Shorter wins' for sure is 27.6 nats; at -5 nats a character, 6 more characters turn the verdict round."""
    play(config_for(tiny, tmp_path / "run", "dpo", rounds=1, length_slope=-5.0))
    folder = tmp_path / "run" / "rounds" / "001" / "fit"
    groups, tables = read_samples(folder / "samples.jsonl"), read_tables(folder / "preferences.safetensors")
    sure = math.log(1 - 1e-12) - math.log(1e-12)
    for group, table in zip(groups, tables, strict=True):
        length = np.array([len(t) for t in group.texts], dtype=float)
        longer = length[:, None] - length[None, :]
        np.testing.assert_allclose(table, 1 / (1 + np.exp(sure * np.sign(longer) - 5.0 * longer)), rtol=1e-4, atol=1e-9)
    probes = [r.values for r in MetricsLog(tmp_path / "run" / "metrics.jsonl").rows() if r.kind == "probe"]
    assert all((2 * 8 * p["oracle/win_rate"]) % 1 == 0 for p in probes)  # the probes' oracle says 0, 1/2 or 1


@pytest.mark.slow
def test_distillation_fits_the_mixture_of_all_rounds(tiny: Path, tmp_path: Path) -> None:
    """As many replies of each policy, and the student explains them better than the policy it starts from."""
    fit = FitConfig(precision="fp32", learning_rate=1e-2, epochs=4, batch_size=4, schedule="constant")
    out = tmp_path / "run"
    config = config_for(tiny, out, "inpo", rounds=2, responses=8, fit=fit, deploy="distilled")
    final = play(config)["policy"]
    groups = read_samples(out / "distil" / "samples.jsonl")
    assert [len(g.responses) for g in groups] == [8] * 6  # three prompts, two policies
    assert [g.prompt.id for g in groups[:3]] == [g.prompt.id for g in groups[3:]]
    rows = [s for r in token_sequences(make_tiny_tokenizer(), groups, config.instruction) for s in r]
    first, last = (out / "rounds" / f"00{n}" / "fit-policy" for n in (1, 2))
    for half, path in zip((groups[:3], groups[3:]), (first, last), strict=True):
        own = [r.logprob for g in half for r in g.responses]
        part = [s for r in token_sequences(make_tiny_tokenizer(), half, config.instruction) for s in r]
        assert own == pytest.approx(frozen_logprobs(load_policy(str(path), torch.float32), part, 0), abs=1e-3)
    explained = [sum(frozen_logprobs(load_policy(str(p), torch.float32), rows, 0)) for p in (final, last, first)]
    assert explained[0] > max(explained[1:])


def test_kept_anchors_are_checked_and_made_anew_for_another_template(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = open_loop(config_for(tiny, tmp_path / "run", "nash_md_pg", rounds=1))
    slots = Slots.from_start(loop.start)
    phase, folder = loop.algorithm.phases(1)[0], tmp_path / "run" / "rounds" / "001" / "fit"
    loop._collect(1, phase, slots)
    first = loop.fitter.items(1, phase, slots, folder)
    file = folder.parent / "fit-policy-anchors.safetensors"
    written = file.stat().st_mtime_ns
    again = loop.fitter.items(1, phase, slots, folder)
    assert file.stat().st_mtime_ns == written
    assert [(i.anchors, i.token_anchors) for i in again] == [(i.anchors, i.token_anchors) for i in first]
    tokenizer = make_tiny_tokenizer()
    facts = about(tokenizer, torch.float32, "x")
    tokenizer.chat_template = "{{ messages }}"
    with caplog.at_level(logging.WARNING, logger="prefeval"):
        assert not is_kept(file, about(tokenizer, torch.bfloat16, "x"))
    assert "template" in caplog.text
    assert "torch.float32 (now torch.bfloat16)" in caplog.text
    assert facts["template"] != about(tokenizer, torch.float32, "x")["template"]
    from safetensors import safe_open

    with safe_open(file, "numpy") as opened:
        kept = opened.metadata()
    values = load_file(file)
    values["sum.start"][0] = np.nextafter(values["sum.start"][0], 0)
    save_file(values, file, metadata=kept)
    with pytest.raises(RunError, match="anchor 'start' differ"):
        loop.fitter.items(1, phase, slots, folder)


@pytest.mark.slow
def test_a_run_with_every_option_killed_anywhere_ends_as_if_it_had_not_been(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every optimiser step and after every stage's work, ahead of its marker."""
    play(config_for(tiny, tmp_path / "unbroken", "inpo", **ALL))
    seen: set[Any] = set()
    stage, advance = RunDir.stage, fit_loop.FitLoop.advance

    def killed_stage(self: RunDir, name: str, inputs: Any, fn: Callable[[], Any]) -> Any:
        def killed() -> Any:
            result = fn()
            if name not in seen:
                seen.add(name)
                raise Killed
            return result

        return stage(self, name, inputs, killed)

    def killed_advance(self: Any) -> None:
        if (self.stage, self.step) not in seen:
            seen.add((self.stage, self.step))
            raise Killed
        advance(self)

    monkeypatch.setattr(RunDir, "stage", killed_stage)
    monkeypatch.setattr(fit_loop.FitLoop, "advance", killed_advance)
    assert until_done(config_for(tiny, tmp_path / "run", "inpo", **ALL)) == len(seen) > 15
    assert {"distil/sample", "final", ("final", 0), ("round2/fit/fit", 1)} <= seen
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("name", "options", "replay", "slope", "words"),
    [
        ("inpo", {}, 0, 0.0, []),
        ("nash_mp", {"labels": "bernoulli"}, 0, 0.0, ["keeps the fixed point"]),
        ("inpo", {"labels": "hard", "pairs": "tournament"}, 0, 0.0, ["thresholded", "pairs tournament"]),
        ("sppo", {"pairs": "best_worst"}, 2, 0.1, ["best and worst", "last 2 rounds", "length_slope 0.1"]),
    ],
)
def test_the_log_says_what_options_do_to_the_fixed_point(
    name: str, options: dict[str, Any], replay: int, slope: float, words: list[str]
) -> None:
    lines = fixed_point(get_algorithm(name, **options), replay, slope)
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True))


def test_what_options_cannot_be_is_told(tiny: Path, tmp_path: Path) -> None:
    for changes, message in (({"replay": -1}, "replay"), ({"length_slope": float("nan")}, "length_slope")):
        with pytest.raises(ConfigError, match=message):
            AlignConfig(**changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="patience"):
        StopConfig(patience=-1)
    with pytest.raises(ConfigError, match="need probes"):
        play(config_for(tiny, tmp_path / "run", "dpo", deploy="best", probe=ProbeConfig(share=0.0)))
