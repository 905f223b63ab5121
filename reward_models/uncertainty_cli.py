"""`prefeval uncertainty`: fit and keep a model's last-layer Laplace, and choose among candidates with pessimism."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval.errors import ConfigError, DataError
from prefeval.files import dumps, write_jsonl
from prefeval.types import FloatArray, PreferenceRecord
from reward_models.arguments import say

if TYPE_CHECKING:
    from reward_models.oracles import ModelOracle
    from reward_models.uncertainty import Pessimist

_RIDGES = 10.0  # steps of the grid of ridges, times the mean of the information's diagonal
_EXPONENTS = range(-5, 4)


def uncertainty(argv: Sequence[str]) -> int:
    """``prefeval uncertainty --model PATH --data SPEC [--valid SPEC] [--input ROWS --out FILE]``."""
    args = _parser().parse_args(argv)
    if bool(args.input) != bool(args.out):
        raise ConfigError("--input and --out belong together: candidates in, choices with their coverage out")
    from reward_models.oracles import ModelOracle, open_oracle

    oracle = open_oracle(f"model:{args.model}", device=args.device)
    if not isinstance(oracle, ModelOracle):
        raise ConfigError(f"model {args.model}: not a preference model")
    training, valid = _splits(args)
    result = fit_laplace(oracle, training, valid, Path(args.model), ridge=args.ridge, seed=args.seed)
    lines = [
        f"{args.model}: Laplace over {result['weights']} weights from {result['n']} pairs, ridge {result['ridge']:.3g};"
        f" open it as laplace:{args.model}",
        *_shown(result),
    ]
    if args.input:
        result["pessimistic"] = choose(oracle, training, args)
        lines.append(_coverage_line(result["pessimistic"], args.out))
    say(dumps(result) if args.json else "\n".join(lines))
    return 0


def fit_laplace(
    oracle: ModelOracle,
    training: Sequence[PreferenceRecord],
    valid: Sequence[PreferenceRecord],
    path: Path,
    *,
    ridge: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit on the training pairs, store beside the checkpoint, and measure on the validation pairs.

    Without a `ridge` it is the one, of a grid over nine powers of ten, whose posterior-averaged P has the least NLL on
    the validation pairs; their NLL is then slightly optimistic.
    """
    import numpy as np

    from reward_models.laplace import LaplaceOracle, check_size, information, save_laplace
    from reward_models.sure import sure_pairs

    check_size(oracle.model)
    matrix, count = information(oracle, training)
    chosen, nll = _least_nll(oracle, matrix, valid, ridge)
    precision = matrix + chosen * np.eye(len(matrix))
    facts = {"ridge": chosen, "n": count, "weights": len(matrix)}
    save_laplace(path, oracle.model, precision, facts)
    bounded = LaplaceOracle(oracle.model, f"laplace:{path}", precision)
    return {**facts, **nll, **sure_pairs(bounded, valid, seed=seed)}


def _least_nll(
    oracle: ModelOracle, matrix: FloatArray, valid: Sequence[PreferenceRecord], ridge: float
) -> tuple[float, dict[str, Any]]:
    """(ridge, NLL on the validation pairs with and without the posterior); one eigendecomposition for all ridges."""
    import numpy as np

    from reward_models.calibrate import nll_terms
    from reward_models.laplace import labelled

    values, vectors = np.linalg.eigh(matrix)
    rows = [(np.square(x @ vectors), s, y) for x, s, y in labelled(oracle, valid)]
    if not rows:
        raise DataError("no labelled pairs to choose the ridge and measure on")
    squares, score, label = (np.concatenate(column) for column in zip(*rows, strict=True))

    def nll(ridge: float) -> float:
        variance = squares @ (1.0 / (np.maximum(values, 0.0) + ridge))
        return float(nll_terms(score / np.sqrt(1.0 + np.pi / 8 * variance), label).mean())

    scale = float(np.trace(matrix)) / len(matrix)
    best = ridge or min((scale * _RIDGES**e for e in _EXPONENTS), key=nll)
    plain = float(nll_terms(score, label).mean())
    return best, {"n_valid": len(label), "nll_plain": plain, "nll_averaged": nll(best)}


