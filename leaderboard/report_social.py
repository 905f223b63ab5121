"""The report's part on a board's models among themselves: win rates, cycles, and the order by each rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaderboard.report_matrix import matrix_plot
from leaderboard.report_text import Block, Cell, Column, Figure, Grid, Section, clean, plain

_DRAWN, _LISTED = 20, 5  # models, and disagreements, at most
_RULES: Mapping[str, tuple[str, str]] = {
    "score": ("score", "the board's own"),
    "bradley_terry": ("Bradley-Terry", "fitted to the wins"),
    "borda": ("Borda", "mean win rate"),
    "copeland": ("Copeland", "models beaten by majority"),
    "lottery_margin": ("maximal lottery", "margin against it"),
    "nash_skill": ("Nash averaging", "skill in log-odds"),
}


def social_section(id_: str, value: Any) -> Section | None:
    """`value` is the `social` entry of leaderboard.json; None without one."""
    if not isinstance(value, dict) or not isinstance(value.get("names"), list) or len(value["names"]) < 3:
        return None
    names = [clean(n) for n in value["names"]]
    blocks: list[Block] = [_majority(value), _curl(value)]
    matrix = [row[:_DRAWN] for row in value["win_rates"][:_DRAWN]]
    drawn = matrix_plot(names[:_DRAWN], matrix, "Win rates between the models")
    if drawn is not None:
        counts = [c for i, row in enumerate(value["shared"]) for c in row[:i]]
        note = "Share of common questions on which the row's model does better than the column's, ties half; "
        least, most = min(counts), max(counts)
        asked = f"{least}" if least == most else f"{least} to {most}"
        note += f"{asked} common questions a pair, without intervals."
        note += f" The first {_DRAWN} of {len(names)} models." if len(names) > _DRAWN else ""
        blocks.append(Figure((drawn,), note, layout="natural"))
    blocks.append(_orders(names, value))
    return Section(id_, "Between the models", tuple(blocks))


def _majority(value: Mapping[str, Any]) -> str:
    winner = value.get("condorcet")
    told = f"{clean(winner)} beats every other model by majority (Condorcet winner)." if winner else ""
    told = told or "No model beats every other by majority: there is no Condorcet winner."
    cycles = [
        f"{' > '.join(clean(m) for m in [*c['models'], c['models'][0]])} (weakest win {100 * c['strength']:.1f}%)"
        for c in value.get("cycles") or []
    ]
    return f"{told} Strongest circles of three: {'; '.join(cycles)}." if cycles else f"{told} No circle of three."


def _curl(value: Mapping[str, Any]) -> str:
    found = value["curl"]
    if found["ratio"] is None or found["noise_floor"] is None:
        return "The cyclic share of the log-odds (curl ratio) cannot be estimated here."
    above = found["ratio"] > found["noise_floor"]
    verdict = "more cyclic than noise alone" if above else "compatible with an order plus noise"
    return (
        f"Cyclic share of the log-odds (curl ratio) {found['ratio']:.3f}; Bradley-Terry with binomial noise stays "
        f"below {found['noise_floor']:.3f} in 95% of 200 draws (p = {found['p']:.3f}): {verdict}."
    )


def _orders(names: list[str], value: Mapping[str, Any]) -> Grid:
    rules = [r for r in _RULES if r in value["orders"]]
    lottery = value.get("lottery")
    columns = [Column("Model"), *(Column(*_RULES[r], group="place by rule") for r in rules)]
    columns += [Column("weight", "in the maximal lottery")] if lottery else []
    rows = tuple(
        (
            Cell(name),
            *(plain(value["orders"][r]["places"][i], "count") for r in rules),
            *([plain(lottery[i], "percent")] if lottery else []),
        )
        for i, name in enumerate(names)
    )
    return Grid("Who is best by which rule", tuple(columns), rows, tuple(_notes(names, value, bool(lottery))))


def _notes(names: list[str], value: Mapping[str, Any], complete: bool) -> list[str]:
    pairs = value.get("disagreements") or []
    total = len(names) * (len(names) - 1) // 2
    notes = [f"The order does not depend on the rule for {total - len(pairs)} of {total} pairs of models."]
    if pairs:
        first = [f"{clean(a)} before {clean(b)} by {_said(up)}, after by {_said(down)}"
                 for a, b, up, down in pairs[:_LISTED]]  # fmt: skip
        notes.append(f"It depends on it for {len(pairs)}: {'; '.join(first)}{' …' if len(pairs) > _LISTED else ''}.")
    notes.append("Places are those of the estimates; models whose intervals overlap may change them.")
    if not complete:
        notes.append("Some models share no question: the rules that need every pair are left out.")
    if value.get("left_out"):
        notes.append(f"{value['left_out']} models are left out: without a score, or below the best {len(names)}.")
    return notes


def _said(rules: str) -> str:
    return ", ".join(_RULES[r][0] if r in _RULES else clean(r) for r in rules.split(", "))
