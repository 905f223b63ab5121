"""The recipe behind assets/quickstart/responses.jsonl.gz: what the quickstart model said, sampled once.

    python -m prefeval.quickstart.generate_data --out responses.jsonl.gz     # about 10 minutes on two cores
    python -m prefeval.quickstart.generate_data --check                      # sample some of it again and compare

Each prompt gets six replies as the policy itself gives them (temperature 1) and two under each of three other
instructions, so that the preference models see more kinds of answers than the policy offers. Sampling is bf16: the
same machine type and torch version reproduce the file exactly, elsewhere a share of the samples differs. --check prints
it for the first batch of each style: bf16 rounds by the shape of a batch, so only whole batches can be compared.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval.files import dumps, iterate_jsonl, write_bytes
from prefeval.generate.base import SamplingParams
from prefeval.log import logger, setup_logging
from prefeval.quickstart.data import POLICY_INSTRUCTION, asset, prompt_rows
from prefeval.types import Prompt

if TYPE_CHECKING:
    from prefeval.generate.hf import HFGenerator

MAX_NEW_TOKENS = 72
SEED = 20261121


@dataclass(frozen=True)
class Style:
    """One way of asking: the instruction behind the prompt, the temperature, and how many replies."""

    name: str
    instruction: str
    temperature: float
    count: int


STYLES = (
    Style("policy", POLICY_INSTRUCTION, 1.0, 6),
    Style("do", "Answer in one short sentence that tells me what to do.", 0.8, 2),
    Style("why", "Answer in one or two short sentences that explain why, using the word because.", 0.8, 2),
    Style("example", "Answer in one or two short sentences with a concrete example.", 0.8, 2),
)


def policy_prompt(row: dict[str, Any], instruction: str = POLICY_INSTRUCTION) -> Prompt:
    """The prompt as the policy sees it: the question with the instruction behind it; `meta['question']` is bare."""
    return Prompt.from_text(f"{row['prompt']} {instruction}", id=row["id"], question=row["prompt"])


def sample_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the responses file for these prompts."""
    from prefeval.quickstart.fluency import SentenceFluency

    generator = _generator()
    texts: list[list[str]] = [[] for _ in rows]
    origins: list[str] = []
    for style in STYLES:
        prompts = [policy_prompt(row, style.instruction) for row in rows]
        for kept, group in zip(texts, _sample(generator, style, prompts), strict=True):
            kept.extend(group)
        origins.extend([style.name] * style.count)
    scorer = SentenceFluency(generator.model, generator.tokenizer)
    bare = [Prompt.from_text(row["prompt"], id=row["id"]) for row in rows]
    scorer.prepare([(p, t) for p, kept in zip(bare, texts, strict=True) for t in kept])
    return [
        {
            "id": row["id"],
            "responses": kept,
            "origins": origins,
            "fluency": [[round(v, 3) for v in values] for values in scorer(prompt, kept)],
        }
        for row, prompt, kept in zip(rows, bare, texts, strict=True)
    ]


def check(stored: list[dict[str, Any]]) -> float:
    """Share of the replies in the first batch of each style that sampling it again reproduces."""
    wanted = {row["id"]: row["responses"] for row in stored}
    generator, first = _generator(), 0
    same: list[bool] = []
    for style in STYLES:
        prompts = [policy_prompt(row, style.instruction) for row in prompt_rows() if row["id"] in wanted]
        batch = generator.first_batch(prompts, style.count)
        for prompt, group in zip(batch, _sample(generator, style, batch), strict=True):
            same += [a == b for a, b in zip(group, wanted[prompt.id][first : first + style.count], strict=True)]
        first += style.count
    return sum(same) / len(same)


def _generator() -> HFGenerator:
    import torch

    from prefeval.generate.hf import HFGenerator
    from prefeval.models import QUICKSTART, load_causal, load_tokenizer

    model, tokenizer = load_causal(QUICKSTART, dtype=torch.bfloat16), load_tokenizer(QUICKSTART)
    return HFGenerator(model, tokenizer, name="quickstart", batch_rows=96)


def _sample(generator: HFGenerator, style: Style, prompts: Sequence[Prompt]) -> list[list[str]]:
    params = SamplingParams(max_new_tokens=MAX_NEW_TOKENS, temperature=style.temperature)
    return [[r.text for r in group] for group in generator.sample(prompts, style.count, params, SEED)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="write the responses here")
    parser.add_argument(
        "--check", action="store_true", help="sample a batch of each style again and compare with the package's file"
    )
    args = parser.parse_args(argv)
    setup_logging()
    if args.check:
        share = check([row for _, row in iterate_jsonl(asset("responses.jsonl.gz"))])
        logger.info("share of equal responses: %.3f", share)
        return 0
    if args.out is None:
        parser.error("give --out FILE or --check")
    lines = "".join(dumps(row) + "\n" for row in sample_rows(prompt_rows()))
    write_bytes(args.out, gzip.compress(lines.encode("utf-8"), mtime=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
