"""`prefeval train` and `prefeval score`; `prefeval evaluate` is in evaluate_cli."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefeval.data.chats import check_text
from prefeval.errors import ConfigError, DataError
from prefeval.files import dumps, iterate_jsonl, write_jsonl
from prefeval.types import Message, Prompt
from reward_models.arguments import open_store, oracle_parser, say

_CHUNK = 256  # prompts that an oracle is asked about at once
_ROLES = ("system", "user", "assistant")
ScoreRow = tuple[str, Prompt, tuple[str, ...]]  # id, prompt, responses


def train(argv: Sequence[str]) -> int:
    """``prefeval train [RECIPE.yaml] [--a.b value ...] [--json]``."""
    from prefeval.config import load_config, to_dict
    from prefeval.runs import RunDir
    from reward_models.config import TrainConfig
    from reward_models.evaluate_table import table

    rest = [a for a in argv if a != "--json"]
    recipe = rest.pop(0) if rest and not rest[0].startswith("-") else None
    config = load_config(TrainConfig, recipe, rest, command="train")
    from reward_models.train import train as run_training  # torch: after --help has had its chance

    run = RunDir(config.out, to_dict(config), command=f"prefeval train {' '.join(argv)}")
    with run.lock():
        result = run_training(config, run)
    if "--json" in argv:
        say(dumps(result))
    else:
        say(f"{run.path / 'final'}\n{table(result['metrics'])}")
    return 0


def score(argv: Sequence[str]) -> int:
    """``prefeval score --oracle SPEC --input FILE.jsonl --out FILE.jsonl [--suggest N]``."""
    from reward_models.oracles import open_oracle

    args = _score_parser().parse_args(argv)
    if args.suggest < 0:
        raise ConfigError("--suggest must not be negative")
    rows = list(read_score_rows(args.input))
    oracle = open_oracle(args.oracle, device=args.device, store=open_store(args.store))
    if args.lower and not hasattr(oracle, "lower"):
        raise ConfigError(f"--lower: {oracle.name} has no bound; give laplace:PATH or ensemble:SPEC+SPEC")
    out: list[dict[str, Any]] = []
    for start in range(0, len(rows), _CHUNK):
        out += scored(oracle, rows[start : start + _CHUNK], bound=args.lower)
    write_jsonl(args.out, out)
    failed = sum(row["failed"] for row in out)
    summary = {"rows": len(out), "failed": failed, "oracle": oracle.name, "out": str(args.out)}
    lines = [f"{args.out}: {len(out)} rows, {failed} pairs without an answer"]
    if args.suggest:
        place, found = write_suggestions(oracle, rows, args.suggest, Path(args.out))
        summary |= {"suggestions": str(place), "suggested": found}
        lines.append(f"{place}: {found} pairs worth a label")
    say(dumps(summary) if args.json else "\n".join(lines))
    return 0


def write_suggestions(oracle: Any, rows: Sequence[ScoreRow], count: int, out: Path) -> tuple[Path, int]:
    """(file, number of rows) of the pairs most worth a label: NAME.suggest.jsonl beside NAME.jsonl."""
    from reward_models.query import query_rows, suggest

    ids, prompts, groups = (list(column) for column in zip(*rows, strict=True))
    queries = suggest(oracle, prompts, groups, count)
    place = out.with_name(f"{out.name.removesuffix('.gz').removesuffix('.jsonl')}.suggest.jsonl")
    write_jsonl(place, query_rows(queries, ids, prompts, groups))
    return place, len(queries)


def read_score_rows(path: str | Path) -> Iterator[ScoreRow]:
    """Each row of a `prefeval score` input. Raises DataError naming file, row and field."""
    count = 0
    for number, row in iterate_jsonl(path):
        yield score_row(row, path, number)
        count += 1
    if not count:
        raise DataError("no rows", file=path)


def score_row(row: Any, where: str | Path, number: int) -> ScoreRow:
    """(id, prompt, responses) of one row. Raises DataError naming `where`, row and field."""
    if not isinstance(row, dict):
        raise DataError("a row is an object with id, prompt and responses", file=where, row=number)
    missing = [name for name in ("prompt", "responses") if name not in row]
    if missing:
        raise DataError("missing", file=where, row=number, field=missing[0])
    responses = row["responses"]
    if not isinstance(responses, list) or not responses or not all(isinstance(r, str) for r in responses):
        raise DataError("must be a non-empty list of texts", file=where, row=number, field="responses")
    name = str(row.get("id", number))
    for field, texts in (("responses", responses), ("id", [name])):
        _check_texts(texts, where, number, field)
    meta = {"reference": row["reference"]} if "reference" in row else {}
    return name, Prompt(name, _messages(row["prompt"], where, number), meta), tuple(responses)


def _messages(value: Any, path: str | Path, number: int) -> tuple[Message, ...]:
    def bad(reason: str) -> DataError:
        return DataError(reason, file=path, row=number, field="prompt")

    if isinstance(value, str):
        _check_texts([value], path, number, "prompt")
        return (Message("user", value),)
    if not isinstance(value, list) or not value:
        raise bad("must be a text or a non-empty list of messages")
    out = []
    for message in value:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in _ROLES or not isinstance(content, str):
            raise bad(f"a message has a role ({', '.join(_ROLES)}) and a text as content, not {message!r}")
        out.append(Message(str(role), content))
    if out[-1].role != "user":
        raise bad("the last message must be the user's")
    _check_texts([m.content for m in out], path, number, "prompt")
    return tuple(out)


def _check_texts(texts: Sequence[str], where: str | Path, number: int, field: str) -> None:
    for text in texts:
        try:
            check_text(text)
        except ValueError as error:
            raise DataError(str(error), file=where, row=number, field=field) from None


def scored(oracle: Any, rows: Sequence[ScoreRow], *, bound: bool = False) -> list[dict[str, Any]]:
    """Output rows of one chunk; native log-odds where the oracle has them. Only a `bound` asks a second time."""
    import numpy as np

    from prefeval.oracle import logit, sigmoid_matrix
    from reward_models.oracles import ModelOracle

    prompts, groups = [p for _, p, _ in rows], [g for _, _, g in rows]
    if isinstance(oracle, ModelOracle):
        scores = oracle.scores(prompts, groups)
        tables = [sigmoid_matrix(s) for s in scores]
    else:
        tables = oracle.matrix(prompts, groups)
        scores = [logit(p) for p in tables]
    found = [
        {"id": row[0], "P": p, "scores": s, "oracle": oracle.name, "failed": int(np.isnan(np.triu(p, 1)).sum())}
        for row, p, s in zip(rows, tables, scores, strict=True)
    ]
    return (
        [{**row, "lower": low} for row, low in zip(found, oracle.lower(prompts, groups), strict=True)]
        if bound
        else found
    )


def _score_parser() -> argparse.ArgumentParser:
    parser = oracle_parser("score", "P matrix per prompt from any oracle; an entry that could not be obtained is null.")
    parser.add_argument(
        "--input",
        required=True,
        help='JSONL rows {"id", "prompt": text or messages, "responses": [..]}; "reference" for check:NAME',
    )
    parser.add_argument("--out", required=True, help='JSONL rows {"id", "P", "scores", "oracle", "failed"}')
    parser.add_argument(
        "--lower", action="store_true", help="also write the pessimistic bound of each P (laplace, ensemble)"
    )
    parser.add_argument(
        "--suggest",
        type=int,
        default=0,
        metavar="N",
        help="also write the N pairs most worth a label",
    )
    return parser
