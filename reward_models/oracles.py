"""`open_oracle`: the only parser of oracle specs, and the oracle that a preference model is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefeval.errors import ConfigError, nearest
from prefeval.oracle import Ensemble, Group, MatrixOracle, Oracle, PairwiseRule, sigmoid_matrix
from prefeval.plugins import load_object, told
from prefeval.types import FloatArray, Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from prefeval.store import Store
    from reward_models.modeling import PreferenceModel

_BUDGET = 16384  # padded tokens of a scoring batch


class ModelOracle(MatrixOracle):
    """A preference model as an oracle: each distinct (prompt, response) is encoded once, K forwards for K^2 entries.

    Answers do not depend on what else is asked in the same call (to 1e-5 in float32).
    """

    per_response = True  # one reading of a response serves all its pairs

    def __init__(
        self,
        model: PreferenceModel,
        name: str,
        *,
        budget: int = _BUDGET,
        features: Mapping[tuple[int, ...], Tensor] | None = None,
    ) -> None:
        """`features` are hidden states (hidden,) known beforehand, by token ids; the backbone runs for the others."""
        self.model, self.name, self.budget = model.eval(), name, budget
        self._features = features or {}
        self._states: tuple[Path, bool] | None = None

    def keep_states(self, folder: Path, *, half: bool) -> None:
        """Read hidden states of a causal backbone from `folder` and keep new ones there; see `features`."""
        self._states = (folder, half)

    def _known(self, groups: Sequence[Sequence[tuple[int, ...]]]) -> Mapping[tuple[int, ...], Tensor]:
        """Hidden states that need not be computed, by token ids."""
        if self._states is None:
            return self._features
        from reward_models.features import pooled_states

        folder, half = self._states
        return pooled_states(self.model, [ids for group in groups for ids in group], folder, half=half)

    def scores(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        from reward_models.heads import score_matrix

        head = self.model.head
        return [score_matrix(rows, head).numpy() for rows in self.outputs(prompts, groups)]

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        return [sigmoid_matrix(s) for s in self.scores(prompts, groups)]

    def outputs(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[Any]:
        """Head outputs of each group's k responses: (k, width) float64 tensors on the CPU."""
        encoded = [self.model.group(p, list(g)) for p, g in zip(prompts, groups, strict=True)]
        title = f"scoring with {self.name}"
        rows = self.model.read(encoded, budget=self.budget, known=self._known(encoded), title=title)
        return [self._own(group) for group in rows]

    def outputs_and_states(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[tuple[Any, Any]]:
        """(head outputs (k, columns), pooled states (k, hidden)) of each group, of a causal backbone, in one pass."""
        import torch

        encoded = [self.model.group(p, list(g)) for p, g in zip(prompts, groups, strict=True)]
        rows = self._read_states(encoded)
        with torch.inference_mode():
            outputs = [self._own(self.model.head_outputs(group)) for group in rows]
        return [(own, group[: len(own)].double().cpu()) for own, group in zip(outputs, rows, strict=True)]

    def _read_states(self, encoded: Sequence[Sequence[tuple[int, ...]]]) -> list[Tensor]:
        known = self._known(encoded)
        return self.model.read(encoded, "features", budget=self.budget, known=known, title="hidden states")

    def _own(self, rows: Tensor) -> Tensor:
        """The responses' rows, each with the prompt columns of the prompt's row behind them, where there is one."""
        from reward_models.heads import share_prompt

        head = self.model.head
        if head.prompt_columns():
            rows = share_prompt(rows, [len(rows)], head)[:-1]
        return rows.double().cpu()

    def states(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        """Pooled hidden states of each group's k responses, of a causal backbone: (k, hidden) float64 arrays."""
        encoded = [self.model.encode(p, list(g)) for p, g in zip(prompts, groups, strict=True)]
        rows = self._read_states(encoded)
        return [group.double().cpu().numpy() for group in rows]


def open_oracle(spec: str, *, device: str | None = None, store: Store | None = None, fast: bool = False) -> Oracle:
    """The oracle that a spec names.

    | spec                      | oracle                                                                      |
    |---------------------------|-----------------------------------------------------------------------------|
    | model:PATH                | a trained preference model                                                  |
    | laplace:PATH              | the same with the Laplace approximation that is stored there: `lower()` too |
    | hf:ID[@REV] or hf:PATH    | a published scalar reward model (sequence classification)                   |
    | pair:PATH or pair:ID      | a pair model: PairRM-style cross encoder, or a causal model that answers A or B  |
    | pair:PATH#justify         | a causal model that writes a comparison, then its verdict                   |
    | judge:MODEL[@BASE_URL]    | an LLM judge behind an OpenAI-compatible server, both orders averaged       |
    | judge:alpaca_eval:NAME[@BASE_URL] | the same, asked as an annotator config of alpaca_eval says          |
    | rules:NAME                | a documented rule                                                           |
    | check:exact, :number, :regex | right or wrong by the prompt's reference answer, see `prefeval.checks`    |
    | py:module:object          | an Oracle, or a function (prompt text, a, b) -> P(a beats b); runs its code |
    | ensemble:SPEC+SPEC        | the mean of the members' P, and `lower()` by their spread                   |

    Models go to `device` (default: the accelerator, if any); verdicts of judges are kept in `store`. `fast` also runs
    backbones on a CPU in bf16 where it multiplies that in hardware: several times quicker, scores rounded to about two
    decimals. Raises ConfigError for an unknown kind, with the nearest name, and for whatever cannot be opened.
    """
    kind, colon, rest = spec.partition(":")
    if kind not in _KINDS:
        hint = nearest(kind, _KINDS) or f"; known: {', '.join(_KINDS)}"
        raise ConfigError(f"oracle '{spec}': unknown kind '{kind}'{hint}")
    if not colon or not rest:
        raise ConfigError(f"oracle '{spec}': nothing after '{kind}:'")
    oracle = _KINDS[kind](rest, device, store)
    if fast:
        _quicken(oracle)
    return oracle


def _open_model(path: str, device: str | None, store: Store | None) -> Oracle:
    from reward_models.modeling import PreferenceModel

    return ModelOracle(_placed(PreferenceModel.from_pretrained(path), device), f"model:{path}")


def _open_laplace(path: str, device: str | None, store: Store | None) -> Oracle:
    from reward_models.laplace import LaplaceOracle
    from reward_models.modeling import PreferenceModel

    return LaplaceOracle.from_pretrained(
        _placed(PreferenceModel.from_pretrained(path), device), path, f"laplace:{path}"
    )


def _open_stock(spec: str, device: str | None, store: Store | None) -> Oracle:
    from reward_models.loading import is_saved
    from reward_models.modeling import PreferenceModel

    if is_saved(Path(spec)):  # one of ours: its head is more than the stock class knows
        return ModelOracle(_placed(PreferenceModel.from_pretrained(spec), device), f"hf:{spec}")
    return ModelOracle(_placed(PreferenceModel.from_stock(spec), device), f"hf:{spec}")


def _open_pair(spec: str, device: str | None, store: Store | None) -> Oracle:
    from prefeval.models import default_device
    from reward_models.generative_pairs import open_pair

    return open_pair(spec, device or default_device())


def _open_judge(spec: str, device: str | None, store: Store | None) -> Oracle:
    from prefeval.judges.as_oracle import JudgeOracle
    from prefeval.judges.specs import open_chat_judge

    return JudgeOracle(open_chat_judge(spec, store))


def _open_rule(name: str, device: str | None, store: Store | None) -> Oracle:
    from prefeval.rules import open_rule

    return open_rule(name)


def _open_check(name: str, device: str | None, store: Store | None) -> Oracle:
    from prefeval.checks import open_check

    return open_check(name)


def _open_python(target: str, device: str | None, store: Store | None) -> Oracle:
    found = load_object(f"py:{target}", "oracle")
    if isinstance(found, Oracle) and not isinstance(found, type):
        return found
    if not callable(found) or isinstance(found, type):
        raise ConfigError(f"oracle 'py:{target}': neither an Oracle nor a function of (prompt, a, b)")
    return PairwiseRule(f"py:{target}", _checked_rule(target, found))


def _checked_rule(target: str, rule: Callable[[str, str, str], Any]) -> Callable[[Prompt, str, str], float]:
    """The function on texts as a rule; an answer outside [0, 1] is an error, None or NaN a missing answer."""

    def ask(prompt: Prompt, first: str, second: str) -> float:
        try:
            answer = rule(prompt.text, first, second)
        except Exception as error:
            raise ConfigError(f"oracle 'py:{target}' raised {told(error)}") from error
        try:
            p = float("nan") if answer is None else float(answer)
        except (TypeError, ValueError):
            p = -1.0
        if p < 0.0 or p > 1.0 or np.isinf(p):
            raise ConfigError(f"oracle 'py:{target}' answered {answer!r}, which is not a probability")
        return p

    return ask


def _open_ensemble(specs: str, device: str | None, store: Store | None) -> Oracle:
    # A plus sign splits only in front of another kind, so that paths and URLs may contain it.
    parts = re.split(rf"\+(?=(?:{'|'.join(_KINDS)}):)", specs)
    return Ensemble([open_oracle(part, device=device, store=store) for part in parts])


def _quicken(oracle: Oracle) -> None:
    """Backbones in the precision that their device multiplies fastest; heads stay in float32."""
    from prefeval.models import fast_dtype

    if isinstance(oracle, Ensemble):
        for member in oracle.members:
            _quicken(member)
    elif isinstance(oracle, ModelOracle):
        oracle.model.set_backbone_dtype(fast_dtype(str(oracle.model.device)))


def _placed(model: PreferenceModel, device: str | None) -> PreferenceModel:
    """The model on its device, its backbone in the fast precision of an accelerator; the head stays in float32."""
    from prefeval.models import default_device, fast_dtype

    place = device or default_device()
    model = model.to(place)
    if not place.startswith("cpu"):
        model.set_backbone_dtype(fast_dtype(place))
    return model


_KINDS: dict[str, Callable[[str, str | None, Any], Oracle]] = {
    "model": _open_model,
    "laplace": _open_laplace,
    "hf": _open_stock,
    "pair": _open_pair,
    "judge": _open_judge,
    "rules": _open_rule,
    "check": _open_check,
    "py": _open_python,
    "ensemble": _open_ensemble,
}
