"""The baseline that a text model must beat: a logistic model on surface features of the two responses."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from prefeval.errors import DataError
from prefeval.oracle import Group, MatrixOracle, sigmoid_matrix
from prefeval.types import FloatArray, PreferenceRecord, Prompt

FEATURES = (
    "characters", "log_characters", "words", "word_length", "sentences", "lines", "list_items", "bold", "headings",
    "code_blocks", "digits", "questions", "overlap_with_prompt", "ends_complete",
)  # fmt: skip
_WORD = re.compile(r"\w+")
_LIST = re.compile(r"^\s*(?:[-*+•]|\d+[.)])\s", re.MULTILINE)
_BOLD, _HEADING = re.compile(r"\*\*[^*\n]+\*\*"), re.compile(r"^#{1,6}\s", re.MULTILINE)


def surface_features(prompt: str, response: str) -> FloatArray:
    """The numbers named in FEATURES: (14,). Nothing here reads what the text says."""
    words = _WORD.findall(response.lower())
    asked = set(_WORD.findall(prompt.lower()))
    values = (
        len(response), np.log1p(len(response)), len(words), sum(map(len, words)) / max(len(words), 1),
        len(re.findall(r"[.!?](?:\s|$)", response)), response.count("\n") + 1, len(_LIST.findall(response)),
        len(_BOLD.findall(response)), len(_HEADING.findall(response)), response.count("```") // 2,
        sum(c.isdigit() for c in response), response.count("?"),
        sum(w in asked for w in words) / max(len(words), 1),
        float(response.rstrip().endswith((".", "!", "?", "```", '"', ")"))),
    )  # fmt: skip
    return np.array(values, dtype=np.float64)


class SurfaceOracle(MatrixOracle):
    """Log-odds = weights @ (features_i - features_j): a Bradley-Terry model on surface features."""

    name = "surface"
    per_response = True  # one reading of a response serves all its pairs

    def __init__(self, weights: FloatArray) -> None:
        self.weights = weights

    def scores(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        out = []
        for prompt, group in zip(prompts, groups, strict=True):
            r = np.array([surface_features(prompt.text, text) @ self.weights for text in group])
            out.append(r[:, None] - r[None, :])
        return out

    def matrix(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[FloatArray]:
        return [sigmoid_matrix(s) for s in self.scores(prompts, groups)]


def fit_surface(records: Sequence[PreferenceRecord], *, strength: float = 1.0) -> SurfaceOracle:
    """Logistic regression without intercept on feature differences of the labelled pairs, scaled by their deviation.

    Soft labels count as both outcomes with weights p and 1 - p. `strength` is scikit-learn's C. Raises DataError when
    there is no labelled pair.
    """
    from sklearn.linear_model import LogisticRegression

    rows, labels = [], []
    for record in records:
        features = [surface_features(record.prompt.text, text) for text in record.responses]
        for pair in record.pairs:
            rows.append(features[pair.i] - features[pair.j])
            labels.append(pair.p)
    if not rows:
        raise DataError("no labelled pairs to fit the surface baseline on")
    x, p = np.array(rows), np.array(labels)
    scale = np.sqrt((x**2).mean(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=2000)
    outcome = np.concatenate([np.ones(len(x)), np.zeros(len(x))])
    model.fit(np.concatenate([x, x]) / scale, outcome, np.concatenate([p, 1.0 - p]))
    return SurfaceOracle(np.asarray(model.coef_[0] / scale, dtype=np.float64))
