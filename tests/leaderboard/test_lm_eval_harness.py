"""`prefeval tax` on what lm-eval itself writes: tiny policies run through the harness on local stand-ins of the board.

Every task of the board under its own name and metric, with made-up items of our own; no hub, no network. Needs the
extra `lm-eval`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny import save_tiny

from leaderboard.lm_eval import BBH, PARTS
from prefeval.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.parity]
ITEMS = 4
STRICT = """
def judge(doc, results):
    said = len(results[0])
    return {"prompt_level_strict_acc": said % 2, "inst_level_strict_acc": float(said % 3 > 0)}
"""


@pytest.fixture(scope="module")
def harness() -> Any:
    return pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'prefeval[lm-eval]')")


def write_tasks(folder: Path) -> list[str]:
    """One YAML a task of the board, with a JSON file of items; their names."""
    (folder / "strict.py").write_text(STRICT, encoding="utf-8")
    tasks: dict[str, dict[str, str | int | None]] = {}
    for parts in PARTS.values():
        for task, metric, choices in parts:
            tasks.setdefault(task, {})[metric] = choices
    for task, metrics in tasks.items():
        metric, choices = next(iter(metrics.items()))
        data = folder / f"{task}.json"
        rows = [{"q": f"{task} {i}?", "gold": i % int(choices or 1)} for i in range(ITEMS)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config: dict[str, Any] = {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": str(data)},
            "test_split": "train",
            "doc_to_text": "{{q}}",
            "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in metrics],
        }
        if choices:
            letters = [f"answer {'x' * (i % 5)}{i}" for i in range(int(choices))]
            config |= {"output_type": "multiple_choice", "doc_to_target": "gold", "doc_to_choice": letters}
        else:
            config |= {"output_type": "generate_until", "doc_to_target": "{{gold}}"}
            config["generation_kwargs"] = {"max_gen_toks": 4, "until": ["."], "do_sample": False}
        text = yaml.safe_dump(config)
        if task == "leaderboard_ifeval":
            text += "process_results: !function strict.judge\n"
        (folder / f"{task}.yaml").write_text(text, encoding="utf-8")
    return list(tasks)


def test_the_board_counts_choices_as_the_harness_has_them(harness: Any) -> None:
    """The counts of the board's normalisation are those of the choices in lm-eval's own task files, all 24."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: None)
    folder = Path(harness.__file__).parent / "tasks" / "leaderboard" / "bbh_mc"
    counted = {}
    for name in BBH:
        config = yaml.load((folder / f"{name}.yaml").read_text(encoding="utf-8"), Loader=Loader)
        counted[name] = len(config["doc_to_choice"])
    assert counted == BBH


def test_tax_reads_what_the_harness_writes(
    harness: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    from lm_eval.tasks import TaskManager

    names = write_tasks(tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    files, tables = [], []
    for seed in (0, 1):
        model = save_tiny(tmp_path / f"model{seed}", seed)
        found = harness.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(model), "dtype": "float32"},
            tasks=names,
            task_manager=manager,
            device="cpu",
            batch_size=8,
            bootstrap_iters=0,
        )
        file = tmp_path / f"results{seed}.json"
        file.write_text(json.dumps(found, default=str), encoding="utf-8")
        files.append(str(file))
        tables.append(found["results"])
    assert main(["tax", "--results", *files]) == 0
    out = capsys.readouterr().out
    table = tables[1]
    chance_free = [
        100 * max(0.0, (table[f"leaderboard_bbh_{n}"]["acc_norm,none"] - 1 / k) / (1 - 1 / k)) for n, k in BBH.items()
    ]
    strict = [table["leaderboard_ifeval"][f"{level}_level_strict_acc,none"] for level in ("prompt", "inst")]
    expected = {"BBH": sum(chance_free) / 24, "IFEval": 50 * sum(strict)}
    for name, score in expected.items():
        line = next(row for row in out.split("results1.json\n")[1].splitlines() if row.strip().startswith(name))
        assert float(re.split(r"\s+", line.strip())[1]) == pytest.approx(score, abs=0.005)
        assert f"n {ITEMS * (24 if name == 'BBH' else 1)} " in line
