"""Recipes and overrides: YAML that is none, unknown names, values of the wrong type or out of range."""

from __future__ import annotations

from .case import Case, Content, jsonl

PAIRS = jsonl({"prompt": "q", "chosen": "a", "rejected": "b"})
BENCH = "models: [{name: a, spec: 'answers:a.json'}]\nbaseline: a\njudge: rules:shorter\n"
STEPS = "steps:\n  - {name: pm, command: train, config: {data: x.jsonl}}\n"


def _recipe(command: str, title: str, text: Content, message: str, *overrides: str) -> Case:
    argv = (command, "DIR/r.yaml", *overrides)
    return Case(title, argv, message.replace("RECIPE", "DIR/r.yaml"), {"r.yaml": text})


def yaml() -> list[Case]:
    bomb = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    return [
        _recipe("train", "bracket left open", "data: [x\n", "RECIPE, line 2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        _recipe("train", "tab as indentation", "fit:\n\tepochs: 1\n", "RECIPE, line 2: not valid YAML: found character '\\t' that cannot start any token"),
        _recipe("train", "key twice", "data: x\ndata: y\n", "RECIPE, line 2: not valid YAML: the key 'data' twice"),
        _recipe("train", "list instead of a mapping", "- data\n", "RECIPE: a recipe is a mapping of names to values, not a list"),
        _recipe("train", "word instead of a mapping", "data\n", "RECIPE: a recipe is a mapping of names to values, not a str"),
        _recipe("train", "date that is none", "data: 2024-13-45\n", "RECIPE: not valid YAML: a value cannot be read: month must be in 1..12"),
        _recipe("train", "Python object", "data: !!python/object/apply:os.system ['true']\n", "RECIPE, line 1: not valid YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        _recipe("train", "aliases that explode", bomb, "RECIPE: not valid YAML: its aliases expand to more than a million values"),
        _recipe("train", "alias that holds itself", "data: &a [*a]\n", "RECIPE: not valid YAML: an alias that holds itself"),
        _recipe("train", "nested too deeply", "data: " + "[" * 20_000, "RECIPE: not valid YAML: nested too deeply"),
        _recipe("train", "alias without an anchor", "data: *nothing\n", "RECIPE, line 1: not valid YAML: found undefined alias 'nothing'"),
        _recipe("train", "control character", b"data: \x07\n", "RECIPE: not valid YAML: special characters are not allowed"),
        _recipe("train", "recipe in Latin-1", b"data: \xe9\n", "RECIPE: not UTF-8 text: ... at byte 6"),
        Case("recipe that is a folder", ("train", "DIR/folder"), "recipe 'DIR/folder': no such file and no built-in recipe (see prefeval recipes)", {"folder/x": ""}),
        Case("misspelt built-in recipe", ("run", "quickstrat"), "recipe 'quickstrat': no such file and no built-in recipe; did you mean 'quickstart'?"),
        Case("unknown command", ("tran", "x.yaml"), "unknown command 'tran'; did you mean 'train'? (see prefeval --help)"),
    ]  # fmt: skip


def train() -> list[Case]:
    def one(title: str, text: str, message: str, *overrides: str) -> Case:
        return _recipe("train", title, text, message, *overrides)

    return [
        one("misspelt key", "dat: x\n", "RECIPE: unknown key 'dat'; did you mean 'data'?"),
        one("misspelt key inside", "fit: {epoch: 1}\n", "RECIPE: unknown key 'fit.epoch'; did you mean 'epochs'?"),
        one("key like no other", "zzz: 1\n", "RECIPE: unknown key 'zzz'; known: ..."),
        one("key that is a number", "5: 1\n", "RECIPE: unknown key '5'; known: ..."),
        one("number for a mapping", "fit: 5\n", "RECIPE: 'fit' must be a mapping, not 5"),
        one("list for a mapping", "head: [bt]\n", "RECIPE: 'head' must be a mapping, not ['bt']"),
        one("word for a number", "fit: {epochs: many}\n", "RECIPE: 'fit.epochs': Input should be a valid ... (got 'many')"),
        one("list for a text", "data: [x, y]\n", "RECIPE: 'data': Input should be a valid string (got ['x', 'y'])"),
        one("word for yes or no", "head: {unit_norm: maybe}\n", "RECIPE: 'head.unit_norm': Input should be a valid boolean, unable to interpret input (got 'maybe')"),
        one("unknown head", "head: {kind: btt}\n", "RECIPE: 'head.kind': Input should be 'bt', 'regression', 'gpm' or 'hybrid' (got 'btt')"),
        one("unknown loss", "loss: {kind: softmax}\n", "RECIPE: loss.kind 'softmax' is none of ...; did you mean 'soft'?"),
        one("no blocks", "head: {kind: gpm, blocks: 0}\n", "RECIPE: a gpm head needs at least one skew block, not 0"),
        one("tau of 0", "head: {kind: bt, tau: 0}\n", "RECIPE: the head's tau must be positive, not 0.0"),
        one("tau that is no number", "head: {kind: bt, tau: .nan}\n", "RECIPE: the head's tau must be positive, not nan"),
        one("regression without attributes", "head: {kind: regression}\n", "RECIPE: a regression head needs the names of its attributes"),
        one("weights beside attributes", "head: {kind: regression, attributes: [a, b], weights: [1]}\n", "RECIPE: 1 weights for 2 attributes"),
        one("smoothing above 1", "loss: {smoothing: 2}\n", "RECIPE: ...smoothing..."),
        one("negative epochs", "fit: {epochs: -1}\n", "RECIPE: fit.epochs: -1.0 is out of range"),
        one("learning rate that is no number", "fit: {learning_rate: .nan}\n", "RECIPE: fit.learning_rate: nan is out of range"),
        one("batch of 0", "fit: {batch_size: 0}\n", "RECIPE: fit.batch_size: 0 is out of range"),
        one("unknown precision", "fit: {precision: fp8}\n", "RECIPE: 'fit.precision': Input should be ... (got 'fp8')"),
        one("negative rank of LoRA", "lora: {rank: -1}\n", "RECIPE: lora: rank and alpha must not be negative"),
        one("override of an unknown key", "{}\n", "--fit.epoch: no such option; did you mean '--fit.epochs'?", "--fit.epoch", "3"),
        one("override of the wrong type", "{}\n", "Error parsing --fit.epochs: could not convert string to float: 'many'", "--fit.epochs", "many"),
        one("override without a value", "{}\n", "Missing value for argument '--fit.epochs'. Expected 1 values.", "--fit.epochs"),
        one("override of an unknown kind", "{}\n", "invalid choice 'btt' for argument '--head.kind'. Expected one of ('bt', 'regression', 'gpm', 'hybrid').", "--head.kind", "btt"),
        Case("recipe of another command", ("train", "quickstart"), "quickstart: a recipe of several steps; start it with prefeval run quickstart"),
        Case("train without data", ("train", "--out", "DIR/out"), "...data..."),
    ]  # fmt: skip


def align() -> list[Case]:
    def one(title: str, text: str, message: str, *overrides: str) -> Case:
        return _recipe("align", title, text, message, *overrides)

    return [
        one("misspelt algorithm", "algorithm: onppo\n", "RECIPE: unknown algorithm 'onppo'; did you mean 'onpo'?..."),
        one("misspelt option", "algorithm: onpo\noptions: {stepp: 1}\n", "RECIPE: algorithm 'onpo': unknown key 'stepp'; did you mean 'step'?"),
        one("option of the wrong type", "algorithm: onpo\noptions: {step: big}\n", "RECIPE: algorithm 'onpo': 'step': Input should be a valid number, unable to parse string as a number (got 'big')"),
        one("negative step", "algorithm: onpo\noptions: {step: -1}\n", "RECIPE: algorithm 'onpo': step must be a positive number, not -1.0"),
        one("no rounds", "rounds: 0\n", "RECIPE: rounds: 0 is out of range, it must be at least 1"),
        one("one response", "responses: 1\n", "RECIPE: responses: self-play compares replies, so at least 2 a prompt are needed"),
        one("share of 1", "probe: {share: 1}\n", "RECIPE: probe: share must lie in [0, 1), limit be at least 0 and responses at least 1"),
        one("endless slope", "length_slope: .inf\n", "RECIPE: length_slope: inf is not a number"),
        one("unknown deployment", "deploy: newest\n", "RECIPE: 'deploy': Input should be 'last', 'average', 'best' or 'distilled' (got 'newest')"),
        one("stop without held-out prompts", "fit: {stop: {patience: 1}}\n", "RECIPE: fit.stop.patience: needs prompts that are kept from the fit; give held_out a share"),
        one("override that is no YAML", "{}\n", "--options.step: '[' cannot be read as a YAML value; quote it", "--options.step", "["),
        one("align without prompts", "policy: x\nout: out\n", "prompts: say which prompts to train on (a file, a directory or a hub id)"),
        one("prompts that are not there", "policy: x\nout: out\nprompts: no.jsonl\n", "no.jsonl: no such file"),
        Case("prompts without a prompt", ("align", "--out", "DIR/out", "--prompts", "DIR/p.jsonl"), "DIR/p.jsonl, row 2: no column 'prompt' or 'instruction' or 'question' or 'messages' or 'turns' or 'conversations'; the columns are promp; did you mean 'promp'?", {"p.jsonl": jsonl({"prompt": "q"}, {"promp": "q"})}, 2),
        Case("empty training prompt", ("align", "--out", "DIR/out", "--prompts", "DIR/p.jsonl"), "DIR/p.jsonl, row 1, field 'prompt': the prompt is empty", {"p.jsonl": jsonl({"prompt": " "})}, 1, "prompt"),
        Case("prompts that end with a reply alone", ("align", "--out", "DIR/out", "--prompts", "DIR/p.jsonl"), "DIR/p.jsonl, row 1, field 'messages': has no user turn to answer", {"p.jsonl": jsonl({"messages": [{"role": "assistant", "content": "x"}]})}, 1, "messages"),
        Case("turns that are a number", ("align", "--out", "DIR/out", "--prompts", "DIR/p.jsonl"), "DIR/p.jsonl, row 1, field 'turns': must be a list of user turns", {"p.jsonl": jsonl({"turns": 5})}, 1, "turns"),
    ]  # fmt: skip


def pipelines() -> list[Case]:
    def one(title: str, text: str, message: str, *overrides: str) -> Case:
        return _recipe("run", title, text, message, *overrides)

    return [
        one("pipeline without steps", "name: x\n", "RECIPE: not a pipeline (no 'steps'); use prefeval train, align or bench for it"),
        one("steps that are a mapping", "steps: {pm: 1}\n", "RECIPE: 'steps' must be a list of mappings with name, command and config"),
        one("misspelt command of a step", STEPS.replace("train", "trian"), "RECIPE: step 'pm': unknown command 'trian'; did you mean 'train'?"),
        one("misspelt key of a step", "steps: [{name: pm, comand: train}]\n", "RECIPE: unknown key 'comand'; did you mean 'command'?"),
        one("step without a command", "steps: [{name: pm}]\n", "RECIPE: ...'command'"),
        one("misspelt value of a step", STEPS.replace("data: x", "dat: x"), "RECIPE, step 'pm': unknown key 'dat'; did you mean 'data'?"),
        one("name with a slash", STEPS.replace("name: pm", "name: ../pm"), "RECIPE: step '../pm': a name is letters, digits, '_' and '-', and neither out nor seed"),
        one("two steps of a name", STEPS + STEPS.removeprefix("steps:\n"), "RECIPE: two steps are called 'pm'"),
        one("reference to a later step", STEPS.replace("x.jsonl", "'${pn}/x'"), "RECIPE: step 'pm' refers to '${pn}', which is no earlier step"),
        one("minutes of a step in words", STEPS.replace("command:", "minutes: soon, command:"), "RECIPE: 'minutes': Input should be a valid number, ... (got 'soon')"),
        one("circle of recipes", "extends: r.yaml\n", "r.yaml: recipes that extend one another in a circle ('r.yaml')"),
        one("extends and steps", "extends: quickstart\nsteps: []\n", "RECIPE: beside 'extends' stand name, about, out, seed and the mapping 'change'"),
        one("change of no step", "extends: quickstart\nchange: {alin.minutes: 1}\n", "RECIPE: 'alin.minutes: 1' is no step and number..."),
        one("override of no step", STEPS, "--pmm.data: no step is called 'pmm'; did you mean 'pm'?", "--pmm.data", "y"),
        one("override without its value", STEPS, "'--pm.data': overrides are written --out DIR, --seed N or --STEP.a.b value", "--pm.data"),
        one("override below a value", STEPS, "--pm.data.x: 'data' is a value and has no fields", "--pm.data.x", "1"),
        one("override of another type", STEPS, "RECIPE, step 'pm': 'fit.epochs': Input should be a valid ... (got 'many')", "--pm.fit.epochs", "many"),
        one("seed in words", STEPS, "...'seed': Input should be a valid integer, ... (got 'x')", "--seed", "x"),
        Case("run directory of another kind", ("train", "--data", "DIR/x.jsonl", "--out", "DIR/out"), "DIR/out: holds other files and no config.yaml; give a new directory with --out", {"out/notes.txt": "mine", "x.jsonl": PAIRS}),
        Case("run directory that is a file", ("train", "--data", "DIR/x.jsonl", "--out", "DIR/out"), "--out DIR/out: not a directory", {"out": "mine", "x.jsonl": PAIRS}),
        Case("run of another configuration", ("train", "--data", "DIR/x.jsonl", "--out", "DIR/out"), "DIR/out was started with another configuration:\n-seed: 7\n+...Use the same configuration to resume it, or another --out for a new run.", {"out/config.yaml": "seed: 7\n", "out/manifest.json": "{}", "x.jsonl": PAIRS}, lines=200),
    ]  # fmt: skip


def bench() -> list[Case]:
    def one(title: str, text: str, message: str, *overrides: str) -> Case:
        return _recipe("bench", title, text, message, *overrides)

    return [
        Case("bench without a recipe", ("bench",), "prefeval bench needs a recipe: prefeval bench RECIPE.yaml [--a.b value ...]"),
        one("bench without models", "judge: rules:shorter\n", "a bench recipe needs models: a list of {name, spec}"),
        one("model without a spec", "models: [{name: a}]\njudge: rules:shorter\n", "models: each needs a name and a spec, not ..."),
        one("misspelt field of a model", "models: [{name: a, spce: b}]\n", "RECIPE: 'models'[0]: ... (got 'b')"),
        one("models that are words", "models: [a, b]\n", "RECIPE: 'models'[0]: ... (got 'a')"),
        one("two models of a name", BENCH.replace("models: [", "models: [{name: a, spec: x}, "), "models: the names must differ: a, a"),
        one("bench without a judge", BENCH.replace("judge: rules:shorter\n", ""), "a bench recipe needs a judge, such as model:PATH, rules:NAME or judge:MODEL@BASE_URL"),
        one("misspelt baseline", BENCH.replace("name: a", "name: base").replace("baseline: a", "baseline: bass"), "baseline 'bass': none of the models; did you mean 'base'?"),
        one("misspelt benchmark", BENCH + "benchmarks: [mini-alpca]\n", "unknown benchmark 'mini-alpca'; did you mean 'mini-alpaca'?"),
        one("no benchmarks", BENCH + "benchmarks: []\n", "a bench recipe needs benchmarks, such as [mini-alpaca, mini-arena, mini-mt]"),
        one("benchmark twice", BENCH + "benchmarks: [mini-mt, mini-mt]\n", "benchmarks: the names must differ: mini-mt, mini-mt"),
        one("benchmark without its prompts", BENCH + "benchmarks: [alpaca_eval]\n", "benchmark 'alpaca_eval': its prompts are not part of prefeval; give their folder with --data"),
        one("limit of 0", BENCH + "limit: 0\n", "limit must be at least 1"),
        one("limit of no benchmark", BENCH + "limits: {mini-mtt: 3}\n", "limits.mini-mtt: no such name in this run; did you mean 'mini-mt'?"),
        one("baseline of no benchmark", BENCH + "baselines: {mini-mtt: a}\n", "baselines.mini-mtt: no such name in this run; did you mean 'mini-mt'?"),
        one("cap without a price", BENCH + "max_cost: 1\n", "max_cost needs a price: dollars per million tokens, prompt and completion"),
        one("negative cap", BENCH + "max_cost: -1\nprice: [1, 2]\n", "max-cost must be positive, not -1.0"),
        one("price of one number", BENCH + "price: [1]\n", "RECIPE: 'price'...: Field required (got ...)"),
        one("no resamples", BENCH + "resamples: 0\n", "resamples must be at least 1"),
        one("human labels that are not there", BENCH + "human: no.jsonl\n", "human: no such file: no.jsonl"),
        one("unknown orders", BENCH + "orders: all\n", "RECIPE: 'orders': Input should be 'published' or 'both' (got 'all')"),
        one("misspelt key of a bench", BENCH + "benchmark: [mini-mt]\n", "RECIPE: unknown key 'benchmark'; did you mean 'benchmarks'?"),
        one("bench judge of no kind", BENCH.replace("rules:shorter", "rule:shorter") + "benchmarks: [mini-mt]\nlimit: 2\nout: out\n", "oracle 'rule:shorter': unknown kind 'rule'; did you mean 'rules'?"),
        one("answers that are not there", BENCH + "benchmarks: [mini-mt]\nlimit: 2\nout: out\n", "a.json: no such file"),
    ]  # fmt: skip
