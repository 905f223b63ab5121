"""The table of formats, and `load_records`: from a spec to canonical records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prefeval.data import groups, judged, pairs, ratings, votes
from prefeval.data.records import Collector, Dataset
from prefeval.data.tables import Row, missing_column, read_tables
from prefeval.errors import ConfigError, nearest
from prefeval.log import logger


def _always(row: Row) -> bool:
    return True


@dataclass(frozen=True)
class Format:
    """How a layout is recognised and read.

    `columns` must all be present ('a|b' is either); `fits` decides further from the first row. `drop_empty` and
    `one_per_row` are those of `Collector`. A format with `sniffed` False is used only when it is named.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[Row], Collector], None]
    fits: Callable[[Row], bool] = _always
    drop_empty: bool = True
    one_per_row: bool = False
    sniffed: bool = True


# The most specific first: the first that fits is taken.
FORMATS: tuple[Format, ...] = (
    Format("groups", ("prompt", "responses"), groups.read_groups, groups.is_groups, False, True),
    Format("rm-bench", ("prompt", "chosen", "rejected"), pairs.read_best_of, pairs.is_best_of, True, True),
    Format(
        "rewardbench",
        ("prompt", "chosen", "rejected", "chosen_model", "rejected_model", "subset"),
        pairs.read_explicit,
        one_per_row=True,
    ),
    Format(
        "ultrafeedback",
        ("prompt", "chosen", "rejected", "score_chosen|chosen-rating", "score_rejected|rejected-rating"),
        pairs.read_explicit,
    ),
    Format("hh", ("chosen", "rejected"), pairs.read_hh, pairs.is_hh),
    Format("trl", ("prompt|instruction|conversations", "chosen", "rejected"), pairs.read_explicit, drop_empty=False),
    Format("trl-implicit", ("chosen", "rejected"), pairs.read_implicit, pairs.is_implicit, False),
    Format("helpsteer2", ("prompt", "response", *ratings.HELPSTEER), ratings.read_helpsteer),
    Format(
        "helpsteer2-preference",
        ("prompt|context", "response_1|response1", "response_2|response2", "preference_strength|overall_preference"),
        ratings.read_strength,
    ),
    Format("ultrafeedback-raw", ("instruction", "completions"), ratings.read_ultrafeedback_raw),
    Format("multi-attribute", ("source", "system_output"), ratings.read_multi_attribute, ratings.has_scores),
    Format("prometheus", ("instruction", "gpt4_score"), ratings.read_prometheus, ratings.is_prometheus),
    Format("alpaca-eval", ("instruction", "output_1", "output_2", "preference"), judged.read_alpaca_eval),
    Format(
        "alpaca-eval-pairs",
        ("index", "source", "response_1", "response_2", "preference"),
        judged.read_alpaca_eval_pairs,
    ),
    Format(
        "pandalm",
        ("instruction", "response1", "response2", "annotator1", "annotator2", "annotator3"),
        judged.read_pandalm,
    ),
    Format("autoj", ("scenario", "prompt", "response1", "response2", "label"), judged.read_autoj),
    Format("llmbar", ("input", "output_1", "output_2", "label"), judged.read_llmbar),
    Format("judgebench", ("question", "response_A", "response_B", "label"), judged.read_judgebench, one_per_row=True),
    Format("shp", ("history", "human_ref_A", "human_ref_B", "labels"), votes.read_shp),
    Format("arena", ("conversation_a", "conversation_b", "winner"), votes.read_arena),
    Format(
        "arena-55k",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
        votes.read_arena_55k,
    ),
    Format("pku-better", ("prompt", "response_0", "response_1", "better_response_id"), votes.read_pku_better),
    Format(
        "pku-safer", ("prompt", "response_0", "response_1", "safer_response_id"), votes.read_pku_safer, sniffed=False
    ),
    Format("nectar", ("prompt", "answers"), votes.read_nectar),
    Format("nemo", ("context", "completions"), votes.read_nemo),
    Format("kto", ("prompt", "completion", "label"), votes.read_kto, votes.is_kto, False),
    Format(
        "labelled",
        ("instruction|prompt|question", judged.FIRST, judged.SECOND, "label|winner"),
        judged.read_labelled,
        drop_empty=False,
    ),
    Format(
        "ratings",
        ("prompt|instruction|question", "response|output|completion"),
        ratings.read_ratings,
        ratings.has_ratings,
        False,
    ),
)

_TOKENISED = ("chosen_ids", "rejected_ids", "chosen_input_ids", "rejected_input_ids")  # TRL's pre-tokenised columns


def load_records(spec: str, *, format: str | None = None, columns: Mapping[str, str] | None = None) -> Dataset:
    """Preference records from a file, a directory or a hub id `ID[@REV][:CONFIG][:SPLIT]`.

    `format` names the layout where the columns do not tell it (each file is recognised by its first row); `columns`
    maps a wanted column name to the one in the data. Raises DataError for unreadable or unusable data, naming file,
    row and field, and ConfigError for an unknown format.
    """
    if format is not None:
        find_format(format)
    out = Collector(str(spec))
    for rows in read_tables(str(spec), columns):
        chosen = sniff(rows[0]) if format is None else find_format(format)
        _require(chosen, rows[0])
        out.begin(chosen.name, len(rows), drop_empty=chosen.drop_empty, one_per_row=chosen.one_per_row)
        chosen.read(rows, out)
    dataset = out.finish()
    logger.info("%s", dataset.report)
    return dataset


def find_format(name: str) -> Format:
    known = {f.name: f for f in FORMATS}
    if name not in known:
        raise ConfigError(f"unknown format '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    return known[name]


def sniff(row: Row) -> Format:
    """The first format whose columns are all there; otherwise the DataError tells what the nearest one misses."""
    for candidate in FORMATS:
        if candidate.sniffed and not _missing(candidate, row) and candidate.fits(row):
            return candidate
    tokens = next((name for name in _TOKENISED if name in row.values), None)
    if tokens is not None:
        why = "holds token ids: their text depends on a tokenizer that the file does not name; give the text columns"
        raise row.fail(why, tokens)
    options = [f for f in FORMATS if f.sniffed and _missing(f, row)]
    best = min(options, key=lambda f: (len(_missing(f, row)) - _present(f, row), -_close(f, row), f.drop_empty))
    why = f"no known format has these columns; the nearest, '{best.name}', needs more: "
    tip = " (--columns wanted=present renames columns, --format names a format)"
    raise missing_column(row.file, _missing(best, row)[0], row.values, why=why, tip=tip)


def _require(chosen: Format, row: Row) -> None:
    for wanted in _missing(chosen, row):
        raise missing_column(row.file, wanted, row.values, why=f"format '{chosen.name}': ")


def _missing(candidate: Format, row: Row) -> list[str]:
    return [name for name in candidate.columns if row.find(name) is None]


def _present(candidate: Format, row: Row) -> int:
    return len(candidate.columns) - len(_missing(candidate, row))


def _close(candidate: Format, row: Row) -> int:
    """How many missing columns have a similar name among those present."""
    return sum(any(nearest(o, row.values) for o in name.split("|")) for name in _missing(candidate, row))
