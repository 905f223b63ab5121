"""Score against length: scipy's correlation, ties and missing values, and the drawn scatter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from leaderboard.report_length import length_figure, rank_correlation


def test_correlation_is_scipys_and_drops_what_is_missing() -> None:
    rng = np.random.default_rng(3)
    x = np.round(rng.normal(size=40), 1)
    y = x + rng.normal(size=40)
    found = rank_correlation(np.append(x, [1.0, math.nan]), np.append(y, [math.nan, 2.0]))
    assert found.point == pytest.approx(spearmanr(x, y).statistic)
    assert found.low < found.point < found.high
    assert (found.n, found.n_failed) == (40, 2)
    assert math.isnan(rank_correlation(np.ones(5), np.arange(5.0)).point)
    assert math.isnan(rank_correlation(np.arange(2.0), np.arange(2.0)).point)


def test_scatter_has_a_mark_and_a_whisker_a_model_and_escapes_names() -> None:
    rows = [{"name": f"<m{i}>", "avg_length": 100.0 * i, "score": 9.0 - i, "score_low": 8.0 - i, "score_high": 10.0 - i}
            for i in range(5)]  # fmt: skip
    figure = length_figure([*rows, {"name": "none", "avg_length": None, "score": 3.0}], "two", "tokens")
    assert figure is not None
    assert (figure.plots[0].count('class="pt"'), figure.plots[0].count('class="whisk"')) == (5, 5)
    assert "&lt;m1&gt;" in figure.plots[0]
    assert "<m1>" not in figure.plots[0]
    assert "−1.00 [−1.00, −1.00], n = 5 models, 1 dropped" in figure.caption
    assert length_figure(rows[:2], "two", "tokens") is None
