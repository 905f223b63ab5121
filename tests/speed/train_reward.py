"""Training a Bradley-Terry model beside TRL's RewardTrainer: same backbone, same token ids, same optimiser steps.

    python tests/speed/train_reward.py [--pairs 48] [--repeats 3] [--model quickstart] [--device cpu]

Needs `pip install trl` and, for real pairs, PREFEVAL_DATA (else texts of random words of the same lengths). Each run is
a process of its own, the two sides take turns. Two workloads: pairs of distinct texts, and pairs that share a reference
response (as judged data does), where prefeval encodes each text once. Printed: medians and ranges of useful tokens a
second (tokens of all pairs, padding not counted, over training time), peak memory, and the mean loss on the training
pairs afterwards, which says that both did the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

BATCH = 4  # pairs an optimiser step
LEARNING_RATE = 1e-5
SIDES = ("prefeval", "trl")
WORKLOADS = ("independent", "recurring")


def main() -> None:
    args = arguments()
    if args.side:
        print(json.dumps(run_side(args)))
        return
    table: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for workload in WORKLOADS:
        for _ in range(args.repeats):
            for side in SIDES:
                table.setdefault((workload, side), []).append(in_process(args, workload, side))
                print(f"{workload:<12} {side:<9} {table[workload, side][-1]}", file=sys.stderr)
    show(table)


def show(table: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    print(f"{'workload':<12} {'side':<9} {'pairs':>5} {'tokens':>7} {'tokens/s':>20} {'peak GB':>8} {'loss after':>10}")
    for (workload, side), rows in table.items():
        speeds = [r["tokens"] / r["seconds"] for r in rows]
        speed = f"{np.median(speeds):.0f} [{min(speeds):.0f}, {max(speeds):.0f}]"
        peak, loss = (float(np.median([r[k] for r in rows])) for k in ("peak", "loss"))
        counts = f"{rows[0]['pairs']:>5} {rows[0]['tokens']:>7}"
        print(f"{workload:<12} {side:<9} {counts} {speed:>20} {peak:>8.2f} {loss:>10.4f}")
    for workload in WORKLOADS:
        ours, theirs = (np.median([r["seconds"] for r in table[workload, side]]) for side in SIDES)
        print(f"{workload}: prefeval is {theirs / ours:.2f} times as fast")


def in_process(args: argparse.Namespace, workload: str, side: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--workload", workload]
    command += ["--pairs", str(args.pairs), "--model", args.model, "--device", args.device]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    out: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return out


def run_side(args: argparse.Namespace) -> dict[str, Any]:
    """Train one side on one workload. Only the training loop is timed, not loading or tokenising."""
    import torch

    from prefeval.models import load_tokenizer
    from reward_models.config import HeadConfig
    from reward_models.modeling import PreferenceModel

    tokenizer = load_tokenizer(args.model)
    model = PreferenceModel.from_base(args.model, tokenizer, HeadConfig("bt"), max_length=2048).to(args.device)
    groups = workload_ids(args, model)
    pairs = [(group[0], other) for group in groups for other in group[1:]]  # the first is labelled the better one
    with tempfile.TemporaryDirectory() as folder:
        seconds = (train_ours if args.side == "prefeval" else train_trl)(model, groups, args, folder)
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    peak = torch.cuda.max_memory_allocated() / 1024**3 if args.device.startswith("cuda") else usage
    tokens = sum(len(a) + len(b) for a, b in pairs)
    return {"pairs": len(pairs), "tokens": tokens, "seconds": seconds, "peak": peak, "loss": mean_loss(model, pairs)}


def train_ours(model: Any, groups: list[list[tuple[int, ...]]], args: argparse.Namespace, folder: str) -> float:
    from prefeval.fit import FitConfig, fit
    from prefeval.types import PairLabel
    from reward_models.config import HeadConfig, LossConfig
    from reward_models.forward import run_ragged
    from reward_models.items import Item, item_loss

    items = [Item(tuple(g), tuple(PairLabel(0, j, 1.0) for j in range(1, len(g)))) for g in groups]
    each = max(1, BATCH // (len(groups[0]) - 1))  # items an optimiser step: BATCH pairs
    config = FitConfig(
        batch_size=each, batch_tokens=4096, learning_rate=LEARNING_RATE, warmup_ratio=0.0, precision="bf16"
    )

    def loss_fn(module: Any, batch: Any) -> Any:
        outputs = run_ragged(module, [s for item in batch for s in item.ids], model.layout(config.batch_tokens))
        return item_loss(outputs, batch, HeadConfig("bt"), LossConfig())

    start = time.perf_counter()
    fitted = fit(
        model,
        items,
        loss_fn,
        config,
        cost=lambda i: i.cost,
        state_dir=Path(folder),
        stage="speed",
        units=lambda i: i.units,
    )
    seconds = time.perf_counter() - start
    fitted.export_masters(model)
    return seconds


def train_trl(model: Any, groups: list[list[tuple[int, ...]]], args: argparse.Namespace, folder: str) -> float:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    rows = [{"chosen_ids": list(g[0]), "rejected_ids": list(other)} for g in groups for other in g[1:]]
    config = RewardConfig(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        num_train_epochs=1,
        bf16=True,
        gradient_checkpointing=False,
        max_length=None,
        use_cpu=args.device == "cpu",
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = RewardTrainer(
        model=model.classifier, args=config, train_dataset=Dataset.from_list(rows), processing_class=model.tokenizer
    )
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


def mean_loss(model: Any, pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> float:
    """-log sigmoid(r_w - r_l), the mean over the training pairs, with the trained weights in bfloat16 products."""
    import torch

    from reward_models.forward import run_ragged

    model.eval()
    distinct = sorted({ids for pair in pairs for ids in pair})
    with torch.inference_mode(), torch.autocast(model.device.type, dtype=torch.bfloat16):
        rewards = dict(zip(distinct, run_ragged(model, distinct, model.layout(8192))[:, 0].tolist(), strict=True))
    return float(np.mean([np.logaddexp(0.0, rewards[b] - rewards[a]) for a, b in pairs]))


def workload_ids(args: argparse.Namespace, model: Any) -> list[list[tuple[int, ...]]]:
    """Groups of token ids: [better, worse] for independent pairs, [reference, others ...] for recurring ones."""
    size = 2 if args.workload == "independent" else 1 + BATCH
    count = args.pairs // (size - 1)
    texts = real_texts(count, size) or random_texts(count, size)
    from prefeval.types import Prompt

    return [model.encode(Prompt.from_text(prompt), responses) for prompt, responses in texts]


def real_texts(count: int, size: int) -> list[tuple[str, list[str]]]:
    """`count` prompts of the judged AlpacaEval pairs with `size` distinct responses each, if the data is at hand."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    file = Path(os.environ.get("PREFEVAL_DATA", default)) / "preferences" / "alpaca_eval_pairs.val.parquet"
    if not file.is_file():
        return []
    from prefeval.data.readers import load_records

    records = [r for r in load_records(str(file)).records if len(r.responses) >= size]
    chosen = [(r, list(r.responses)) for r in records]
    rng = np.random.default_rng(0)
    out = []
    for n in range(count):
        record, responses = chosen[n % len(chosen)]
        out.append((record.prompt.text, [responses[i] for i in rng.choice(len(responses), size, replace=False)]))
    return out


def random_texts(count: int, size: int) -> list[tuple[str, list[str]]]:
    """Prompts and responses of random common words, about as long as real ones."""
    rng = np.random.default_rng(0)
    words = ["time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school"]

    def text(mean: int) -> str:
        return " ".join(rng.choice(words, max(4, int(rng.gamma(2.0, mean / 2)))))

    return [(text(30), [text(300) for _ in range(size)]) for _ in range(count)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="quickstart")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--workload", choices=WORKLOADS, default="independent")
    return parser.parse_args()


if __name__ == "__main__":
    main()
