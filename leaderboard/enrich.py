"""What stands beside the scores of a table: the models among themselves, the judges, and answers with verdicts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from leaderboard.annotations import is_answer_file
from leaderboard.answers import Answers, read_answers
from leaderboard.findings import with_social
from leaderboard.from_files import expand
from leaderboard.human import read_votes
from leaderboard.judge_findings import with_judges
from leaderboard.rulings import read_material
from leaderboard.showcase import showcase
from leaderboard.table import Table
from prefeval.files import iterate_jsonl, sha256_file, sha256_json

_LISTED = 40  # files named one by one
_PLACES = ("", "mt_bench", "benchmarks/mt_bench")


def with_findings(
    table: Table,
    files: Sequence[str | Path],
    *,
    answers: Sequence[Answers] = (),
    prompts: Mapping[str, tuple[str, ...]] | None = None,
    data: str | Path | None = None,
    human: str | Path = "",
    spent: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
) -> Table:
    """The table of these annotation files with everything that their verdicts tell beside the scores.

    `answers` add to those among the files; `prompts` are the questions' turns by key (MT-Bench's are looked for under
    `data`); `human` is a file of human labels; `spent` what a bench run has written down about its calls. Raises
    DataError for a bad human file.
    """
    votes = read_votes(human) if human else None
    texts: Iterable[Answers] = answers
    paths = expand(files)
    if table.protocol != "alpaca_eval":
        given = [path for path in paths if is_answer_file(path)]
        paths = [path for path in paths if path not in set(given)]
        texts = chain(answers, (one for path in given for one in read_answers(path)))
        if table.protocol == "mt_bench" and prompts is None:
            prompts = _questions(data)
    bases = [str(b) for row in table.rows for b in row.breakdown.get("baselines", ())]
    material = read_material(table.protocol, paths, texts, prompts, baseline=next(iter(bases), ""))
    if len({row.judge for row in table.rows}) == 1:  # between models, verdicts of different judges do not compare
        table = with_social(table, seed=seed)
    table = with_judges(table, material, votes=votes, spent=spent, seed=seed)
    return replace(table, showcase=showcase(table, material), inputs=_inputs(expand(files), human, seed))


def _inputs(files: Sequence[Path], human: str | Path, seed: int) -> dict[str, Any]:
    """The start of the SHA-256 of each file that was read (the first _LISTED by name), and of all of them together."""
    digests = [sha256_file(file) for file in files]
    named = [["/".join(file.parts[-2:]), digest[:12]] for file, digest in zip(files, digests, strict=True)]
    people = [Path(human).name, sha256_file(human)[:12]] if human else None
    together = sha256_json(sorted(digests))[:12]
    return {"files": named[:_LISTED], "count": len(named), "together": together, "human": people, "seed": seed}


def _questions(data: str | Path | None) -> dict[str, tuple[str, ...]]:
    """MT-Bench's questions by id from its question file under the data folder, where it lies."""
    root = data or os.environ.get("PREFEVAL_DATA")
    for place in _PLACES if root else ():
        for name in ("question.jsonl", "question.jsonl.gz"):
            file = Path(root or "") / place / name
            if file.is_file():
                rows = [row for _, row in iterate_jsonl(file) if isinstance(row, dict) and "question_id" in row]
                return {str(r["question_id"]): tuple(map(str, r.get("turns") or ())) for r in rows}
    return {}
