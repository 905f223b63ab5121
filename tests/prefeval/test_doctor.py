"""Each finding of the doctor is brought about by the fault that it names, and absent without it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, status
from tiny import CHAT_TEMPLATE, make_tiny_model, make_tiny_tokenizer, save_tiny
from tokenizers.processors import TemplateProcessing

from prefeval.cli import main
from prefeval.doctor.data import examine_data
from prefeval.doctor.environment import examine_environment
from prefeval.doctor.findings import Finding
from prefeval.doctor.judge import examine_judge
from prefeval.doctor.models import examine_model
from reward_models.checkup import examine_preference_model
from reward_models.config import HeadConfig
from reward_models.modeling import PreferenceModel


def bad(findings: Iterable[Finding]) -> dict[str, str]:
    """Check -> message of the warnings and problems."""
    return {f.check: f.message for f in findings if f.level in ("warning", "problem")}


def saved(path: Path, tokenizer: Any = None) -> str:
    make_tiny_model().save_pretrained(path)
    (tokenizer or make_tiny_tokenizer()).save_pretrained(path)
    return str(path)


def preference_model(path: Path, kind: str = "gpm") -> Path:
    head = HeadConfig(kind=kind, blocks=2) if kind == "gpm" else HeadConfig(kind="bt")
    return PreferenceModel.from_base(make_tiny_model(), make_tiny_tokenizer(), head).save_pretrained(path)


def test_a_sound_model_has_no_findings(tmp_path: Path) -> None:
    assert bad(examine_model(saved(tmp_path / "m"))) == {}
    assert list(examine_preference_model(str(tmp_path / "m"))) == []  # a policy has no head to look at


def test_padding_that_ends_turns(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    found = bad(examine_model(saved(tmp_path / "m", tokenizer)))
    assert "also ends turns" in found["padding"]


def test_bos_twice_for_those_who_template_first(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert "two BOS" in bad(examine_model(saved(tmp_path / "m", tokenizer)))["BOS"]


def test_a_template_with_two_bos_is_a_problem(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    found = list(examine_model(saved(tmp_path / "m", tokenizer)))
    assert any(f.level == "problem" and "two BOS" in f.message for f in found)


def test_a_template_with_a_date(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{% set d = strftime_now('%Y') %}" + CHAT_TEMPLATE
    assert "date" in bad(examine_model(saved(tmp_path / "m", tokenizer)))["template"]


def test_a_prompt_that_is_no_prefix(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|assistant|>{% endif", "<|assistant|>thinking:{% endif")
    assert "no prefix" in bad(examine_model(saved(tmp_path / "m", tokenizer)))["template"]


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens([f"<extra{n}>" for n in range(20)])
    assert "the model 300" in bad(examine_model(saved(tmp_path / "m", tokenizer)))["vocabulary"]


def test_generation_stops_elsewhere(tmp_path: Path) -> None:
    spec = saved(tmp_path / "m")
    path = tmp_path / "m" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [5]}))
    assert "[5] does not hold the end of turn 2" in bad(examine_model(spec))["generation config"]


def test_no_tokenizer(tmp_path: Path) -> None:
    make_tiny_model().save_pretrained(tmp_path / "m")
    assert "no tokenizer" in bad(examine_model(str(tmp_path / "m")))["tokenizer"]


def test_preference_models(tmp_path: Path) -> None:
    path = preference_model(tmp_path / "pm")
    found = list(examine_preference_model(str(path)))
    assert bad(found) == {}
    assert found[0].message.startswith("gpm, 4 outputs")


def test_a_changed_template_and_a_lost_head(tmp_path: Path) -> None:
    path = preference_model(tmp_path / "pm")
    config = json.loads((path / "config.json").read_text())
    config["preference"]["template_hash"] = "0" * 16
    (path / "config.json").write_text(json.dumps(config))
    assert "chat template is not the one" in bad(examine_preference_model(str(path)))["preference model"]

    from safetensors.torch import load_file, save_file

    path = preference_model(tmp_path / "headless")
    weights = load_file(path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "score" not in k}, path / "model.safetensors", metadata={"format": "pt"}
    )
    assert "score.weight" in bad(examine_preference_model(str(path)))["preference model"]


def test_padding_that_is_read_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone that looks ahead sees the padding behind a short text: its scores change with their neighbours."""
    from reward_models import modeling

    path = preference_model(tmp_path / "pm", "bt")
    whole = modeling.PreferenceModel.head_outputs

    def leaking(self: Any, hidden: Any) -> Any:
        return whole(self, hidden) + 0.1 * len(hidden)  # depends on how many texts are asked at once

    monkeypatch.setattr(modeling.PreferenceModel, "head_outputs", leaking)
    assert "changes by" in bad(examine_preference_model(str(path)))["scores"]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_data_that_length_alone_predicts(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "a long answer " * 3, "rejected": f"short {i}"} for i in range(30)]
    found = bad(examine_data(write_rows(tmp_path / "d.jsonl", rows)))
    assert "100.0% of 30 pairs" in found["length"]
    even = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} if i % 2 else r for i, r in enumerate(rows)]
    assert bad(examine_data(write_rows(tmp_path / "even.jsonl", even))) == {}


