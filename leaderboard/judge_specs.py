"""`open_judge`: the judge that a bench recipe or `prefeval judge --judge` names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from prefeval.api_limits import Budget
from prefeval.api_types import Limits
from prefeval.judges.base import Judge
from prefeval.judges.panel import PANEL, open_panel
from prefeval.store import Store


def open_judge(spec: str, store: str | Path | None = None, limits: Limits | None = None) -> Judge:
    """The judge of a spec; replies are kept in the file `store`.

    | spec                              | judge                                                                   |
    |-----------------------------------|-------------------------------------------------------------------------|
    | judge:MODEL[@BASE_URL]            | a chat model, asked with the protocol's own templates                   |
    | judge:alpaca_eval:NAME[@BASE_URL] | an annotator config of the alpaca_eval package, or the path of one      |
    | panel:SPEC+SPEC                   | several of these: the mean or the majority of what more than half say   |
    | any other oracle spec             | a preference model judges by its P                                      |

    Members of a panel share the spending cap; pace and concurrency are each one's own. Raises ConfigError.
    """
    kept = Store(store) if store is not None and "judge:" in spec else None
    budget = Budget(limits.max_cost if limits else None)
    opened = partial(_open_one, store=kept, limits=limits, budget=budget)
    return open_panel(spec, opened) if spec.startswith(PANEL) else opened(spec)


def _open_one(spec: str, *, store: Store | None, limits: Limits | None, budget: Budget) -> Judge:
    if spec.startswith("judge:"):
        from prefeval.judges.specs import open_chat_judge

        return open_chat_judge(spec, store, limits, budget)
    from prefeval.judges.from_oracle import OracleJudge
    from reward_models.oracles import open_oracle

    return OracleJudge(open_oracle(spec, fast=True))
