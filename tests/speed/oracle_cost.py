"""What an oracle costs as K grows: all pairs among K responses by a scalar, a GPM and a pair model.

    python tests/speed/oracle_cost.py [--repeats 3] [--hidden 192] [--layers 4] [--words 60] [--largest 64]

Random weights of one small shape, one prompt, responses of random words; the pair model is a cross encoder of the same
hidden size. Printed: medians and ranges of seconds, the exponent of a least-squares line of log seconds on log K (1, 1
and 2 are expected), and the time of all pairs among 32 by the GPM over that of 32 scalars, taken in turns.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "speed")]

from timing import Timing, repeated  # noqa: E402
from tiny import make_tiny_tokenizer  # noqa: E402

from prefeval.types import Prompt  # noqa: E402
from reward_models.config import HeadConfig  # noqa: E402
from reward_models.modeling import PreferenceModel  # noqa: E402
from reward_models.oracles import ModelOracle  # noqa: E402
from reward_models.pairwise import PREFIXES, CrossEncoder, CrossPairOracle  # noqa: E402

RATIO_AT = 32
WORDS = [
    "sky",
    "blue",
    "red",
    "green",
    "answer",
    "light",
    "reason",
    "because",
    "colour",
    "think",
    "name",
    "say",
    "quick",
    "brown",
    "lazy",
    "help",
    "please",
]


def main() -> None:
    args = arguments()
    sizes = [k for k in (4, 8, 16, 32, 64) if k <= args.largest]
    prompt = Prompt.from_text("Name three colours of the rainbow, and say why the sky is blue.", id="1")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, args.words)) + f" {n}" for n in range(max(*sizes, RATIO_AT))]
    oracles = {
        "scalar": preference_oracle(args, "bt"),
        "GPM": preference_oracle(args, "gpm"),
        "pair": pair_oracle(args),
    }
    print(f"hidden {args.hidden}, {args.layers} layers, fp32, {torch.get_num_threads()} threads, {platform.machine()}")
    for name, oracle in oracles.items():
        oracle.matrix([prompt], [texts[:16]])  # the first call sets up kernels
        times = {k: repeated(lambda o=oracle, k=k: o.matrix([prompt], [texts[:k]]), args.repeats) for k in sizes}
        shown = "  ".join(f"K={k}: {t}" for k, t in times.items())
        print(f"{name:<7}{shown}  exponent {exponent(times):.2f}")
    scalars, pairs = alternated(oracles["scalar"], oracles["GPM"], prompt, texts[:RATIO_AT], args.repeats)
    print(f"{RATIO_AT} scalars {scalars}, all pairs among {RATIO_AT} by the GPM {pairs}")
    print(f"ratio {pairs.median / scalars.median:.3f} (at most 1.1 wanted)")


def alternated(scalar: Any, gpm: Any, prompt: Prompt, group: list[str], repeats: int) -> tuple[Timing, Timing]:
    """Seconds of scoring the group's scalars and of the GPM's whole matrix, in turns."""
    a: list[float] = []
    b: list[float] = []
    for _ in range(max(repeats, 3)):
        a += repeated(lambda: scalar.outputs([prompt], [group]), 1).seconds
        b += repeated(lambda: gpm.matrix([prompt], [group]), 1).seconds
    return Timing(tuple(a)), Timing(tuple(b))


def exponent(times: dict[int, Timing]) -> float:
    """Slope of log seconds on log K over all sizes."""
    x, y = np.log(list(times)), np.log([t.median for t in times.values()])
    return float(np.polyfit(x, y, 1)[0])


def preference_oracle(args: argparse.Namespace, kind: Any) -> ModelOracle:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**shape(args), num_key_value_heads=4, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    base = LlamaForCausalLM(config).eval()
    head = HeadConfig(kind, blocks=4) if kind == "gpm" else HeadConfig(kind)
    return ModelOracle(PreferenceModel.from_base(base, make_tiny_tokenizer(), head), kind)


def pair_oracle(args: argparse.Namespace) -> CrossPairOracle:
    from transformers import BertConfig, BertModel

    tokenizer = make_tiny_tokenizer()
    tokenizer.add_special_tokens(
        {"cls_token": "<s>", "sep_token": "<|end|>", "additional_special_tokens": list(PREFIXES)}
    )
    torch.manual_seed(0)
    backbone = BertModel(BertConfig(**{**shape(args), "vocab_size": len(tokenizer)})).eval()
    return CrossPairOracle(CrossEncoder(backbone, tokenizer, source_length=512, max_length=2048), "pair")


def shape(args: argparse.Namespace) -> dict[str, int]:
    return {
        "vocab_size": 300,
        "hidden_size": args.hidden,
        "intermediate_size": 4 * args.hidden,
        "num_hidden_layers": args.layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--words", type=int, default=60, help="words of a response")
    parser.add_argument("--largest", type=int, default=64, help="largest K")
    return parser.parse_args()


if __name__ == "__main__":
    main()