def test_prompts_in_two_splits(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": f"a{s}", "rejected": "b", "split": s} for s in ("train", "test")]
    assert "more than one split" in bad(examine_data(write_rows(tmp_path / "d.jsonl", rows)))["splits"]


def test_rows_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in bad(examine_data(str(tmp_path / "none.jsonl")))["data"]
    rows = [{"prompt": "q", "chosen": "same", "rejected": "same"}, {"prompt": "p", "chosen": "a", "rejected": "b"}]
    assert "1 of 2 rows" in bad(examine_data(write_rows(tmp_path / "d.jsonl", rows)))["dropped"]


def test_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")

    def by_content(body: Any) -> str:
        text = str(body)
        return "[[A>>B]]" if text.index("Paris") < text.index("turtles") else "[[B>>A]]"

    with FakeServer(reply=by_content) as server:
        found = list(examine_judge(f"judge:m@{server.base_url}"))
        assert bad(found) == {}
        assert len(server.requests) == 2
    with FakeServer(reply="[[A>>B]]") as server:  # always the first
        assert "shown second" in bad(examine_judge(f"m@{server.base_url}"))["judge"]
    with FakeServer(reply=lambda body: status(401, "no such key")) as server:
        found = list(examine_judge(f"m@{server.base_url}"))
        assert "401" in bad(found)["judge"]
        assert "secret-key" not in str(found)


def test_the_environment_shows_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    monkeypatch.setenv("PREFEVAL_CACHE", str(tmp_path))
    found = list(examine_environment())
    assert {"python", "packages", "torch", "device", "memory", "disk"} <= {f.check for f in found}
    assert "secret-key" not in str(found)
    assert not any(f.level == "problem" for f in found)


def test_a_package_of_another_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import copy
    import importlib.util

    whole = importlib.util.find_spec

    def shadowed(name: str, package: str | None = None) -> Any:
        spec = copy.copy(whole(name, package))  # the package's own, where a test imported it before
        if name == "alignment" and spec is not None:
            spec.origin = str(tmp_path / "alignment" / "__init__.py")
        return spec

    monkeypatch.setattr(importlib.util, "find_spec", shadowed)
    problems = [f for f in examine_environment() if f.level == "problem"]
    assert [f.check for f in problems] == ["packages"]
    assert "'alignment' is imported from" in problems[0].message


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(save_tiny(tmp_path / "m"))
    assert main(["doctor", "--model", spec]) == 0
    assert "0 problems" in capsys.readouterr().out
    assert main(["doctor", "--model", str(tmp_path / "nothing"), "--json"]) == 1
    out = json.loads(capsys.readouterr().out)
    assert out["problems"] == 1
    assert any("nothing" in f["message"] for f in out["findings"])
