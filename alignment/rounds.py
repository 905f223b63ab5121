"""The round loop: sample -> compare -> fit -> probe, each a stage that a killed run does not repeat.

Policies are checkpoints on disk; between stages nothing lives in memory alone. Frozen anchors' log-probs are computed
once a phase. Every stage's random numbers derive from (seed, round, prompt id), so that a resumed run equals an
unbroken one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignment.alarms import fixed_point, running_lengths, transitive_oracle, unreachable_targets
from alignment.algorithm import Algorithm, Conditioned, Phase, get_algorithm
from alignment.config import AlignConfig
from alignment.costs import cost_of, dollars
from alignment.demonstrations import open_demonstrations
from alignment.fitting import Fitter
from alignment.labels import unjudged
from alignment.policy import (
    Mixture,
    Slots,
    average_parameters,
    opponent_mixture,
    sampler_mixture,
)
from alignment.probes import Probes
from alignment.samples import (
    REWARDS,
    SampledGroup,
    read_samples,
    token_sequences,
    write_samples,
    write_tables,
)
from alignment.sampling import Sampler
from alignment.stopping import best_round, criterion, has_stalled
from prefeval import chat
from prefeval.errors import ConfigError
from prefeval.files import sha256_file
from prefeval.log import logger
from prefeval.models import fast_dtype, fingerprint, load_tokenizer, resolve, save_causal
from prefeval.oracle import Oracle, check_complementary
from prefeval.runs import MetricRow, RunDir
from prefeval.seeds import derive_seed, rng
from prefeval.types import Prompt


class RoundLoop:
    """One alignment run. `run()` plays all rounds and returns what the report needs."""

    def __init__(
        self, config: AlignConfig, run: RunDir, oracle: Oracle, prompts: Sequence[Prompt], probes: Probes | None
    ) -> None:
        self.config, self.run_dir, self.oracle, self.prompts, self.probes = config, run, oracle, list(prompts), probes
        self.algorithm: Algorithm = get_algorithm(config.algorithm, **config.options)
        self.wants_rewards = bool(getattr(self.algorithm, "needs_reward", False))
        if self.wants_rewards and not hasattr(oracle, "rewards"):
            raise ConfigError(
                f"algorithm '{config.algorithm}' with these options trains on rewards, and {oracle.name} gives none; "
                "an oracle that does is check:number"
            )
        self.instruction = config.instruction  # what policies are asked with; replies may be trained on behind others
        if isinstance(self.algorithm, Conditioned):
            self.instruction = f"{config.instruction} {self.algorithm.good}".strip()
            logger.info("policies of this run are to be asked with '%s' behind the prompt", self.instruction)
        self.start = resolve(config.policy).spec
        self.weights = {self.start: fingerprint(self.start)}  # checkpoint -> hash, for the inputs of stages
        self.tokenizer = load_tokenizer(self.start)
        self.pad = chat.safe_pad_id(self.tokenizer)
        self.dtype = fast_dtype() if config.fit.precision == "auto" else _dtype(config.fit.precision)
        self.fitter = Fitter(config, run, self.algorithm, self.tokenizer, self.pad, self.dtype, self.weights)
        shown = open_demonstrations(config, self.tokenizer, self.prompts) if config.demonstrations else None
        self.sampler = Sampler(config, self.tokenizer, self.dtype, self.instruction, shown)

    def run(self) -> dict[str, Any]:
        config = self.config
        for line in fixed_point(self.algorithm, config.replay, config.length_slope, config.pessimism):
            logger.info("%s", line)
        slots = Slots.from_start(self.start)
        if self.probes is not None:
            self.probe(0, slots)
        played: list[str] = []
        values: list[float] = []
        for number in range(1, self.config.rounds + 1):
            slots = self.play_round(number, slots)
            played.append(slots.checkpoint("policy"))
            if self.probes is not None:
                values.append(criterion(self.probe(number, slots), self.config.stop))
            if has_stalled(values, self.config.stop):
                best, by = best_round(values, self.config.stop), self.config.stop.by
                self._alarm(f"stopped after round {number}: {by} was best in round {best} ({values[best - 1]:.4g})")
                break
        final = self.run_dir.path / "final"
        kept = played if self.config.deploy in ("average", "distilled") else played[-1:]
        if self.config.deploy == "best":
            kept = [played[best_round(values, self.config.stop) - 1]]
        self._finish(kept, final)
        return {"policy": str(final), "slots": slots.as_json(), "rounds": len(played)}

    def play_round(self, number: int, slots: Slots) -> Slots:
        data = ""
        for phase in self.algorithm.phases(number):
            begun = slots  # anchors are the slots as they were when the phase began
            if phase.sample or not data:
                data = self._collect(number, phase, begun)
            slots = self._fit_phase(number, phase, begun, data)
        return slots

    def probe(self, number: int, slots: Slots) -> dict[str, Any]:
        assert self.probes is not None
        probes, checkpoint, stage = self.probes, slots.checkpoint("policy"), f"round{number}/probe"
        weights = [self.weights[checkpoint], self.weights[self.start]]

        def measure() -> dict[str, Any]:
            values = probes.measure(number, checkpoint)
            values |= {f"spent/{name}": v for name, v in cost_of(self.run_dir.path, number).items()}
            self._log(number, stage, values, kind="probe")
            return values

        inputs = {"policy": weights, "round": number, "probe": probes.inputs()}
        values: dict[str, Any] = self.run_dir.stage(stage, inputs, measure)
        return values

    def round_prompts(self, number: int) -> list[Prompt]:
        """This round's prompts: all, or the next ones of a seeded order that starts over when it is used up."""
        count = self.config.prompts_per_round or len(self.prompts)
        count = min(count, len(self.prompts))
        order = rng(self.config.seed, "prompts").permutation(len(self.prompts))
        first = (number - 1) * count
        return [self.prompts[int(order[(first + i) % len(order)])] for i in range(count)]

    def _collect(self, number: int, phase: Phase, slots: Slots) -> str:
        """Sample and compare; the folder that holds samples.jsonl and preferences.safetensors."""
        folder = self.run_dir.path / "rounds" / f"{number:03d}" / phase.name
        prompts = self.round_prompts(number)
        sampled = self.run_dir.stage(
            f"round{number}/{phase.name}/sample",
            {
                "policy": self._weighed(sampler_mixture(slots, phase)),
                "opponent": self._weighed(opponent_mixture(slots, phase)) if phase.opponent else None,
                "prompts": [p.id for p in prompts],
                "k": self.config.responses,
                "seed": self.config.seed,
                **self.sampler.inputs(phase, prompts),
            },
            lambda: self._sample(number, phase, slots, prompts, folder),
        )
        self.run_dir.stage(
            f"round{number}/{phase.name}/compare",
            {"samples": sampled["sha256"], "oracle": fingerprint(self.oracle.name) if phase.verdicts else None},
            lambda: self._compare(number, phase, folder),
        )
        return str(folder)

    def _weighed(self, mixture: Mixture) -> list[tuple[float, str]]:
        """Weights and hashes of checkpoints, for the inputs of stages."""
        return [(weight, self.weights[directory]) for weight, directory in mixture]

    def _sample(self, number: int, phase: Phase, slots: Slots, prompts: list[Prompt], folder: Path) -> dict[str, Any]:
        groups = self.sampler.groups(number, phase, slots, prompts)
        write_samples(folder / "samples.jsonl", groups)
        lengths = [len(r.token_ids or ()) for g in groups for r in g.own]
        ended = [r.finish_reason == "stop" for g in groups for r in g.own]
        values = {"length": float(np.mean(lengths)), "ended": float(np.mean(ended)), "replies": len(lengths)}
        before = [r.values["length"] for r in self.run_dir.metrics.rows() if r.kind == "round" and "length" in r.values]
        self._alarm(running_lengths(before[0], values["length"]) if before else None)
        self._log(number, f"round{number}/{phase.name}/sample", values)
        return {"sha256": sha256_file(folder / "samples.jsonl"), **values}

    def _compare(self, number: int, phase: Phase, folder: Path) -> dict[str, Any]:
        groups = read_samples(folder / "samples.jsonl")
        if not phase.verdicts:
            write_tables(folder / "preferences.safetensors", [unjudged(len(g.responses)) for g in groups])
            return {"sha256": sha256_file(folder / "preferences.safetensors"), "failed": 0, "comparisons": 0}
        before = dollars(self.oracle)
        tables = self.oracle.matrix([g.prompt for g in groups], [g.texts for g in groups])
        after = dollars(self.oracle)
        for table in tables:
            check_complementary(table, self.oracle.name)
        write_tables(folder / "preferences.safetensors", tables)
        if self.wants_rewards:
            rewards: Any = self.oracle  # which gives them: see __init__
            write_tables(folder / REWARDS, rewards.rewards([g.prompt for g in groups], [g.texts for g in groups]))
        failed = int(sum(np.isnan(t).sum() for t in tables) // 2)
        spread = float(np.nanmean([np.nanstd(np.nanmean(t, axis=1)) for t in tables]))
        values = {
            "failed": failed,
            "win_rate_spread": spread,
            "comparisons": sum(len(t) * (len(t) - 1) // 2 for t in tables),
            **({} if after is None else {"dollars": after - (before or 0.0)}),
        }
        self._log(number, f"round{number}/{phase.name}/compare", values)
        self._alarm(f"{failed} comparisons failed; they are left out, not counted as ties" if failed else None)
        if number == 1:
            self._alarm(unreachable_targets(self.algorithm.step, tables))
            self._alarm(transitive_oracle(tables))
        return {"sha256": sha256_file(folder / "preferences.safetensors"), **values}

    def _fit_phase(self, number: int, phase: Phase, slots: Slots, data: str) -> Slots:
        target = self.run_dir.path / "rounds" / f"{number:03d}" / f"{phase.name}-{phase.output}"
        folder = Path(data)
        stage = f"round{number}/{phase.name}/fit"
        inputs = {
            **self.fitter.data_hashes(number, folder),
            "init": self.weights[slots.checkpoint(phase.init_from)],
            "anchors": {slot: [(w, self.weights[d]) for w, d in slots.mixture(slot)] for slot in phase.anchors},
            "algorithm": [self.config.algorithm, self.config.options],
        }
        done = self.run_dir.stage(stage, inputs, partial(self.fitter.fit, number, phase, slots, folder, target, stage))
        self.weights[str(target)] = done["weights"]
        after = slots.with_checkpoint(phase.output, str(target))
        for slot, source in phase.keeps:
            after = after.with_mixture(slot, slots.mixture(source))
        if phase.output_average and phase.average_parameters:
            after = after.with_checkpoint(phase.output_average, self._average(number, phase, slots, target))
        elif phase.output_average:
            after = after.averaged(phase.output_average, str(target), phase.average_weight)
        for slot, source in phase.copies:
            after = after.with_mixture(slot, after.mixture(source))
        return after

    def _average(self, number: int, phase: Phase, slots: Slots, fitted: Path) -> str:
        """The checkpoint that averages the parameters of a slot with those just fitted."""
        assert phase.output_average is not None
        before = slots.checkpoint(phase.output_average)
        target = self.run_dir.path / "rounds" / f"{number:03d}" / f"{phase.name}-{phase.output_average}"

        def work() -> dict[str, Any]:
            weight = phase.average_weight
            model = average_parameters([(1.0 - weight, before), (weight, str(fitted))])
            save_causal(model, self.tokenizer, target)
            return {"weights": fingerprint(str(target))}

        inputs = [self.weights[before], self.weights[str(fitted)], phase.average_weight]
        done = self.run_dir.stage(f"round{number}/{phase.name}/average", inputs, work)
        self.weights[str(target)] = done["weights"]
        return str(target)

    def _finish(self, kept: Sequence[str], final: Path) -> None:
        """Write `final`: the one policy that is kept, or what stands for the average of several."""
        weights = [self.weights[p] for p in kept]
        if self.config.deploy != "distilled":
            self.run_dir.stage("final", {"policy": weights}, lambda: self._average_of(kept, final))
            return
        path = self.run_dir.path / "distil" / "samples.jsonl"
        inputs = {"policy": weights, "seed": self.config.seed, "k": self.config.responses}
        drawn = self.run_dir.stage("distil/sample", inputs, lambda: self._sample_all(kept, path))
        sequences = token_sequences(self.tokenizer, read_samples(path), self.instruction)
        flat = [s for rows in sequences for s in rows]
        work = partial(self.fitter.distil, flat, kept[-1], final, "final")
        self.run_dir.stage("final", {**inputs, **drawn}, work)

    def _average_of(self, kept: Sequence[str], final: Path) -> dict[str, Any]:
        model = average_parameters([(1.0 / len(kept), directory) for directory in kept])
        save_causal(model.to(self.dtype), self.tokenizer, final)
        return {"policy": str(final)}

    def _sample_all(self, kept: Sequence[str], path: Path) -> dict[str, Any]:
        """Fresh replies of every policy, as many of each, to the prompts of the last round."""
        prompts = self.round_prompts(self.config.rounds)
        groups: list[SampledGroup] = []
        for number, directory in enumerate(kept, 1):
            seed = derive_seed(self.config.seed, "distil", number)
            replies = self.sampler.draw([(1.0, directory)], f"policy {number}", prompts, seed)
            groups += [SampledGroup(p, tuple(g)) for p, g in zip(prompts, replies, strict=True)]
        write_samples(path, groups)
        return {"samples": sha256_file(path)}

    def _alarm(self, message: str | None) -> None:
        if message:
            logger.warning("%s", message)

    def _log(self, number: int, stage: str, values: dict[str, Any], *, kind: str = "round") -> None:
        self.run_dir.metrics.cut(stage)
        self.run_dir.metrics.add(MetricRow(kind, stage, values, round=number))


def _dtype(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32
