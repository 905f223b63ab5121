"""Verdict files of the three benchmarks, answers, side files, human labels and lm-eval results."""

from __future__ import annotations

import gzip
import json
from typing import Any

from .case import Case, Content, changed, jsonl

ALPACA: dict[str, Any] = {
    "instruction": "q", "generator_1": "base", "generator_2": "m", "output_1": "a", "output_2": "bb", "preference": 1.7, "annotator": "j",
}  # fmt: skip
ARENA: dict[str, Any] = {
    "uid": "u1", "model": "m", "judge": "j", "baseline": "base", "category": "hard_prompt",
    "games": [{"score": "A>B"}, {"score": "B>A"}],
}  # fmt: skip
OLD: dict[str, Any] = {"question_id": "q1", "model": "m", "judge": "j", "games": [{"score": "A>B"}, {"score": "B>A"}]}
GRADE: dict[str, Any] = {"question_id": 81, "model": "m", "judge": ["j", "single-v1"], "turn": 1, "score": 7}
MATCH: dict[str, Any] = {
    "question_id": 81, "model_1": "a", "model_2": "b", "judge": ["j", "pair-v2"], "turn": 1, "g1_winner": "model_1", "g2_winner": "tie",
}  # fmt: skip


def _board(benchmark: str, name: str, title: str, content: Content, message: str, *more: str, **where: Any) -> Case:
    argv = ("leaderboard", "--benchmark", benchmark, "--annotations", f"DIR/{name}", "--out", "DIR/out", *more)
    return Case(title, argv, message.replace("FILE", f"DIR/{name}"), {name: content}, **where)


def alpaca() -> list[Case]:
    def whole(title: str, content: Content, message: str, name: str = "a.json") -> Case:
        return _board("alpaca_eval", name, f"AlpacaEval: {title}", content, message)

    def one(title: str, message: str, field: str, **change: Any) -> Case:
        content = json.dumps([ALPACA, changed(ALPACA, **change)])
        message = f"FILE, row 2, field '{field}': {message}"
        return _board("alpaca_eval", "a.json", f"AlpacaEval: {title}", content, message, row=2, field=field)

    return [
        whole("empty file", "", "FILE: not valid JSON at line 1: Expecting value"),
        whole("empty list", "[]", "FILE: holds no rows"),
        whole("object instead of a list", "{}", "FILE: must hold a list of objects, not a dict"),
        whole("list of texts", '["x"]', "FILE, row 1: must be an object, not 'x'"),
        whole("cut in the middle", json.dumps([ALPACA])[:60], "FILE: not valid JSON at line 1: ..."),
        whole("gzip cut short", gzip.compress(json.dumps([ALPACA]).encode())[:40], "FILE: cannot be read: Compressed file ended before the end-of-stream marker was reached", "a.json.gz"),
        one("model missing", "is missing", "generator_2", generator_2=...),
        one("baseline null", "is missing", "generator_1", generator_1=None),
        one("model that is a list", "must be a non-empty text, not ['m']", "generator_2", generator_2=["m"]),
        one("instruction missing", "is missing", "instruction", instruction=...),
        one("preference missing", "is missing", "preference", preference=...),
        one("preference of 3", "must lie in [1, 2], not 3", "preference", preference=3),
        one("preference in words", "must be a number or null, not 'm'", "preference", preference="m"),
        one("preference true", "must be a number or null, not True", "preference", preference=True),
        one("preference infinite", "must lie in [1, 2], not inf", "preference", preference=float("inf")),
        one("output that is a number", "must be a text, not 5", "output_2", output_2=5),
    ]  # fmt: skip


