"""kill -9 at random moments, then the same command: the end is that of an uninterrupted run, bit for bit."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tiny import save_tiny

pytestmark = pytest.mark.slow

PROMPTS = [
    f"What is a good way to {verb} {thing}?" for verb in ("clean", "move", "find") for thing in ("tea", "a cat", "it")
]


def write_recipe(folder: Path, model: Path) -> Path:
    """A chain on the tiny model: train, align, contest, bench, report."""
    groups = [
        {
            "id": str(n),
            "prompt": prompt,
            "responses": ["Yes.", "Take the cat to tea.", "No, find it and clean it well."],
            "P": [[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]],
        }
        for n, prompt in enumerate(PROMPTS)
    ]
    data, prompts = folder / "groups.jsonl", folder / "prompts.jsonl"
    data.write_text("".join(json.dumps(g) + "\n" for g in groups))
    prompts.write_text("".join(json.dumps({"id": g["id"], "prompt": g["prompt"]}) + "\n" for g in groups))
    fit = {"epochs": 3, "learning_rate": 1e-3, "batch_size": 2, "precision": "fp32", "checkpoint_every": 1}
    steps = [
        {"name": "pm", "command": "train", "config": {"data": str(data), "model": str(model), "fit": fit}},
        {
            "name": "policy",
            "command": "align",
            "config": {
                "policy": str(model), "oracle": "model:${pm}/final", "algorithm": "onpo", "options": {"step": 2.0},
                "prompts": str(prompts), "rounds": 2, "responses": 4, "max_new_tokens": 12, "fit": fit,
                "probe": {"share": 0.3, "responses": 2},
            },
        },
        {
            "name": "contest",
            "command": "contest",
            "config": {
                "policies": {"base": str(model), "ours": "${policy}/final"}, "oracle": "rules:shorter",
                "prompts": str(prompts), "max_new_tokens": 12,
            },
        },
        {
            "name": "bench",
            "command": "bench",
            "config": {
                "models": [{"name": "base", "spec": str(model)}, {"name": "ours", "spec": "${policy}/final"}],
                "baseline": "base", "judge": "rules:shorter", "limit": 3, "max_new_tokens": 12, "resamples": 50,
            },
        },
        {"name": "report", "command": "report", "config": {"chain": "${pm}/..", "after": ["${contest}", "${bench}"]}},
    ]  # fmt: skip
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "tiny", "steps": steps}))
    return recipe


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "prefeval.cli", "run", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def results(out: Path) -> dict[str, object]:
    """What must not depend on interruptions: weights, contest, scores, metric values."""
    weights = {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in out.rglob("*.safetensors")}
    contest = json.loads((out / "contest" / "contest.json").read_text())
    scores = {p.parent.name: p.read_text() for p in out.glob("bench/scores/*/leaderboard.csv")}
    rows = {}
    for name in ("pm", "policy"):
        logged = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
        for row in logged:
            for timed in ("tokens_per_second", "spent/minutes"):
                row["values"].pop(timed, None)
        rows[name] = sorted(json.dumps([r["kind"], r["stage"], r["step"], r["round"], r["values"]]) for r in logged)
    text = json.dumps([weights, contest, scores, rows], sort_keys=True)
    return json.loads(text.replace(str(out), "OUT"))  # type: ignore[no-any-return]


def test_killed_runs_end_where_uninterrupted_ones_do(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    save_tiny(model)
    recipe = write_recipe(tmp_path, model)
    whole = tmp_path / "whole"
    began = time.monotonic()
    process = start(recipe, whole)
    assert process.wait() == 0, process.stderr.read() if process.stderr else ""
    alone = time.monotonic() - began

    out, draw, kills = tmp_path / "killed", random.Random(7), 0
    while True:
        process = start(recipe, out)
        try:
            # later attempts live longer, so that the run ends however slow the machine is
            process.wait(timeout=alone * draw.uniform(0.3, 0.6) * (1 + kills / 4))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0, process.stderr.read() if process.stderr else ""
        break
    assert kills >= 2
    assert results(out) == results(whole)
