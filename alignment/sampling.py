"""Who says what in a phase: the sampler's replies, the opponent's, and what was written by somebody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.algorithm import Phase
from alignment.config import AlignConfig
from alignment.demonstrations import Demonstrations, choose_segment
from alignment.policy import Mixture, Slots, load_sampler, opponent_mixture, sampler_mixture
from alignment.samples import SampledGroup
from prefeval import chat
from prefeval.generate.base import SamplingParams
from prefeval.generate.hf import HFGenerator
from prefeval.seeds import derive_seed
from prefeval.types import Prompt, Response

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampler:
    """What every draw of a run shares. Draws depend on (seed, round, phase, prompt id), not on batches."""

    config: AlignConfig
    tokenizer: Any
    dtype: torch.dtype
    instruction: str  # behind every prompt
    shown: Demonstrations | None = None

    def groups(self, number: int, phase: Phase, slots: Slots, prompts: Sequence[Prompt]) -> list[SampledGroup]:
        """A group a prompt: replies of the sampler, then the demonstration, then the opponent's, as the phase asks."""
        seed = derive_seed(self.config.seed, "round", number, phase.name)
        mixture, title = sampler_mixture(slots, phase), f"{phase.sample_from}, round {number}"
        if phase.segment:
            replies = self._rewritten(mixture, title, prompts, seed, phase.segment)
        else:
            replies = self.draw(mixture, title, prompts, seed)
        groups = [SampledGroup(p, tuple(g)) for p, g in zip(prompts, replies, strict=True)]
        if phase.opponent:
            seed = derive_seed(self.config.seed, "opponent", number, phase.name)
            others = self.draw(opponent_mixture(slots, phase), f"{phase.opponent}, round {number}", prompts, seed)
            groups = [
                SampledGroup(g.prompt, (*g.responses, *other), len(other))
                for g, other in zip(groups, others, strict=True)
            ]
        return self._shown().beside(groups) if phase.demonstrations else groups

    def inputs(self, phase: Phase, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """What was written that the samples of a phase depend on, for the inputs of its stage."""
        if not (phase.demonstrations or phase.segment):
            return {}
        return {"demonstrations": [self._shown().answers[p.messages] for p in prompts], "segment": phase.segment}

    def draw(self, mixture: Mixture, title: str, prompts: Sequence[Prompt], seed: int) -> list[list[Response]]:
        """The config's number of replies to each prompt."""
        params = SamplingParams(max_new_tokens=self.config.max_new_tokens)
        return self._generator(mixture, title).sample(self._asked(prompts), self.config.responses, params, seed)

    def _rewritten(
        self, mixture: Mixture, title: str, prompts: Sequence[Prompt], seed: int, length: int
    ) -> list[list[Response]]:
        """Demonstrations with a segment of `length` tokens drawn anew, another segment for each reply of a prompt."""
        demonstrations = self._shown()
        shown = [demonstrations.response(p) for p in prompts]
        generator, asked = self._generator(mixture, title), self._asked(prompts)
        params = SamplingParams(max_new_tokens=min(length, self.config.max_new_tokens))
        ends = chat.end_token_ids(self.tokenizer)
        out: list[list[Response]] = [[] for _ in prompts]
        for index in range(self.config.responses):
            at = [choose_segment(s, length, seed, "segment", p.id, index) for p, s in zip(prompts, shown, strict=True)]
            begun = [segment.before for segment in at]
            drawn = generator.sample(asked, 1, params, derive_seed(seed, "segment", index), begun=begun)
            for replies, segment, (reply,) in zip(out, at, drawn, strict=True):
                replies.append(segment.filled(self.tokenizer, reply, ends))
        return out

    def _generator(self, mixture: Mixture, title: str) -> HFGenerator:
        model = load_sampler(mixture, self.dtype)
        return HFGenerator(model, self.tokenizer, name=title, batch_rows=self.config.sampling_rows)

    def _asked(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        return [chat.with_instruction(p, self.instruction) for p in prompts]

    def _shown(self) -> Demonstrations:
        assert self.shown is not None, "the config asks for demonstrations where a phase does"
        return self.shown