def arena() -> list[Case]:
    def one(title: str, message: str, field: str, base: dict[str, Any] = ARENA, **change: Any) -> Case:
        content = jsonl(base, changed(base, **change))
        message = f"FILE, row 2, field '{field}': {message}"
        return _board("arena_hard", "m.jsonl", f"Arena-Hard: {title}", content, message, row=2, field=field)

    return [
        _board("arena_hard", "m.jsonl", "Arena-Hard: line cut short", jsonl(ARENA)[:-30] + "\n" + jsonl(ARENA), "FILE, row 1: not valid JSON: ...", row=1),
        _board("arena_hard", "m.jsonl", "Arena-Hard: no verdict files", jsonl({"uid": "u", "model": "m", "messages": [{"role": "assistant", "content": "x"}]}), "FILE: model answers only; give the verdict files too"),
        one("no games", "must be a list of one or two games", "games", games=[]),
        one("three games", "must be a list of one or two games", "games", games=[{}, {}, {}]),
        one("games that are words", "must be a list of one or two games", "games", games="A>B"),
        one("game that is a word", "must hold objects or null, not 'A>B'", "games", games=["A>B"]),
        one("label that is a number", "must be a label such as 'A>B', not 1", "games.score", games=[{"score": 1}, None]),
        one("model missing", "is missing", "model", model=...),
        one("uid null", "is missing", "uid", uid=None),
        one("v0.1: question that is a list", "must be a non-empty text, not [1]", "question_id", base=OLD, question_id=[1]),
        one("v0.1: no model", "is missing", "model", base=OLD, model=...),
        _board("arena_hard", "m.jsonl", "Arena-Hard: row that is a list", jsonl(ARENA, [1]), "FILE, row 2: must be an object, not [1]", row=2),
    ]  # fmt: skip


def mt_bench() -> list[Case]:
    def one(title: str, message: str, field: str, base: dict[str, Any] = GRADE, **change: Any) -> Case:
        content = jsonl(base, changed(base, **change))
        message = f"FILE, row 2, field '{field}': {message}"
        return _board("mt_bench", "m.jsonl", f"MT-Bench: {title}", content, message, row=2, field=field)

    return [
        one("score missing", "is missing (neither a single nor a pair judgment)", "score", score=...),
        one("score in words", "must be a number, not 'good'", "score", score="good"),
        one("score true", "must be a number, not True", "score", score=True),
        one("infinite score", "must be a finite number, not inf", "score", score=float("inf")),
        one("third turn", "must be 1 or 2, not 3", "turn", turn=3),
        one("turn in a list", "must be 1 or 2, not [1]", "turn", turn=[1]),
        one("question missing", "is missing", "question_id", question_id=...),
        one("model empty", "must be a non-empty text, not ''", "model", model=""),
        one("pair: unknown winner", "must be one of model_1, model_2, tie, error, not 'A'", "g2_winner", base=MATCH, g2_winner="A"),
        one("pair: second game missing", "is missing", "g2_winner", base=MATCH, g2_winner=...),
        one("pair: model missing", "is missing", "model_2", base=MATCH, model_2=...),
        _board("mt_bench", "m.jsonl", "MT-Bench: empty file", "", "FILE: holds no rows"),
        Case("no such verdict file", ("leaderboard", "--benchmark", "mt_bench", "--annotations", "DIR/no.jsonl", "--out", "DIR/out"), "DIR/no.jsonl: no such file"),
        Case("folder without verdict files", ("leaderboard", "--benchmark", "mt_bench", "--annotations", "DIR/e", "--out", "DIR/out"), "DIR/e: a folder without .json or .jsonl files", {"e/x.txt": ""}),
        _board("mt_bnch", "m.jsonl", "misspelt benchmark of a board", jsonl(GRADE), "unknown benchmark 'mt_bnch'; did you mean 'mt_bench'?"),
        _board("mt_bench", "m.jsonl", "failures of no kind", jsonl(GRADE), "argument --failures: invalid choice: 'maybe' (choose from ...)", "--failures", "maybe"),
        _board("mt_bench", "m.jsonl", "level of 2", jsonl(GRADE), "...level...", "--level", "2"),
    ]  # fmt: skip


