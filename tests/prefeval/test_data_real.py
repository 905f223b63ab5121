"""The real files against the tables of their README, and against counts made here with pandas."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prefeval.data import load_prompts, load_records

_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = Path(os.environ.get("PREFEVAL_DATA", _DEFAULT))
FOLDER = DATA / "preferences"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the shared data is not here (PREFEVAL_DATA)")

# README: rows by source and split
SOURCES = {
    "alpaca_eval_gpt4": (29525, 3111, 4534),
    "weighted_alpaca_eval_gpt4_turbo": (8377, 884, 1290),
    "weighted_alpaca_eval_gpt4_turbo_ref_gpt35t": (6153, 649, 946),
    "alpaca_eval_cot_gpt4_turbo_fn": (6151, 649, 944),
    "alpaca_eval_gpt4_turbo_fn": (5040, 531, 774),
}


@pytest.mark.parametrize(
    ("split", "column", "instructions"), [("test", 2, 86), pytest.param("val", 1, 59, marks=pytest.mark.slow)]
)
def test_alpaca_eval_pairs(split: str, column: int, instructions: int) -> None:
    path = FOLDER / f"alpaca_eval_pairs.{split}.parquet"
    data = load_records(str(path))
    assert {s: counts[column] for s, counts in SOURCES.items()} == data.report.sources
    assert len(data.records) == instructions
    assert {r.split for r in data.records} == {split}
    table = pd.read_parquet(path)
    texts = pd.read_parquet(FOLDER / "alpaca_eval_responses.parquet").set_index("response_id")["text"]
    empty = (texts[table.response_1].to_numpy() == "") | (texts[table.response_2].to_numpy() == "")
    assert data.report.dropped == {"empty response": int(empty.sum())}
    low, high = np.minimum(table.response_1, table.response_2), np.maximum(table.response_1, table.response_2)
    keys = pd.DataFrame({"s": table.source.astype(str), "i": table["index"], "low": low, "high": high})[~empty]
    assert data.report.pairs == len(keys.drop_duplicates())
    row = table.iloc[0]
    record = next(r for r in data.records if r.id == str(row["index"]))
    first, second = texts[row.response_1], texts[row.response_2]
    label = {(record.responses[p.i], record.responses[p.j]): p.p for p in record.pairs if p.source == str(row.source)}
    assert label[first, second] == pytest.approx(2 - float(row.preference))


@pytest.mark.slow
def test_train_pairs_of_alpaca_eval() -> None:
    """One load of the large file: README's rows, instructions and sources; identical and empty sides as counted."""
    data = load_records(str(FOLDER / "alpaca_eval_pairs.train.parquet"))
    assert data.report.rows == sum(counts[0] for counts in SOURCES.values()) == 55246
    assert {s: counts[0] for s, counts in SOURCES.items()} == data.report.sources
    assert len(data.records) == 561
    assert data.report.pairs + data.report.merged + sum(data.report.dropped.values()) == 55246


def test_pandalm() -> None:
    data = load_records(str(FOLDER / "pandalm_human3.parquet"))
    assert (data.report.formats, data.report.rows) == (("pandalm",), 643)
    table = pd.read_parquet(FOLDER / "pandalm_human3.parquet")
    empty = (table.response1.str.strip() == "") | (table.response2.str.strip() == "")
    assert data.report.dropped == {"empty response": int(empty.sum())}
    # mean over the labels kept: 1 -> 1, 2 -> 0, 0 -> 0.5, from the table itself
    codes = table.loc[~empty, ["annotator1", "annotator2", "annotator3"]].replace({2: 0.0, 0: 0.5}).astype(float)
    first = table.loc[~empty].index[0]
    record = next(r for r in data.records if table.response1[first] in r.responses)
    label = {(record.responses[p.i], record.responses[p.j]): p.p for p in record.pairs}
    assert label[table.response1[first], table.response2[first]] == pytest.approx(codes.loc[first].mean())


def test_autoj() -> None:
    path = FOLDER / "autoj_pairwise_human.parquet"
    data = load_records(str(path))
    assert (data.report.formats, data.report.rows) == (("autoj",), 916)
    table = pd.read_parquet(path)
    same = table.response1.str.strip() == table.response2.str.strip()
    assert data.report.dropped == {"identical responses": int(same.sum())}
    assert data.report.ties == int((table.label[~same] == 2).sum())


def test_llmbar() -> None:
    path = FOLDER / "llmbar_gold.parquet"
    data = load_records(str(path))
    assert (data.report.formats, data.report.rows) == (("llmbar",), 885)
    assert sum(data.report.dropped.values()) == 2  # one empty, one identical response in the file
    assert {p.source for r in data.records for p in r.pairs} == {"gold"}


