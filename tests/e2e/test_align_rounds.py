"""Whole alignment runs on a tiny model: every algorithm, resume after a kill anywhere, and learning."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tiny_tokenizer, save_tiny

from alignment.algorithm import get_algorithm, list_algorithms
from alignment.cli import align, run_align
from alignment.config import AlignConfig, ProbeConfig
from alignment.labels import unjudged
from alignment.policy import Slots, load_policy
from alignment.probes import judge, win_tables
from alignment.rounds import RoundLoop
from alignment.samples import SampledGroup, read_samples, read_tables
from prefeval import cli, fit_loop
from prefeval.config import to_dict
from prefeval.errors import ConfigError
from prefeval.files import write_jsonl
from prefeval.fit import FitConfig
from prefeval.generate import SamplingParams
from prefeval.generate.hf import HFGenerator
from prefeval.lora import LoraConfig
from prefeval.oracle import PairwiseRule
from prefeval.runs import MetricsLog, RunDir
from prefeval.types import Prompt

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("dpo", {"step": 5.0}),
    "dpo best and worst": ("dpo", {"step": 5.0, "pairs": "best_worst", "labels": "hard"}),
    "inpo": ("inpo", {"step": 5.0, "tau": 0.02}),
    "inpo tournament": ("inpo", {"step": 5.0, "tau": 0.02, "pairs": "tournament", "labels": "bernoulli"}),
    "sppo": ("sppo", {"step": 5.0}),
    "sppo pairwise": ("sppo", {"step": 5.0, "normaliser": "pairwise"}),
    "onpo": ("onpo", {"step": 3.0}),
    "onpo one fit": ("onpo", {"step": 3.0, "one_fit": True}),
    "onpo with tau": ("onpo", {"step": 3.0, "tau": 0.1}),
    "egpo": ("egpo", {"step": 3.0, "tau": 0.1}),
    "nash_mp": ("nash_mp", {"step": 0.4, "tau": 0.2}),
    "mpo": ("mpo", {"step": 3.0, "alpha": 0.1, "refresh": 1}),
    "onpo_magnet": ("onpo_magnet", {"step": 3.0, "alpha": 0.1, "refresh": 1}),
    "comal": ("comal", {"step": 3.0, "tau": 0.1, "refresh": 1}),
    "nash_md": ("nash_md", {"step": 3.0, "tau": 0.1}),
    "nash_ema": ("nash_ema", {"step": 3.0, "tau": 0.1}),
    "nash_md_pg": ("nash_md_pg", {}),
    "ipo_md": ("ipo_md", {"step": 5.0}),
    "mnpo": ("mnpo", {"step": 3.0, "tau": 0.1}),
    "gpo": ("gpo", {"step": 0.5}),
    "dno": ("dno", {"step": 5.0}),
    "exo": ("exo", {"step": 5.0}),
    # self-play and exploration, demonstrations
    "xpo": ("xpo", {"step": 5.0, "alpha": 0.01}),
    "apo": ("apo", {"step": 5.0}),
    "rspo": ("rspo", {"step": 5.0}),
    "qrpo": ("qrpo", {"step": 5.0}),
    "sail PR": ("sail", {"beta": 0.2}),
    "sail PP": ("sail", {"beta": 0.2, "variant": "PP"}),
    "sail DP": ("sail", {"beta": 0.2, "variant": "DP"}),
    "spac": ("spac", {"step": 5.0}),
    "irft": ("irft", {"step": 5.0}),
    "spin": ("spin", {"step": 5.0}),
    "sapo": ("sapo", {"step": 5.0, "segment": 3}),
    "expert_iteration": ("expert_iteration", {}),
    "return_conditioned": ("return_conditioned", {}),
    "rloo": ("rloo", {}),
    "ppo": ("ppo", {}),
}
OFFLINE: dict[str, tuple[str, dict[str, Any]]] = {
    "minor_dpo": ("minor_dpo", {"step": 5.0, "labels": "hard"}),
    "slic": ("slic", {"labels": "hard", "pairs": "best_worst"}),
    "rso": ("rso", {"step": 5.0, "accept": 3, "pairs": "first_round"}),
    "rpo": ("rpo", {"step": 5.0}),
    "kto": ("kto", {"step": 5.0}),
    "chi2_po": ("chi2_po", {"step": 5.0}),
    "hypo": ("hypo", {"step": 5.0, "kl": 0.1}),
    "mpo_max": ("mpo_max", {"step": 5.0}),
    "dpo adaptive": ("dpo", {"step": 5.0, "form": "adaptive"}),
}
METHODS |= OFFLINE
SHOWN = ("irft", "spin", "sapo")  # these learn from demonstrations
# one of each kind of round: two fits, an opponent, gradients alone, tokens of a demonstration, whole rewards
QUICK = ("dpo", "onpo", "egpo", "nash_md_pg", "exo", "irft")
TIMES = ("seconds", "tokens_per_second", "spent/minutes")
WORDS = "fox dog sky light rainbow colour answer help lazy brown quick blue".split()  # noqa: SIM905


@pytest.fixture(autouse=True, scope="module")
def no_fsync() -> Iterator[None]:
    """Kills are simulated inside one process, so nothing has to reach the disk; a busy one would make these slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder / "model")
    write_jsonl(folder / "prompts.jsonl", [{"id": f"p{i}", "prompt": f"Say {w}."} for i, w in enumerate(WORDS[:5])])
    write_jsonl(folder / "shown.jsonl", [{"prompt": f"Say {w}.", "response": f"{w} is it"} for w in WORDS[:5]])
    return folder


