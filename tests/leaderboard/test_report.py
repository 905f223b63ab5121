"""The report of a whole made-up pipeline, of parts of it, and of single runs."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_toys as toys

from leaderboard.report import ReportConfig, make_report, report
from prefeval.config import to_dict
from prefeval.errors import ConfigError, UserError
from prefeval.runs import RunDir


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; counts open elements."""

    VOID = frozenset({"meta", "br", "line", "rect", "circle", "path", "polyline", "polygon", "img", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.stack, self.crossed = "", list[str](), list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] != "style":
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.pipeline(tmp_path_factory.mktemp("run") / "toy")


@pytest.fixture(scope="module")
def html(root: Path) -> str:
    config = ReportConfig(out=str(root / "report"))
    result = make_report(config, RunDir(root / "report", to_dict(config), command="prefeval report"))
    assert result == {"path": str(root / "report" / "report.html")}
    return Path(result["path"]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.mark.parametrize(
    "shown",
    [
        "68.3% [64.5, 72.1]n = 630 pairs",  # bt on the test split
        "78.2% [74.1, 82.3]n = 297 edges, 3 dropped of 100 triples",
        "66.7%",  # the scalar ceiling
        "0.031",
        "65.0% [61.0, 69.1]n = 64 prompts, 1 dropped",  # round 3 under the training oracle
        "0.030 [−0.020, 0.080](control 0.011)",
        "2.08 [1.98, 2.23]",  # KL
        "64.3% [58.5, 70.2]n = 105 prompts",
        "62.3% [54.3, 70.3]n = 97 pairs",
        "63.4 [57.4, 69.4]",
        "285 train, 105 test",
        "0.134 [0.020, 0.250]n = 40 questions, 2 dropped",
    ],
)
def test_numbers_come_with_interval_and_n(page: Page, shown: str) -> None:
    assert shown in page.words


def test_summary_is_honest(html: str) -> None:
    found = re.search(r'<ul class="summary">(.*?)</ul>', html, re.S)
    assert found is not None
    text = found.group(1)
    assert "gpm in 79.2% [76.1, 82.3] (n = 630 pairs) and bt in 68.3%" in text
    assert "gpm 78.2% [74.1, 82.3] (n = 297 edges, 3 dropped), above that ceiling; bt 60.7%" in text
    assert "onpo-bt wins 51.2% [45.4, 57.1] (n = 105 prompts) against base: the interval includes 50%" in text
    assert "It comes with more broken replies." in text
    assert "onpo-gpm wins 64.3% [58.5, 70.2] (n = 105 prompts) against base: the interval lies above 50%" in text
    assert "under the independent judge: the gain is not confirmed." in text  # of onpo-bt
    assert "onpo-gpm wins 65.0%" not in text  # its judge agrees, and the contest tells the outcome


def test_model_text_is_data(html: str, page: Page) -> None:
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert "<script" not in html.lower()
    assert "<img" not in html.lower()
    assert "What is <i>capital</i> number 0 of France?" in page.text
    assert not set("\x07\x1b\u202e\ud800") & set(html)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_page_is_one_small_file(html: str, page: Page) -> None:
    assert len(html.encode("utf-8")) < 1_500_000
    outside = [
        (t, a) for t, attributes in page.tags for n, a in attributes.items() if n in ("src", "href", "xlink:href")
    ]
    assert all(a is not None and a.startswith("#") for _, a in outside)
    assert "url(" not in html
    assert "@import" not in html
    assert not {"script", "link", "iframe", "object", "img"} & {t for t, _ in page.tags}


def test_markup_is_accessible(page: Page) -> None:
    assert page.crossed == []
    assert page.stack == []
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [str(a["href"])[1:] for t, a in page.tags if t == "a"]
    assert set(links) <= set(ids)
    pictures = [a for t, a in page.tags if t == "svg"]
    assert all(a.get("aria-label") or a.get("aria-hidden") == "true" for a in pictures)
    assert all(a.get("scope") for t, a in page.tags if t == "th")
    assert len([t for t, _ in page.tags if t == "caption"]) == len([t for t, _ in page.tags if t == "table"]) >= 8


def test_chain_names_every_run_and_its_oracle(html: str) -> None:
    label = re.search(r'aria-label="(The chain of runs\..*?)"', html)
    assert label is not None
    for name in ("data", "bt", "gpm", "onpo-bt", "onpo-gpm", "contest", "bench"):
        assert f" {name}: " in label.group(1)
    assert "ONPO against gpm" in label.group(1)
    # data -> two models -> two policies, both into the contest, one into the bench: seven arrows
    assert html.count('class="edge"') == 7


def test_chain_may_be_given_relative_to_a_step(root: Path, html: str, tmp_path: Path) -> None:
    config = ReportConfig(out=str(tmp_path / "report"), chain=f"{root}/data/..")
    result = make_report(config, RunDir(tmp_path / "report", to_dict(config), command="prefeval report"))
    assert Path(result["path"]).read_text(encoding="utf-8") == html


def test_half_finished_run_gives_a_partial_report(tmp_path: Path) -> None:
    root = toys.pipeline(tmp_path / "toy", until="onpo-gpm")
    toys.align(root / "onpo-gpm", rounds=1)  # killed after its first round
    out = tmp_path / "partial.html"
    assert report([str(root), "--out", str(out)]) == 0
    words = Page(out.read_text(encoding="utf-8")).words
    assert "This report is partial: onpo-gpm (unfinished), contest (not started) and bench (not started)." in words
    assert "1 of 3 rounds measured" in words
    assert "The contest has not been held yet." in words
    assert "55.0% [51.0, 59.1]" in words


def test_single_runs_in_any_mix(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "mix.html"
    assert (
        report([*(str(root / n) for n in ("gpm", "onpo-gpm", "bench")), "--out", str(out), "--title", "Mine & <co>"])
        == 0
    )
    html = out.read_text(encoding="utf-8")
    assert "<h1>Mine &amp; &lt;co&gt;</h1>" in html
    assert "against the preference model gpm" in html
    assert "preference data" in html  # the box of the training file that no given run made
    # train.jsonl -> gpm -> onpo-gpm
    assert html.count('class="edge"') == 2
    assert "onpo-gpm wins 65.0% [61.0, 69.1]" in html  # no contest tells the outcome, so the paragraph does


def test_validation_is_named_where_no_test_was_made(tmp_path: Path) -> None:
    toys.train(tmp_path / "gpm", test=False)
    out = tmp_path / "r.html"
    report([str(tmp_path / "gpm"), "--out", str(out)])
    words = Page(out.read_text(encoding="utf-8")).words
    assert "81.0% [78.0, 84.0]n = 300 pairs" in words
    assert "Validation pairs also set the model's temperature" in words
    assert "On triples whose labels run in a circle" not in words


def test_damaged_files_are_notes_not_crashes(tmp_path: Path) -> None:
    root = toys.pipeline(tmp_path / "toy")
    (root / "contest" / "contest.json").write_text("{broken")
    (root / "gpm" / "metrics.jsonl").write_text('{"kind": 3}\n{"nonsense": true}\n')
    (root / "gpm" / "test.json").write_text("[1, 2]")
    (root / "onpo-bt" / "config.yaml").write_text("a: [1")
    (root / "bench" / "scores" / "mini-mt" / "leaderboard.json").write_text(
        '{"rows": [3, {"name": null}], "columns": 1}'
    )
    out = tmp_path / "r.html"
    assert report([str(root), "--out", str(out)]) == 0
    words = Page(out.read_text(encoding="utf-8")).words
    assert "contest: contest.json could not be read: not valid JSON" in words
    assert "gpm: metrics.jsonl could not be read" in words
    assert "onpo-bt: config.yaml could not be read" in words
    assert "63.4 [57.4, 69.4]" in words  # what is whole is still shown


def test_run_killed_at_once(tmp_path: Path) -> None:
    folder = toys.config_only(tmp_path / "train", {"data": "x.jsonl", "head": {"kind": "bt"}, "fit": {}})
    out = tmp_path / "r.html"
    assert report([str(folder), "--out", str(out)]) == 0
    words = Page(out.read_text(encoding="utf-8")).words
    assert "No step has left a number yet" in words
    assert "No preference model has been evaluated yet." in words


def test_what_is_no_run_is_refused(tmp_path: Path, root: Path) -> None:
    out = tmp_path / "r.html"
    with pytest.raises(ConfigError, match="no such folder"):
        report([str(tmp_path / "nowhere"), "--out", str(out)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        report([str(tmp_path / "empty"), "--out", str(out)])
    with pytest.raises(UserError, match=r"an \.html file"):
        report([str(root), "--out", str(tmp_path / "r.txt")])
    assert not out.exists()


def test_credentials_do_not_reach_the_page(tmp_path: Path) -> None:
    spec = "judge:m@http://user:hunter2@localhost:1/v1"
    folder = toys.config_only(tmp_path / "b", {"benchmarks": ["mini-mt"], "judge": spec, "api_key": "sk-abcdefgh12345"})
    out = tmp_path / "r.html"
    report([str(folder), "--out", str(out)])
    html = out.read_text(encoding="utf-8")
    assert "localhost:1/v1" in html
    assert "hunter2" not in html
    assert "sk-abcdefgh" not in html


def test_report_needs_no_torch_and_no_other_room(root: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from leaderboard.report import report; report(sys.argv[1:]);"
        "bad = {'torch', 'transformers', 'alignment', 'reward_models', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(root), "--out", str(tmp_path / "r.html")], capture_output=True
    )
    assert run.returncode == 0, run.stderr.decode()
