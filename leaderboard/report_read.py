"""What a report knows about runs: their config, manifest, typed metric rows and the JSON that their steps leave.

Nothing is computed again and no other room is imported. A damaged or missing file is a sentence in `problems`, so that
a half-finished run gives a partial report; only a path that is no run at all is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from leaderboard.table import ANSWERS
from prefeval.errors import ConfigError, PrefevalError
from prefeval.files import read_json, sha256_file
from prefeval.runs import MetricRow, MetricsLog

KINDS = ("data", "train", "align", "contest", "bench")
_OWN_FILES = {"train": ("evaluation.json", "test.json", "cycles.json"), "contest": ("contest.json",)}
_LAST_STAGE = {"data": "data", "train": "train", "align": "final", "contest": "judge"}
_REFERENCE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True)
class RunRecord:
    """One run. `files` are parsed JSON by name, `results` and `stages` results and seconds by stage, `uses` the
    folders of the runs that it is built on, `digests` the start of the SHA-256 of each file that was read."""

    kind: str
    name: str
    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[MetricRow, ...] = ()
    files: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    seconds: float = math.nan
    state: str = "not started"  # or unfinished, finished
    uses: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> list[MetricRow]:
        return [row for row in self.rows if row.kind == kind]


@dataclass(frozen=True)
class Evidence:
    """All runs of a report, in the order in which they were made or given, and the name of the pipeline, if any."""

    runs: tuple[RunRecord, ...]
    name: str = ""
    about: str = ""
    problems: tuple[str, ...] = ()

    def of_kind(self, *kinds: str) -> list[RunRecord]:
        return [run for run in self.runs if run.kind in kinds]


class _Reader:
    """Reads files and remembers what could not be read, and what was."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.problems, self.digests = folder, list[str](), dict[str, str]()

    def json(self, name: str) -> Any:
        """The parsed file; None, and perhaps a problem, where there is nothing to read."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            value = read_json(path)
            self.digests[name] = sha256_file(path)[:12]
        except (PrefevalError, OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{name} could not be read: {str(error).removeprefix(str(path)).lstrip(': ')}")
            return None
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        value = self.json(name)
        if value is not None and not isinstance(value, dict):
            self.problems.append(f"{name} is not a JSON object and was left out")
        return value if isinstance(value, dict) else {}

    def config(self) -> dict[str, Any]:
        import yaml

        path = self.folder / "config.yaml"
        if not path.is_file():
            return {}
        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, OSError, UnicodeDecodeError):
            self.problems.append("config.yaml could not be read")
            return {}
        return value if isinstance(value, dict) else {}

    def rows(self) -> tuple[MetricRow, ...]:
        log = MetricsLog(self.folder / "metrics.jsonl")
        try:
            rows = [row for row in log.rows() if isinstance(row.values, Mapping)]
            if log.path.is_file():
                self.digests["metrics.jsonl"] = sha256_file(log.path)[:12]
        except (PrefevalError, OSError, TypeError, UnicodeDecodeError) as error:
            self.problems.append(f"metrics.jsonl could not be read and its rows are left out ({error})")
            return ()
        return tuple(rows)


def read_evidence(paths: Sequence[str | Path]) -> Evidence:
    """The runs in these folders: pipelines (with all of their steps) and single runs in any mix. Raises ConfigError
    for a path that is not a run."""
    runs: list[RunRecord] = []
    names, abouts, problems = [], [], list[str]()
    for given in paths:
        folder = Path(given)
        if not folder.is_dir():
            raise ConfigError(f"{folder}: not a run directory (no such folder)")
        reader = _Reader(folder)
        config = reader.config()
        suites = _read_suites(folder)
        if isinstance(config.get("steps"), list):
            steps, unknown = _read_pipeline(folder, config)
            runs += steps
            problems += unknown + [f"{folder.name}: {p}" for p in reader.problems]
            names.append(str(config.get("name") or folder.name))
            abouts.append(str(config.get("about") or ""))
        elif kind_of(folder, config) or not suites:
            runs.append(_read_given(folder, config))
        runs += suites
    unique = list({(run.path.resolve(), run.kind == "evaluate"): run for run in runs}.values())
    return Evidence(_linked(_renamed(unique)), ", ".join(names), " ".join(filter(None, abouts)), tuple(problems))


def kind_of(folder: Path, config: Mapping[str, Any]) -> str:
    """What a run directory is, by what it holds; empty when it is none that a report reads."""
    if (folder / "contest.json").is_file() or "policies" in config:
        return "contest"
    if "benchmarks" in config or _score_files(folder):
        return "bench"
    if "algorithm" in config and "rounds" in config:
        return "align"
    if "head" in config and "fit" in config:
        return "train"
    return "data" if "train_prompts" in config else ""


def fit_series(rows: Sequence[MetricRow], stage: str, name: str) -> list[tuple[float, float]]:
    """(step, value) of one named value of a fit stage, in order, without gaps and non-numbers."""
    from leaderboard.report_text import real

    pairs = [(real(row.step), real(row.values.get(name))) for row in rows if row.stage == stage]
    return sorted((s, v) for s, v in pairs if math.isfinite(s) and math.isfinite(v))


def _read_given(folder: Path, config: Mapping[str, Any]) -> RunRecord:
    kind = kind_of(folder, config)
    if not kind:
        what = "a run that a report can show" if config else "a run directory (no config.yaml)"
        raise ConfigError(f"{folder}: not {what}; give a pipeline, train, align, contest or bench run")
    return _read_run(folder, kind, folder.resolve().name)


def _read_suites(folder: Path) -> list[RunRecord]:
    """The results of `prefeval evaluate --suite` in a folder and in the folders in it."""
    from leaderboard.report_suites import METRICS, is_suite

    found = []
    for file in [folder / METRICS, *sorted(folder.glob(f"*/{METRICS}"))]:
        reader = _Reader(file.parent)
        value = reader.mapping(METRICS)
        if is_suite(value):
            config: dict[str, Any] = {key: value[key] for key in ("oracle", "data", "seed") if key in value}
            name = file.parent.resolve().name
            found.append(RunRecord("evaluate", name, file.parent, config, files={METRICS: value},
                                   digests=reader.digests, state="finished"))  # fmt: skip
    return found


def _read_pipeline(root: Path, config: Mapping[str, Any]) -> tuple[list[RunRecord], list[str]]:
    reader = _Reader(root)
    runs, problems = [], []
    for step in config["steps"]:
        name, command = (str(step.get(k, "")) for k in ("name", "command")) if isinstance(step, Mapping) else ("", "")
        if command == "report":
            continue
        if command not in KINDS or not name or Path(name).name != name:
            problems.append(f"step '{name}': the report does not show '{command}' steps")
            continue
        marker = reader.mapping(f".stages/{name}.json")
        folder = root / name
        run = _read_run(folder, command, name) if folder.is_dir() else RunRecord(command, name, folder)
        spent = [s for s in (run.seconds, _seconds(marker)) if math.isfinite(s)]
        uses = tuple(root / found for text in _texts(step.get("config")) for found in _REFERENCE.findall(text))
        run = replace(run, seconds=max(spent, default=math.nan), uses=tuple(dict.fromkeys(uses)))
        runs.append(replace(run, state="finished") if marker else run)
    return runs, problems + reader.problems


def _read_run(folder: Path, kind: str, name: str) -> RunRecord:
    reader = _Reader(folder)
    config, manifest, rows = reader.config(), reader.mapping("manifest.json"), reader.rows()
    markers = [reader.mapping(f".stages/{p.name}") for p in sorted((folder / ".stages").glob("*.json"))]
    for hidden in [d for d in reader.digests if d.startswith(".stages")]:
        del reader.digests[hidden]
    names = [*_OWN_FILES.get(kind, ()), *(_score_files(folder) if kind == "bench" else ())]
    files = {n: value for n in names if (value := reader.json(n)) is not None}
    stages = {str(m["stage"]): _seconds(m) for m in markers if "stage" in m}
    run = RunRecord(
        kind, name, folder, config, manifest, rows, files,
        results={str(m["stage"]): m.get("result") for m in markers if "stage" in m},
        stages=stages,
        digests=reader.digests,
        seconds=sum(s for s in stages.values() if math.isfinite(s)) if stages else math.nan,
        problems=tuple(reader.problems),
    )  # fmt: skip
    return replace(run, state="finished" if _is_finished(run) else "unfinished")


def _is_finished(run: RunRecord) -> bool:
    if run.kind == "bench":
        from leaderboard.benchmarks.custom import benchmark_name

        wanted = [benchmark_name(str(b)) for b in run.config.get("benchmarks") or []]
        return bool(run.files) and all(any(f"scores/{b}/" in f for f in run.files) for b in wanted)
    return _LAST_STAGE[run.kind] in run.stages


def _score_files(folder: Path) -> list[str]:
    """leaderboard.json of a bench run's benchmarks, or of `prefeval leaderboard`, with what lies beside them."""
    found = [*folder.glob("scores/*/leaderboard.json"), *folder.glob("leaderboard.json")]
    beside = [p.with_name(name) for p in found for name in ("comparisons.json", ANSWERS)]
    return [p.relative_to(folder).as_posix() for p in sorted([*found, *(p for p in beside if p.is_file())])]


def _renamed(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs of the same name get their parent folder's name in front."""
    names = [run.name for run in runs]
    return [replace(r, name=f"{r.path.resolve().parent.name}/{r.name}") if names.count(r.name) > 1 else r for r in runs]


def _linked(runs: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """Single runs are built on those whose folder their config names."""
    out = []
    for run in runs:
        texts = list(_texts(run.config))
        named = [o.path for o in runs if o is not run and any(_names(text, o.path) for text in texts)]
        out.append(replace(run, uses=tuple(dict.fromkeys([*run.uses, *named]))))
    return tuple(out)


def _names(text: str, folder: Path) -> bool:
    return any(re.search(rf"(^|[:=+]){re.escape(str(p))}(/|$)", text) for p in (folder, folder.resolve()))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _seconds(marker: Mapping[str, Any]) -> float:
    from leaderboard.report_text import real

    return real(marker.get("seconds"))