def config_for(tiny: Path, out: Path, method: str, **changes: Any) -> AlignConfig:
    name, options = METHODS[method]
    config = AlignConfig(
        out=str(out),
        policy=str(tiny / "model"),
        oracle="rules:shorter",
        algorithm=name,
        options=options,
        prompts=str(tiny / "prompts.jsonl"),
        demonstrations=str(tiny / "shown.jsonl") if method in SHOWN else "",
        instruction="Be brief.",
        rounds=2,
        responses=4,
        max_new_tokens=6,
        probe=ProbeConfig(share=0.4),
        fit=FitConfig(precision="fp32", learning_rate=1e-3, batch_size=2, batch_tokens=256, checkpoint_every=1),
    )
    return replace(config, **changes)


def play(config: AlignConfig) -> dict[str, Any]:
    run = RunDir(config.out, to_dict(config), command="test")
    with run.lock():
        return run_align(config, run)


def outcome(out: Path) -> tuple[bytes, list[Any]]:
    """Final weights as bytes, and metric rows without times."""
    rows = [
        (r.kind, r.stage, r.round, r.step, {k: v for k, v in r.values.items() if k not in TIMES})
        for r in MetricsLog(out / "metrics.jsonl").rows()
    ]
    return (out / "final" / "model.safetensors").read_bytes(), rows


def weights(path: str | Path) -> torch.Tensor:
    return torch.cat([t.flatten() for _, t in sorted(load_file(Path(path) / "model.safetensors").items())])


