"""The justifier: what it reads as a verdict, what it is trained on, its loss; it learns to argue and to decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny_model, make_tiny_tokenizer, save_tiny

from prefeval.data.readers import load_records
from prefeval.errors import DataError
from prefeval.files import read_json
from prefeval.types import Comparison, PairLabel, PreferenceRecord, Prompt
from reward_models.evaluate_cli import evaluate
from reward_models.justifier import (
    JustifierModel,
    JustifierOracle,
    comparison,
    justify_items,
    justify_loss,
    verdict_log_odds,
)
from reward_models.oracles import open_oracle
from reward_models.pair_train import train_pair_command

PROMPTS = [Prompt.from_text("Name a colour", id="1")]


def tiny(**limits: int) -> JustifierModel:
    return JustifierModel(make_tiny_model(), make_tiny_tokenizer(), **limits)


def test_justifier_verdicts_and_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = ["B wrote [[B]], but [[A]]", "[[B]] it is", "Equal. [[C]]", "A is better, not [[D]]"]
    assert [verdict_log_odds(r) for r in replies[:3]] == [np.inf, -np.inf, 0.0]
    assert np.isnan(verdict_log_odds(replies[3]))
    oracle = JustifierOracle(tiny(max_new_tokens=4), "j")
    assert np.isnan(oracle.matrix([PROMPTS[0]], [("Red", "Green")])[0][0, 1])  # random weights say nothing readable
    assert (oracle.consistency.failed, len(oracle.texts)) == (1, 2)
    wins = {"Red": 2, "Green": 1, "Blue": 1}

    def says(items: list[Comparison]) -> Any:
        gaps = [wins[c.first] - wins[c.second] for c in items]
        return np.array([verdict_log_odds("[[A]]" if g > 0 else "[[B]]" if g < 0 else "[[A]]") for g in gaps])

    monkeypatch.setattr(oracle, "shown", says)
    (p,) = oracle.matrix([PROMPTS[0]], [("Red", "Green", "Blue")])
    assert p.tolist() == [[0.5, 1.0, 1.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]  # always [[A]] in both orders is a draw
    assert oracle.consistency.flipped == 1


def test_comparisons_name_the_replies_as_they_are_shown(tmp_path: Path) -> None:
    row = {"prompt": "q", "response_1": "one", "response_2": "two", "preference_strength": 2,
           "preference_elaboration": "Response 1 is short; @Response 2 says more than response 1."}  # fmt: skip
    path = tmp_path / "preference.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "prompt": "r", "preference_elaboration": ""}) + "\n")
    record, silent = load_records(str(path)).records
    one, two = (record.responses.index(text) for text in ("one", "two"))
    assert comparison(record, one, two) == ("reply A is short; reply B says more than reply A.",)
    assert comparison(record, two, one) == ("reply B is short; reply A says more than reply B.",)
    assert comparison(silent, 0, 1) == ()
    graded = PreferenceRecord("g", PROMPTS[0], ("x", "y", "z"), meta={"comments": ["good", "bad", ""]})
    assert comparison(graded, 1, 0) == ("Reply A: bad", "Reply B: good")
    assert comparison(graded, 0, 2) == ()


def test_items_keep_the_verdict_and_learn_only_what_is_behind_the_question() -> None:
    model = tiny(max_new_tokens=40)
    words = "the quick brown fox " * 20
    records = [
        PreferenceRecord(str(n), PROMPTS[0], ("Red", "Blue"), (PairLabel(0, 1, p),), meta={"comments": [words, "no"]})
        for n, p in enumerate((1.0, 0.0, 0.5, 1.0, 1.0, 1.0))
    ]
    items = justify_items(model, records, 0)
    verdicts = set()
    for record, item in zip(records, items, strict=True):
        question, told = (model.tokenizer.decode(ids) for ids in (item.ids[: item.head], item.ids[item.head :]))
        first = question.index("Red") < question.index("Blue")  # shown first
        won = {1.0: "A" if first else "B", 0.0: "B" if first else "A", 0.5: "C"}[record.pairs[0].p]
        assert told.endswith(f"[[{won}]]<|end|>")
        assert len(item.ids) - item.head <= 40
        assert told.startswith("Reply A: the q") == first
        verdicts.add(won)
    assert verdicts == {"A", "B", "C"}
    assert justify_items(tiny(max_length=40), records, 0) == []  # no question is cut in the middle
    loss = justify_loss(model, items, 0, torch.device("cpu"))
    by_hand = 0.0
    for item in items:  # each alone, over the whole sequence, without padding
        with torch.inference_mode():
            logp = torch.log_softmax(model.model(input_ids=torch.tensor([item.ids])).logits[0].float(), -1)
        target = list(item.ids[item.head :])
        by_hand -= float(logp[range(item.head - 1, len(item.ids) - 1), target].mean())
    assert float(loss.loss_sum.detach()) == pytest.approx(by_hand, rel=1e-5)
    assert loss.weight == len(items)


def graded_rows(count: int) -> list[dict[str, Any]]:
    """The reply that says yes is the good one, and its comment says so."""
    return [
        {"prompt": f"question {n}", "responses": ["yes yes", "no"], "pairs": [[0, 1, 1.0]],
         "meta": {"comments": ["good", "bad"]}}
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.slow
def test_training_learns_to_compare_and_to_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "graded.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in graded_rows(120)))
    argv = ["--data", str(data), "--model", str(save_tiny(tmp_path / "base")), "--kind", "justify",
            "--max-length", "480", "--comparison-tokens", "44", "--valid-fraction", "0.2", "--out",
            str(tmp_path / "run"), "--fit.epochs", "12", "--fit.batch-size", "8", "--fit.learning-rate", "4e-3",
            "--fit.precision", "fp32", "--resamples", "50", "--json"]  # fmt: skip
    assert train_pair_command(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["metrics"]["accuracy_low"] > 0.5  # held-out questions
    spec = f"pair:{tmp_path / 'run' / 'final'}"
    assert read_json(tmp_path / "run" / "final" / "config.json")["pair"]["max_new_tokens"] == 60
    oracle: Any = open_oracle(spec, device="cpu")
    assert isinstance(oracle, JustifierOracle)
    oracle.shown([Comparison(Prompt.from_text("question 999"), "no", "yes yes")])
    assert oracle.texts == ["Reply A: bad\n\nReply B: good\n\n[[B]]"]
    data.write_text("".join(json.dumps(r) + "\n" for r in graded_rows(16)))
    assert evaluate(["--oracle", spec, "--data", str(data), "--out", str(tmp_path / "e"), "--device", "cpu"]) == 0
    position = json.loads((tmp_path / "e" / "metrics.json").read_text())["position"]
    assert position["pairs"] == 16
    assert position["failed"] <= 2


def test_data_without_comparisons_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "plain.jsonl"
    rows = [{k: v for k, v in r.items() if k != "meta"} for r in graded_rows(4)]
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(DataError, match="written comparison"):
        train_pair_command(["--data", str(data), "--model", str(save_tiny(tmp_path / "base")), "--kind", "justify",
                            "--valid-fraction", "0.0", "--out", str(tmp_path / "run")])  # fmt: skip
