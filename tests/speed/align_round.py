"""One alignment round beside TRL's OnlineDPOTrainer: `python tests/speed/align_round.py --peer-python PYTHON`.

PYTHON is an interpreter that has trl (1.16.0 was used) with torch; this one has prefeval. Both sides get the same
model, prompts, replies a prompt, token budget and optimiser steps: two replies a prompt as OAIF has it, online DPO at
beta 0.1, and a free oracle (the shorter reply wins), so that the model's own work is what is timed. Each side runs in a
process of its own. Ours includes reading the model and writing the checkpoint, TRL's starts when it is loaded.
Replies are drawn at temperature 1: their number is equal and checked, their lengths are not, hence the tokens a second.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOPICS = "rain bread trains sleep paper salt bridges bees tea clocks snow maps soap glass rivers dust".split()  # noqa: SIM905


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default="", help="an interpreter with trl; without one only ours is timed")
    parser.add_argument("--model", default="quickstart")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=56, help="of a reply, at most")
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps a round")
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        found = {"ours": ours, "trl": trl}[args.side](args)
        Path(args.out).write_text(
            json.dumps(found | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6})
        )
        return
    if args.prompts % args.steps:
        parser.error("--prompts must be a multiple of --steps")
    from prefeval.models import resolve

    args.model = resolve(args.model).spec
    rows = [in_process(sys.executable, "ours", args)]
    if args.peer_python:
        rows.append(in_process(args.peer_python, "trl", args))
        assert [r["replies"] for r in rows] == [2 * args.prompts] * 2, "the two sides drew other numbers of replies"
        assert [r["steps"] for r in rows] == [args.steps] * 2, "the two sides took other numbers of steps"
    show(rows)


def in_process(python: str, side: str, args: argparse.Namespace) -> dict[str, Any]:
    """What one side reports, run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        numbers = [f"--{name}={getattr(args, name)}" for name in ("model", "prompts", "tokens", "steps")]
        subprocess.run([python, __file__, f"--side={side}", f"--out={out}", *numbers], check=True)
        found: dict[str, Any] = json.loads(out.read_text())
        return found | {"side": side}


def show(rows: list[dict[str, Any]]) -> None:
    names = ["sample", "score", "fit", "total", "tokens_per_second", "mean_length", "peak_gb"]
    print(f"{'':>18}" + "".join(f"{r['side']:>12}" for r in rows) + ("       ratio" if len(rows) > 1 else ""))
    for name in names:
        values = [r[name] for r in rows]
        line = f"{name:>18}" + "".join(f"{v:12.3f}" for v in values)
        print(line + (f"{values[1] / max(values[0], 1e-9):12.2f}" if len(values) > 1 else ""))
    print(f"{rows[0]['replies']} replies and {rows[0]['steps']} optimiser steps a side; seconds; ratio = trl / ours")


def texts(count: int) -> list[str]:
    return [f"Tell me something about {TOPICS[n % len(TOPICS)]}, part {n // len(TOPICS) + 1}." for n in range(count)]


class Clock:
    """Seconds spent in functions, by name."""

    def __init__(self) -> None:
        self.seconds = {"sample": 0.0, "score": 0.0, "fit": 0.0}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return call


def ours(args: argparse.Namespace) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from alignment.config import AlignConfig
    from alignment.fitting import Fitter
    from alignment.policy import Slots
    from alignment.rounds import RoundLoop
    from alignment.samples import read_samples
    from prefeval.config import to_dict
    from prefeval.fit import FitConfig
    from prefeval.oracle import PairwiseRule
    from prefeval.runs import RunDir
    from prefeval.types import Prompt

    fit = FitConfig(learning_rate=5e-7, batch_size=args.prompts // args.steps, checkpoint_every=0, schedule="constant")
    shorter = PairwiseRule("shorter", lambda prompt, a, b: 0.5 + 0.5 * ((len(a) < len(b)) - (len(a) > len(b))))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = AlignConfig(
            out=folder, policy=args.model, algorithm="online_dpo", options={"step": 10.0}, rounds=1, responses=2,
            max_new_tokens=args.tokens, fit=fit,
        )  # fmt: skip
        prompts = [Prompt.from_text(t, id=str(n)) for n, t in enumerate(texts(args.prompts))]
        run = RunDir(Path(folder) / "run", to_dict(config), command="speed")
        loop = RoundLoop(config, run, shorter, prompts, None)
        loop._sample = clock.timed("sample", loop._sample)  # type: ignore[method-assign]
        loop._compare = clock.timed("score", loop._compare)  # type: ignore[method-assign]
        plain, kept = Fitter.fit, {}

        def fitted(*a: Any) -> Any:
            kept.update(clock.timed("fit", plain)(*a))
            return kept

        Fitter.fit = fitted  # type: ignore[method-assign]
        loop.play_round(1, Slots.from_start(loop.start))
        groups = read_samples(run.path / "rounds" / "001" / "fit" / "samples.jsonl")
        lengths = [len(r.token_ids or ()) for g in groups for r in g.responses]
    return report(clock.seconds, lengths, kept["steps"])


def report(seconds: dict[str, float], lengths: list[int], steps: int) -> dict[str, Any]:
    return {
        **seconds,
        "total": sum(seconds.values()),
        "replies": len(lengths),
        "steps": steps,
        "mean_length": sum(lengths) / len(lengths),
        "tokens_per_second": sum(lengths) / seconds["sample"],
    }


def trl(args: argparse.Namespace) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    clock, lengths = Clock(), []
    models = [AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16) for _ in range(2)]
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    with tempfile.TemporaryDirectory() as folder:
        config = OnlineDPOConfig(
            output_dir=folder, max_new_tokens=args.tokens, temperature=1.0, beta=0.1, learning_rate=5e-7,
            per_device_train_batch_size=args.prompts // args.steps, max_steps=args.steps, report_to="none",
            gradient_checkpointing=False, bf16=False, save_strategy="no", disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(), lr_scheduler_type="constant", logging_steps=1000,
        )  # fmt: skip
        rows = [[{"role": "user", "content": text}] for text in texts(args.prompts)]

        def shorter(completions: list[Any], **kwargs: Any) -> list[float]:
            return [-float(len(c[0]["content"])) for c in completions]

        trainer = OnlineDPOTrainer(
            model=models[0], ref_model=models[1], reward_funcs=shorter, args=config,
            train_dataset=Dataset.from_list([{"prompt": r} for r in rows]), processing_class=tokenizer,
        )  # fmt: skip
        generate, score = trainer._generate, trainer._calculate_rewards_from_functions

        def generated(*a: Any, **k: Any) -> Any:
            result = clock.timed("sample", generate)(*a, **k)
            lengths.extend(result[3].sum(dim=1).tolist())
            return result

        trainer._generate = generated
        trainer._calculate_rewards_from_functions = clock.timed("score", score)
        start = time.perf_counter()
        trainer.train()
        whole = time.perf_counter() - start
    clock.seconds["fit"] = whole - clock.seconds["sample"] - clock.seconds["score"]
    return report(clock.seconds, lengths, trainer.state.global_step)


if __name__ == "__main__":
    main()
