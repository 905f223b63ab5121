"""Names that stand for a configuration of another method: known to users, without a loss of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Alias:
    """`of` with these options, which the user's own options override."""

    of: str
    arxiv: str
    options: Mapping[str, Any]
    game: str = ""  # where it is not the method's own


ALIASES: dict[str, Alias] = {
    "omd": Alias("inpo", "2405.00675", {"step": 0.5, "tau": 0.0}, "plain"),  # mirror descent, multiplicative weights
    "mirror_prox": Alias("egpo", "2503.08942", {"tau": 0.0}, "plain"),
    "ipo": Alias("ipo_md", "2310.12036", {"mixture": 0.0}),  # online IPO (2403.08635) on the policy's own samples
    "rebel": Alias("gpo", "2404.16767", {"normaliser": "pairwise"}),  # its reward differences are log-odds of P
    "dno_prct": Alias("dpo", "2404.03715", {"reference": "previous", "pairs": "best_worst", "labels": "hard"}),
    "iterative_dpo": Alias("dpo", "2405.07863", {"pairs": "best_worst", "labels": "hard"}),
    "online_dpo": Alias("dpo", "2402.04792", {"labels": "hard"}),  # OAIF: a round is one batch
    "cdpo": Alias("dpo", "2305.18290", {"labels": "hard", "smoothing": 0.1}),
    "robust_dpo": Alias("dpo", "2403.00409", {"labels": "hard", "noise": 0.1}),
    "spin": Alias("irft", "2401.01335", {"refresh": 1}),  # the reference is the policy that sampled
    "onpo_one_fit": Alias("onpo", "2502.16852", {"one_fit": True}),
}
