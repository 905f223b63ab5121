"""Preference data: containers (JSONL, JSON, CSV, Parquet, gzip, Zstandard) and every family of formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from .case import Case, Content, changed, jsonl

OK: dict[str, Any] = {"prompt": "q", "chosen": "a", "rejected": "b"}
_READ = ("evaluate", "--oracle", "rules:longer", "--out", "DIR/out", "--data")


def _file(name: str, content: Content, message: str, title: str, *more: str, row: int | None = None) -> Case:
    return Case(title, (*_READ, f"DIR/{name}", *more), message, {name: content}, row)


def _rows(title: str, message: str, *rows: Any, form: str = "", field: str | None = None) -> Case:
    """The last row is the bad one."""
    more = ("--format", form) if form else ()
    place = f"DIR/x.jsonl, row {len(rows)}" + (f", field '{field}'" if field else "")
    argv = (*_READ, "DIR/x.jsonl", *more)
    return Case(title, argv, f"{place}: {message}", {"x.jsonl": jsonl(*rows)}, len(rows), field)


def _parquet(*rows: dict[str, Any]) -> Any:
    def make(path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)

    return make


def _cut(data: bytes, share: float = 0.6) -> bytes:
    return data[: int(len(data) * share)]


def containers() -> list[Case]:
    row = json.dumps(OK)
    many = jsonl(*(changed(OK, prompt=f"question {n}") for n in range(200)))
    packed = gzip.compress(many.encode())
    return [
        _file("x.jsonl", "", "DIR/x.jsonl: holds no rows", "empty file"),
        _file("x.jsonl", "\n \n\n", "DIR/x.jsonl: holds no rows", "blank lines alone"),
        _file("x.jsonl", row + '\n\n{"prompt": "q", "chos\n', "DIR/x.jsonl, row 3: not valid JSON: Invalid control character at at column 22", "line cut short", row=3),
        _file("x.jsonl", row + "\n['a']\n", "DIR/x.jsonl, row 2: not valid JSON: Expecting value at column 2", "Python instead of JSON", row=2),
        _file("x.jsonl", row + '\n["a"]\n', "DIR/x.jsonl, row 2: a row must be an object with named fields, not list", "row that is a list", row=2),
        _file("x.jsonl", row + "\nnull\n", "DIR/x.jsonl, row 2: a row must be an object with named fields, not null", "row that is null", row=2),
        _file("x.jsonl", row + row + "\n", "DIR/x.jsonl, row 1: not valid JSON: Extra data at column ...", "two rows in a line", row=1),
        _file("x.jsonl", row + "\n" + "[" * 100_000 + "\n", "DIR/x.jsonl, row 2: not valid JSON: nested too deeply at column 1", "nesting of 100,000", row=2),
        _file("x.jsonl", row + "\n" + '{"p": ' + "9" * 5000 + "}\n", "DIR/x.jsonl, row 2: not valid JSON: a number has too many digits at column 1", "number of 5,000 digits", row=2),
        _file("x.jsonl", row.encode() + b'\n{"prompt": "\xff"}\n', "DIR/x.jsonl: not UTF-8 text: invalid start byte at byte ...", "Latin-1 bytes"),
        _file("x.jsonl", row.encode("utf-16"), "DIR/x.jsonl: not UTF-8 text: invalid start byte at byte 0", "UTF-16"),
        _file("x.jsonl", "\ufeff" + row, "DIR/x.jsonl, row 1: not valid JSON: Unexpected UTF-8 BOM (decode using utf-8-sig) at column 1", "byte order mark", row=1),
        _file("x.jsonl", b"\x00" * 40, "DIR/x.jsonl, row 1: not valid JSON: Expecting value at column 1", "zero bytes", row=1),
        _file("x.jsonl.gz", row, "DIR/x.jsonl.gz: cannot be read: Not a gzipped file...", "gzip in name only"),
        _file("x.jsonl.gz", _cut(packed), "DIR/x.jsonl.gz: cannot be read: Compressed file ended before the end-of-stream marker was reached", "gzip cut short"),
        _file("x.jsonl.gz", packed[:30] + b"\xff\xff\xff" + packed[33:], "DIR/x.jsonl.gz: cannot be read: ...", "gzip with flipped bytes"),
        _file("x.jsonl.zst", row, "DIR/x.jsonl.zst: cannot be read: ...", "Zstandard in name only"),
        _file("x.json", "", "DIR/x.json: not valid JSON at line 1: Expecting value", "empty JSON"),
        _file("x.json", "{}", "DIR/x.json: must be a JSON array of rows, not dict", "JSON object"),
        _file("x.json", '{"data": 5}', "DIR/x.json: must be a JSON array of rows, not dict", "data that is no list"),
        _file("x.json", "[]", "DIR/x.json: holds no rows", "empty JSON array"),
        _file("x.json", f"[{row},\n {row},\n]", "DIR/x.json: not valid JSON at line 3: ...", "comma at the end"),
        _file("x.json", f"[{row}, 7]", "DIR/x.json, row 2: a row must be an object with named fields, not int", "number among rows", row=2),
        _file("x.json", "[" * 100_000, "DIR/x.json: not valid JSON at line 1: nested too deeply", "JSON nested too deeply"),
        _file("x.csv", "", "DIR/x.csv: holds no rows", "empty CSV"),
        _file("x.csv", "prompt,chosen,rejected\n", "DIR/x.csv: holds no rows", "CSV header alone"),
        _file("x.csv", "prompt,chosen,rejected\nq,a,b\nq,a\n", "DIR/x.csv, row 2: 2 cells, but the header has 3 (prompt, chosen, rejected)", "cell missing", row=2),
        _file("x.csv", "prompt,chosen,chosen\nq,a,b\n", "DIR/x.csv: repeated column names: prompt, chosen, chosen", "column twice"),
        _file("x.csv", 'prompt,chosen,rejected\nq,a,"b\n', "DIR/x.csv: not valid CSV near line 2: unexpected end of data", "quote left open"),
        _file("x.csv", b"prompt,chosen,rejected\nq,a,\xe9\n", "DIR/x.csv: not UTF-8 text: invalid continuation byte at byte ...", "CSV in Latin-1"),
        _file("x.csv.gz", "prompt,chosen,rejected\n", "DIR/x.csv.gz: cannot be read: Not a gzipped file...", "CSV gzip in name only"),
        _file("x.csv", "prompt;chosen;rejected\nq;a;b\n", "DIR/x.csv: no known format has these columns; ...no column 'prompt'...the columns are prompt;chosen;rejected...", "semicolons"),
        _file("x.parquet", b"nonsense", "DIR/x.parquet: cannot be read as Parquet: ...", "Parquet in name only"),
        _file("x.parquet", b"", "DIR/x.parquet: cannot be read as Parquet: ...", "empty Parquet"),
        _file("x.parquet", b"PAR1" + b"\x00" * 60 + b"PAR1", "DIR/x.parquet: cannot be read as Parquet: ...", "Parquet footer of zeros"),
        _file("x.parquet", _parquet({"prompt": "q", "chosen": "a"}), "DIR/x.parquet: no known format has these columns; the nearest, 'trl', needs more: no column 'rejected'; the columns are prompt, chosen ...", "Parquet without a column"),
        _file("x.parquet", _parquet({"prompt": "q", "chosen": "a", "rejected": b"\xff"}), "DIR/x.parquet, row 1, field 'rejected': ...", "bytes in Parquet", row=1),
        _file("x.txt", "x", "DIR/x.txt: unknown kind of file; readable are .jsonl, ...", "unknown ending"),
        Case("misspelt file", (*_READ, "DIR/pair.jsonl"), "DIR/pair.jsonl: no such file; did you mean 'pairs.jsonl'?", {"pairs.jsonl": row}),
        Case("folder without data", (*_READ, "DIR/empty"), "DIR/empty: no data files in this directory; readable are ...", {"empty/notes.md": "x"}),
        Case("saved data set in ruins", (*_READ, "DIR/saved"), "DIR/saved: cannot be read as a saved data set: ...", {"saved/state.json": "{", "saved/dataset_info.json": "{}"}),
        Case("neither file nor hub id", (*_READ, "two words"), "two words: no such file, and not a hub id ID[@REV][:CONFIG][:SPLIT]"),
        Case("hub id with too many parts", (*_READ, "a/b:c:d:e"), "a/b:c:d:e: no such file, and not a hub id ID[@REV][:CONFIG][:SPLIT]"),
        Case("variable that is not set", ("evaluate", "--oracle", "rules:longer", "--out", "DIR/out", "--data", "$PREFEVAL_NO_SUCH/x.jsonl"), "data '$PREFEVAL_NO_SUCH/x.jsonl': the environment variable PREFEVAL_NO_SUCH is not set; it names the data's folder"),
        _file("x.jsonl", row, "unknown format 'helpster2'; did you mean 'helpsteer2'?; known: ...", "misspelt format", "--format", "helpster2"),
        _file("x.jsonl", row, "DIR/x.jsonl: format 'helpsteer2': no column 'response'; the columns are prompt, chosen, rejected", "format that does not fit", "--format", "helpsteer2"),
        _file("x.jsonl", row, "--columns prompt: write --columns wanted=column_in_the_data", "half a renaming", "--columns", "prompt"),
        _file("x.jsonl", row, "DIR/x.jsonl: no column 'quest'; the columns are prompt, chosen, rejected", "renaming of nothing", "--columns", "instruction=quest"),
    ]  # fmt: skip


def pairs() -> list[Case]:
    return [
        Case("misspelt column", (*_READ, "DIR/x.jsonl"), "DIR/x.jsonl: no known format has these columns; the nearest, 'trl', needs more: no column 'rejected'; the columns are prompt, chosen, rejectd; did you mean 'rejectd'? (--columns wanted=present renames columns, --format names a format)", {"x.jsonl": jsonl({"prompt": "q", "chosen": "a", "rejectd": "b"})}),
        Case("column gone in row 2", (*_READ, "DIR/x.jsonl"), "DIR/x.jsonl, row 2: no column 'rejected'; the columns are prompt, chosen", {"x.jsonl": jsonl(OK, {"prompt": "q", "chosen": "a"})}, 2, "rejected"),
        Case("token ids", (*_READ, "DIR/x.jsonl"), "DIR/x.jsonl, row 1, field 'chosen_ids': holds token ids: their text depends on a tokenizer that the file does not name; give the text columns", {"x.jsonl": jsonl({"chosen_ids": [1], "rejected_ids": [2]})}, 1, "chosen_ids"),
        Case("identical responses alone", (*_READ, "DIR/x.jsonl"), "no usable rows\n...dropped 1: identical responses (first: row 1)", {"x.jsonl": jsonl(changed(OK, rejected="a "))}, lines=5),
        _rows("empty response", "the response is empty", OK, changed(OK, rejected=" "), field="rejected"),
        _rows("null response", "the response is empty", OK, changed(OK, rejected=None), field="rejected"),
        _rows("empty prompt", "the prompt is empty", changed(OK, prompt=" ")),
        _rows("prompt that is a number", "expected text or a list of messages, got 5", changed(OK, prompt=5), field="prompt"),
        _rows("prompt of no messages", "expected text or a list of messages, got []", changed(OK, prompt=[]), field="prompt"),
        _rows("unknown role", "unknown role 'robot' (system, user, assistant)", changed(OK, prompt=[{"role": "robot", "content": "x"}]), field="prompt"),
        _rows("message without content", "message content must be text, got None", changed(OK, prompt=[{"role": "user"}]), field="prompt"),
        _rows("image in a message", "message content must be text, got [{'type': 'image'}]", changed(OK, prompt=[{"role": "user", "content": [{"type": "image"}]}]), field="prompt"),
        _rows("half a surrogate pair", "holds half a surrogate pair at character 1: not valid Unicode", changed(OK, chosen="\ud83d"), field="chosen"),
        _rows("p above 1", "1.2 is outside [0, 1]", changed(OK, p=1.2), field="p"),
        _rows("p in words", "must be a number, not 'often'", changed(OK, p="often"), field="p"),
        _rows("p that is a list", "must be a number, not [1]", changed(OK, p=[1]), field="p"),
        _rows("negative margin", "-1 is outside [0, inf]", changed(OK, margin=-1), field="margin"),
        _rows("infinite score", "must be a finite number, not inf", changed(OK, score_chosen=float("inf"), score_rejected=1.0), field="score_chosen"),
        _rows("HH without a speaker", "expected a dialogue with an 'Assistant:' turn", {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q"}),
        _rows("no shared beginning", "chosen and rejected share no beginning that could be the prompt, and there is no column 'prompt'; the columns are chosen, rejected", {"chosen": "abc", "rejected": "xyz"}),
        _rows("best-of with a number", "must be a list of texts", {"prompt": "q", "chosen": ["a", "b"], "rejected": ["c", 4]}, field="rejected"),
    ]  # fmt: skip


NATIVE: dict[str, Any] = {"id": "1", "prompt": "q", "responses": ["a", "b"]}


def groups() -> list[Case]:
    def one(title: str, message: str, field: str, **change: Any) -> Case:
        return _rows(title, message, changed(NATIVE, **change), field=field)

    return [
        one("no responses", "must be a list of at least one response", "responses", responses=[]),
        one("empty second response", "the response is empty", "responses[1]", responses=["a", ""]),
        one("response that is a number", "expected text or a list of messages, got 3", "responses[1]", responses=["a", 3]),
        one("P that is not square", "must be a 2 x 2 matrix, one line and one column a response", "P", P=[[0.5, 0.9]]),
        one("P that is not complementary", "P[0][1] + P[1][0] is 1.1, not 1", "P", P=[[0.5, 0.9], [0.2, 0.5]]),
        one("P out of range", "1.9 is outside [0, 1]", "P[0][1]", P=[[0.5, 1.9], [-0.9, 0.5]]),
        one("P of words", "must be a number, not 'x'", "P[0][1]", P=[[0.5, "x"], [0.1, 0.5]]),
        one("P that is a text", "must be a 2 x 2 matrix, one line and one column a response", "P", P="0.5"),
        one("pair beyond the responses", "j must be the index of a response, 0 to 1, not 2", "pairs[0]", pairs=[[0, 2, 1.0]]),
        one("pair with itself", "compares response 1 with itself", "pairs[1]", pairs=[[0, 1, 1.0], [1, 1]]),
        one("pair of one number", "must be [i, j, p] or {i, j, p, margin, source, votes}", "pairs[0]", pairs=[[0]]),
        one("pair with p 2", "2 is outside [0, 1]", "pairs[0].p", pairs=[{"i": 0, "j": 1, "p": 2}]),
        one("pair with a negative margin", "-2 is outside [0, inf]", "pairs[0].margin", pairs=[{"i": 0, "j": 1, "margin": -2}]),
        one("pairs that are a number", "must be a list of [i, j, p] or {i, j, p, margin, source, votes}", "pairs", pairs=5),
        one("too few ratings", "must be a list of 2 numbers, one a response", "ratings.style", ratings={"style": [1]}),
        one("rating in words", "must be a number, not 'x'", "ratings.style[1]", ratings={"style": [1, "x"]}),
        one("ratings that are a list", "must map an attribute to one number a response", "ratings", ratings=[1, 2]),
        _rows("id twice", "'1' is already the id of row 1", NATIVE, changed(NATIVE, prompt="r"), field="id"),
    ]  # fmt: skip


_STEER = {"prompt": "q", "response": "a", "helpfulness": 3, "correctness": 0, "coherence": 0, "complexity": 0, "verbosity": 0}  # fmt: skip
_TWO = {"instruction": "q", "response1": "a", "response2": "b"}
_ARENA = {
    "conversation_a": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    "conversation_b": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
}


def published() -> list[Case]:
    vicuna = {"prompt": '["q"]', "response_a": '["a"]', "response_b": '["b"]', "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}  # fmt: skip
    return [
        _rows("HelpSteer2 above its scale", "5 is outside [0, 4]", changed(_STEER, helpfulness=5), field="helpfulness"),
        _rows("HelpSteer2 in words", "must be a number, not 'good'", changed(_STEER, coherence="good"), field="coherence"),
        _rows("strength below -3", "-4 is outside [-3, 3]", {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": -4}, field="preference_strength"),
        _rows("strength above 3", "4 is outside [-100, 3]", {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": 4}, field="preference_strength"),
        _rows("UltraFeedback: completions in words", "must be a list of completions", {"instruction": "q", "completions": "a"}, field="completions"),
        _rows("UltraFeedback: completion in words", "must be an object with response and annotations", {"instruction": "q", "completions": ["a"]}, field="completions[0]"),
        _rows("UltraFeedback: annotations in a list", "must be an object, one entry an aspect", {"instruction": "q", "completions": [{"response": "a", "annotations": [1]}]}, field="completions[0].annotations"),
        _rows("UltraFeedback: aspect in words", "must be an object with a Rating", {"instruction": "q", "completions": [{"response": "a", "annotations": {"honesty": "5"}}]}, field="completions[0].annotations.honesty"),
        _rows("UltraFeedback: response that is a number", "must be text, not int", {"instruction": "q", "completions": [{"response": 5, "annotations": {"honesty": {"Rating": "5"}}}]}, field="completions[0].response"),
        Case("UltraFeedback: rating of 6", (*_READ, "DIR/x.jsonl"), "DIR/x.jsonl, completions[0], row 1, field 'honesty': '6' is outside [1, 5]", {"x.jsonl": jsonl({"instruction": "q", "completions": [{"response": "a", "annotations": {"honesty": {"Rating": "6"}}}]})}, 1, "honesty"),
        _rows("Prometheus without its layout", "is not Prometheus' layout (instruction, response, reference, rubric)", {"instruction": "q", "gpt4_score": [3]}, form="prometheus", field="instruction"),
        _rows("Alpaca preference of 3", "3 is outside [1, 2]", {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 3}, field="preference"),
        _rows("Alpaca preference in words", "must be a number, not 'first'", {"instruction": "q", "output_1": "a", "output_2": "b", "preference": "first"}, field="preference"),
        _rows("PandaLM vote of 4", "4 is not a label (1, 2, 0)", changed(_TWO, annotator1=4, annotator2=1, annotator3=1), field="annotator1"),
        _rows("Auto-J label of 3", "3 is not a label (0, 1, 2)", {"scenario": "s", "prompt": "q", "response1": "a", "response2": "b", "label": 3}, field="label"),
        _rows("LLMBar label of 0", "0 is not a label (1, 2)", {"input": "q", "output_1": "a", "output_2": "b", "label": 0}, field="label"),
        _rows("JudgeBench label 'A'", "must be 'A>B' or 'B>A', not 'A'", {"question": "q", "response_A": "a", "response_B": "b", "label": "A"}, field="label"),
        _rows("plain label of 7", "7 is not a label (1, 2, 0 = tie; A, B, tie)", changed(_TWO, label=7), field="label"),
        _rows("SHP label of 2", "2 is not a label (1 = A, 0 = B)", {"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 2}, field="labels"),
        _rows("Arena winner unknown", "'model_c' is not model_a, model_b, tie or both_bad", changed(_ARENA, winner="model_c"), field="winner"),
        _rows("Arena winner missing", "must be text, not null", changed(_ARENA, winner=None), field="winner"),
        _rows("Arena conversation in words", "expected a message with role and content, got 'q'", changed(_ARENA, winner="tie", conversation_a=["q"]), field="conversation_a"),
        _rows("Arena-55k with two winners", "exactly one of winner_model_a, winner_model_b, winner_tie must be 1", changed(vicuna, winner_tie=1), field="winner_tie"),
        _rows("Arena-55k turns that are no JSON", "not valid JSON: Expecting value", changed(vicuna, response_a="a"), field="response_a"),
        _rows("Arena-55k turns nested too deeply", "not valid JSON: nested too deeply", changed(vicuna, response_a="[" * 100_000), field="response_a"),
        _rows("PKU id of 2", "2 is not 0 or 1", {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 2}, field="better_response_id"),
        _rows("Nectar without a rank", "every item needs a rank", {"prompt": "\n\nHuman: q\n\nAssistant: ", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": None}]}, field="answers"),
        _rows("Nectar answers in words", "must be a list of objects", {"prompt": "\n\nHuman: q\n\nAssistant: ", "answers": ["a", "b"]}, field="answers"),
        _rows("Nectar prompt without a speaker", "expected a dialogue that starts with 'Human:'", {"prompt": "q", "answers": [{"answer": "a", "rank": 1}]}, field="prompt"),
        Case("NeMo rank in words", (*_READ, "DIR/x.jsonl"), "DIR/x.jsonl, completions[0], row 1, field 'rank': must be a number, not 'best'", {"x.jsonl": jsonl({"context": "q", "completions": [{"rank": "best", "completion": "a"}, {"rank": 1, "completion": "b"}]})}, 1, "rank"),
        _rows("KTO label in words", "must be true or false, not 'good'", {"prompt": "q", "completion": "a", "label": True}, {"prompt": "q", "completion": "b", "label": "good"}, field="label"),
        _rows("ratings without a number", "no numeric column to read as a rating; the columns are prompt, response", {"prompt": "q", "response": "a"}, form="ratings"),
        Case("id pairs without their tables", (*_READ, "DIR/x_pairs.jsonl"), "DIR/x_pairs.jsonl: the pairs refer to x_responses.parquet, which is not beside them", {"x_pairs.jsonl": jsonl({"index": 0, "source": "s", "response_1": 0, "response_2": 1, "preference": 1})}),
        Case("id pairs beside tables of another kind", (*_READ, "DIR/x_pairs.jsonl"), "DIR/x_responses.parquet: no column 'response_id'; the columns are text", {"x_pairs.jsonl": jsonl({"index": 0, "source": "s", "response_1": 0, "response_2": 1, "preference": 1}), "x_responses.parquet": _parquet({"text": "a"}), "x_instructions.parquet": _parquet({"index": 0, "instruction": "q"})}),
        Case("id pairs with an unknown id", (*_READ, "DIR/x_pairs.jsonl"), "DIR/x_pairs.jsonl, row 1, field 'response_2': id [1] is not in the table it refers to", {"x_pairs.jsonl": jsonl({"index": 0, "source": "s", "response_1": 0, "response_2": [1], "preference": 1}), "x_responses.parquet": _parquet({"response_id": 0, "text": "a"}), "x_instructions.parquet": _parquet({"index": 0, "instruction": "q"})}, 1, "response_2"),
    ]  # fmt: skip
