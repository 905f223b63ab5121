"""A made-up pipeline, written through RunDir and MetricsLog as the steps write theirs; all numbers are invented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.table import TableRow, make_table, write_table
from prefeval.config import to_yaml
from prefeval.files import write_json, write_text
from prefeval.runs import MetricRow, RunDir
from prefeval.stats import Estimate

EVIL = "Sure! <script>alert('x')</script> & <b>bold</b> \u202eevil\u0007\x1b[31m \ud800 end"
STEPS: list[dict[str, Any]] = [
    {"name": "data", "command": "data", "config": {}, "minutes": 0.1},
    {"name": "bt", "command": "train", "config": {"data": "${data}/train.jsonl"}, "minutes": 2.0},
    {"name": "gpm", "command": "train", "config": {"data": "${data}/train.jsonl"}, "minutes": 2.0},
    {"name": "onpo-bt", "command": "align", "config": {"oracle": "model:${bt}/final", "prompts": "${data}/p.jsonl"}},
    {"name": "onpo-gpm", "command": "align", "config": {"oracle": "model:${gpm}/final", "prompts": "${data}/p.jsonl"}},
    {
        "name": "contest",
        "command": "contest",
        "config": {"policies": {"base": "quickstart", "onpo-bt": "${onpo-bt}/final", "onpo-gpm": "${onpo-gpm}/final"}},
    },
    {"name": "bench", "command": "bench", "config": {"models": [{"name": "gpm", "spec": "${onpo-gpm}/final"}]}},
    {"name": "report", "command": "report", "config": {"chain": "${data}/.."}},
]


def pipeline(root: Path, *, until: str = "report") -> Path:
    """A finished pipeline, or one that stopped before the step `until`."""
    run = RunDir(
        root, {"name": "toy", "about": "A made-up chain.", "seed": 7, "steps": STEPS}, command="prefeval run toy"
    )
    makers = {"data": data, "bt": train, "gpm": train, "onpo-bt": align, "onpo-gpm": align, "contest": contest}
    makers["bench"] = bench
    for step in STEPS:
        if step["name"] == until:
            break
        name = step["name"]
        run.stage(name, {}, lambda name=name: makers[name](root / name))
    return root


def data(folder: Path) -> dict[str, Any]:
    run = RunDir(folder, {"out": str(folder), "train_prompts": 285, "seed": 7}, command="prefeval data")
    split = {"responses": 8, "triples": 400, "cyclic": 100, "clearly_cyclic": 30}
    result = {"instruction": "", "train": {"prompts": 285, **split}, "test": {"prompts": 105, **split}}
    return dict(run.stage("data", {}, lambda: result))


def train(folder: Path, *, test: bool = True) -> dict[str, Any]:
    scalar = folder.name == "bt"
    config = {"data": str(folder.parent / "data/train.jsonl"), "head": {"kind": "bt" if scalar else "gpm"}, "fit": {}}
    run = RunDir(folder, {**config, "model": "quickstart", "seed": 7, "out": str(folder)}, command="prefeval train")
    for step in range(1, 121):
        loss = (0.62 if scalar else 0.41) + 0.3 * np.exp(-step / 30) + 0.03 * np.sin(3.1 * step)
        values = {"loss": float(loss), "accuracy": 0.75, "learning_rate": 1e-5, "tokens_per_second": 900.0}
        run.metrics.add(MetricRow("fit", "train", values, step=step))
    run.metrics.add(MetricRow("evaluation", "train", {"valid_loss": 0.6}, step=120))
    validation = metrics(0.70, 0.66, 0.74, 300) if scalar else metrics(0.81, 0.78, 0.84, 300)
    run.metrics.add(MetricRow("evaluation", "evaluate", validation))
    if test:
        write_json(
            folder / "test.json", metrics(0.683, 0.645, 0.721, 630) if scalar else metrics(0.792, 0.761, 0.823, 630)
        )
        low, point, high = (0.56, 0.607, 0.655) if scalar else (0.741, 0.782, 0.823)
        cycles = {"accuracy": point, "accuracy_low": low, "accuracy_high": high, "n": 297, "n_dropped": 3}
        write_json(folder / "cycles.json", {**cycles, "n_triples": 100, "cyclic_share": 0.25, "ceiling_scalar": 2 / 3})
    return dict(
        run.stage("train", {}, lambda: {"metrics": validation, "tau": 1.1, "items": 285, "fit": {"steps": 120}})
    )


def metrics(point: float, low: float, high: float, n: int) -> dict[str, Any]:
    found: dict[str, Any] = {"oracle": "m", "n": n, "n_dropped": 0, "n_ties": 4, "ece": 0.031, "tau": 1.08}
    spread = {"accuracy": (point, low, high), "nll": (0.51, 0.47, 0.55), "brier": (0.17, 0.15, 0.19)}
    spread |= {"accuracy_longer": (0.8, 0.75, 0.85), "accuracy_shorter": (0.62, 0.55, 0.69)}
    spread |= {"cycle_rate": (0.11, 0.08, 0.14), "curl_ratio": (0.2, 0.1, 0.3)}
    for name, (p, a, b) in spread.items():
        found |= {name: p, f"{name}_low": a, f"{name}_high": b}
    return {**found, "length_only_accuracy": 0.55, "n_cycle_records": 105, "subsets": []}


def align(folder: Path, rounds: int = 3) -> dict[str, Any]:
    good = folder.name != "onpo-bt"
    oracle = f"model:{folder.parent / ('gpm' if good else 'bt')}/final"
    config = {"algorithm": "onpo", "rounds": 3, "oracle": oracle, "policy": "quickstart", "seed": 7}
    probe = {"prompts": "", "oracle": "rules:gold", "limit": 64}
    run = RunDir(
        folder, {**config, "probe": probe, "prompts": str(folder.parent / "data/p.jsonl")}, command="prefeval align"
    )
    for number in range(rounds + 1):
        for step in range(1, 21 if number else 0):
            values = {
                "loss": 1.0 / (number + step),
                "log_ratio": 0.1,
                "learning_rate": 5e-7,
                "tokens_per_second": 700.0,
            }
            run.metrics.add(MetricRow("fit", f"round{number}/main/fit", values, step=step))
        run.metrics.add(MetricRow("probe", f"round{number}/probe", probe_values(number, good), round=number))
        run.stage(f"round{number}/probe", {}, lambda: {})
    if rounds == 3:
        run.stage("final", {}, lambda: {"policy": str(folder / "final")})
    return {"policy": str(folder / "final"), "rounds": rounds}


def probe_values(number: int, good: bool) -> dict[str, Any]:
    text = {"length": 40.0 + 3 * number, "characters": 200.0, "ended": 0.97, "start_logp": -2.1 - 0.05 * number}
    text |= {"entropy": 2.0, "duplicates": 0.02, "broken": 0.01, "replies": 128}
    kl = 0.4 * number**1.5
    values: dict[str, Any] = {"kl": kl, "kl_low": kl - 0.1, "kl_high": kl + 0.15, **text}
    for name, gain in (("oracle", 0.05), ("judge", 0.045 if good else 0.004)):
        p = 0.5 + gain * number
        size = number + 1
        matrix = [[0.5 + gain * (a - b) for b in range(size)] for a in range(size)]
        found = {"win_rate": p, "win_rate_low": p - 0.04, "win_rate_high": p + 0.041, "n": 64, "n_failed": 1}
        gap = 0.12 - 0.03 * number
        found |= {"gap": gap, "gap_low": gap - 0.05, "gap_high": gap + 0.05, "gap_control": 0.011, "matrix": matrix}
        values |= {f"{name}/{k}": v for k, v in found.items()}
    return values


def contest(folder: Path) -> dict[str, Any]:
    names = ["base", "onpo-bt", "onpo-gpm"]
    policies = {"base": "quickstart", **{n: str(folder.parent / n / "final") for n in names[1:]}}
    run = RunDir(folder, {"policies": policies, "oracle": "rules:gold", "seed": 7}, command="prefeval contest")
    rows = [contest_row(n, *v) for n, v in zip(names, ((0.5, 0), (0.512, 0.09), (0.643, 0.02)), strict=True)]
    replies = {"base": "Paris.", "onpo-bt": EVIL, "onpo-gpm": "Paris is the capital of France.\nIt lies on the Seine."}
    samples = [{"prompt": f"What is <i>capital</i> number {i} of France?", "replies": replies} for i in range(2)]
    matrix = [[0.5, 0.488, 0.357], [0.512, 0.5, 0.38], [0.643, 0.62, 0.5]]
    found = {"oracle": "rules:gold", "prompts": 105, "rows": rows, "names": names, "matrix": matrix, "samples": samples}

    def work() -> dict[str, Any]:
        write_text(folder / "contest.json", json.dumps(found))  # as is: a lone surrogate stays in
        return {"oracle": "rules:gold"}

    return dict(run.stage("judge", {}, work))


def contest_row(name: str, p: float, broken: float) -> dict[str, Any]:
    row: dict[str, Any] = {"policy": name, "length": 44.1, "characters": 210.0, "ended": 0.96, "entropy": 1.9}
    row |= {"kl": 1.5, "kl_low": 1.2, "kl_high": 1.8, "start_logp": -2.2, "duplicates": 0.03, "broken": broken}
    row |= {"win_rate": p, "win_rate_low": p - 0.058, "win_rate_high": p + 0.059, "win_rate_n": 105, "replies": 210}
    m = p - 0.02
    row |= {
        "length_matched_win_rate": m,
        "length_matched_win_rate_low": m - 0.08,
        "length_matched_win_rate_high": m + 0.08,
    }
    return row | {"length_matched_win_rate_n": 97, "gap": 0.1, "gap_low": 0.02, "gap_high": 0.19}


def bench(folder: Path) -> dict[str, Any]:
    benchmarks = ["mini-alpaca", "mini-mt"]
    RunDir(folder, {"name": "bench", "benchmarks": benchmarks, "judge": "rules:gold", "seed": 7}, command="bench")
    for benchmark, protocol, scale in zip(benchmarks, ("alpaca_eval", "mt_bench"), (100.0, 10.0), strict=True):
        rows = [
            TableRow(name, Estimate(p * scale, (p - 0.06) * scale, (p + 0.06) * scale, 40, failed), "rules:gold", 210.0)
            for name, p, failed in (("base", 0.5, 0), ("onpo-gpm", 0.634, 2), ("<img src=x>", 0.31, 0))
        ]
        table = make_table(benchmark, protocol, rows, ["A note on <this> table."])
        write_table(table, folder / "scores" / benchmark)
        difference = {"point": 0.134, "low": 0.02, "high": 0.25, "n": 40, "n_failed": 2}
        pair = {"first": "onpo-gpm", "second": "base", "difference": difference, "p": 0.021, "detectable": 0.16}
        write_json(folder / "scores" / benchmark / "comparisons.json", [pair])
    return {"folder": str(folder)}


def config_only(folder: Path, config: dict[str, Any]) -> Path:
    """A run that was started and killed at once."""
    write_text(folder / "config.yaml", to_yaml(config))
    return folder
