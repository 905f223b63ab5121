"""`python -m alignment.methods_page`: write the table of methods, prefeval/docs/methods.md, from the registry."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import prefeval
from alignment.algorithm import AlgorithmInfo, algorithm_class, list_algorithms
from alignment.aliases import ALIASES
from prefeval.config import builtin_recipes, read_recipe
from prefeval.files import write_text

PAGE = Path(prefeval.__file__).parent / "docs" / "methods.md"
_GAMES = {"regularised": "of the regularised game", "plain": "of the plain game"}

_HEAD = """# Methods

Written by `python -m alignment.methods_page` from the registry; a test holds this page to it. `prefeval game --list`
prints the same rows.

- **Equilibrium**: which one the method aims at. The plain game is P itself; in the regularised game either side pays
  tau KL(policy, reference).
- **Minimiser**: yes, if the loss on sampled replies (all pairs, default options) has the method's exact update as its
  minimiser: tests/alignment/test_algorithms.py. Where not, test_algorithm_losses.py tests signs and fixed points.
- **Recipe**: the name that `prefeval align` takes; the file is alignment/recipes/NAME.yaml.
"""


def page() -> str:
    """The whole page, as it must be committed."""
    rows = list_algorithms()
    methods = [r for r in rows if not r.alias_of]
    aliases = [r for r in rows if r.alias_of]
    recipes = _recipes()
    head = ("name", "what it is", "arXiv", "equilibrium", "minimiser", "recipe")
    own = [
        (r.name, about(r.name), _papers(r), _game(r), "yes" if r.has_minimiser else "no", recipes.get(r.name, "-"))
        for r in methods
    ]
    named = ("name", "stands for", "arXiv", "equilibrium", "minimiser", "recipe")
    other = [
        (r.name, _options(r), _papers(r), _game(r), "yes" if r.has_minimiser else "no", recipes.get(r.name, "-"))
        for r in aliases
    ]
    parts = [_HEAD, f"## {len(own)} methods\n", _table(head, own), f"\n## {len(other)} aliases\n", _table(named, other)]
    return "\n".join(parts)


def about(name: str) -> str:
    """The first sentence of the file that a method is in, without its name and arXiv id in front."""
    module = importlib.import_module(algorithm_class(name).__module__)
    first = (module.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    return re.sub(r"\s+", " ", first).rstrip(".").replace("|", "\\|")


def _recipes() -> dict[str, str]:
    """Algorithm -> its recipes."""
    found: dict[str, list[str]] = {}
    for name, path in builtin_recipes().items():
        if path.parent.parent.name == "alignment":
            found.setdefault(str(read_recipe(path).get("algorithm", "")), []).append(f"`{name}`")
    return {algorithm: ", ".join(sorted(names)) for algorithm, names in found.items()}


def _papers(row: AlgorithmInfo) -> str:
    return re.sub(r"\d{4}\.\d{5}", lambda m: f"[{m.group()}](https://arxiv.org/abs/{m.group()})", row.arxiv) or "-"


def _game(row: AlgorithmInfo) -> str:
    return _GAMES.get(row.game, row.game)


def _options(row: AlgorithmInfo) -> str:
    options = ", ".join(f"{k} {v}" for k, v in ALIASES[row.name].options.items())
    return f"`{row.alias_of}` with {options}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    body = [(f"`{first}`", *rest) for first, *rest in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *body)) + "\n"


def main() -> int:
    write_text(PAGE, page())
    sys.stdout.write(f"{PAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
