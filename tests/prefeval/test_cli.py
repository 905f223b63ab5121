"""The command line: exit codes, one message and no traceback, and help that is instant."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from prefeval import __version__, cli
from prefeval.errors import ConfigError, DataError, RunError, UserError

TOY: dict[str, Callable[[], int]] = {}


def toy(argv: list[str]) -> int:
    return TOY["do"]()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], int]:
    monkeypatch.setitem(cli.COMMANDS, "toy", (f"{__name__}:toy", "for tests"))

    def call(do: Callable[[], int]) -> int:
        TOY["do"] = do
        return cli.main(["toy"])

    return call


def raising(error: BaseException) -> Callable[[], int]:
    def do() -> int:
        raise error

    return do


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("give --out"), 2, "give --out"),
        (ConfigError("x.yaml: unknown key 'a'"), 2, "x.yaml: unknown key 'a'"),
        (DataError("not a number", file="d.jsonl", row=3, field="p"), 2, "d.jsonl, row 3, field 'p': not a number"),
        (RunError("step 3 is kept"), 1, "step 3 is kept"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on from here"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/runs/x"),
            2,
            "no room left on the disk (/runs/x); free some and run the same command again",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "no room left on the disk; free some and run the same command again",
        ),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    command: Callable[[Callable[[], int]], int],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    assert command(raising(error)) == code
    captured = capsys.readouterr()
    assert captured.err == f"prefeval: {message}\n"
    assert captured.out == ""


def _save_to_a_full_disk() -> int:
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")  # as seen on one


def _fill_a_database() -> int:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("pragma max_page_count = 2")
        db.execute("create table t (x)")
        db.execute("insert into t values (zeroblob(100000))")
    return 0


@pytest.mark.parametrize("do", [_save_to_a_full_disk, _fill_a_database])
def test_a_full_disk_that_is_told_in_words(
    command: Callable[[Callable[[], int]], int], capsys: pytest.CaptureFixture[str], do: Callable[[], int]
) -> None:
    assert command(do) == 2
    assert capsys.readouterr().err == "prefeval: no room left on the disk; free some and run the same command again\n"


def test_success_and_bugs(command: Callable[[Callable[[], int]], int]) -> None:
    assert command(lambda: 0) == 0
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        command(raising(ZeroDivisionError()))
    with pytest.raises(PermissionError):
        command(raising(PermissionError(errno.EACCES, "denied")))


def test_usage_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    for flag in ("-h", "--help", "help"):
        assert cli.main([flag]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"prefeval {__version__}\n"
    assert cli.main(["tran"]) == 2
    assert "unknown command 'tran'; did you mean 'train'?" in capsys.readouterr().err


def test_the_reader_of_a_pipe_may_leave() -> None:
    code = (
        "import sys; from prefeval import cli\n"
        "def toy(argv): raise BrokenPipeError(32, 'Broken pipe')\n"
        "sys.modules['toy'] = sys.modules['__main__']; cli.COMMANDS['toy'] = ('toy:toy', '')\n"
        "sys.exit(cli.main(['toy']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")


def test_help_is_instant() -> None:
    """Start of the interpreter included; the best of five, because the machine may be busy."""
    took = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "prefeval.cli", "--help"], capture_output=True, text=True)
        took.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert "quickstart" in done.stdout
        if took[-1] < 0.3:
            break
    assert min(took) < 0.3


HEAVY = ("torch", "transformers", "sklearn", "pandas", "matplotlib", "datasets")


def test_help_of_commands_loads_nothing_heavy() -> None:
    """Of all commands but those of reward_models, whose configs live beside tensors."""
    code = f"""
import contextlib, io, sys
from prefeval import cli
with contextlib.redirect_stdout(io.StringIO()):
    assert cli.main(["--help"]) == 0
    assert "numpy" not in sys.modules and "yaml" not in sys.modules
names = [name for name, (where, _) in cli.COMMANDS.items() if not where.startswith("reward_models")]
for name in names:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            code = 0 if name == "recipes" else cli.main([name, "--help"])
    except SystemExit as stop:
        code = stop.code or 0
    assert code == 0, (name, code)
    assert name == "recipes" or len(out.getvalue()) > 40, name
    loaded = [m for m in {HEAVY!r} if m in sys.modules]
    assert not loaded, (name, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_command_can_be_loaded() -> None:
    for name in cli.COMMANDS:
        assert callable(cli.load(name))