def side() -> list[Case]:
    rows = json.dumps([ALPACA, changed(ALPACA, instruction="r")])
    gamed = "preference,index,std_delta_len,instruction_difficulty\n"

    def one(title: str, message: str, files: dict[str, Content], *more: str, **where: Any) -> Case:
        argv = (
            "leaderboard",
            "--benchmark",
            "alpaca_eval",
            "--annotations",
            "DIR/a.json",
            "--data",
            "DIR/side",
            "--out",
            "DIR/out",
            *more,
        )
        return Case(
            f"side files: {title}",
            argv,
            message,
            {"a.json": rows, **{f"side/{k}": v for k, v in files.items()}},
            **where,
        )

    good = gamed + "1.0,0,0.1,0.2\n0.0,1,0.3,0.1\n"
    return [
        one("gamed rows in words", "DIR/side/df_gamed.csv, row 2, field 'std_delta_len': must be a number, not 'x'", {"df_gamed.csv": gamed + "1.0,0,x,0.2\n"}, row=2, field="std_delta_len"),
        one("gamed rows without a column", "DIR/side/df_gamed.csv, row 2, field 'instruction_difficulty': must be a number, not None", {"df_gamed.csv": "preference,index,std_delta_len\n1.0,0,0.1\n"}, row=2),
        one("gamed rows in Latin-1", "DIR/side/df_gamed.csv: cannot be read as CSV: ...", {"df_gamed.csv": b"\xe9"}),
        one("difficulty with a gap", "DIR/side/instruction_difficulty.csv, field 'index': the indices must be 0..n-1, each once", {"df_gamed.csv": good, "instruction_difficulty.csv": "index,instruction_difficulty\n0,0.1\n2,0.2\n"}),
        one("C in words", "DIR/side/published.csv, row 2, field 'glm_C': must be a number, not 'x'", {"df_gamed.csv": good, "published.csv": "generator,glm_C\nm,x\n"}, row=2),
        one("instructions that are an object", "DIR/side/instructions.json: must hold a list of objects", {"df_gamed.csv": good, "instructions.json": "{}"}),
        one("instruction that is a number", "DIR/side/instructions.json, row 1, field 'instruction': must be a text", {"df_gamed.csv": good, "instructions.json": '[{"instruction": 5}]'}, row=1),
        one("index in words", "DIR/side/instructions.json, row 1, field 'index': must be a whole number, not 'x'", {"df_gamed.csv": good, "instructions.json": '[{"instruction": "q", "index": "x"}]'}, row=1),
        one("instructions that are no Parquet", "DIR/side/instructions.parquet: cannot be read as Parquet: ...", {"df_gamed.csv": good, "instructions.parquet": b"x"}),
        Case("side files: no such folder", ("leaderboard", "--benchmark", "alpaca_eval", "--annotations", "DIR/a.json", "--data", "DIR/none", "--out", "DIR/out"), "DIR/none: no such folder", {"a.json": rows}),
        one("C of no kind", "lc-c must be 'published', 'cv' or a positive number, not 'best'", {"df_gamed.csv": good}, "--lc-c", "best"),
    ]  # fmt: skip


def human() -> list[Case]:
    def one(title: str, content: Content, message: str, name: str = "h.jsonl", **where: Any) -> Case:
        argv = (
            "leaderboard",
            "--benchmark",
            "mt_bench",
            "--annotations",
            "DIR/m.jsonl",
            "--human",
            f"DIR/{name}",
            "--out",
            "DIR/out",
        )
        return Case(
            f"human labels: {title}",
            argv,
            message.replace("FILE", f"DIR/{name}"),
            {"m.jsonl": jsonl(MATCH), name: content},
            **where,
        )

    vote = {"question_id": 81, "model_a": "a", "model_b": "b", "winner": "model_a", "judge": "p1", "turn": 1}
    return [
        one("unknown winner", jsonl(vote, changed(vote, winner="a")), "FILE, row 2, field 'winner': must be model_a, model_b or tie, not 'a'", row=2, field="winner"),
        one("no winner", jsonl(changed(vote, winner=...)), "FILE, row 1, field 'winner': needs a winner or a preference", row=1, field="winner"),
        one("preference of 3", jsonl(changed(vote, winner=..., preference=3)), "FILE, row 1, field 'preference': must be 1, 2, 1.5 or 0, not 3", row=1, field="preference"),
        one("preference that is no number", jsonl(changed(vote, winner=..., preference=float("nan"))), "FILE, row 1, field 'winner': needs a winner or a preference", row=1),
        one("third turn", jsonl(changed(vote, turn=3)), "FILE, row 1, field 'turn': must be 1 or 2, not 3", row=1, field="turn"),
        one("no question", jsonl(changed(vote, question_id=...)), "FILE, row 1, field 'question_id': is missing (one of question_id, uid, instruction)", row=1, field="question_id"),
        one("model null", jsonl(changed(vote, model_a=None)), "FILE, row 1, field 'model_a': is missing (one of model_a, model_1, generator_1)", row=1, field="model_a"),
        one("CSV", "question_id\n", "FILE: human labels are read from .jsonl, .json or .parquet", "h.csv"),
        one("no Parquet", b"x", "FILE: cannot be read as Parquet: ...", "h.parquet"),
        one("object instead of a list", "{}", "FILE: must hold a list of objects", "h.json"),
        one("empty", "", "FILE: must hold a list of objects"),
    ]  # fmt: skip


