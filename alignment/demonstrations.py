"""Demonstrations in the round loop: every prompt's written answer beside the sampled ones, or partly rewritten."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignment.config import AlignConfig
from alignment.samples import SampledGroup
from prefeval import chat
from prefeval.data import read_demonstrations
from prefeval.errors import ConfigError
from prefeval.log import logger
from prefeval.seeds import rng
from prefeval.types import Message, Prompt, Response


@dataclass(frozen=True)
class Demonstrations:
    """The answer shown for each conversation, as the ids that are trained on: the text and its end-of-turn token.

    Answers longer than `limit` tokens are cut there, as samples are, and have no end then.
    """

    answers: Mapping[tuple[Message, ...], str]
    tokenizer: Any
    limit: int
    spec: str

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ConfigError, naming the first, where prompts have no demonstration."""
        lacking = [p.id for p in prompts if p.messages not in self.answers]
        if lacking:
            raise ConfigError(
                f"demonstrations: {self.spec} has none for {len(lacking)} of {len(prompts)} prompts, such as prompt "
                f"'{lacking[0]}'; leave prompts empty to take those that have one"
            )

    def response(self, prompt: Prompt) -> Response:
        """The demonstration of a prompt as if it had been sampled; no log-probability belongs to it."""
        text = self.answers[prompt.messages]
        ids = chat.encode_completion(self.tokenizer, text)
        if len(ids) <= self.limit:
            return Response(text, tuple(ids), "stop")
        return Response(chat.decode(self.tokenizer, ids[: self.limit]), tuple(ids[: self.limit]), "length")

    def beside(self, groups: Sequence[SampledGroup]) -> list[SampledGroup]:
        """The groups with each prompt's demonstration between its own and the opponent's replies."""
        out = []
        for g in groups:
            first = len(g.responses) - g.opponents
            replies = (*g.responses[:first], self.response(g.prompt), *g.responses[first:])
            out.append(SampledGroup(g.prompt, replies, g.opponents, 1))
        return out


@dataclass(frozen=True)
class Segment:
    """Where a demonstration is rewritten: the ids before what is drawn anew, and those after."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def filled(self, tokenizer: Any, drawn: Response, ends: Collection[int]) -> Response:
        """The reply with the drawn ids in its middle; what follows is dropped where they end the turn (2405.20830).

        `ends` are the ids that end a turn.
        """
        new = drawn.token_ids or ()
        if drawn.finish_reason == "stop":
            ids, ended = (*self.before, *new), True
        else:
            ids = (*self.before, *new, *self.after)
            ended = ids[-1] in ends
        text = chat.decode(tokenizer, ids[:-1] if ended else ids)
        return Response(text, ids, "stop" if ended else "length")


def choose_segment(shown: Response, length: int, *key: str | int) -> Segment:
    """A run of `length` tokens of a demonstration, its start drawn by `key`; all of one that is shorter."""
    ids = shown.token_ids or ()
    start = int(rng(*key).integers(max(0, len(ids) - length) + 1))
    return Segment(ids[:start], ids[start + length :])


def open_demonstrations(config: AlignConfig, tokenizer: Any, prompts: Sequence[Prompt]) -> Demonstrations:
    """The demonstrations of a run; of several answers to one conversation the first counts.

    Raises ConfigError where a prompt has none. Says how many are cut at the length of samples.
    """
    pairs = read_demonstrations(config.demonstrations, config.demonstration_columns)
    answers = {prompt.messages: text for prompt, text in reversed(pairs)}
    shown = Demonstrations(answers, tokenizer, config.max_new_tokens, config.demonstrations)
    shown.check(prompts)
    cut = sum(shown.response(p).finish_reason == "length" for p in prompts)
    if cut:
        logger.warning("%d of %d demonstrations are cut at %d tokens", cut, len(prompts), config.max_new_tokens)
    return shown


def shown_prompts(shown: Sequence[tuple[Prompt, str]]) -> list[Prompt]:
    """The prompts of demonstrations, each conversation once."""
    first = {prompt.messages: prompt for prompt, _ in reversed(shown)}
    return [prompt for prompt, _ in shown if first[prompt.messages] is prompt]
