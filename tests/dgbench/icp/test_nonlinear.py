from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import stats

from dgbench.errors import UsageError
from dgbench.icp import ResidualDistribution, icp
from dgbench.icp.invariance import rank_sums
from dgbench.icp.nonlinear import _levene
from tests.dgbench.icp.tables import Table, environments


def squares(seed: int = 3, rows: int = 200) -> Table:
    """Y = X1^2 + noise, X2 follows Y; both are shifted."""
    random = np.random.default_rng(seed)
    e = environments(3, rows)
    cause = random.normal(size=len(e)) + np.array([0, 1, 2])[e]
    target = cause**2 + random.normal(size=len(e))
    effect = target + random.normal(size=len(e)) + np.array([0, 2, -2])[e]
    return Table(np.column_stack([cause, effect]), target, e)


class Squares:
    """The right regressor, if it is given the cause alone."""

    def fit(self, inputs, target):
        design = self.design(inputs)
        self.weights = np.linalg.lstsq(design, target, rcond=None)[0]

    def predict(self, inputs):
        return self.design(inputs) @ self.weights

    @staticmethod
    def design(inputs):
        return np.column_stack([np.ones(len(inputs)), inputs, inputs**2])


@pytest.mark.parametrize("regressor", [None, Squares()])
@pytest.mark.parametrize("folds", [1, 5])
def test_it_finds_what_a_line_cannot(regressor, folds):
    drawn = squares()
    assert icp(*drawn).outcome == "rejected"
    result = icp(*drawn, test=ResidualDistribution(regressor, folds=folds))
    assert result.estimate == ("X1",)
    assert result.accepted_sets == (("X1",),)
    assert result.intervals is None


def test_its_name_chooses_it():
    assert icp(*squares(4), test="nonlinear").test == "nonlinear"


@pytest.mark.parametrize("ties", [False, True])
def test_its_two_tests_are_scipys(ties):
    random = np.random.default_rng(2)
    environment = random.permutation(np.repeat([0, 1, 2], [30, 50, 40]))
    residuals = random.normal(size=120) * (1 + 0.3 * environment)
    residuals = np.round(residuals) if ties else residuals
    groups = [residuals[environment == e] for e in range(3)]
    counts = np.array([30, 50, 40])
    expected = stats.levene(*groups, center="mean").pvalue
    assert _levene(residuals, environment, counts) == pytest.approx(expected, rel=1e-10)
    sums = [
        stats.mannwhitneyu(
            residuals[environment == e], residuals[environment != e], method="asymptotic"
        ).pvalue
        for e in range(3)
    ]
    assert rank_sums(residuals, environment, counts) == pytest.approx(np.array(sums), rel=1e-10)


def test_without_scikit_learn_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(UsageError, match="pip install"):
        icp(*squares(), test="nonlinear")
    assert icp(*squares(), test=ResidualDistribution(Squares())).estimate == ("X1",)


def test_a_regressor_that_diverges_is_refused():
    class Broken(Squares):
        def predict(self, inputs):
            return np.full(len(inputs), np.nan)

    with pytest.raises(UsageError, match="Broken predicted"):
        icp(*squares(), test=ResidualDistribution(Broken()))