def lm_eval() -> list[Case]:
    def one(title: str, content: Content, message: str) -> Case:
        return Case(f"lm-eval: {title}", ("tax", "--results", "DIR/r.json"), message, {"r.json": content})

    first = "leaderboard_ifeval"
    return [
        one("no JSON", "{", "DIR/r.json: not valid JSON at line 1: ..."),
        one("list", "[]", "DIR/r.json: is not a JSON object: not a results file of lm-eval"),
        one("no results", "{}", "DIR/r.json: has no 'results' object: not a results file of lm-eval"),
        one("task missing", '{"results": {}}', f"DIR/r.json: has no task {first} (run the whole task group 'leaderboard')"),
        one("accuracy of 70", json.dumps({"results": {first: {"prompt_level_strict_acc,none": 70}}}), f"DIR/r.json: task {first}: 'prompt_level_strict_acc,none' is 70, not a number from 0 to 1"),
        one("accuracy in words", json.dumps({"results": {first: {"prompt_level_strict_acc,none": "N/A"}}}), f"DIR/r.json: task {first}: 'prompt_level_strict_acc,none' is 'N/A', not a number from 0 to 1"),
        one("accuracy that is no number", '{"results": {"leaderboard_ifeval": {"prompt_level_strict_acc,none": NaN}}}', f"DIR/r.json: task {first}: 'prompt_level_strict_acc,none' is nan, not a number from 0 to 1"),
        Case("lm-eval: no such file", ("tax", "--results", "DIR/r.json"), "DIR/r.json: no such file"),
    ]  # fmt: skip


ANSWER = {"instruction": "q", "output": "a", "generator": "m"}
CHOICE = {"question_id": 1, "model_id": "m", "choices": [{"turns": ["a", "b"]}]}
SAID = {
    "uid": "u",
    "model": "m",
    "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": {"answer": "a"}}],
}


def answers() -> list[Case]:
    def one(
        title: str, content: Content, message: str, name: str = "a.jsonl", benchmark: str = "mini-mt", **where: Any
    ) -> Case:
        argv = (
            "judge",
            "--benchmark",
            benchmark,
            "--answers",
            f"DIR/{name}",
            "--judge",
            "rules:shorter",
            "--baseline",
            f"DIR/{name}",
            "--out",
            "DIR/out",
        )
        return Case(f"answers: {title}", argv, message.replace("FILE", f"DIR/{name}"), {name: content}, **where)

    return [
        one("empty file", "", "FILE: holds no answers"),
        one("object instead of a list", "{}", "FILE: must hold a list of objects", "a.json"),
        one("row that is a number", jsonl(CHOICE, 5), "FILE, row 2: must be an object", row=2),
        one("output missing", json.dumps([changed(ANSWER, output=...)]), "FILE, row 1, field 'output': must be a text", "a.json", row=1, field="output"),
        one("instruction that is a list", json.dumps([changed(ANSWER, instruction=["q"])]), "FILE, row 1, field 'instruction': must be a text", "a.json", row=1, field="instruction"),
        one("generator null", json.dumps([changed(ANSWER, generator=None)]), "FILE, row 1, field 'generator': must be a text", "a.json", row=1, field="generator"),
        one("no choices", jsonl(changed(CHOICE, choices=[])), "FILE, row 1: not a model answer: IndexError('list index out of range')", row=1),
        one("choices in words", jsonl(changed(CHOICE, choices="a")), "FILE, row 1: not a model answer: ...", row=1),
        one("turn that is a number", jsonl(changed(CHOICE, choices=[{"turns": ["a", 5]}])), "FILE, row 1, field 'choices': the turns must be texts", row=1),
        one("no turns", jsonl(changed(CHOICE, choices=[{"turns": []}])), "FILE, row 1, field 'choices': the turns must be texts", row=1),
        one("model missing", jsonl(changed(CHOICE, model_id=...)), "FILE, row 1: not a model answer: KeyError('model_id')", row=1),
        one("Arena answer without messages", jsonl(changed(SAID, messages=[])), "FILE, row 1: not an Arena-Hard answer: IndexError('list index out of range')", row=1),
        one("Arena answer that is a number", jsonl(changed(SAID, messages=[{"role": "assistant", "content": 5}])), "FILE, row 1, field 'messages': the assistant's answer must be a text", row=1),
        one("Arena message without a role", jsonl(changed(SAID, messages=[{"content": "a"}])), "FILE, row 1: not an Arena-Hard answer: KeyError('role')", row=1),
        one("Arena style record in words", jsonl(changed(SAID, metadata="long")), "FILE, row 1, field 'metadata': must be an object", row=1, field="metadata"),
        one("half a surrogate pair", '{"instruction": "q", "output": "\\ud83d", "generator": "m"}\n', "FILE, row 1: holds half a surrogate pair at character 1: not valid Unicode", row=1),
        one("question without an answer", jsonl(CHOICE), "FILE: model 'm' has no answer to prompt '...' of mini-mt"),
        one("two models", jsonl(CHOICE, changed(CHOICE, model_id="n")), "FILE: holds answers of 2 models: m, n"),
        Case("answers: no such file", ("judge", "--benchmark", "mini-mt", "--answers", "DIR/a.jsonl", "--judge", "rules:shorter", "--out", "DIR/out"), "DIR/a.jsonl: no such file"),
    ]  # fmt: skip


