"""`prefeval demonstrations`: written answers beside a policy's own, as data to train a reward model from (2405.17888).

RFT seeks max_r E_demo[r] - beta log E_ref[exp(r / beta)]. Its inner problem, the policy that maximises r under a pull
of beta KL to the reference, is solved by ref exp(r / beta), so the gradient is E_demo[grad r] - E_policy[grad r]:
demonstrations up, own answers down. With a demonstration and n answers y_j of the reference, the second expectation is
taken under the weights exp(r_j / beta) / sum over all n + 1 (self-normalised), and the loss is `top_1` at temperature
beta: -log(exp(r / beta) / sum_j exp(r_j / beta)). With n = 1 it is -log sigmoid((r - r_1) / beta), which for the
implicit reward beta log(policy / ref) is SPIN's loss (2401.01335). A policy aligned to that reward and sampled anew is
the paper's next round: the recipe `rft` alternates the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefeval.errors import ConfigError, DataError
from prefeval.log import logger
from prefeval.types import PairLabel, PreferenceRecord, Prompt

if TYPE_CHECKING:
    from prefeval.generate.base import Generator
    from prefeval.runs import RunDir

SOURCE = "demonstration"


@dataclass(frozen=True)
class DemonstrationConfig:
    """Demonstrations and the policy whose own answers they are set against. Raises ConfigError out of range."""

    data: str = ""  # rows of prompt and response (completion, output, answer, chosen), or of messages
    columns: dict[str, str] = field(default_factory=dict)  # wanted column -> column in the data
    policy: str = "quickstart"  # model spec; its answers are the ones that demonstrations beat
    samples: int = 4  # its answers a prompt, at temperature 1
    max_new_tokens: int = 256
    limit: int = 0  # only the first so many demonstrations; 0 = all
    seed: int = 0
    out: str = "runs/demonstrations"

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_new_tokens < 1 or self.limit < 0:
            raise ConfigError("samples and max_new_tokens must be at least 1, limit not negative")


def set_beside(config: DemonstrationConfig, run: RunDir) -> dict[str, Any]:
    """Write run/pairs.jsonl, a record a prompt: the demonstration beats each of the policy's own answers.

    Returns where it is, and how many answers were dropped because they were empty or repeated another.
    """
    from prefeval.data import read_demonstrations
    from prefeval.generate import SamplingParams, open_generator

    if not config.data:
        raise ConfigError("demonstrations needs data (--data)")
    shown = read_demonstrations(config.data, config.columns)[: config.limit or None]
    params = SamplingParams(config.max_new_tokens)
    inputs = {"demonstrations": [(p.as_dicts(), text) for p, text in shown], "policy": config.policy,
              "samples": config.samples, "tokens": config.max_new_tokens, "seed": config.seed}  # fmt: skip

    def work() -> dict[str, Any]:
        from prefeval.data.groups import write_records

        records, dropped = demonstration_records(
            shown, open_generator(config.policy), config.samples, params, config.seed
        )
        path = write_records(run.path / "pairs.jsonl", records)
        pairs = sum(len(r.pairs) for r in records)
        logger.info("%s: %d prompts, %d pairs; %d answers dropped", path, len(records), pairs, sum(dropped.values()))
        return {"path": str(path), "records": len(records), "pairs": pairs, "dropped": dict(dropped)}

    result: dict[str, Any] = run.stage("demonstrations", inputs, work)
    return result


def demonstration_records(
    shown: Sequence[tuple[Prompt, str]], generator: Generator, samples: int, params: Any, seed: int
) -> tuple[list[PreferenceRecord], Counter[str]]:
    """(records of each demonstration and the policy's own answers, dropped answers by reason).

    A record without any other answer is left out. Raises DataError when none is left.
    """
    dropped: Counter[str] = Counter()
    records = []
    for (prompt, text), replies in zip(
        shown, generator.sample([p for p, _ in shown], samples, params, seed), strict=True
    ):
        texts = [text]
        for reply in (r.text for r in replies):
            reason = "" if reply.strip() else "empty"
            reason = reason or ("repeated" if reply.strip() in {t.strip() for t in texts} else "")
            if reason:
                dropped[reason] += 1
            else:
                texts.append(reply)
        pairs = tuple(PairLabel(0, j, 1.0, source=SOURCE) for j in range(1, len(texts)))
        if pairs:
            records.append(PreferenceRecord(prompt.id, prompt, tuple(texts), pairs))
    if not records:
        raise DataError(f"the policy has no answer of its own to any demonstration ({dict(dropped)} dropped)")
    return records, dropped


def demonstrations_command(argv: Sequence[str]) -> int:
    """``prefeval demonstrations [RECIPE.yaml] --data FILE --policy SPEC [--a.b value ...] [--json]``."""
    from prefeval.config import load_config, to_dict
    from prefeval.files import dumps
    from prefeval.runs import RunDir
    from reward_models.arguments import say

    rest = [a for a in argv if a != "--json"]
    recipe = rest.pop(0) if rest and not rest[0].startswith("-") else None
    config = load_config(DemonstrationConfig, recipe, rest, command="demonstrations")
    if not config.data:
        raise ConfigError("demonstrations needs data (--data)")
    run = RunDir(config.out, to_dict(config), command=f"prefeval demonstrations {' '.join(argv)}")
    with run.lock():
        result = set_beside(config, run)
    told = f"{result['path']}\n{result['records']} prompts, {result['pairs']} pairs, dropped {result['dropped'] or 0}"
    say(dumps(result) if "--json" in argv else told)
    return 0
