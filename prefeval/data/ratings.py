"""Readers of rated responses: HelpSteer2, raw UltraFeedback, UniEval-style tables, any numeric columns."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prefeval.data.chats import Messages, steerlm_messages
from prefeval.data.pairs import prompt_messages
from prefeval.data.records import META_COLUMNS, Collector
from prefeval.data.tables import ID_COLUMNS, Row
from prefeval.types import Message

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_PROMETHEUS = re.compile(
    r"###The instruction to evaluate:(?P<prompt>.*?)###Response to evaluate:(?P<response>.*?)"
    r"###Reference Answer \(Score 5\):.*?###Score Rubrics:(?P<rubric>.*?)(?:###Feedback:|$)",
    re.DOTALL,
)
ULTRAFEEDBACK = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def read_helpsteer(rows: Sequence[Row], out: Collector) -> None:
    """HelpSteer2: five attributes on the 0..4 scale; the rows of one prompt become one record."""
    for row in rows:
        values = {name: row.number(name, 0.0, 4.0) for name in HELPSTEER}
        out.rate(row, _steerlm_prompt(row, "prompt"), row.response("response"), values, "response")


def read_strength(rows: Sequence[Row], out: Collector) -> None:
    """HelpSteer2-Preference and HelpSteer3: a strength in -3..3, negative where response 1 is better.

    p is 1 for the better response and 0.5 at strength 0; the margin is |strength|; -100 ("neither is valid") and null
    are dropped. An annotator's elaboration is kept in meta["comparisons"] as [i, j, text], which calls response i
    "Response 1" and j "Response 2".
    """
    names = ("response_1|response1", "response_2|response2")
    for row in rows:
        column = "preference_strength|overall_preference"
        strength = row.number(column, -100.0, 3.0)
        if strength is None or strength == -100.0:
            out.drop("no valid preference", row)
            continue
        row.number(column, -3.0, 3.0)
        texts = (row.response(names[0]), row.response(names[1]))
        fields = (row.find(names[0]) or "", row.find(names[1]) or "")
        p = 0.5 - 0.5 * math.copysign(1.0, strength) if strength else 0.5
        first_wins = p >= 0.5  # the better response comes first, as everywhere in pairs of this kind
        texts, fields = (texts, fields) if first_wins else (texts[::-1], fields[::-1])
        prompt = _steerlm_prompt(row, "prompt|context")
        placed = out.pair(row, prompt, texts, max(p, 1.0 - p), fields=fields, margin=abs(strength))
        words = row.values.get("preference_elaboration")
        if placed is not None and isinstance(words, str) and words.strip():
            group, better, other = placed
            sides = [better, other] if first_wins else [other, better]
            group.meta.setdefault("comparisons", []).append([*sides, words.strip()])


def read_ratings(rows: Sequence[Row], out: Collector) -> None:
    """Any table with a prompt, a response and numeric columns: each of these is an attribute."""
    names = _attributes(rows[0])
    if not names:
        raise rows[0].fail(f"no numeric column to read as a rating; the columns are {', '.join(rows[0].values)}")
    for row in rows:
        values = {name: row.number(name) for name in names}
        prompt = prompt_messages(row, "prompt|instruction|question")
        out.rate(row, prompt, row.response("response|output|completion"), values, "response")


def read_multi_attribute(rows: Sequence[Row], out: Collector) -> None:
    """UniEval's tables: source, optional context, system_output and score_ATTRIBUTE columns (means over humans).

    The prompt is the source (the dialogue or the meaning to express), behind the knowledge it may use, if any.
    """
    names = [name for name in rows[0].values if name.startswith("score_")]
    for row in rows:
        text = row.text("source")
        if row.has("context"):
            text = f"{row.text('context')}\n\n{text}"
        values = {name.removeprefix("score_"): row.number(name) for name in names}
        out.rate(row, (Message("user", text),), row.response("system_output"), values, "system_output")


def read_prometheus(rows: Sequence[Row], out: Collector) -> None:
    """Prometheus' evaluation sets: one text holds instruction, response and rubric; several graders gave 1..5.

    `overall` is the mean of the scores, meta["comments"] holds for each response the feedback whose score is nearest to
    that mean. The prompt is the instruction alone; the rubric, which all responses to an
    instruction share, is kept in the record's meta, as is the question's number: in MT-Bench's second turns one
    question follows each model's own first reply, and splits must keep these prompts together.
    """
    for row in rows:
        parts = _PROMETHEUS.search(row.text("instruction"))
        if parts is None:
            raise row.fail("is not Prometheus' layout (instruction, response, reference, rubric)", "instruction")
        scores = row.get("gpt4_score")
        if not isinstance(scores, Sequence) or isinstance(scores, str) or not scores:
            raise row.fail("must be a list of at least one score", "gpt4_score")
        cells = Row({f"gpt4_score[{k}]": s for k, s in enumerate(scores)}, row.position, row.file)
        graded = [cells.number(name, 1.0, 5.0) for name in cells.values]
        known = [v for v in graded if v is not None]
        messages = (Message("user", parts["prompt"].strip()),)
        overall = math.fsum(known) / len(known) if known else None
        out.rate(row, messages, parts["response"].strip(), {"overall": overall}, "instruction")
        response = parts["response"].strip()
        if response:
            group = out.group(row, messages)
            question = f"{row.values.get('dataset', '')} {row.values.get('idx', row.position)}"
            group.meta.update(rubric=parts["rubric"].strip(), question=question)
            comments = group.meta.setdefault("comments", [])
            comments += [""] * (len(group.texts) - len(comments))
            comments[group.add(response)] = _nearest_comment(row, graded, overall)


def _nearest_comment(row: Row, graded: Sequence[float | None], mean: float | None) -> str:
    """The feedback text whose score is nearest to the mean, the first of equals; '' where there is none."""
    texts = row.values.get("gpt4_feedback")
    if mean is None or not isinstance(texts, Sequence) or isinstance(texts, str) or len(texts) != len(graded):
        return ""
    known = [(abs(grade - mean), k) for k, grade in enumerate(graded) if grade is not None]
    text = texts[min(known)[1]]
    return text.strip() if isinstance(text, str) else ""


def read_ultrafeedback_raw(rows: Sequence[Row], out: Collector) -> None:
    """openbmb/UltraFeedback: four aspects rated 1..5 a completion ('N/A' is missing), and their mean as `overall`.

    The file's own overall_score is not used: 2,628 completions carried a wrong 10.
    """
    for row in rows:
        prompt = prompt_messages(row, "instruction")
        completions = row.get("completions")
        if not isinstance(completions, Sequence) or isinstance(completions, str):
            raise row.fail("must be a list of completions", "completions")
        for k, completion in enumerate(completions):
            where = f"completions[{k}]"
            if not isinstance(completion, Mapping):
                raise row.fail("must be an object with response and annotations", where)
            aspects = {name: _aspect(row, completion, name, where) for name in ULTRAFEEDBACK}
            known = [value for value in aspects.values() if value is not None]
            overall = math.fsum(known) / len(known) if known else None
            text = completion.get("response") or ""
            if not isinstance(text, str):
                raise row.fail(f"must be text, not {type(text).__name__}", f"{where}.response")
            out.rate(row, prompt, text, {**aspects, "overall": overall}, f"{where}.response")


def has_ratings(row: Row) -> bool:
    return bool(_attributes(row))


def has_scores(row: Row) -> bool:
    return any(name.startswith("score_") for name in row.values)


def is_prometheus(row: Row) -> bool:
    text = row.values.get("instruction")
    return isinstance(text, str) and _PROMETHEUS.search(text) is not None


def _attributes(row: Row) -> list[str]:
    """Columns with a number in the first row that are neither ids nor descriptions."""
    skip = {*ID_COLUMNS, *META_COLUMNS, "split", "index", "idx", "turn", "row", "label", "prompt", "instruction"}
    skip |= {"question", "response", "output", "completion", "input", "system"}
    return [name for name, value in row.values.items() if name not in skip and _is_number(value)]


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, (int, float))


def _aspect(row: Row, completion: Mapping[str, Any], name: str, where: str) -> float | None:
    aspects = completion.get("annotations") or {}
    if not isinstance(aspects, Mapping):
        raise row.fail("must be an object, one entry an aspect", f"{where}.annotations")
    notes = aspects.get(name) or {}
    if not isinstance(notes, Mapping):
        raise row.fail("must be an object with a Rating", f"{where}.annotations.{name}")
    rating = notes.get("Rating")
    if rating in (None, "N/A", ""):
        return None
    cell = Row({name: rating}, row.position, f"{row.file}, {where}")
    return cell.number(name, 1.0, 5.0)


def _steerlm_prompt(row: Row, name: str) -> Messages:
    value = row.get(name)
    return steerlm_messages(value) if isinstance(value, str) else row.messages(name)
