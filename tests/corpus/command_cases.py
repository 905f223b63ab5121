"""Commands around the chain: compare, report, export, evaluate, serve, judge, answer."""

from __future__ import annotations

from .case import Case, jsonl


def others() -> list[Case]:
    folder = {"r/config.yaml": "seed: 1\n", "r/manifest.json": "{}"}
    return [
        Case("compare: no run", ("compare", "DIR/a", "DIR/b"), "DIR/a: not a run directory (no config.yaml)"),
        Case("compare: config that is no YAML", ("compare", "DIR/r", "DIR/r"), "DIR/r/config.yaml: not valid YAML at line 1: ...", {**folder, "r/config.yaml": "[x"}),
        Case("compare: metrics that are none", ("compare", "DIR/r", "DIR/r"), "DIR/r/metrics.jsonl, row 1: not a row of metrics (kind, stage, values)", {**folder, "r/metrics.jsonl": '{"a": 1}\n'}),
        Case("report: no run", ("report", "DIR/a", "--out", "DIR/r.html"), "DIR/a: not a run directory (no such folder)"),
        Case("export: no model", ("export", "DIR/r", "--to", "DIR/x"), "DIR/r: no finished model (no final/config.json and weights)", folder),
        Case("export: target that exists", ("export", "DIR/r", "--to", "DIR/r"), "--to DIR/r: exists already; give a new directory", folder),
        Case("recipes with an argument", ("recipes", "x"), "prefeval recipes takes no arguments"),
        Case("evaluate: out that is a file", ("evaluate", "--oracle", "rules:shorter", "--data", "DIR/x.jsonl", "--out", "DIR/x.jsonl"), "--out DIR/x.jsonl: not a directory", {"x.jsonl": jsonl({"prompt": "q", "chosen": "a", "rejected": "b"})}),
        Case("evaluate: weight in words", ("evaluate", "--oracle", "rules:shorter", "--data", "DIR/x.jsonl", "--out", "DIR/o", "--rating-pairs", "a=b"), "--rating-pairs a=b: write attribute or attribute=weight"),
        Case("evaluate: rows of another suite", ("evaluate", "--oracle", "rules:shorter", "--data", "DIR/x.jsonl", "--out", "DIR/o", "--suite", "rewardbench"), "DIR/x.jsonl...", {"x.jsonl": jsonl({"prompt": "q", "chosen": "a", "rejected": "b"})}),
        Case("evaluate: unknown suite", ("evaluate", "--oracle", "rules:shorter", "--data", "DIR/x.jsonl", "--out", "DIR/o", "--suite", "rewardbnch"), "argument --suite: invalid choice: 'rewardbnch' (choose from ...)"),
        Case("evaluate: no such split", ("evaluate", "--oracle", "rules:shorter", "--data", "DIR/x.jsonl", "--out", "DIR/o", "--split", "tst"), "DIR/x.jsonl: no labelled pairs in split 'tst'", {"x.jsonl": jsonl({"prompt": "q", "chosen": "a", "rejected": "b", "split": "test"})}),
        Case("serve: misspelt oracle", ("serve", "--oracle", "rule:shorter"), "oracle 'rule:shorter': unknown kind 'rule'; did you mean 'rules'?"),
        Case("serve: port in words", ("serve", "--oracle", "rules:shorter", "--port", "http"), "argument --port: invalid int value: 'http'"),
        Case("serve: port out of range", ("serve", "--oracle", "rules:shorter", "--port", "99999"), "argument --port: must lie in 0..65535"),
        Case("judge: negative cap", ("judge", "--benchmark", "mini-mt", "--answers", "DIR/a.jsonl", "--judge", "judge:m", "--max-cost", "-1", "--out", "DIR/o"), "max-cost must be positive, not -1.0"),
        Case("judge: both orders of MT-Bench", ("judge", "--benchmark", "mini-mt", "--answers", "DIR/a.jsonl", "--judge", "judge:m", "--orders", "both", "--out", "DIR/o"), "--orders: only AlpacaEval asks in one order unless told so, not mini-mt"),
        Case("answer: negative temperature", ("answer", "--model", "x", "--benchmark", "mini-mt", "--temperature", "-1", "--out", "DIR/o"), "--temperature must be a number that is not negative"),
        Case("answer: best of one", ("answer", "--model", "x", "--benchmark", "mini-mt", "--best-of", "1", "--oracle", "rules:shorter", "--out", "DIR/o"), "--best-of needs at least 2 candidates"),
        Case("answer: best without an oracle", ("answer", "--model", "x", "--benchmark", "mini-mt", "--best-of", "4", "--out", "DIR/o"), "--best-of N and --oracle SPEC go together"),
    ]  # fmt: skip
