"""Mean and standard error against numpy and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import sem

from leaderboard.errors import RecordError
from leaderboard.statistics import Summary, summarize


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_against_scipy(n: int) -> None:
    values = np.random.Generator(np.random.PCG64(n)).random(n).tolist()
    summary = summarize(values)
    assert summary.mean == pytest.approx(float(np.mean(values)), rel=1e-13)
    assert summary.standard_error == pytest.approx(float(sem(values, ddof=1)), rel=1e-12)
    assert summary.n == n


def test_by_hand() -> None:
    summary = summarize([1.0, 3.0])
    assert (summary.mean, summary.standard_error, summary.n) == (2.0, 1.0, 2)


def test_one_trial_has_no_standard_error() -> None:
    assert summarize([0.5]) == Summary(mean=0.5, standard_error=None, n=1, interval=None)


def test_order_changes_nothing() -> None:
    values = [0.1, 0.2, 0.3, 1e10]
    assert len({summarize(order) for order in itertools.permutations(values)}) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "no values to summarize"), ([0.5, math.nan], "not all finite"), ([math.inf], "finite")],
)
def test_refused_values(values: list[float], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        summarize(values)