def choose(oracle: ModelOracle, training: Sequence[PreferenceRecord], args: argparse.Namespace) -> dict[str, Any]:
    """Pessimistic maximum likelihood on hidden states: a row with choice and coverage for each prompt of --input.

    States are scaled to differences of unit mean square, so that ridge and radius mean the same for every model; a
    candidate's value is against the mean of its prompt's candidates.
    """
    import numpy as np

    from reward_models.cli import read_score_rows

    states = oracle.states([r.prompt for r in training], [r.responses for r in training])
    pairs, ties = [], 0
    for record, group in zip(training, states, strict=True):
        for p in record.pairs:
            ties += p.p == 0.5
            if p.p != 0.5:
                pairs.append(group[[p.i, p.j] if p.p > 0.5 else [p.j, p.i]])
    scale = float(np.sqrt(np.mean([np.square(a - b).mean() for a, b in pairs]))) if pairs else 1.0
    pessimist = pessimist_from([pair / scale for pair in pairs], args.radius)
    rows = list(read_score_rows(args.input))
    found = oracle.states([prompt for _, prompt, _ in rows], [group for _, _, group in rows])
    reports = [pessimist.report(group / scale, np.mean(group, axis=0) / scale) for group in found]
    write_jsonl(args.out, [{"id": row[0], **report} for row, report in zip(rows, reports, strict=True)])
    changed = sum(r["plain_choice"] != r["pessimistic_choice"] for r in reports)
    shared = {k: reports[0][k] for k in ("n", "dimension", "directions", "effective_dimension", "radius")}
    return {**shared, "ties_dropped": ties, "prompts": len(rows), "changed": changed}


def pessimist_from(pairs: Sequence[FloatArray], radius: float | None) -> Pessimist:
    """The pessimist of pairs (2, hidden) of features, better first.

    The default radius is that of the asymptotic 95% confidence ellipsoid, sqrt(chi2_d(0.95) / (n mean p (1 - p))): the
    theory's constant is not known.
    """
    import numpy as np
    from scipy.stats import chi2

    from reward_models.calibrate import expit
    from reward_models.uncertainty import pessimistic_mle

    if not pairs:
        raise DataError("no decided pairs to be pessimistic about")
    if radius is None:
        x = np.array([a - b for a, b in pairs])
        fit = pessimistic_mle(pairs, radius=0.0)
        p = expit(x @ fit.weights)
        d = int(np.linalg.matrix_rank(fit.sigma))
        radius = float(np.sqrt(chi2.ppf(0.95, d) / (len(x) * float((p * (1 - p)).mean()))))
    return pessimistic_mle(pairs, radius=radius)


def _coverage_line(report: dict[str, Any], out: str) -> str:
    return (
        f"{out}: {report['prompts']} prompts, pessimism changes the choice in {report['changed']}; {report['n']} "
        f"decided pairs ({report['ties_dropped']} ties dropped) cover {report['effective_dimension']:.1f} of "
        f"{report['dimension']} dimensions, radius {report['radius']:.3g}"
    )


def _shown(result: dict[str, Any]) -> list[str]:
    from reward_models.sure import sure_lines

    nll = f"NLL {result['nll_averaged']:.4f} averaged over the posterior, {result['nll_plain']:.4f} plain"
    return [f"{nll}, on {result['n_valid']} held-out pairs", *sure_lines(result["sure"])]


def _splits(args: argparse.Namespace) -> tuple[list[PreferenceRecord], list[PreferenceRecord]]:
    """(records to fit on, records to choose the ridge and measure on)."""
    from prefeval.data.readers import load_records
    from prefeval.data.splits import split_by_prompt

    records = [r for r in load_records(args.data, format=args.format).records if r.pairs]
    if args.valid:
        valid = [r for r in load_records(args.valid, format=args.format).records if r.pairs]
    else:
        parts = split_by_prompt(records, {"train": 0.9, "valid": 0.1}, args.seed)
        records, valid = parts["train"], parts["valid"]
    if not records or not valid:
        raise DataError("no labelled pairs", file=args.data if not records else args.valid or args.data)
    return records, valid


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefeval uncertainty",
        description="Fit a preference model's last-layer Laplace and keep it beside the model; with --input also "
        "choose among candidates by pessimistic maximum likelihood.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="directory of a trained preference model")
    parser.add_argument("--data", required=True, help="the pairs it was trained on")
    parser.add_argument("--valid", default=None, help="held-out pairs; a tenth of the prompts of --data if not given")
    parser.add_argument("--format", default=None, help="format of the data where the columns do not tell it")
    parser.add_argument("--ridge", type=float, default=0.0, help="prior precision of the weights; 0: chosen on --valid")
    parser.add_argument("--input", default=None, help="candidates: rows as prefeval score takes them")
    parser.add_argument("--out", default=None, help="JSONL: a row with choice and coverage for each row of --input")
    parser.add_argument(
        "--radius", type=float, default=None, help="of the confidence set; its asymptotic 95%% by default"
    )
    parser.add_argument("--device", default=None, help="where the model runs; the accelerator if there is one")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the bootstrap")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    return parser