def test_judgebench() -> None:
    path = FOLDER / "judgebench.parquet"
    data = load_records(str(path))
    assert (data.report.formats, data.report.rows) == (("judgebench",), 620)
    table = pd.read_parquet(path)
    kept = table[table.response_A != table.response_B]
    assert [r.id for r in data.records] == list(kept.pair_id)
    assert [r.pairs[0].p for r in data.records] == list((kept.label == "A>B").astype(float))


def test_rm_bench() -> None:
    path = FOLDER / "rmbench_chat_code.parquet"
    data = load_records(str(path))
    assert (data.report.formats, len(data.records)) == (("rm-bench",), 357)
    domains = pd.Series([r.meta["domain"] for r in data.records]).value_counts()
    assert dict(domains) == {"code": 228, "chat": 129}
    table = pd.read_parquet(path)
    for record, row in zip(data.records, table.itertuples(), strict=True):
        assert [record.responses[i] for i in record.meta["chosen"]] == list(row.chosen)
        assert [record.responses[i] for i in record.meta["rejected"]] == list(row.rejected)


def test_ultrafeedback_sample() -> None:
    path = FOLDER / "ultrafeedback_binarized_sample.parquet"
    data = load_records(str(path))
    assert (data.report.formats, data.report.rows) == (("ultrafeedback",), 1200)
    table = pd.read_parquet(path)
    assert dict(table.split.value_counts()) == {"train": 1000, "eval": 200}
    stripped = table.assign(c=table.chosen.str.strip(), r=table.rejected.str.strip())
    kept = stripped[(stripped.c != stripped.r) & (stripped.c != "") & (stripped.r != "")]
    assert data.report.pairs == len(kept)
    assert data.report.ties == int((kept.score_chosen == kept.score_rejected).sum())
    assert [r.split for r in data.records] == list(kept.split)


def test_multi_attribute_tables() -> None:
    topical = load_records(str(FOLDER / "topical_chat_multiattr.parquet"))
    assert (len(topical.records), topical.report.rated) == (60, 360)  # README: 60 contexts x 6 systems
    assert set(topical.records[0].ratings) == {
        "understandability",
        "naturalness",
        "coherence",
        "engagingness",
        "groundedness",
        "overall",
    }
    assert all(len(r.responses) == 6 for r in topical.records)
    table = pd.read_parquet(FOLDER / "topical_chat_multiattr.parquet")
    assert topical.records[0].ratings["overall"] == tuple(table.score_overall[:6])
    assert load_records(str(FOLDER / "data2text_multiattr.parquet")).report.rows == 2056


def test_prometheus_absolute_ratings() -> None:
    path = FOLDER / "prometheus_absolute_gpt4.parquet"
    data = load_records(str(path))
    assert (data.report.formats, data.report.rows, data.report.rated) == (("prometheus",), 640, 640)
    table = pd.read_parquet(path)
    means = sorted(float(np.mean(scores)) for scores in table.gpt4_score)
    assert sorted(v for r in data.records for v in r.ratings["overall"]) == pytest.approx(means)
    record, text = data.records[0], table.instruction[0]
    for part in (record.prompt.text, record.responses[0], record.meta["rubric"]):
        assert part in text
        assert "###" not in part
    assert text.index(record.prompt.text) < text.index(record.responses[0]) < text.index(record.meta["rubric"])
    assert len({r.meta["question"] for r in data.records}) == 160  # 80 of MT-Bench, 80 of Vicuna
    assert load_records(str(path), format="prometheus").report.rated == 640


def test_alpaca_eval_annotations_and_prompts() -> None:
    folder = DATA / "benchmarks" / "alpaca_eval"
    if not folder.is_dir():
        pytest.skip("the AlpacaEval files are not here")
    data = load_records(str(folder / "annotations_raw" / "claude-2.1_concise.annotations.json.gz"))
    assert data.report.rows == 805
    # win rate of generator_2 over all rows is the published one; the identical pair (a draw) was dropped
    rates = [1 - pair.p for r in data.records for pair in r.pairs] + [0.5] * data.report.dropped["identical responses"]
    published = pd.read_csv(folder / "leaderboard_full.csv")
    row = published[published.iloc[:, 0] == "claude-2.1_concise"]
    assert 100 * float(np.mean(rates)) == pytest.approx(float(row["win_rate"].iloc[0]), abs=0.05)
    prompts = load_prompts(str(folder / "instructions.parquet"))
    assert len(prompts) == 805
    assert prompts[804].id == "804"
