"""IRFT, implicit reward fine-tuning from demonstrations (2405.17888); SPIN (2401.01335) is its case T = 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignment.algorithm import Phase, register
from alignment.demonstrated import DemonstratedMethod
from alignment.regression import check_refresh, moved_magnet


@register
@dataclass(frozen=True, kw_only=True)
class IRFT(DemonstratedMethod):
    """-log s(beta log pi / ref (shown) - beta log pi / ref (own)): inverse RL with the reward beta log pi / ref.

    Algorithm 2 of the paper: own replies are drawn anew every round, and every `refresh` rounds (the paper's T) the
    policy becomes the reference. refresh 1 is SPIN, as the paper says: its reference is the policy that sampled.
    `step` = 1 / beta. A round's exact update is ref (data / pi_t)^step. With refresh 1 the distance to the data, in log
    space, is 1 - step times what it was: step 1 lands on the data, steps of 2 and more do not settle. With a reference
    that stays, the rest is ref^{1/(1+step)} data^{step/(1+step)}, short of the data. SPIN's beta of 0.1 is step 10,
    which a round of a language model under-fits by far. The slot 'magnet' holds the reference.
    """

    name: ClassVar[str] = "irft"
    arxiv: ClassVar[str] = "2405.17888"
    game: ClassVar[str] = "none (demonstrations)"

    refresh: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_refresh(self.refresh)

    def phases(self, round: int) -> tuple[Phase, ...]:
        phase = Phase(
            "fit", True, "policy", "policy", ("magnet",), "policy",
            copies=moved_magnet(round, self.refresh), demonstrations=True, verdicts=False, round=round,
        )  # fmt: skip
        return (phase,)