def custom() -> list[Case]:
    def one(title: str, message: str, files: dict[str, Content], spec: str = "custom:DIR/mine", **where: Any) -> Case:
        argv = ("answer", "--benchmark", spec, "--model", "answers:DIR/a.jsonl", "--out", "DIR/out")
        return Case(f"own benchmark: {title}", argv, message, {f"mine/{k}": v for k, v in files.items()}, **where)

    asked = jsonl({"question_id": 1, "turns": ["q"]})
    return [
        one("no questions", "benchmark 'custom:DIR/mine': DIR/mine holds no questions.jsonl", {"x.txt": ""}),
        one("no such folder", "benchmark 'custom:DIR/none': DIR/none is neither a folder nor a file", {}, "custom:DIR/none"),
        one("questions of no protocol", "DIR/mine/questions.jsonl, row 1: needs 'instruction', or 'uid' and 'prompt', or 'question_id' and 'turns'", {"questions.jsonl": jsonl({"q": 1})}, row=1),
        one("empty questions", "DIR/mine/questions.jsonl: must hold a list of objects", {"questions.jsonl": ""}),
        one("turns in words", "DIR/mine/questions.jsonl, row 1, field 'turns': ...", {"questions.jsonl": jsonl({"question_id": 1, "turns": "q"})}, row=1, field="turns"),
        one("empty turns", "DIR/mine/questions.jsonl, row 1, field 'turns': ...", {"questions.jsonl": jsonl({"question_id": 1, "turns": []})}, row=1, field="turns"),
        one("question twice", "DIR/mine/questions.jsonl, row 2: the prompt '1' occurs twice", {"questions.jsonl": asked + asked}, row=2),
        one("instruction that is a list", "DIR/mine/questions.jsonl, row 1, field 'instruction': must be a non-empty text", {"questions.jsonl": jsonl({"instruction": []})}, row=1),
        one("prompt missing", "DIR/mine/questions.jsonl, row 1, field 'prompt': must be a non-empty text", {"questions.jsonl": jsonl({"uid": "u"})}, row=1),
        one("template that is no YAML", "DIR/mine/template.yaml: not valid YAML at line 1: ...", {"questions.jsonl": asked, "template.yaml": "[x"}),
        one("template with an unknown part", "DIR/mine/template.yaml, field 'usr': unknown...", {"questions.jsonl": jsonl({"instruction": "q"}), "template.yaml": "usr: x\n"}, field="usr"),
        one("template that hides the answer", "DIR/mine/template.yaml, field 'user': lacks {...}: the judge would not see it", {"questions.jsonl": jsonl({"instruction": "q"}), "template.yaml": "system: x\nuser: y\n"}, field="user"),
        one("misspelt protocol", "benchmark 'x=mt_bnch:DIR/mine': write NAME=PROTOCOL:PATH; did you mean 'mt_bench'?", {"questions.jsonl": asked}, "x=mt_bnch:DIR/mine"),
        one("name of another benchmark", "benchmark 'mt-bench=mt_bench:DIR/mine': the name 'mt-bench' is another benchmark's; choose one of your own", {"questions.jsonl": asked}, "mt-bench=mt_bench:DIR/mine"),
    ]  # fmt: skip