@pytest.fixture(scope="module")
def unbroken(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    play(config_for(tiny, out, "onpo"))
    return out


def test_every_registered_algorithm_is_run_here() -> None:
    played = {name for name, _ in METHODS.values()}
    assert {i.name for i in list_algorithms() if not i.alias_of} <= played <= {i.name for i in list_algorithms()}


@pytest.mark.parametrize("method", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in METHODS])
def test_two_rounds_of(method: str, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = config_for(tiny, out, method)
    result = play(config)
    stages = [(r.kind, r.stage) for r in MetricsLog(out / "metrics.jsonl").rows()]
    phases = get_algorithm(config.algorithm, **config.options).phases(1)
    for number in (1, 2):
        assert ("probe", f"round{number}/probe") in stages
        assert {s for k, s in stages if k == "fit" and s.startswith(f"round{number}/")} == {
            f"round{number}/{p.name}/fit" for p in phases
        }
        folder = out / "rounds" / f"00{number}" / phases[0].name
        groups, tables = read_samples(folder / "samples.jsonl"), read_tables(folder / "preferences.safetensors")
        assert len(groups) == 3  # two of five prompts are kept for the probes
        for group, table in zip(groups, tables, strict=True):
            assert not any("Be brief" in m.content for m in group.prompt.messages)  # judged on the bare prompt
            assert group.opponents == (4 if phases[0].opponent else 0)
            assert group.demonstrations == (1 if method in SHOWN else 0)
            lengths = np.array([len(t) for t in group.texts])
            verdicts = 0.5 + 0.5 * np.sign(lengths[None, :] - lengths[:, None])
            np.testing.assert_array_equal(table, verdicts if method not in SHOWN else unjudged(len(lengths)))
    assert not list(out.glob("rounds/*/*-fit")), "training state is removed after a fit"
    start = weights(tiny / "model")
    policies = [start, *(weights(out / "rounds" / f"00{n}" / f"{phases[-1].name}-policy") for n in (1, 2))]
    assert not torch.equal(policies[0], policies[1])
    assert not torch.equal(policies[1], policies[2])
    assert torch.equal(weights(result["policy"]), policies[2])
    loaded = load_policy(result["policy"], torch.float32)
    assert loaded(torch.tensor([[1, 7]])).logits.shape == (1, 2, 300)


def test_only_the_probe_prompts_are_probed(unbroken: Path, tiny: Path) -> None:
    asked = {g.prompt.id for g in read_samples(unbroken / "probes" / "policy002.jsonl")}
    trained = {g.prompt.id for p in unbroken.glob("rounds/*/aux/samples.jsonl") for g in read_samples(p)}
    assert len(asked) == 2
    assert len(trained) == 3
    assert not asked & trained
    probes = {r.round: r.values for r in MetricsLog(unbroken / "metrics.jsonl").rows() if r.kind == "probe"}
    assert sorted(probes) == [0, 1, 2]
    assert probes[0]["kl"] == pytest.approx(0.0, abs=1e-4)  # the start from itself
    assert probes[0]["oracle/win_rate"] == 0.5
    # a round: 3 prompts of 4 replies, 6 pairs each; 2 fits of 2 steps
    spent = {n: {k: p[f"spent/{k}"] for k in ("replies", "comparisons", "steps")} for n, p in probes.items()}
    assert spent == {n: {"replies": 12 * n, "comparisons": 18 * n, "steps": 4 * n} for n in (0, 1, 2)}
    assert probes[2]["kl"] != pytest.approx(0.0, abs=1e-4)


class Killed(BaseException):
    """Stands for a kill: nothing may catch it and tidy up."""


def until_done(config: AlignConfig) -> int:
    """Start the same command again after every kill; the number of kills."""
    for kills in range(200):
        try:
            play(config)
        except Killed:
            continue
        return kills
    raise AssertionError("never done")


@pytest.mark.parametrize("moment", ["before its marker", pytest.param("before it starts", marks=pytest.mark.slow)])
def test_a_kill_at_every_stage_boundary(
    moment: str, tiny: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    original = RunDir.stage

    def stage(self: RunDir, name: str, inputs: Any, fn: Callable[[], Any]) -> Any:
        def killed() -> Any:
            result = fn() if moment == "before its marker" or name in seen else None
            if name not in seen:
                seen.add(name)
                raise Killed
            return result

        return original(self, name, inputs, killed)

    monkeypatch.setattr(RunDir, "stage", stage)
    out = tmp_path / "run"
    kills = until_done(config_for(tiny, out, "onpo"))
    assert kills == len(seen) == 12  # probe 0; sample, compare, two fits, probe in two rounds; final
    assert outcome(out) == outcome(unbroken)


def test_a_kill_before_every_optimiser_step(
    tiny: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, int]] = set()
    original = fit_loop.FitLoop.advance

    def advance(self: Any) -> None:
        if (self.stage, self.step) not in seen:
            seen.add((self.stage, self.step))
            raise Killed
        original(self)

    monkeypatch.setattr(fit_loop.FitLoop, "advance", advance)
    out = tmp_path / "run"
    kills = until_done(config_for(tiny, out, "onpo"))
    assert kills == 8  # two steps (3 prompts in batches of 2) of two fits in two rounds
    assert outcome(out) == outcome(unbroken)


def test_a_finished_run_does_nothing_and_another_config_is_refused(tiny: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    saved = (out / "config.yaml").read_text().replace(str(unbroken), str(out))
    (out / "config.yaml").write_text(saved)
    play(config_for(tiny, out, "onpo"))
    after = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert {p for p in after if after[p] != before.get(p)} == {out / "config.yaml"}
    changes: dict[str, dict[str, Any]] = {"rounds: 3": {"rounds": 3}, "step: 3.5": {"options": {"step": 3.5}}}
    for line, change in (changes | {"seed: 1": {"seed": 1}}).items():
        with pytest.raises(ConfigError, match=f"another configuration(.|\n)*\\+.*{line}"):
            play(config_for(tiny, out, "onpo", **change))


def test_another_model_under_the_same_path_is_not_taken_for_the_old_one(tiny: Path, tmp_path: Path) -> None:
    start = tmp_path / "model"
    save_tiny(start, seed=0)
    config = config_for(tiny, tmp_path / "run", "dpo", policy=str(start), rounds=1)
    play(config)
    first = outcome(tmp_path / "run")
    save_tiny(start, seed=1)
    play(config)
    second = outcome(tmp_path / "run")
    assert second[0] != first[0]
    fresh = replace(config, out=str(tmp_path / "fresh"))
    play(fresh)
    assert outcome(tmp_path / "fresh")[0] == second[0]
    assert sorted(map(str, outcome(tmp_path / "fresh")[1])) == sorted(map(str, second[1]))


@pytest.mark.slow
def test_averages_of_parameters_and_moved_anchors_are_the_checkpoints_they_say(tiny: Path, tmp_path: Path) -> None:
    """Nash-EMA's opponent is half start, half fitted; MNPO's past the policy before; a magnet the policy after."""
    loop = open_loop(config_for(tiny, tmp_path / "ema", "nash_ema", rounds=1))
    slots = loop.play_round(1, Slots.from_start(loop.start))
    halfway = 0.5 * weights(loop.start) + 0.5 * weights(slots.checkpoint("policy"))
    torch.testing.assert_close(weights(slots.checkpoint("ema")), halfway)
    loop = open_loop(config_for(tiny, tmp_path / "mnpo", "mnpo"))
    first = loop.play_round(1, Slots.from_start(loop.start))
    second = loop.play_round(2, first)
    assert first.checkpoint("past1") == loop.start
    assert second.checkpoint("past1") == first.checkpoint("policy") != second.checkpoint("policy")
    loop = open_loop(config_for(tiny, tmp_path / "mpo", "mpo"))
    slots = loop.play_round(1, Slots.from_start(loop.start))
    assert slots.checkpoint("magnet") == slots.checkpoint("policy") != loop.start


def test_steps_below_the_resolution_of_bf16_add_up_over_rounds(tiny: Path, tmp_path: Path) -> None:
    """At a learning rate of 1e-6 a round moves less than bf16 can tell apart: nothing may be rounded away between."""
    fit = FitConfig(precision="bf16", learning_rate=1e-6, batch_size=1, checkpoint_every=0, schedule="constant")
    loop = open_loop(config_for(tiny, tmp_path / "run", "inpo", fit=fit))
    slots, moved = Slots.from_start(loop.start), []
    for number in (1, 2, 3):
        slots = loop.play_round(number, slots)
        moved.append((weights(slots.checkpoint("policy")) - weights(loop.start)).abs().median().item())
    assert 1e-6 < moved[0] < moved[1] < moved[2] < 1e-4
    resolution = (weights(loop.start).abs() / 256).median().item()
    assert moved[0] < resolution


def test_adapters_train_a_low_rank_change_and_leave_plain_checkpoints(tiny: Path, tmp_path: Path) -> None:
    """Only linear layers move, by matrices of the rank asked for, from round to round."""
    fit = FitConfig(precision="bf16", learning_rate=1e-2, batch_size=1, checkpoint_every=0)
    config = config_for(tiny, tmp_path / "run", "inpo", fit=fit, lora=LoraConfig(rank=2))
    play(config)
    start = load_file(tiny / "model" / "model.safetensors")
    for number in (1, 2):
        moved = load_file(tmp_path / "run" / "rounds" / f"00{number}" / "fit-policy" / "model.safetensors")
        assert set(moved) == set(start)
        for name, tensor in moved.items():
            change = tensor.float() - start[name].float()
            is_linear = any(part in name for part in ("_proj.", "fc"))
            assert bool(change.abs().max() > 1e-5) == is_linear, name
            if is_linear:
                assert torch.linalg.matrix_rank(change, atol=1e-5) <= 2 * number
    with pytest.raises(ConfigError, match=r"lora\.targets"):
        play(replace(config, out=str(tmp_path / "wrong"), lora=LoraConfig(rank=2, targets=("nothing",))))


@pytest.mark.slow
def test_the_average_of_all_rounds_can_be_deployed(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    play(config_for(tiny, out, "sppo", deploy="average", rounds=3))
    rounds = [weights(out / "rounds" / f"00{n}" / "fit-policy") for n in (1, 2, 3)]
    torch.testing.assert_close(weights(out / "final"), sum(rounds) / 3, rtol=1e-6, atol=1e-6)
    assert (weights(out / "final") - rounds[2]).abs().max() > 1e-4


def open_loop(config: AlignConfig) -> RoundLoop:
    run = RunDir(config.out, to_dict(config), command="test")
    prompts = [Prompt.from_text(f"Say {w}.", id=w) for w in WORDS]
    return RoundLoop(config, run, PairwiseRule("letters", more_letters), prompts, None)


def more_letters(prompt: Prompt, first: str, second: str) -> float:
    """More plain letters win: something that single tokens decide."""
    a, b = (sum(c.isascii() and c.isalpha() for c in t) for t in (first, second))
    return float(1 / (1 + np.exp(-2.0 * (a - b))))


def test_anchors_are_the_same_bits_whenever_they_are_computed(tiny: Path, tmp_path: Path) -> None:
    loop = open_loop(config_for(tiny, tmp_path / "run", "onpo with tau", rounds=1))
    slots = loop.play_round(1, Slots.from_start(loop.start))
    slots = slots.averaged("aux", slots.checkpoint("policy"), 0.25)
    phase, folder = loop.algorithm.phases(1)[0], Path(loop.config.out) / "rounds" / "001" / "aux"
    first, second = (loop.fitter.items(1, phase, slots, folder) for _ in range(2))
    assert [i.anchors for i in first] == [i.anchors for i in second]
    groups = read_samples(folder / "samples.jsonl")
    # the start sampled them: its frozen log-probs are the sampler's; a mixture's are the weighted mean of its members'
    policy = loop.fitter.items(1, replace(phase, anchors=("policy",)), slots, folder)
    aux_alone = Slots({**slots.members, "policy": [(1.0, slots.mixture("aux")[0][1])]})
    other = loop.fitter.items(1, replace(phase, anchors=("policy",)), aux_alone, folder)
    for item, group, new, old in zip(first, groups, policy, other, strict=True):
        assert item.anchors["start"] == pytest.approx([r.logprob for r in group.responses], abs=1e-4)
        mixed = [0.75 * a + 0.25 * b for a, b in zip(old.anchors["policy"], new.anchors["policy"], strict=True)]
        assert item.anchors["aux"] == pytest.approx(mixed, abs=1e-4)


_SLOWER = [pytest.param(m, marks=pytest.mark.slow) for m in ("dpo", "inpo", "sppo", "sppo pairwise", "onpo")]


@pytest.mark.parametrize("method", ["onpo one fit", *_SLOWER])
def test_the_win_rate_rises(method: str, tiny: Path, tmp_path: Path) -> None:
    """Under a rule that single tokens decide, every method beats its start in two rounds."""
    fit = FitConfig(precision="fp32", learning_rate=2e-2, epochs=4, batch_size=4, batch_tokens=4096, checkpoint_every=0)
    config = config_for(tiny, tmp_path / "run", method, responses=16, max_new_tokens=4, fit=fit, instruction="")
    loop = open_loop(replace(config, fit=replace(fit, schedule="constant")))
    slots = Slots.from_start(loop.start)
    pool = []
    for number in (0, 1, 2):
        slots = loop.play_round(number, slots) if number else slots
        model = load_policy(slots.checkpoint("policy"), torch.float32)
        asked = [Prompt.from_text(f"Name a {w}!", id=w) for w in WORDS]
        replies = HFGenerator(model, make_tiny_tokenizer()).sample(asked, 8, SamplingParams(max_new_tokens=4), seed=99)
        pool.append([SampledGroup(p, tuple(g)) for p, g in zip(asked, replies, strict=True)])
    wins = win_tables(judge(loop.oracle, pool), pool).mean(axis=0)
    assert wins[1, 0] > 0.65
    assert wins[2, 0] > max(0.75, wins[1, 0])


def test_prompts_of_a_round_follow_a_seeded_order_that_starts_over(tiny: Path, tmp_path: Path) -> None:
    loop = open_loop(config_for(tiny, tmp_path / "run", "dpo", prompts_per_round=5))
    rounds = [[p.id for p in loop.round_prompts(n)] for n in (1, 2, 3)]
    assert len({*rounds[0], *rounds[1]}) == 10
    assert set(WORDS) == {*rounds[0], *rounds[1], *rounds[2]}
    assert rounds[2][2:] == rounds[0][:3]
    assert len(open_loop(config_for(tiny, tmp_path / "all", "dpo", prompts_per_round=99)).round_prompts(1)) == 12


def test_from_the_command_line(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(json.dumps(to_dict(config_for(tiny, tmp_path / "run", "dpo", rounds=1))))
    assert cli.main(["align", str(recipe), "--fit.learning-rate", "2e-3", "--out", str(tmp_path / "other")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "other" / "final")
    assert (tmp_path / "other" / "final" / "config.json").exists()
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="which prompts"):
        align([str(recipe), "--prompts", "", "--out", str(tmp_path / "third")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "onpoo"}, "did you mean 'onpo'"),
        ({"options": {"stepp": 1.0}}, "did you mean 'step'"),
        ({"options": {"step": -1.0}}, "positive"),
        ({"rounds": 0}, "rounds"),
        ({"responses": 1}, "at least 2"),
        ({"prompts_per_round": -1}, "prompts_per_round"),
    ],
)
def test_what_cannot_work_is_told_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AlignConfig(**changes)
    with pytest.raises(ConfigError, match="share"):
        ProbeConfig(share=1.0)
