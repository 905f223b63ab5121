"""What `prefeval evaluate` prints: what a person looks for in metrics.json, with intervals and n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = ("accuracy", "brier", "ece", "nll", "tau", "length_only_accuracy", "difference_to_longer", "accuracy_longer",
          "accuracy_shorter", "accuracy_length_matched", "length_correlation", "length_slope", "cycle_rate",
          "curl_ratio", "curl_ratio_floor", "effective_rank", "first_pair")  # fmt: skip
Metrics = Mapping[str, Any]


def table(metrics: Metrics) -> str:
    """The main numbers, one a line, with their intervals; then rivals, subsets and strength of the label."""
    lines = [
        f"n = {metrics['n']} decided pairs of {metrics['n_prompts']} prompts, {metrics['n_dropped']} dropped, "
        f"{metrics['n_ties']} ties left out"
    ]
    lines += [f"{name:<22}{' ' if len(name) > 21 else ''}{_value(metrics, name)}" for name in _SHOWN]
    lines += [
        f"{'':<22}length-matched: n = {metrics['n_length_matched']}; cycles: {metrics['n_cycle_records']} records"
    ]
    lines += _labels(metrics["labels"]) + _position(metrics.get("position")) + _calibration(metrics)
    if metrics.get("sure"):
        from reward_models.sure import sure_lines

        lines += sure_lines(metrics["sure"])
    if metrics.get("encoding"):
        lines.append("encoding: " + ", ".join(f"{k} {v}" for k, v in metrics["encoding"].items() if v is not None))
    rivals, subsets = _rivals(metrics["rivals"]), _subsets(metrics["subsets"], metrics["rivals"])
    return "\n".join([*lines, *rivals, *subsets, *_strengths(metrics["by_strength"])])


def _rivals(rows: Sequence[Metrics]) -> list[str]:
    head = ("beside", "its accuracy", "n", "length-matched", "NLL", "oracle minus it", "p")
    body = [
        (
            row["rival"], _value(row, "accuracy"), str(row["n"]), _value(row, "accuracy_length_matched"),
            _value(row, "nll"), _value(row, "difference", "+.3f"), _value(row, "difference_p"),
        )
        for row in rows
    ]  # fmt: skip
    return ["", *_aligned([head, *body])]


def _subsets(rows: Sequence[Metrics], rivals: Sequence[Metrics]) -> list[str]:
    names = [row["rival"] for row in rivals]
    head = ("subset", "n (dropped)", "accuracy", "length-matched", "n", "NLL", "ECE", *(f"minus {n}" for n in names))
    body = [
        (
            row["subset"], f"{row['n']} ({row['n_dropped']})", _value(row, "accuracy"),
            _value(row, "accuracy_length_matched"), str(row["n_length_matched"]), _value(row, "nll"),
            _value(row, "ece"), *(_value(row, f"difference_to_{name}", "+.3f") for name in names),
        )
        for row in rows
    ]  # fmt: skip
    return ["", *_aligned([head, *body])] if len(rows) > 1 else []


def _strengths(rows: Sequence[Metrics]) -> list[str]:
    head = ("strength of label", "accuracy", "n")
    body = [(f"{row['from']:.6g} to {row['to']:.6g}", _value(row, "accuracy"), str(row["n"])) for row in rows]
    return ["", *_aligned([head, *body])] if len(rows) > 1 else []


def _labels(labels: Metrics) -> list[str]:
    if not labels["n_records"]:
        return []
    rate, curl, floor, above = (labels[k] for k in ("cycle_rate", "curl_ratio", "curl_ratio_floor", "share_above"))
    return [
        f"labels: cycle rate {rate:.3f}, curl {curl:.3f} (noise floor {floor:.3f}), {above:.3f} of "
        f"{labels['n_records']} records above their own floor (0.05 by chance)"
    ]


def _position(position: Metrics | None) -> list[str]:
    if not position:
        return []
    return [
        f"{'first shown wins':<22}{_value(position, 'first_of_decided')}  of {position['decided']} decided verdicts; "
        f"{position['flipped']} of {position['pairs']} pairs flipped, {position['failed']} failed"
    ]


def _calibration(metrics: Metrics) -> list[str]:
    found = metrics.get("calibration")
    if not found:
        return []
    kept = ", kept with the model" if found["stored"] else ""
    return [f"calibrated on {found['n']} pairs of {found['data']}: temperature {found['tau']:.4g}{kept}"]


def _value(row: Metrics, name: str, form: str = ".3f") -> str:
    """'0.812 [0.790, 0.833]'; '-' where there is no number."""
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    interval = "" if low is None or high is None else f"  [{low:{form}}, {high:{form}}]"
    return "-" if value is None else f"{value:{form}}{interval}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
