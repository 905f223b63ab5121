"""The contracts of `prefeval score`, `evaluate` and `train` (interface.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import save_tiny

from prefeval.errors import ConfigError, DataError
from reward_models import cli, evaluate_cli

RULE = "py:cli_rule:longer"
SOURCE = """
def longer(prompt, a, b):
    if "unknown" in prompt:
        return None
    return 0.5 if len(a) == len(b) else 0.75 if len(a) > len(b) else 0.25
"""


@pytest.fixture(autouse=True)
def rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cli_rule.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_score_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    rows = [
        {"id": "a", "prompt": "q", "responses": ["long one", "short", "short"]},
        {"id": "b", "prompt": chat, "responses": ["x"]},
        {"id": "c", "prompt": "unknown", "responses": ["x", "yy"]},
    ]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert cli.score(["--oracle", RULE, "--input", str(source), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 3, "failed": 1, "oracle": RULE, "out": str(out)}
    a, b, c = [json.loads(line) for line in out.read_text().splitlines()]
    assert set(a) == {"id", "P", "scores", "oracle", "failed"}
    assert (a["id"], a["oracle"], a["failed"]) == ("a", RULE, 0)
    assert a["P"] == [[0.5, 0.75, 0.75], [0.25, 0.5, 0.5], [0.25, 0.5, 0.5]]
    assert a["scores"][0][1] == pytest.approx(1.0986123)  # log 3
    assert (b["P"], b["failed"]) == ([[0.5]], 0)
    assert (c["P"], c["failed"]) == ([[0.5, None], [None, 0.5]], 1)
    assert c["scores"] == [[0.0, None], [None, 0.0]]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"id": "a", "responses": ["x"]}, "prompt"),
        ({"id": "a", "prompt": "q"}, "responses"),
        ({"id": "a", "prompt": "q", "responses": []}, "responses"),
        ({"id": "a", "prompt": "q", "responses": ["x", 3]}, "responses"),
        ({"id": "a", "prompt": 3, "responses": ["x"]}, "prompt"),
        ({"id": "a", "prompt": [{"role": "robot", "content": "q"}], "responses": ["x"]}, "prompt"),
        ({"id": "a", "prompt": [{"role": "assistant", "content": "q"}], "responses": ["x"]}, "prompt"),
        (["not", "an", "object"], None),
    ],
)
def test_bad_rows_name_file_row_and_field_and_write_nothing(tmp_path: Path, row: Any, field: str | None) -> None:
    good = {"id": "ok", "prompt": "q", "responses": ["x"]}
    source, out = write_rows(tmp_path / "in.jsonl", [good, row]), tmp_path / "out.jsonl"
    with pytest.raises(DataError) as caught:
        cli.score(["--oracle", RULE, "--input", str(source), "--out", str(out)])
    assert (caught.value.row, caught.value.field) == (2, field)
    assert "in.jsonl" in str(caught.value)
    assert not out.exists()


def test_score_refuses_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        cli.score(
            ["--oracle", RULE, "--input", str(write_rows(tmp_path / "in.jsonl", [])), "--out", str(tmp_path / "o")]
        )


def pairs_file(tmp_path: Path) -> Path:
    rows = [{"prompt": f"question {n}", "chosen": "a long answer", "rejected": "short"} for n in range(3)]
    return write_rows(
        tmp_path / "pairs.jsonl", [*rows, {"prompt": "question 9", "chosen": "short", "rejected": "not so"}]
    )


def test_evaluate_writes_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--oracle", RULE, "--data", str(pairs_file(tmp_path)), "--out", str(tmp_path / "out"), "--resamples", "50"]
    assert evaluate_cli.evaluate([*argv, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert printed == written
    names = (
        "accuracy accuracy_low accuracy_high n n_dropped brier ece nll tau length_only_accuracy accuracy_longer "
        "accuracy_shorter cycle_rate curl_ratio subsets"
    )
    assert set(names.split()) <= set(written)
    assert (written["accuracy"], written["n"], written["n_dropped"]) == (0.75, 4, 0)
    assert (written["cycle_rate"], written["curl_ratio"]) == (None, None)
    assert written["brier"] == pytest.approx((3 * 0.25**2 + 0.75**2) / 4)
    assert evaluate_cli.evaluate(argv) == 0
    assert "accuracy              0.750  [" in capsys.readouterr().out


def test_evaluate_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    base = ["--oracle", RULE, "--data", str(pairs_file(tmp_path)), "--out", str(tmp_path / "out")]
    with pytest.raises(DataError, match="no column 'subset'"):
        evaluate_cli.evaluate([*base, "--suite", "rewardbench"])
    with pytest.raises(ConfigError, match="--split is for --suite pairs"):
        evaluate_cli.evaluate([*base, "--suite", "rewardbench", "--split", "test"])
    with pytest.raises(DataError, match="no labelled pairs in split 'dev'"):
        evaluate_cli.evaluate([*base, "--split", "dev"])
    with pytest.raises(ConfigError, match="--columns"):
        evaluate_cli.evaluate([*base, "--columns", "prompt"])
    with pytest.raises(SystemExit) as caught:
        evaluate_cli.evaluate(["--oracle", RULE])
    assert caught.value.code == 2
    assert not (tmp_path / "out").exists()


def test_train_from_a_recipe_with_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"data: {pairs_file(tmp_path)}\nmodel: {save_tiny(tmp_path / 'base')}\nvalid_fraction: 0.0\nmax_length: 64\n"
        "head: {kind: gpm, blocks: 2}\nfit: {epochs: 1, precision: fp32, batch_size: 2}\n"
    )
    out = tmp_path / "run"
    assert cli.train([str(recipe), "--head.blocks", "3", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["fit"]["steps"], result["metrics"]["n"]) == (2, 0)  # nothing held out: nothing measured
    saved = json.loads((out / "final" / "config.json").read_text())
    assert (
        saved["preference"]["blocks"],
        saved["num_labels"] if "num_labels" in saved else len(saved["id2label"]),
    ) == (3, 6)
    assert "not available" in (out / "final" / "README.md").read_text()
    calibrated(tmp_path, out / "final")


def calibrated(tmp_path: Path, model: Path) -> None:
    """`evaluate --calibrate` keeps the temperature with the model: fitted a second time, nothing is left to do."""
    words = ("red", "a blue sky", "green leaves fall", "why")
    rows = [{"prompt": f"other {n}", "chosen": words[n % 4], "rejected": words[(n + 1) % 4]} for n in range(7)]
    argv = ["--oracle", f"model:{model}", "--data", str(pairs_file(tmp_path)), "--out", str(tmp_path / "measured"),
            "--calibrate", str(write_rows(tmp_path / "other.jsonl", rows)), "--resamples", "10"]  # fmt: skip
    taus = []
    for _ in range(2):
        assert evaluate_cli.evaluate(argv) == 0
        taus.append(json.loads((tmp_path / "measured" / "metrics.json").read_text())["calibration"]["tau"])
    kept = json.loads((model / "config.json").read_text())["preference"]["tau"]
    assert taus[1] == pytest.approx(1.0, rel=1e-4)
    assert kept == pytest.approx(taus[0], rel=1e-4)  # the head's own was 1: nothing was held out in training
    with pytest.raises(DataError, match="other prompts"):
        evaluate_cli.evaluate([*argv[:-3], str(pairs_file(tmp_path))])


def test_train_refuses_unknown_keys_with_the_nearest_name(tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("data: x\nhead: {blokcs: 3}\n")
    with pytest.raises(ConfigError, match="did you mean 'blocks'"):
        cli.train([str(recipe), "--out", str(tmp_path / "run")])


def test_help_lists_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    for command, shown in (
        (cli.train, "--fit.learning-rate"),
        (cli.score, "--oracle"),
        (evaluate_cli.evaluate, "--suite"),
    ):
        with pytest.raises(SystemExit) as caught:
            command(["--help"])
        assert caught.value.code == 0
        assert shown in capsys.readouterr().out.replace("_", "-")
