"""Prompt optimisation without training, in the manner of DRPO (2411.08733): a beam search over system prompts.

A candidate is worth the win rate of the policy's replies under it over its replies under the first one, on the same
training prompts, before the oracle. The best of each depth are rewritten by a proposer, which sees one exchange that
the candidate lost. What is found is measured on prompts that no candidate was chosen on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np

from prefeval import chat
from prefeval.errors import ConfigError
from prefeval.files import write_json
from prefeval.generate.base import Generator, SamplingParams
from prefeval.oracle import Oracle
from prefeval.seeds import derive_seed, rng
from prefeval.stats import bootstrap_mean
from prefeval.types import Comparison, FloatArray, Message, Prompt

REWRITE = (
    "An assistant is given this instruction:\n{instruction}\n\nA user asked:\n{question}\n\nThe assistant answered:\n"
    "{answer}\n\nThat answer was judged to be poor. Write a better instruction for the assistant, of use for any "
    "question. Reply with the instruction alone, on one line."
)


@dataclass(frozen=True)
class PromptSearchConfig:
    """Search a system prompt for a policy that is not trained."""

    name: str = "search-prompt"
    out: str = "runs/search-prompt"
    policy: str = "quickstart"  # the model spec that answers
    proposer: str = ""  # the model spec that rewrites candidates; empty: the policy itself
    oracle: str = "rules:gold"
    prompts: str = ""  # data spec
    columns: dict[str, str] = field(default_factory=dict)
    share: float = 0.5  # of the prompts, kept for the measurement at the end
    limit: int = 32  # at most this many training prompts, and as many kept ones
    start: str = "You are a helpful assistant."  # the candidate that all others are compared with
    candidates: tuple[str, ...] = ()  # others to begin with
    place: Literal["system", "behind"] = "system"  # as the system message, or behind the last user turn
    beam: int = 2  # candidates that are rewritten at each depth
    width: int = 3  # rewritings of each
    depth: int = 3
    max_new_tokens: int = 256  # of an answer
    proposal_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("limit", "beam", "width", "max_new_tokens", "proposal_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is out of range, it must be at least 1")
        if self.depth < 0 or not 0 < self.share < 1:
            raise ConfigError("depth must be at least 0 and share lie in (0, 1)")
        if not self.start.strip():
            raise ConfigError("start: the first candidate must not be empty")


@dataclass(frozen=True)
class Candidate:
    """A system prompt with its win rate over the start on the training prompts, and an exchange that it lost."""

    text: str
    score: float
    depth: int
    lost: tuple[str, str] = ("", "")  # (question, answer)


class Staged(Protocol):
    """A run directory, as far as the search needs one."""

    def stage(self, name: str, inputs: Any, fn: Callable[[], Any]) -> Any: ...


@dataclass
class PromptSearch:
    """The search and what it has spent: replies of the policy, comparisons, rewritings and those that were unusable."""

    config: PromptSearchConfig
    policy: Generator
    proposer: Generator
    oracle: Oracle
    train: Sequence[Prompt]
    kept: Sequence[Prompt]
    spent: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("replies", "oracle_calls", "failed", "proposals", "unusable"), 0)
    )

    def run(self, stages: Staged) -> dict[str, Any]:
        """The best candidate, its win rate on the kept prompts with its interval, the cost, and every candidate."""
        base = self._stage(stages, "start", [], lambda: self._replies(self.config.start, self.train))
        found = [Candidate(self.config.start, 0.5, 0, (self.train[0].text, base[0]))]
        new = list(dict.fromkeys(t for t in self.config.candidates if t.strip() and t != self.config.start))
        for depth in range(self.config.depth + 1):
            known = [c.text for c in found]
            rows = self._stage(stages, f"depth{depth}", known, partial(self._deepened, found, new, base, depth))
            found += [Candidate(t, float("nan") if s is None else s, depth, (q, a)) for t, s, q, a in rows]
        best = rank(found)[0]
        result = self._stage(stages, "measure", best.text, lambda: self._measured(best))
        rows = [{"instruction": c.text, "train_win_rate": c.score, "depth": c.depth} for c in rank(found)]
        return {**result, "spent": dict(self.spent), "candidates": rows}

    def _stage(self, stages: Staged, name: str, inputs: Any, work: Callable[[], Any]) -> Any:
        """The result of `work`; what it spends is kept with it, so that a resumed search counts nothing twice."""

        def counted() -> dict[str, Any]:
            before, self.spent = self.spent, dict.fromkeys(self.spent, 0)
            try:
                return {"result": work(), "spent": self.spent}
            finally:
                self.spent = before

        # the config is what a run directory is held to anyway
        facts = [p.as_dicts() for p in (*self.train, *self.kept)]
        done = stages.stage(name, [inputs, facts], counted)
        self.spent = {k: v + done["spent"][k] for k, v in self.spent.items()}
        return done["result"]

    def _deepened(self, found: Sequence[Candidate], first: Sequence[str], base: Sequence[str], depth: int) -> Any:
        """(text, win rate, question, answer) of the new candidates: those given, then rewritings of the best."""
        texts = self._rewritten(rank(found)[: self.config.beam], found, depth) if depth else first
        return [self._scored(text, base) for text in texts]

    def _scored(self, text: str, base: Sequence[str]) -> tuple[str, float, str, str]:
        """A candidate against the start on all training prompts, with the exchange that it lost by most."""
        replies = self._replies(text, self.train)
        wins = self._wins(self.train, replies, base)
        known = bool(np.isfinite(wins).any())
        worst = int(np.nanargmin(wins)) if known else 0
        score = float(np.nanmean(wins)) if known else float("nan")
        return text, score, self.train[worst].text, replies[worst]

    def _rewritten(self, beam: Sequence[Candidate], found: Sequence[Candidate], depth: int) -> list[str]:
        """New texts by the proposer: the first line of each reply, without quotes, if it is there and not known yet."""
        asked = [
            Prompt.from_text(
                REWRITE.format(instruction=c.text, question=c.lost[0], answer=c.lost[1]), id=f"{depth}/{n}"
            )
            for n, c in enumerate(beam)
        ]
        params = SamplingParams(max_new_tokens=self.config.proposal_tokens)
        drawn = self.proposer.sample(asked, self.config.width, params, derive_seed(self.config.seed, "propose", depth))
        texts = [one_line(r.text) for group in drawn for r in group]
        known = {c.text for c in found}
        new = list(dict.fromkeys(t for t in texts if t and t not in known))
        self.spent["proposals"] += len(texts)
        self.spent["unusable"] += len(texts) - len(new)
        return new

    def _replies(self, text: str, prompts: Sequence[Prompt]) -> list[str]:
        """One reply a prompt. The same random numbers for every candidate, so that they differ by their text alone."""
        asked = [told(p, text, self.config.place) for p in prompts]
        params = SamplingParams(max_new_tokens=self.config.max_new_tokens)
        drawn = self.policy.sample(asked, 1, params, derive_seed(self.config.seed, "answer"))
        self.spent["replies"] += len(prompts)
        return [group[0].text for group in drawn]

    def _wins(self, prompts: Sequence[Prompt], replies: Sequence[str], base: Sequence[str]) -> FloatArray:
        """P(reply beats the start's) a prompt: (n,), NaN failed. Equal replies tie and are not asked about."""
        wins = np.full(len(prompts), 0.5)
        differ = [n for n in range(len(prompts)) if replies[n] != base[n]]
        items = [Comparison(prompts[n], replies[n], base[n]) for n in differ]
        if items:
            wins[differ] = self.oracle.compare(items)
        self.spent["oracle_calls"] += len(items)
        self.spent["failed"] += int(np.isnan(wins).sum())
        return wins

    def _measured(self, best: Candidate) -> dict[str, Any]:
        wins = np.full(len(self.kept), 0.5)
        if best.text != self.config.start:
            replies = [self._replies(text, self.kept) for text in (best.text, self.config.start)]
            wins = self._wins(self.kept, *replies)
        rate = bootstrap_mean(wins, seed=self.config.seed)
        return {
            "instruction": best.text,
            "win_rate": rate.point,
            "win_rate_low": rate.low,
            "win_rate_high": rate.high,
            "win_rate_n": rate.n,
            "train_win_rate": best.score,  # of the best of many: too high to be quoted
        }


def told(prompt: Prompt, text: str, place: str) -> Prompt:
    """The prompt under a system prompt, which stands before one that it has already, or with it behind the user."""
    if place == "behind":
        return chat.with_instruction(prompt, text)
    own = " ".join([text, *(m.content for m in prompt.messages if m.role == "system")])
    return replace(prompt, messages=(Message("system", own), *(m for m in prompt.messages if m.role != "system")))


def one_line(text: str) -> str:
    """The first line that says something, without quotation marks around it."""
    lines = [line.strip().strip("\"'").strip() for line in chat.strip_reasoning(text).splitlines()]
    return next((line for line in lines if line), "")


def rank(found: Sequence[Candidate]) -> list[Candidate]:
    """Highest win rate first, earlier ones first among equals; candidates without a verdict last."""
    return sorted(found, key=lambda c: -c.score if np.isfinite(c.score) else 2.0)


def search_prompt(config: PromptSearchConfig, run: Any) -> dict[str, Any]:
    """Search as the config says, in an open run directory; also writes prompt.json there."""
    from prefeval.data import load_prompts
    from prefeval.generate import open_generator
    from reward_models.oracles import open_oracle

    if not config.prompts:
        raise ConfigError("prompts: say which prompts to search on (a file, a directory or a hub id)")
    prompts = load_prompts(config.prompts, columns=config.columns or None)
    if len(prompts) < 2:
        raise ConfigError("prompts: at least two are needed, one of them to measure on")
    order = [prompts[int(i)] for i in rng(config.seed, "prompt search").permutation(len(prompts))]
    cut = min(max(1, round(config.share * len(order))), len(order) - 1)
    policy = open_generator(config.policy, open_oracle=open_oracle)
    proposer = open_generator(config.proposer, open_oracle=open_oracle) if config.proposer else policy
    oracle = open_oracle(config.oracle, fast=True)
    kept, train = order[:cut][: config.limit], order[cut:][: config.limit]
    result = PromptSearch(config, policy, proposer, oracle, train, kept).run(run)
    write_json(run.path / "prompt.json", {**result, "oracle": oracle.name, "policy": config.policy})
    return result


def search_prompt_command(argv: list[str]) -> int:
    """`prefeval search-prompt [RECIPE.yaml] [--a.b value ...]`: prints the best system prompt and its win rate."""
    from prefeval.config import load_config, to_dict
    from prefeval.runs import RunDir

    recipe = argv[0] if argv and not argv[0].startswith("-") else None
    config = load_config(PromptSearchConfig, recipe, argv[1:] if recipe else argv, command="search-prompt")
    run = RunDir(config.out, to_dict(config), command="prefeval search-prompt")
    with run.lock():
        found = search_prompt(config, run)
    rate = f"{found['win_rate']:.3f} [{found['win_rate_low']:.3f}, {found['win_rate_high']:.3f}]"
    cost = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found["spent"].items())
    sys.stdout.write(f"{found['instruction']}\nwin rate over the start {rate}, n {found['win_rate_n']}; {cost}\n")
    return 0
