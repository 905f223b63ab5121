"""One alignment round beside TRL's OnlineDPOTrainer: `python tests/speed/align_round.py --peer-python PYTHON`.

PYTHON is an interpreter that has trl (1.16.0 was used) with torch; this one has prefeval. Both sides get the same
model, prompts, replies a prompt, token budget and optimiser steps: two replies a prompt as OAIF has it, online DPO at
beta 0.1, and a free oracle (the shorter reply wins), so that the model's own work is what is timed. Each side runs in a
process of its own, in turns; the table has medians over the repeats. Reading models (`load`) and writing the trained
one (`save`) are counted apart from the stages they happen in, on both sides. TRL's trainer holds a bf16 AdamW; ours
holds fp32 masters, saves them, and splits a step into micro-batches of `--micro` padded tokens. Replies are drawn at
temperature 1: their number is equal and checked, their lengths are not, hence the tokens a second. `total` is sample +
score + fit, `whole` has load and save as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timing import machine, print_table

STAGES = ("load", "sample", "score", "fit", "save")
TOPICS = "rain bread trains sleep paper salt bridges bees tea clocks snow maps soap glass rivers dust".split()  # noqa: SIM905


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default="", help="an interpreter with trl; without one only ours is timed")
    parser.add_argument("--model", default="quickstart")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=56, help="of a reply, at most")
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps a round")
    parser.add_argument("--micro", type=int, default=384, help="padded tokens of our micro-batches")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count the process's seconds, for a machine that is shared"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        found = {"ours": ours, "trl": trl}[args.side](args)
        # of this process's own image: the kernel's ru_maxrss would count the parent's, which a child starts as
        peak = next(n for n in Path("/proc/self/status").read_text().splitlines() if n.startswith("VmHWM"))
        Path(args.out).write_text(json.dumps(found | {"peak_gb": int(peak.split()[1]) * 1024 / 1e9}))
        return
    if args.prompts % args.steps:
        parser.error("--prompts must be a multiple of --steps")
    from prefeval.models import resolve

    args.model = resolve(args.model).spec
    pythons = {"ours": sys.executable} | ({"trl": args.peer_python} if args.peer_python else {})
    rows = [in_process(python, side, args) for _ in range(args.repeats) for side, python in pythons.items()]
    assert {r["replies"] for r in rows} == {2 * args.prompts}, "the two sides drew other numbers of replies"
    assert {r["steps"] for r in rows} == {args.steps}, "the two sides took other numbers of steps"
    show([[r for r in rows if r["side"] == side] for side in pythons])


def in_process(python: str, side: str, args: argparse.Namespace) -> dict[str, Any]:
    """What one side reports, run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        numbers = [f"--{name}={getattr(args, name)}" for name in ("model", "prompts", "tokens", "steps", "micro")] + [
            "--cpu-time"
        ] * args.cpu_time
        subprocess.run([python, __file__, f"--side={side}", f"--out={out}", *numbers], check=True)
        found: dict[str, Any] = json.loads(out.read_text()) | {"side": side}
        print(", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()), flush=True)
        return found


def show(sides: list[list[dict[str, Any]]]) -> None:
    names = [*STAGES, "total", "whole", "fit_per_1000_tokens", "tokens_per_second", "mean_length", "peak_gb"]
    print(machine())
    table = []
    for name in names:
        values = [[r[name] for r in repeats] for repeats in sides]
        middle = [statistics.median(v) for v in values]
        cells = [f"{m:.3g} [{min(v):.3g}, {max(v):.3g}]" for m, v in zip(middle, values, strict=True)]
        table.append([name, *cells, *([f"{middle[1] / max(middle[0], 1e-9):.2f}"] if len(middle) > 1 else [])])
    print_table(["", *(repeats[0]["side"] for repeats in sides), *(["trl / ours"] if len(sides) > 1 else [])], table)
    first = sides[0][0]
    count = f"{first['replies']} replies, {first['steps']} optimiser steps a side"
    print(f"{count}; seconds: median [min, max] of {len(sides[0])} repeats")


def texts(count: int) -> list[str]:
    return [f"Tell me something about {TOPICS[n % len(TOPICS)]}, part {n // len(TOPICS) + 1}." for n in range(count)]


class Clock:
    """Seconds spent in functions, by name; a timed function inside another counts for itself alone."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.now = time.process_time if args.cpu_time else time.perf_counter
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.inner = [0.0]  # seconds of timed functions inside each open one

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.inner.append(0.0)
            start = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                spent = self.now() - start
                self.seconds[name] += spent - self.inner.pop()
                self.inner[-1] += spent

        return call


def ours(args: argparse.Namespace) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from alignment import fitting, policy
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

    fit = FitConfig(
        learning_rate=5e-7, batch_size=args.prompts // args.steps, checkpoint_every=0, schedule="constant",
        batch_tokens=args.micro,
    )  # fmt: skip
    shorter = PairwiseRule("shorter", lambda prompt, a, b: 0.5 + 0.5 * ((len(a) < len(b)) - (len(a) > len(b))))
    clock = Clock(args)
    policy.load_causal = clock.timed("load", policy.load_causal)
    fitting.save_causal = clock.timed("save", fitting.save_causal)
    fitting.fingerprint = clock.timed("save", fitting.fingerprint)
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
        "total": seconds["sample"] + seconds["score"] + seconds["fit"],
        "whole": sum(seconds.values()),
        "fit_per_1000_tokens": 1000 * seconds["fit"] / sum(lengths),
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

    clock, lengths = Clock(args), []
    load = clock.timed("load", AutoModelForCausalLM.from_pretrained)
    models = [load(args.model, dtype=torch.bfloat16) for _ in range(2)]
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
        start = clock.now()
        trainer.train()
        whole = clock.now() - start
        clock.timed("save", trainer.save_model)(folder)
    clock.seconds["fit"] = whole - clock.seconds["sample"] - clock.seconds["score"]
    return report(clock.seconds, lengths, trainer.state.global_step)


if __name__ == "__main__":
    main()
