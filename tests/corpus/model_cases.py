"""Model directories, specs of oracles, models and judges, matrices, and the rows of `prefeval score`."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .case import Case, Content, changed, jsonl

ROWS = jsonl({"id": "1", "prompt": "q", "responses": ["a", "bb"]})


@cache
def _made(kind: str) -> Path:
    """A whole model of its kind, made once: 'causal' or 'preference'."""
    from tiny import make_tiny_model, make_tiny_tokenizer

    folder = Path(tempfile.mkdtemp()) / kind
    if kind == "causal":
        make_tiny_model().save_pretrained(folder)
        make_tiny_tokenizer().save_pretrained(folder)
        return folder
    from reward_models.config import HeadConfig
    from reward_models.modeling import PreferenceModel

    PreferenceModel.from_base(str(_made("causal")), make_tiny_tokenizer(), HeadConfig(kind="bt")).save_pretrained(
        folder
    )
    return folder


def forget() -> None:
    """Delete the models that were made."""
    for kind in ("preference", "causal"):
        shutil.rmtree(_made(kind).parent, ignore_errors=True)
    _made.cache_clear()


def _broken(kind: str, change: Callable[[Path], None]) -> Callable[[Path], None]:
    """A copy of a whole model with something broken."""

    def make(path: Path) -> None:
        shutil.copytree(_made(kind), path)
        change(path)

    return make


def _without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def _config(**change: Any) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(changed(json.loads(file.read_text()), **change)))

    return do


def _preference(**change: Any) -> Callable[[Path], None]:
    """Change the mapping that describes the head."""

    def do(folder: Path) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text())
        config["preference"] = changed(config["preference"], **change)
        file.write_text(json.dumps(config))

    return do


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": 1}))


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-500])


def _tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return do


def models() -> list[Case]:
    def one(title: str, message: str, kind: str, change: Callable[[Path], None], spec: str = "model:DIR/m") -> Case:
        argv = ("score", "--oracle", spec, "--input", "DIR/x.jsonl", "--out", "DIR/out.jsonl", "--device", "cpu")
        return Case(title, argv, message, {"x.jsonl": ROWS, "m": _broken(kind, change)})

    def no_head(t: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in t.items() if "score" not in name}

    def small(t: dict[str, Any]) -> dict[str, Any]:
        return {name: value[:5].clone() if "embed" in name else value for name, value in t.items()}

    ours = "preference"
    return [
        one("model without config", "model DIR/m: no such preference model (no config.json there)", ours, _without("config.json")),
        one("config that is no JSON", "DIR/m/config.json: not valid JSON at line 1: ...", ours, _write("config.json", b"{")),
        one("config that is a list", "DIR/m/config.json: must hold a JSON object, not a list", ours, _write("config.json", b"[1]")),
        one("config in zero bytes", "DIR/m/config.json: not valid JSON at line 1: Expecting value", ours, _write("config.json", b"")),
        one("causal model as a preference model", "model DIR/m: not a preference model; a stock reward model is opened as hf:DIR/m", "causal", lambda folder: None),
        one("format of the future", "model DIR/m: its format version is 9, not 1", ours, _preference(format_version=9)),
        one("unknown head kind", "DIR/m/config.json: 'kind': Input should be 'bt', 'regression', 'gpm' or 'hybrid' (got 'btt')", ours, _preference(kind="btt")),
        one("head without a pooling", "DIR/m/config.json: 'preference' has no 'pooling'", ours, _preference(pooling=...)),
        one("head of another width", "model DIR/m: its weights have 1 outputs, and config.json describes a head of 4", ours, _preference(kind="gpm", blocks=2)),
        one("tau of 0 in a checkpoint", "DIR/m/config.json: the head's tau must be positive, not 0.0", ours, _preference(tau=0)),
        one("template exchanged", "model DIR/m: its chat template is not the one it was trained with (template hash ..., trained with ...); put the original tokenizer files back", ours, _preference(template_hash="x")),
        one("pickled weights", "model DIR/m: no safetensors weights; pytorch_model.bin is pickled and is not read", ours, _pickled),
        one("no weights", "model DIR/m: no safetensors weights", ours, _without("model.safetensors")),
        one("weights cut short", "model DIR/m: cannot be loaded: ...", ours, _cut),
        one("weights of zero bytes", "model DIR/m: cannot be loaded: ...", ours, _write("model.safetensors", b"")),
        one("weights that are text", "model DIR/m: cannot be loaded: ...", ours, _write("model.safetensors", b"hello, this is text and no tensor")),
        one("head missing", "model DIR/m: the checkpoint has no score.weight; it is not a complete model", ours, _tensors(no_head)),
        one("weights of another shape", "model DIR/m: cannot be loaded: ...", ours, _tensors(small)),
        one("model without a tokenizer", "model DIR/m: the directory has no tokenizer (tokenizer.json); copy the base model's into it", ours, _without("tokenizer.json", "tokenizer_config.json")),
        one("tokenizer that is no JSON", "model DIR/m: cannot be loaded: ...", ours, _write("tokenizer.json", b"{")),
        one("unknown architecture", "model DIR/m: cannot be loaded: ...", ours, _config(model_type="llamma", architectures=["Llamma"])),
        one("model with code of its own", "model DIR/m: cannot be loaded: ...", ours, _config(model_type="mine", auto_map={"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"})),
        one("causal model as a reward model", "model DIR/m: not a reward model: its checkpoint has no score.weight", "causal", lambda folder: None, "hf:DIR/m"),
        one("reward model in pickle", "model DIR/m: no safetensors weights; pytorch_model.bin is pickled and is not read", "causal", _pickled, "hf:DIR/m"),
        one("no posterior beside a model", "model DIR/m: no Laplace approximation there (DIR/m/laplace.json: no such file); fit it with: prefeval uncertainty --model DIR/m --data PAIRS", ours, lambda folder: None, "laplace:DIR/m"),
        one("preference model as a pair model", "model DIR/m: the checkpoint has no lm_head.weight", ours, lambda folder: None, "pair:DIR/m"),
        Case("no such model", ("score", "--oracle", "model:DIR/none", "--input", "DIR/x.jsonl", "--out", "DIR/o.jsonl"), "model DIR/none: no such preference model (no config.json there)", {"x.jsonl": ROWS}),
        Case("no such reward model", ("score", "--oracle", "hf:DIR/none", "--input", "DIR/x.jsonl", "--out", "DIR/o.jsonl"), "model DIR/none: no such directory", {"x.jsonl": ROWS}),
    ]  # fmt: skip


def policies() -> list[Case]:
    def one(
        title: str, message: str, change: Callable[[Path], None], spec: str = "DIR/m", kind: str = "causal"
    ) -> Case:
        argv = ("answer", "--model", spec, "--benchmark", "mini-mt", "--limit", "1", "--out", "DIR/out")
        return Case(f"policy: {title}", argv, message, {"m": _broken(kind, change)})

    def blind(t: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in t.items() if "layers.1" not in name}

    return [
        one("no config", "model DIR/m: the directory has no config.json", _without("config.json")),
        one("no tokenizer", "model DIR/m: the directory has no tokenizer (tokenizer.json); copy the base model's into it", _without("tokenizer.json", "tokenizer_config.json")),
        one("pickle", "model DIR/m: no safetensors weights; pytorch_model.bin is pickled and is not read", _pickled),
        one("a layer missing", "model DIR/m: the checkpoint has no model.layers.1...", _tensors(blind)),
        one("weights cut short", "model DIR/m: cannot be loaded: ...", _cut),
        one("no such directory", "model DIR/none: no such directory", lambda folder: None, "DIR/none"),
        one("no such GGUF file", "model DIR/none.gguf: no such file", lambda folder: None, "DIR/none.gguf"),
        one("GGUF that is none", "model DIR/m/x.gguf: cannot be loaded: ...", _write("x.gguf", b"GGUF" + b"\0" * 60), "DIR/m/x.gguf"),
        one("mixture of one", "model mix:1.0*DIR/m: a mixture of two models or more is written mix:0.5*MODEL+0.5*MODEL", lambda folder: None, "mix:1.0*DIR/m"),
        one("weights of a mixture", "model mix:0.5*DIR/m+0.6*DIR/m: the weights must be at least 0 and sum to 1", lambda folder: None, "mix:0.5*DIR/m+0.6*DIR/m"),
        one("weight that is no number", "model mix:0.5.5*DIR/m+0.5*DIR/m: '0.5.5' is no weight", lambda folder: None, "mix:0.5.5*DIR/m+0.5*DIR/m"),
        one("best of one", "model best-of-1[rules:shorter]:DIR/m: a choice among N >= 2 candidates is written best-of-N[ORACLE]:MODEL", lambda folder: None, "best-of-1[rules:shorter]:DIR/m"),
        one("server without an address", "'m@localhost:80': the address after '@' must start with http:// or https://, not 'localhost:80'", lambda folder: None, "server:m@localhost:80"),
        one("server without a model", "'@http://localhost:80/v1': no model name; write MODEL or MODEL@http://HOST:PORT/v1", lambda folder: None, "server:@http://localhost:80/v1"),
    ]  # fmt: skip


def oracles() -> list[Case]:
    def one(spec: str, message: str, **files: Content) -> Case:
        argv = ("score", "--oracle", spec, "--input", "DIR/x.jsonl", "--out", "DIR/out.jsonl")
        made = {"x.jsonl": ROWS, **{name.replace("_py", ".py"): text for name, text in files.items()}}
        return Case(f"oracle {spec or 'empty'}", argv, message, made)

    return [
        one("", "oracle '': unknown kind ''; known: model, laplace, hf, pair, judge, rules, check, py, ensemble"),
        one("modle:x", "oracle 'modle:x': unknown kind 'modle'; did you mean 'model'?"),
        one("model", "oracle 'model': nothing after 'model:'"),
        one("model:", "oracle 'model:': nothing after 'model:'"),
        one("rules:shortr", "oracle 'rules:shortr': no such rule; did you mean 'shorter'? (known: gold, shorter, longer)"),
        one("py:math", "oracle 'py:math': write py:module:object"),
        one("py:no_such_module_xy:f", "oracle 'py:no_such_module_xy:f': No module named 'no_such_module_xy'"),
        one("py:math:no", "oracle 'py:math:no': module 'math' has no attribute 'no'"),
        one("py:math:pi", "oracle 'py:math:pi': neither an Oracle nor a function of (prompt, a, b)"),
        one("py:corpus_above:f", "oracle 'py:corpus_above:f' answered 2, which is not a probability", corpus_above_py="def f(q, a, b):\n    return 2\n"),
        one("py:corpus_words:f", "oracle 'py:corpus_words:f' answered 'yes', which is not a probability", corpus_words_py="def f(q, a, b):\n    return 'yes'\n"),
        one("py:corpus_broken:f", "oracle 'py:corpus_broken:f': invalid syntax (corpus_broken.py, line 1)", corpus_broken_py="def f(:\n"),
        one("py:corpus_fails:f", "oracle 'py:corpus_fails:f' raised ZeroDivisionError: division by zero (corpus_fails.py, line 2)", corpus_fails_py="def f(q, a, b):\n    return 1 / 0\n"),
        one("ensemble:rules:shorter+rule:longer", "oracle 'rules:shorter+rule:longer': no such rule (known: gold, shorter, longer)"),
        one("judge:m@localhost:80", "'m@localhost:80': the address after '@' must start with http:// or https://, not 'localhost:80'"),
        one("judge:@http://localhost:80/v1", "'@http://localhost:80/v1': no model name; write MODEL or MODEL@http://HOST:PORT/v1"),
        one("judge:m@http://:80/v1", "'http://:80/v1': a base URL looks like http://127.0.0.1:8000/v1"),
        one("judge:m@http://host:port/v1", "'http://host:port/v1': a base URL looks like http://127.0.0.1:8000/v1"),
        one("judge:alpaca_eval:weighted_alpaca_eval_gpt4_trubo", "alpaca_eval has no annotator config 'weighted_alpaca_eval_gpt4_trubo'; did you mean 'weighted_alpaca_eval_gpt4_turbo'?"),
        one("panel:rules:shorter", "oracle 'panel:rules:shorter': unknown kind 'panel'; known: ..."),
    ]  # fmt: skip


def score_rows() -> list[Case]:
    base = {"id": "1", "prompt": "q", "responses": ["a", "bb"]}

    def one(title: str, message: str, field: str | None, **change: Any) -> Case:
        argv = ("score", "--oracle", "rules:shorter", "--input", "DIR/x.jsonl", "--out", "DIR/out.jsonl")
        place = "DIR/x.jsonl, row 2" + (f", field '{field}'" if field else "")
        files = {"x.jsonl": jsonl(base, changed(base, **change))}
        return Case(f"score: {title}", argv, f"{place}: {message}", files, 2, field)

    def whole(title: str, content: Content, message: str, *more: str) -> Case:
        argv = ("score", "--oracle", "rules:shorter", "--input", "DIR/x.jsonl", "--out", "DIR/out.jsonl", *more)
        return Case(f"score: {title}", argv, message, {"x.jsonl": content})

    return [
        one("no prompt", "missing", "prompt", prompt=...),
        one("no responses", "missing", "responses", responses=...),
        one("empty responses", "must be a non-empty list of texts", "responses", responses=[]),
        one("responses in one text", "must be a non-empty list of texts", "responses", responses="a"),
        one("response that is a number", "must be a non-empty list of texts", "responses", responses=["a", 5]),
        one("prompt that is a number", "must be a text or a non-empty list of messages", "prompt", prompt=5),
        one("prompt of no messages", "must be a text or a non-empty list of messages", "prompt", prompt=[]),
        one("unknown role", "a message has a role (system, user, assistant) and a text as content, not ...", "prompt", prompt=[{"role": "robot", "content": "x"}]),
        one("role in a list", "a message has a role (system, user, assistant) and a text as content, not ...", "prompt", prompt=[{"role": ["user"], "content": "x"}]),
        one("assistant last", "the last message must be the user's", "prompt", prompt=[{"role": "assistant", "content": "x"}]),
        one("half a surrogate pair in a response", "holds half a surrogate pair at character 1: not valid Unicode", "responses", responses=["a", "\ud83d"]),
        one("half a surrogate pair in the prompt", "holds half a surrogate pair at character 1: not valid Unicode", "prompt", prompt="\ud83d"),
        one("half a surrogate pair in a message", "holds half a surrogate pair at character 1: not valid Unicode", "prompt", prompt=[{"role": "user", "content": "\ud83d"}]),
        one("half a surrogate pair in the id", "holds half a surrogate pair at character 1: not valid Unicode", "id", id="\ud83d"),
        whole("row that is a list", "[1]\n", "DIR/x.jsonl, row 1: a row is an object with id, prompt and responses"),
        whole("empty input", "", "DIR/x.jsonl: no rows"),
        whole("no bound", ROWS, "--lower: rules:shorter has no bound; give laplace:PATH or ensemble:SPEC+SPEC", "--lower"),
        whole("suggestions of a negative number", ROWS, "--suggest must not be negative", "--suggest", "-1"),
        Case("score: no such input", ("score", "--oracle", "rules:shorter", "--input", "DIR/x.jsonl", "--out", "DIR/o.jsonl"), "DIR/x.jsonl: no such file"),
        Case("score: input that is a folder", ("score", "--oracle", "rules:shorter", "--input", "DIR/f", "--out", "DIR/o.jsonl"), "DIR/f: cannot be read: ...Is a directory...", {"f/x": ""}),
        Case("score: without an oracle", ("score", "--input", "DIR/x.jsonl", "--out", "DIR/o.jsonl"), "the following arguments are required: --oracle"),
    ]  # fmt: skip


def matrices() -> list[Case]:
    def one(title: str, content: Content, message: str, *more: str) -> Case:
        argv = ("game", "--game", "DIR/p.csv", "--algorithm", "onpo", "--rounds", "1", *more)
        return Case(f"matrix: {title}", argv, message, {"p.csv": content})

    good = "0.5,0.7\n0.3,0.5\n"
    return [
        one("empty", "", "DIR/p.csv: a game needs at least 2 rows, found 0"),
        one("not square", "0.5,0.7,0.2\n0.3,0.5,0.1\n", "DIR/p.csv, row 1: 3 columns, but the file has 2 rows: P must be square"),
        one("ragged", "0.5,0.7\n0.3\n", "DIR/p.csv, row 2: 1 columns, but the file has 2 rows: P must be square"),
        one("not complementary", "0.5,0.7\n0.4,0.5\n", "DIR/p.csv, row 1, field '2': 0.7 and 0.4 (row 2, column 1) must sum to 1"),
        one("a cell that is no number", "0.5,nan\n0.3,0.5\n", "DIR/p.csv, row 1, field '2': nan is not a probability in [0, 1]"),
        one("infinite cell", "0.5,inf\n0.3,0.5\n", "DIR/p.csv, row 1, field '2': inf is not a probability in [0, 1]"),
        one("text", "0.5,often\n0.3,0.5\n", "DIR/p.csv, row 1, field '2': 'often' is not a number (a matrix file has no header)"),
        one("header", "a,b\n0.5,0.7\n0.3,0.5\n", "DIR/p.csv, row 1, field '1': 'a' is not a number (a matrix file has no header)"),
        one("above 1", "0.5,1.2\n-0.2,0.5\n", "DIR/p.csv, row 1, field '2': 1.2 is not a probability in [0, 1]"),
        one("diagonal of 1", "1,0.7\n0.3,1\n", "DIR/p.csv, row 1, field '1': 1 on the diagonal must be 0.5"),
        one("Latin-1", b"0.5,\xe9\n", "DIR/p.csv: ..."),
        one("zero bytes", b"\x00\x00", "DIR/p.csv..."),
        one("one response", "0.5\n", "DIR/p.csv: a game needs at least 2 rows, found 1"),
        one("start of another length", good, "--start 1: 1 probabilities for a game of 2 responses", "--start", "1"),
        one("start with a zero", good, "--start 0,1: probabilities must be positive and sum to 1 (they sum to 1)", "--start", "0,1"),
        one("start in words", good, "--start a,b: expected numbers such as 0.5,0.3,0.2", "--start", "a,b"),
        one("start that is no number", good, "--start nan,nan: probabilities must be positive and sum to 1 (they sum to nan)", "--start", "nan,nan"),
        one("no step", good, "--step must be a positive number, not 0.0", "--step", "0"),
        one("tau that is no number", good, "--tau must be a number >= 0, not nan", "--tau", "nan"),
        one("no rounds", good, "--rounds must be at least 1, not 0", "--rounds", "0"),
        one("plot of no kind", good, "--plot x.txt: the file must end in .svg or .png", "--plot", "x.txt"),
        one("option without a value", good, "--set step: expected OPTION=VALUE", "--set", "step"),
        one("misspelt option of an algorithm", good, "algorithm 'onpo': unknown key 'stp'; did you mean 'step'?", "--set", "stp=1"),
        Case("game: misspelt algorithm", ("game", "--game", "rps", "--algorithm", "onppo"), "unknown algorithm 'onppo'; did you mean 'onpo'?..."),
        Case("game: misspelt game", ("game", "--game", "rsp", "--algorithm", "onpo"), "unknown game 'rsp'; did you mean 'rps'? (known: rps, cyc3, rand10:SEED, bt10, or a file FILE.csv)"),
        Case("game: no such file", ("game", "--game", "DIR/no.csv", "--algorithm", "onpo"), "DIR/no.csv: no such file"),
        Case("game: without an algorithm", ("game", "--game", "rps"), "--algorithm is missing"),
    ]  # fmt: skip
