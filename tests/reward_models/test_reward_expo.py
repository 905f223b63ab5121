"""ExPO and the three steps of HelpSteer2-Preference at toy size, on rows in HelpSteer2's two formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tiny_model, make_tiny_tokenizer, save_tiny

from prefeval.cli import main
from prefeval.config import to_dict
from prefeval.data.readers import load_records
from prefeval.errors import ConfigError
from prefeval.pipeline import load_recipe, run_recipe
from prefeval.runs import RunDir
from prefeval.types import Prompt
from reward_models.config import HeadConfig
from reward_models.expo import ExpoConfig, choose, ends, extrapolate
from reward_models.modeling import PreferenceModel
from reward_models.oracles import open_oracle

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
GOOD, BAD = "red, green and blue", "I cannot say"


def write_helpsteer(folder: Path, prompts: int = 20) -> tuple[Path, Path]:
    """(ratings, preference): rows 2i and 2i + 1 share a prompt; the last quarter of the prompts is for validation."""
    ratings, strengths = [], []
    for n in range(prompts):
        prompt = f"Name colour number {n}." + (
            "\n<extra_id_1>Assistant\nWhich?\n<extra_id_1>User\nAny." if n % 3 else ""
        )
        split = "validation" if n >= prompts * 3 // 4 else "train"
        texts, grades = (f"{GOOD} {n}.", f"{BAD} {n}."), (4 - n % 2, n % 2)
        for text, grade in zip(texts, grades, strict=True):
            values = {name: grade if name == "helpfulness" else 2 for name in ATTRIBUTES}
            ratings.append({"prompt": prompt, "response": text, **values, "split": split})
        first, second = texts if n % 4 < 2 else texts[::-1]
        strength = (-3 if n % 2 == 0 else -1) * (1 if n % 4 < 2 else -1)  # negative: response 1 is better
        row = {"split": split, "prompt": prompt, "response_1": first, "response_2": second}
        strengths.append({**row, "preference_strength": strength})
    paths = (folder / "ratings.jsonl", folder / "preference.jsonl")
    for path, rows in zip(paths, (ratings, strengths), strict=True):
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return paths


def saved(path: Path, head: HeadConfig, seed: int) -> Path:
    model = PreferenceModel.from_base(make_tiny_model(seed), make_tiny_tokenizer(), head, seed=seed, max_length=128)
    return model.save_pretrained(path)


def test_the_recipe_end_to_end(tmp_path: Path) -> None:
    ratings, pairs = write_helpsteer(tmp_path)
    fit = "{epochs: 4, learning_rate: 1.0e-3, batch_size: 4, precision: fp32, log_every: 10}"
    args = ["--out", str(tmp_path / "run"), "--regression.model", str(save_tiny(tmp_path / "base"))]
    args += ["--regression.data", str(ratings), "--scaled-bt.data", str(pairs), "--expo.data", str(pairs)]
    for step in ("regression", "scaled-bt"):
        args += [f"--{step}.fit", fit, f"--{step}.max_length", "128", f"--{step}.resamples", "20"]
    args += ["--expo.resamples", "20", "--expo.factors", "[0.0, 1.0, 1.5]"]
    results = run_recipe(load_recipe("helpsteer2-preference", args))
    run = tmp_path / "run"
    written = json.loads((run / "expo" / "expo.json").read_text())
    assert written == results["expo"]
    assert [row["factor"] for row in written["grid"]] == [0.0, 1.0, 1.5]
    assert {row["n"] for row in written["grid"]} == {5}  # the validation split, and nothing else
    assert written["metrics"]["nll"] == min(row["nll"] for row in written["grid"])
    assert written["strong"]["nll"] == pytest.approx(results["scaled-bt"]["metrics"]["nll"], abs=1e-4)
    weak, strong, final = (
        load_file(run / s / "final" / "model.safetensors") for s in ("regression", "scaled-bt", "expo")
    )
    a, tau = written["factor"], results["regression"]["tau"]
    for name, tensor in final.items():
        start = weak[name] / (tau if name == "score.weight" else 1.0)
        np.testing.assert_allclose(tensor, start + a * (strong[name] - start), atol=1e-5)
    held_out = [r for r in load_records(str(pairs)).records if r.split == "validation"]
    oracle = open_oracle(f"model:{run / 'expo' / 'final'}", device="cpu")
    tables = oracle.matrix([r.prompt for r in held_out], [r.responses for r in held_out])
    likelihood = [
        np.log(t[p.i, p.j] if p.p == 1.0 else t[p.j, p.i])
        for t, r in zip(tables, held_out, strict=True)
        for p in r.pairs
    ]
    assert -np.mean(likelihood) == pytest.approx(
        written["metrics"]["nll"], abs=1e-4
    )  # the saved tau is the refitted one


def write_rated_sets(folder: Path, prompts: int = 24) -> None:
    """The three rated sets in the layouts of their files, all good responses rated above all bad ones."""
    import pandas as pd

    texts = {"good": (f"{GOOD}, as asked.", 4.5), "bad": (f"{BAD}, sorry.", 2.0), "worse": ("No.", 1.5)}
    rows: dict[str, list[dict[str, Any]]] = {"topical_chat": [], "data2text": [], "prometheus": []}
    for n in range(prompts):
        for system, (text, grade) in texts.items():
            prompt = f"Name colour number {n}."
            rows["topical_chat"].append(
                {"doc_id": n, "system_id": system, "source": prompt, "context": "Colours.", "system_output": text,
                 "score_coherence": 3.0, "score_overall": grade}
            )  # fmt: skip
            rows["data2text"].append(
                {"dataset": "sfhot", "source": f"inform(colour={n})", "reference": "", "system_output": text,
                 "score_naturalness": 4.0, "score_overall": grade}
            )  # fmt: skip
            told = f"###Task:\n\n###The instruction to evaluate:\nWhich of {n}?\n\n###Response to evaluate:\n{text}\n\n"
            told += "###Reference Answer (Score 5):\nRed.\n\n###Score Rubrics:\n[Is it right?]\n\n###Feedback: "
            scores = [int(grade), int(grade + 0.5)]
            rows["prometheus"].append({"dataset": "mt", "idx": n, "instruction": told, "gpt4_score": scores})
    endings = {"topical_chat": "multiattr", "data2text": "multiattr", "prometheus": "absolute_gpt4"}
    folder.mkdir(parents=True)
    for name, table in rows.items():
        pd.DataFrame(table).to_parquet(folder / f"{name}_{endings[name]}.parquet")


@pytest.mark.slow
def test_the_three_rated_sets_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rated_sets(tmp_path / "data" / "preferences")
    monkeypatch.setenv("PREFEVAL_DATA", str(tmp_path / "data"))
    fit = "{epochs: 16, learning_rate: 3.0e-3, batch_size: 8, precision: fp32, log_every: 10}"
    args = ["--out", str(tmp_path / "run"), "--regression.model", str(save_tiny(tmp_path / "base"))]
    for step in ("regression", "scaled-bt"):
        args += [f"--{step}.fit", fit, f"--{step}.max_length", "128", f"--{step}.resamples", "20"]
        args += [f"--{step}.trainable", "full"]
    args += ["--regression.layers", "0", "--expo.resamples", "20", "--expo.factors", "[0.0, 1.0, 1.5]"]
    results = run_recipe(load_recipe("rated-preference", args))
    held_out = {name: results[name]["metrics"]["n"] for name in results}
    assert len(set(held_out.values())) == 1  # the same validation pairs in all three steps
    for name in ("regression", "scaled-bt", "expo"):  # the texts tell the grade: learned, on prompts nobody has seen
        assert results[name]["test"]["accuracy"] > 0.9
        assert results[name]["test"]["n"] > 20
    grid = {row["factor"]: row["nll"] for row in results["expo"]["grid"]}
    assert results["expo"]["factor"] == min(grid, key=lambda a: (grid[a], abs(a - 1.0)))
    assert (tmp_path / "run" / "expo" / "test.json").is_file()


def test_bt_head_kept_from_a_regression_is_its_utility(tmp_path: Path) -> None:
    head = HeadConfig("regression", attributes=("helpfulness", "verbosity"), weights=(2.0, -0.5), tau=0.7)
    path = saved(tmp_path / "regression", head, 1)
    bt = PreferenceModel.from_base(str(path), make_tiny_tokenizer(), HeadConfig("bt"), keep_head=True, max_length=128)
    rows = load_file(path / "model.safetensors")["score.weight"]
    torch.testing.assert_close(bt.classifier.score.weight.data, (2.0 * rows[:1] - 0.5 * rows[1:]) / 0.7)
    bt.save_pretrained(tmp_path / "bt")
    ask = ([Prompt.from_text("Name a colour.")], [(GOOD, BAD, "Blue.")])
    (before,), (after,) = (open_oracle(f"model:{p}", device="cpu").matrix(*ask) for p in (path, tmp_path / "bt"))
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_two_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    bt = saved(tmp_path / "bt", HeadConfig("bt"), 0)
    gpm = saved(tmp_path / "gpm", HeadConfig("gpm"), 0)
    with pytest.raises(ConfigError, match="differ in their kind"):
        ends(bt, gpm)
    cut = PreferenceModel.from_base(
        make_tiny_model(0), make_tiny_tokenizer(), HeadConfig("bt"), layers=1, max_length=128
    )
    with pytest.raises(ConfigError, match="not the same architecture"):
        ends(bt, cut.save_pretrained(tmp_path / "cut"))
    with pytest.raises(ConfigError, match="have 1 among them"):
        ExpoConfig(factors=(0.5, 2.0))


def test_least_nll_wins_and_ties_stay_near_the_strong_model() -> None:
    rows: list[dict[str, Any]] = [{"factor": a, "nll": v} for a, v in ((0.0, 0.5), (1.0, 0.4), (1.5, 0.3), (2.0, 0.3))]
    assert choose(rows)["factor"] == 1.5
    assert choose(rows[:2] + rows[3:])["factor"] == 2.0


@pytest.mark.slow
def test_the_test_split_has_no_say(tmp_path: Path) -> None:
    _, pairs = write_helpsteer(tmp_path)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    weak, strong = (saved(tmp_path / str(seed), HeadConfig("bt"), seed) for seed in (0, 1))
    results = []
    for name, sign in (("as it is", 1), ("turned", -1)):
        extra = [{**r, "split": "test", "preference_strength": sign * r["preference_strength"]} for r in rows]
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(r) + "\n" for r in rows + extra))
        options = {"factors": (0.0, 1.0, 2.0), "resamples": 20, "out": str(tmp_path / f"{name} run")}
        config = ExpoConfig(weak=str(weak), strong=str(strong), data=str(data), **options)
        results.append(extrapolate(config, RunDir(config.out, to_dict(config))))
    assert results[0] == results[1]


def test_command_prints_the_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, pairs = write_helpsteer(tmp_path)
    weak, strong = (saved(tmp_path / str(seed), HeadConfig("bt"), seed) for seed in (0, 1))
    args = ["expo", "--weak", str(weak), "--strong", str(strong), "--data", str(pairs), "--resamples", "20"]
    args += ["--factors", "0", "1", "--out", str(tmp_path / "run")]
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "<- chosen" in out
    assert "5 (0, 0)" in out
    assert main([*args[:3], "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
    assert "expo needs two models" in capsys.readouterr().err
