"""The `prefeval` command: a lazy table of dotted names, so that help is instant and no import runs up the layers."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prefeval import __version__
from prefeval.errors import PrefevalError, nearest, printable

COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("prefeval.pipeline:quickstart", "train BT + GPM, align, bench, report, on a small real model"),
    "train": ("reward_models.cli:train", "RECIPE: train a preference model"),
    "align": ("alignment.cli:align", "RECIPE: align a policy against an oracle"),
    "search-prompt": (
        "alignment.prompt_search:search_prompt_command",
        "[RECIPE]: a beam search over system prompts for a policy that is not trained",
    ),
    "bench": ("leaderboard.cli:bench", "RECIPE: answers, verdicts, scores, report"),
    "run": ("prefeval.pipeline:run", "RECIPE: several of the commands above as one resumable run"),
    "train-pair": ("reward_models.pair_train:train_pair_command", "RECIPE: train a pair model (cross, A/B, justifier)"),
    "expo": ("reward_models.expo:expo_command", "go beyond a preference model, away from the one it started from"),
    "demonstrations": (
        "reward_models.demonstrations:demonstrations_command",
        "written answers beside a policy's own: what a reward model is trained from",
    ),
    "recipes": ("prefeval.pipeline:recipes", "list the built-in recipes"),
    "score": ("reward_models.cli:score", "P matrix per prompt from any oracle"),
    "evaluate": (
        "reward_models.evaluate_cli:evaluate",
        "an oracle on preference data or a published suite",
    ),
    "uncertainty": ("reward_models.uncertainty_cli:uncertainty", "how sure a preference model is: Laplace, pessimism"),
    "game": ("alignment.game_cli:game", "play an algorithm on an exact matrix game"),
    "answer": ("leaderboard.answer_cli:answer", "a model's answers to a benchmark"),
    "judge": ("leaderboard.cli:judge", "verdicts on answers"),
    "leaderboard": ("leaderboard.cli:leaderboard", "scores from existing verdict files; no model, no network"),
    "tax": ("leaderboard.tax:tax", "base against aligned on the Open LLM Leaderboard tasks, from lm-eval results"),
    "report": ("prefeval.pipeline:report", "RUN...: one self-contained HTML report"),
    "serve": ("reward_models.serve:serve", "any oracle over HTTP"),
    "export": ("prefeval.export:export", "RUN --to DIR: a model or benchmark answers for other tools"),
    "doctor": ("prefeval.doctor.command:doctor", "look for what goes wrong: environment, model, data, judge; --speed"),
    "compare": ("prefeval.compare:compare", "RUN RUN: what was told and what came out differently"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0 on success, 2 on bad usage or input, 1 on a failure mid-way, 130 on Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        sys.stdout.write(f"prefeval {__version__}\n")
        return 0
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        return _fail(f"unknown command '{name}'{nearest(name, COMMANDS)} (see prefeval --help)", 2)
    return _guarded(name, rest)


def usage() -> str:
    width = max(len(name) for name in COMMANDS)
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: prefeval COMMAND ...\n\n"
        "Train preference models, align policies against them, benchmark the result.\n\n"
        f"commands:\n{rows}\n\n"
        "prefeval COMMAND --help explains a command; exit status 2 is bad usage or input, 1 a failure mid-way.\n"
    )


def load(name: str) -> Callable[[list[str]], int]:
    """The function behind a command."""
    module, _, function = COMMANDS[name][0].partition(":")
    found: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return found


def _guarded(name: str, rest: list[str]) -> int:
    from prefeval.log import setup_logging

    setup_logging()
    terminated: list[int] = []
    try:
        with _term_as_interrupt(terminated):
            return load(name)(rest)
    except PrefevalError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        how, code = ("terminated", 143) if terminated else ("interrupted", 130)
        return _fail(f"{how}; run the same command again to go on from here", code)
    except BrokenPipeError:  # before OSError, whose subclass it is; stdout is gone, so nothing may be flushed into it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _fail("not enough memory for this; give it less at once (shorter files, smaller batches)", 1)
    except Exception as error:
        if _lacks_room(error):
            where = getattr(error, "filename", None)
            where = f" ({where})" if where else ""
            return _fail(f"no room left on the disk{where}; free some and run the same command again", 2)
        raise


@contextlib.contextmanager
def _term_as_interrupt(seen: list[int]) -> Iterator[None]:
    """SIGTERM, which schedulers and `kill` send, is handled as Ctrl-C is at that moment: saved, then stopped."""

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # a job in the background ignores Ctrl-C
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _lacks_room(error: Exception) -> bool:
    """Whether a full disk or quota is behind an error. safetensors and SQLite say it in words only."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    words = {"SafetensorError": "os error 28", "OperationalError": "database or disk is full"}.get(type(error).__name__)
    return words is not None and words in str(error)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"prefeval: {printable(message)}\n")
    return code


__all__ = ["COMMANDS", "main"]

if __name__ == "__main__":
    sys.exit(main())
