"""The fit of a phase: its replies, those of replayed rounds, their frozen anchors, the checkpoint that comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alignment.algorithm import Algorithm, Conditioned, Phase
from alignment.anchors import Anchors, about, check_bits, is_kept, read_anchors, write_anchors
from alignment.config import AlignConfig
from alignment.distil import likelihood_loss, sequence_cost
from alignment.items import Item, group_loss, hold_out, mean_loss
from alignment.logprobs import TokenSequence
from alignment.policy import Slots, load_policy, mixture_logprobs, mixture_token_logprobs
from alignment.samples import REWARDS, SampledGroup, read_samples, read_tables, token_sequences
from prefeval.checkpoint import clear_state
from prefeval.files import sha256_file, sha256_json
from prefeval.fit import FitConfig, fit
from prefeval.fit_stop import FitStop
from prefeval.lora import add_adapters, merge_into
from prefeval.models import fingerprint, save_causal
from prefeval.runs import RunDir
from prefeval.seeds import derive_seed
from prefeval.types import FloatArray


@dataclass(frozen=True)
class Fitter:
    """What every fit of a run shares."""

    config: AlignConfig
    run_dir: RunDir
    algorithm: Algorithm
    tokenizer: Any
    pad: int
    dtype: torch.dtype
    weights: Mapping[str, str]  # checkpoint -> hash

    def folders(self, number: int, folder: Path) -> list[tuple[int, Path]]:
        """(round, folder of its samples) that round `number` trains on: its own and the replayed ones, newest first."""
        found = [(number, folder)]
        for earlier in range(number - 1, max(0, number - 1 - self.config.replay), -1):
            past = self.run_dir.path / "rounds" / f"{earlier:03d}" / folder.name
            if (past / "preferences.safetensors").exists():
                found.append((earlier, past))
        return found

    def data_hashes(self, number: int, folder: Path) -> dict[str, Any]:
        """What the fit reads, for the inputs of its stage."""
        (_, own), *past = self.folders(number, folder)
        names = ("samples.jsonl", "preferences.safetensors")
        replayed = {"replay": [[sha256_file(f / n) for n in names] for _, f in past]} if past else {}
        rewarded = [sha256_file(f / REWARDS) for f in (own, *(f for _, f in past)) if (f / REWARDS).exists()]
        return {
            "samples": sha256_file(own / names[0]),
            "preferences": sha256_file(own / names[1]),
            **replayed,
            **({"rewards": rewarded} if rewarded else {}),
        }

    def fit(self, number: int, phase: Phase, slots: Slots, folder: Path, target: Path, stage: str) -> dict[str, Any]:
        """Fit `phase.output` and save it in `target`; what the stage's marker keeps."""
        seed = derive_seed(self.config.seed, "held out", number)
        items, kept = hold_out(self.items(number, phase, slots, folder), self.config.held_out, seed)
        # Checkpoints of rounds are exact: at small learning rates a round moves less than bf16 can tell apart.
        model = load_policy(slots.checkpoint(phase.init_from), torch.float32)
        config: FitConfig = replace(self.config.fit, seed=derive_seed(self.config.seed, "fit", number) % 2**31)
        if self.config.lora.rank:
            add_adapters(model, self.config.lora, config.seed)
        state = self.run_dir.path / "rounds" / f"{number:03d}" / f"{phase.name}-fit"
        result = fit(
            model,
            items,
            lambda policy, batch: group_loss(policy, batch, self.algorithm, phase, self.pad),
            config,
            cost=Item.cost,
            state_dir=state,
            stage=stage,
            metrics=self.run_dir.metrics,
            evaluate=self._held_out_loss(kept, phase) if kept else None,
            evaluate_every=config.stop.every if config.stop.patience else 0,
            title=f"round {number}: fitting {phase.output}",
        )
        result.export_masters(model)
        if self.config.lora.rank:
            adapted, model = model, load_policy(slots.checkpoint(phase.init_from), torch.float32)
            merge_into(model, adapted)
        save_causal(model, self.tokenizer, target)
        clear_state(state)
        return {
            "steps": result.steps,
            "seconds": result.seconds,
            "tokens": result.tokens,
            **result.final,
            **({"stop_reason": result.stop_reason} if result.stop_reason else {}),
            **{f"held_out_{name}": value for name, value in result.evaluation.items()},
            "weights": fingerprint(str(target)),
        }

    def _held_out_loss(self, kept: Sequence[Item], phase: Phase) -> Callable[[Any], dict[str, float]]:
        tokens = self.config.fit.batch_tokens
        return lambda policy: {"loss": mean_loss(policy, kept, self.algorithm, phase, self.pad, tokens)}

    def items(self, number: int, phase: Phase, slots: Slots, folder: Path) -> list[Item]:
        """The prompts of this round and of the replayed ones, with everything frozen about their replies."""
        data: list[tuple[int, SampledGroup, FloatArray, FloatArray | None]] = []
        for played, path in self.folders(number, folder):
            groups, tables = read_samples(path / "samples.jsonl"), read_tables(path / "preferences.safetensors")
            rewards: Sequence[FloatArray | None] = [None] * len(groups)
            if (path / REWARDS).exists():
                rewards = read_tables(path / REWARDS)
            data += [(played, *row) for row in zip(groups, tables, rewards, strict=True)]
        told = [self._told(group, table, reward) for _, group, table, reward in data]
        conditions = told if any(told) else None
        sequences = token_sequences(
            self.tokenizer,
            [g for _, g, *_ in data],
            self.config.instruction,
            conditions,
            opponents=phase.opponent_logp,
        )
        anchors = self.anchors(number, phase, slots, folder, [s for rows in sequences for s in rows])
        items, first = [], 0
        for (played, group, table, reward), rows, texts in zip(data, sequences, told, strict=True):
            span = slice(first, first + len(rows))
            first += len(rows)
            frozen = {slot: values[span] for slot, values in anchors.sums.items()}
            opponents = [float(len(r.token_ids or ())) for r in group.responses[len(rows) :]]
            tokens = {slot: values[span] for slot, values in anchors.tokens.items()}
            key = f"{played}/{group.prompt.id}"
            items.append(Item(rows, table, frozen, key, opponents, tokens, group.roles, reward, texts))
        return items

    def _told(self, group: SampledGroup, table: FloatArray, reward: FloatArray | None) -> tuple[str, ...]:
        """The instruction of each reply, where the method gives them different ones."""
        return self.algorithm.told(table, reward, len(group.own)) if isinstance(self.algorithm, Conditioned) else ()

    def anchors(
        self, number: int, phase: Phase, slots: Slots, folder: Path, sequences: Sequence[TokenSequence]
    ) -> Anchors:
        """The anchors' log-probs: from the file beside the round's samples where it holds just these, else computed."""
        path = folder.parent / f"{phase.name}-{phase.output}-anchors.safetensors"
        members = {slot: [(w, self.weights[d]) for w, d in slots.mixture(slot)] for slot in phase.anchors}
        what = [self.data_hashes(number, folder), members]
        facts = about(self.tokenizer, self.dtype, sha256_json(what))

        def sums(slot: str, rows: Sequence[TokenSequence]) -> list[float]:
            return mixture_logprobs(slots.mixture(slot), rows, self.pad, self.dtype, f"anchor {slot}, round {number}")

        if is_kept(path, facts):
            kept = read_anchors(path, sequences)
            check_bits(path, kept, sequences, sums)
            return kept
        by_token = phase.anchors if phase.token_anchors else ()
        found = Anchors(
            {slot: sums(slot, sequences) for slot in phase.anchors},
            {s: mixture_token_logprobs(slots.mixture(s), sequences, self.pad, self.dtype) for s in by_token},
        )
        write_anchors(path, found, facts)
        return found

    def distil(self, sequences: Sequence[TokenSequence], init: str, target: Path, stage: str) -> dict[str, Any]:
        """Fit the policy `init` to whole replies by maximum likelihood and save it in `target` in its final dtype."""
        model = load_policy(init, torch.float32)
        state = self.run_dir.path / "distil-fit"
        result = fit(
            model,
            sequences,
            lambda policy, batch: likelihood_loss(policy, batch, self.pad),
            replace(self.config.fit, seed=derive_seed(self.config.seed, "distil") % 2**31, stop=FitStop()),
            cost=sequence_cost,
            state_dir=state,
            stage=stage,
            metrics=self.run_dir.metrics,
            title="distilling the average of the rounds",
        )
        result.export_masters(model)
        save_causal(model.to(self.dtype), self.tokenizer, target)
        clear_state(state)
        return {"policy": str(target), "steps": result.steps, **result.final}
