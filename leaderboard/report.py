"""One self-contained HTML report of runs: a pipeline's chain from data to leaderboard, or any mix of single runs.

It reads runs through their config, manifest, typed metric rows and result files alone and imports neither torch nor the
other rooms. The page holds inline SVG and CSS, no scripts, and refers to nothing outside itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval.errors import ConfigError, UserError
from prefeval.files import read_json, write_text

if TYPE_CHECKING:
    from leaderboard.report_read import Evidence
    from leaderboard.report_text import Section
    from prefeval.runs import RunDir


@dataclass(frozen=True)
class ReportConfig:
    """A report of a pipeline."""

    name: str = "report"
    out: str = "runs/report"
    title: str = ""  # default: made from the pipeline's name
    after: tuple[str, ...] = ()  # folders of steps that the report shows: it is made again when they change
    chain: str = ""  # the pipeline's root, whose sub-directories are its steps; default: the folder that holds `out`


def make_report(config: ReportConfig, run: RunDir) -> dict[str, Any]:
    """Write report.html into `run` and return {"path": ...}. Raises ConfigError when `chain` is no run directory."""
    from leaderboard.report_read import read_evidence

    root = Path(config.chain) if config.chain else run.path.resolve().parent
    page = render(read_evidence([root]), config.title)
    return {"path": str(write_text(run.path / "report.html", page))}


def report(argv: list[str]) -> int:
    """`prefeval report RUN... --out report.html [--title TEXT]`: any mix of run directories."""
    from leaderboard.report_read import read_evidence

    args = _parser().parse_args(argv)
    out = Path(args.out)
    if out.is_dir():
        out = out / "report.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: a report is an .html file")
    page = render(read_evidence(args.runs), args.title)
    try:
        write_text(out, page)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from None
    sys.stdout.write(f"{out}\n")
    return 0


def board_page(table: Mapping[str, Any], compared: Sequence[Any], folder: Path, command: str) -> str:
    """The page of one leaderboard made from files: the dictionaries that leaderboard.json and comparisons.json hold."""
    from leaderboard.report_read import Evidence, RunRecord
    from leaderboard.table import ANSWERS
    from prefeval.runs import manifest

    name = str(table["benchmark"])
    files = {"leaderboard.json": table, "comparisons.json": list(compared)}
    if (folder / ANSWERS).is_file():
        files[ANSWERS] = read_json(folder / ANSWERS)
    run = RunRecord("bench", name, folder, manifest=manifest(command), files=files, state="finished")
    return render(Evidence((run,)), f"Leaderboard of {name}")


def render(evidence: Evidence, title: str = "") -> str:
    """The whole page as text."""
    from leaderboard.report_chain import chain_boxes, oracle_names
    from leaderboard.report_diagram import chain
    from leaderboard.report_runs import configs, reproducibility, total_time
    from leaderboard.report_scores import LESS_LIKELY, MORE_BROKEN, MORE_DUPLICATES
    from leaderboard.report_summary import headline, status, summary

    names = oracle_names(evidence)
    boxes, heads = chain_boxes(evidence, names)
    sections = _sections(evidence, names)
    page: str = _environment().get_template("report.html.j2").render(
        title=title or headline(evidence),
        about=evidence.about,
        summary=summary(evidence),
        status=status(evidence),
        boxes=boxes,
        heads=heads,
        drawing=chain(boxes, heads),
        sections=sections,
        kinds={run.kind for run in evidence.runs},
        defined=_kinds_of_part(sections),
        marks={"broken": MORE_BROKEN, "duplicates": MORE_DUPLICATES, "unlikely": LESS_LIKELY},
        reproducibility=reproducibility(evidence),
        configs=configs(evidence),
        total_time=total_time(evidence),
    )  # fmt: skip
    return page


def _sections(evidence: Evidence, names: dict[str, str]) -> list[Section]:
    """The parts of the chain that there is something to say about, in its order."""
    from leaderboard.report_alignment import alignment_section
    from leaderboard.report_boards import board_sections
    from leaderboard.report_scores import contest_section
    from leaderboard.report_suites import suites_section
    from leaderboard.report_text import Section
    from leaderboard.report_training import training_section

    contests, benches = evidence.of_kind("contest"), evidence.of_kind("bench")
    called = partial(_contest_title, several=len(contests) > 1)
    sections = [training_section(evidence.of_kind("train")), alignment_section(evidence.of_kind("align"), names)]
    sections += [contest_section(run, names, called(run.name)) for run in contests]
    boards = board_sections(benches)
    sections.append(suites_section(evidence.of_kind("evaluate")))
    if benches:
        none = () if boards else ("No benchmark has been scored yet.",)
        sections.append(Section("leaderboards", "Leaderboards", none, boards))
    return [section for section in sections if section is not None]


def _kinds_of_part(sections: Sequence[Section]) -> set[str]:
    """The first words of all sections' ids, by which the definitions know what stands on the page."""
    found = {section.id.split("-")[0] for section in sections}
    return found.union(*(_kinds_of_part(section.parts) for section in sections))


def _contest_title(name: str, *, several: bool) -> str:
    return f"Contest: {name}" if several else "Contest before the judge"


@cache
def _environment() -> Any:
    """Jinja with autoescape on for every template; every printed text is cleaned, markup of our own is not."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from leaderboard.report_svg import key
    from leaderboard.report_text import clean

    def printed(value: object) -> object:
        return clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value

    environment = Environment(
        loader=PackageLoader("leaderboard", "templates"),
        autoescape=True,
        finalize=printed,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["key"] = key
    environment.tests["text"] = lambda value: isinstance(value, str)
    environment.tests["of"] = lambda value, name: type(value).__name__ == name
    return environment


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefeval report",
        description="One self-contained HTML report of pipelines, train, align, contest and bench runs, and suites.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--out", default="report.html", metavar="FILE", help="the page to write")
    parser.add_argument("--title", default="", help="its title (default: made from the runs)")
    return parser
