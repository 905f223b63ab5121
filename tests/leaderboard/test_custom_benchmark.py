"""A benchmark of one's own from a folder: questions, perhaps a template and a baseline, through a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_toys import Alphabet, Writer, answers_to, config

from leaderboard import cli
from leaderboard.answers import write_alpaca_outputs
from leaderboard.benchmarks import open_benchmark
from leaderboard.config import ModelSpec
from leaderboard.run import run_bench
from prefeval.errors import ConfigError, DataError
from prefeval.files import read_json, write_jsonl

KINDS: dict[str, list[dict[str, Any]]] = {
    "alpaca_eval": [{"instruction": f"Say {i}.", "dataset": "own"} for i in range(5)],
    "arena_hard": [{"uid": f"u{i}", "prompt": f"Say {i}.", "category": "own"} for i in range(5)],
    "mt_bench": [{"question_id": i, "category": "own", "turns": [f"Say {i}.", "Again."]} for i in range(5)],
}


def folder(root: Path, kind: str = "alpaca_eval") -> Path:
    path = root / "cooking"
    path.mkdir(exist_ok=True)
    write_jsonl(path / "questions.jsonl", KINDS[kind])
    return path


def template(path: Path, user: str) -> None:
    (path / "template.yaml").write_text(json.dumps({"system": "You taste.", "user": user}))


def test_a_folder_runs_through_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows tell the protocol; the folder's wording and baseline are used, and need no word in the recipe."""
    path = folder(tmp_path)
    template(path, "On {instruction}: m says {output_1}, M says {output_2}.")
    write_alpaca_outputs(path / "baseline.json", answers_to(open_benchmark(f"custom:{path}"), "cook"))
    asked: list[str] = []

    class Taster(Alphabet):
        async def rule(self, task: Any) -> Any:
            asked.append("\n".join(m.content for m in task.messages))
            return await super().rule(task)

    spec = f"custom:{path}"
    setup = config(tmp_path, benchmarks=(spec,), models=(ModelSpec("ann", "x"), ModelSpec("zoe", "y")), baseline="")
    result = run_bench(setup, open_model=lambda m: Writer(m.name, []), judge=Taster())
    table = result.tables["cooking"]
    assert [(r.name, r.extra["win_rate"]) for r in table.rows] == [
        ("ann", pytest.approx(90)),
        ("zoe", pytest.approx(10)),
    ]
    assert len(asked) == 10
    assert all(text.startswith("You taste.\nOn Say ") for text in asked)
    own, ours = open_benchmark(spec).template_hash, open_benchmark("mini-alpaca").template_hash
    assert {r.template_hash for r in table.rows} == {own} != {ours}
    annotations = tmp_path / "run/annotations/cooking/ann/annotations.json"
    assert {r["generator_1"] for r in read_json(annotations)} == {"cook"}
    argv = ["--benchmark", spec, "--annotations", str(annotations), "--out", str(tmp_path / "board"), "--json"]
    assert cli.leaderboard(argv) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["benchmark"], shown["rows"][0]["win_rate"]) == ("cooking", pytest.approx(90))
    answers = str(tmp_path / "run/answers/cooking/zoe/model_outputs.json")
    assert cli.judge(["--benchmark", spec, "--answers", answers, "--judge", "py:leaderboard_toys:longer", "--out",
                      str(tmp_path / "judged")]) == 0  # fmt: skip
    assert {r["generator_1"] for r in read_json(tmp_path / "judged/zoe/annotations.json")} == {"cook"}


@pytest.mark.parametrize(("kind", "calls"), [("alpaca_eval", 5), ("arena_hard", 10), ("mt_bench", 10)])
def test_the_rows_tell_the_protocol(kind: str, calls: int, tmp_path: Path) -> None:
    benchmark = open_benchmark(f"custom:{folder(tmp_path, kind)}")
    assert (benchmark.name, benchmark.protocol, benchmark.baseline) == ("cooking", kind, "")
    assert len(benchmark.tasks(answers_to(benchmark, "m"), [answers_to(benchmark, "base")])) == calls


def test_a_name_and_a_protocol_of_ones_choice(tmp_path: Path) -> None:
    path = folder(tmp_path, "mt_bench")
    (path / "template.yaml").write_text(json.dumps({"multi": {
        "system": "S", "user": "{question_1} {question_2} | {answer_a_1} {answer_a_2} | {answer_b_1} {answer_b_2}"
    }}))  # fmt: skip
    benchmark = open_benchmark(f"chats=mt_bench_pair:{path}")
    tasks = benchmark.tasks(answers_to(benchmark, "m"), [answers_to(benchmark, "base")])
    assert (benchmark.name, len(tasks)) == ("chats", 20)
    assert tasks[2].messages[1].content == "Say 0. Again. | m 0 0 m 1 0 | base 0 0 base 1 0"
    assert "=== Question ===" in tasks[0].messages[1].content  # no wording of its own for this turn: ours
    assert open_benchmark(f"chats=mt_bench:{path / 'questions.jsonl'}").name == "chats"


def test_what_a_folder_lacks_is_said_in_one_line(tmp_path: Path) -> None:
    path = folder(tmp_path)
    for text, message in (
        ("On {instruction}: {output_1}", r"template\.yaml, field 'user': lacks {output_2}"),
        ("", r"template\.yaml, field 'user': must be a non-empty text"),
    ):
        template(path, text)
        with pytest.raises(DataError, match=message):
            open_benchmark(f"custom:{path}")
    (path / "template.yaml").write_text("sytem: x\nuser: y\n")
    with pytest.raises(DataError, match=r"field 'sytem': unknown; did you mean 'system'"):
        open_benchmark(f"custom:{path}")
    (path / "template.yaml").write_text("a: [")
    with pytest.raises(DataError, match=r"template\.yaml: not valid YAML"):
        open_benchmark(f"custom:{path}")
    (path / "template.yaml").unlink()
    (path / "questions.jsonl").write_text('{"question": "x"}\n')
    with pytest.raises(DataError, match=r"questions\.jsonl, row 1: needs 'instruction', or"):
        open_benchmark(f"custom:{path}")
    (path / "questions.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"cooking holds no questions\.jsonl"):
        open_benchmark(f"custom:{path}")
    with pytest.raises(ConfigError, match="neither a folder nor a file"):
        open_benchmark(f"custom:{tmp_path / 'nowhere'}")
    with pytest.raises(ConfigError, match=r"write NAME=PROTOCOL:PATH; did you mean 'arena_hard'"):
        open_benchmark(f"mine=arena-hard:{path}")
    (tmp_path / "mt_bench_mine").mkdir()
    with pytest.raises(ConfigError, match="another benchmark's"):
        open_benchmark(f"custom:{tmp_path / 'mt_bench_mine'}")
    assert not (tmp_path / "run").exists()
    short = folder(tmp_path)
    write_alpaca_outputs(short / "baseline.json", answers_to(open_benchmark("mini-alpaca", None, 2), "cook"))
    with pytest.raises(DataError, match=r"baseline\.json: model 'cook' has no answer to prompt 'Say 0\.' of cooking"):
        run_bench(config(tmp_path, benchmarks=(f"custom:{short}",), baseline=""))
