from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dgbench.icp import icp
from dgbench.icp.regression import EXACT_FIT, SINGULAR, least_squares
from dgbench.icp.subsets import subsets
from tests.dgbench.icp.tables import Table, linear


def table(seed: int = 0, **options) -> Table:
    return linear(np.random.default_rng(seed), **options)


def fitted(inputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    design = np.column_stack([np.ones(len(inputs)), inputs])
    return np.asarray(np.linalg.lstsq(design, target, rcond=None)[0])


def residuals_p_value(inputs, target, environment, factor: int) -> float:
    """Method II as the paper's section 3.2.2 writes it, with scipy's tests."""
    weights = fitted(inputs, target)
    residuals = target - weights[0] - inputs @ weights[1:]
    found = []
    for e in np.unique(environment):
        own, rest = residuals[environment == e], residuals[environment != e]
        ratio = own.var(ddof=1) / rest.var(ddof=1)
        law = stats.f(len(own) - 1, len(rest) - 1)
        found += [stats.ttest_ind(own, rest, equal_var=False).pvalue]
        found += [2 * min(law.cdf(ratio), law.sf(ratio))]
    return float(min(1.0, 2 * factor * min(found)))


def chow_p_value(inputs, target, environment) -> float:
    """Method I as section 3.2.1 writes it, with the n_e x n_e matrix."""
    found = []
    for e in np.unique(environment):
        own, rest = environment == e, environment != e
        weights = fitted(inputs[rest], target[rest])
        design = np.column_stack([np.ones(len(inputs)), inputs])
        errors = target - design @ weights
        degrees = rest.sum() - design.shape[1]
        variance = errors[rest] @ errors[rest] / degrees
        inverse = np.linalg.inv(design[rest].T @ design[rest])
        sigma = np.eye(own.sum()) + design[own] @ inverse @ design[own].T
        statistic = errors[own] @ np.linalg.solve(sigma, errors[own]) / (own.sum() * variance)
        found.append(stats.f(own.sum(), degrees).sf(statistic))
    return float(min(1.0, len(found) * min(found)))


def ranks_p_value(inputs, target, environment, factor: int) -> float:
    """Scipy's rank sum tests of residuals and of their distances from the median."""
    weights = fitted(inputs, target)
    residuals = target - weights[0] - inputs @ weights[1:]
    found = [
        stats.mannwhitneyu(
            values[environment == e], values[environment != e], method="asymptotic"
        ).pvalue
        for values in (residuals, np.abs(residuals - np.median(residuals)))
        for e in np.unique(environment)
    ]
    return float(min(1.0, 2 * factor * min(found)))


@pytest.mark.parametrize(("count", "factor"), [(2, 1), (3, 3), (5, 5)])
@pytest.mark.parametrize("noise", ["normal", "t5"])
def test_ranks_are_scipys(count, factor, noise):
    # An odd number of rows: of an even one two are as far from the median, but for rounding.
    drawn = table(6, count=count, shift=0.3, noise=noise)
    inputs, target, environment = (part[:-1] for part in drawn)
    result = icp(inputs, target, environment, test="ranks")
    for subset, p_value in zip(subsets(3), result.set_p_values.values(), strict=True):
        expected = ranks_p_value(inputs[:, list(subset)], target, environment, factor)
        assert p_value == pytest.approx(expected, rel=1e-9)


def test_ranks_forgive_one_wild_row_that_the_variance_does_not():
    inputs, target, environment = table(7)
    target[5] += 30
    p_values = {
        test: icp(inputs, target, environment, test=test).set_p_values["X1", "X2"]
        for test in ("residuals", "chow", "ranks")
    }
    assert p_values["residuals"] < 0.001
    assert p_values["chow"] < 0.001
    assert p_values["ranks"] > 0.05


@pytest.mark.parametrize(("test", "noted"), [("residuals", 1), ("chow", 1), ("ranks", 0)])
def test_the_guarantee_says_what_it_asks_of_the_noise(test, noted):
    notes = icp(*table(8), test=test).notes
    assert sum("holds for Gaussian noise" in note for note in notes) == noted


@pytest.mark.parametrize(("count", "factor"), [(2, 1), (3, 3), (5, 5)])
def test_method_two_is_the_papers(count, factor):
    inputs, target, environment = table(1, count=count, shift=0.3)
    result = icp(inputs, target, environment, test="residuals")
    for subset, p_value in zip(subsets(3), result.set_p_values.values(), strict=True):
        expected = residuals_p_value(inputs[:, list(subset)], target, environment, factor)
        assert p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_method_one_is_the_papers(count):
    inputs, target, environment = table(2, count=count, shift=0.3)
    result = icp(inputs, target, environment, test="chow")
    for subset, p_value in zip(subsets(3), result.set_p_values.values(), strict=True):
        expected = chow_p_value(inputs[:, list(subset)], target, environment)
        assert p_value == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("test", ["residuals", "chow"])
def test_units_order_and_names_do_not_matter(test):
    inputs, target, environment = table(3)
    before = icp(inputs, target, environment, test=test)
    order = np.random.default_rng(0).permutation(len(target))
    moved = 1e6 * inputs * [1, 1e-9, 3] - 50
    labels = np.array(["c", "a", "b"])[environment]
    after = icp(moved[order], (7 - 2 * target)[order], labels[order], test=test)
    assert after.set_p_values == pytest.approx(before.set_p_values, rel=1e-6, abs=1e-12)
    assert before.intervals is not None
    assert after.intervals is not None
    low, high = before.intervals["X1"]
    assert after.intervals["X1"] == pytest.approx((-2e-6 * high, -2e-6 * low), rel=1e-6)


def test_intervals_are_those_of_the_accepted_sets():
    inputs, target, environment = table(5)
    result = icp(inputs, target, environment)
    assert result.accepted_sets == (("X1", "X2"),)
    design = np.column_stack([np.ones(len(target)), inputs[:, :2]])
    weights = fitted(inputs[:, :2], target)
    errors = target - design @ weights
    variance = errors @ errors / (len(target) - 3)
    se = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    simultaneous = icp(inputs, target, environment, intervals="simultaneous")
    law = stats.t(len(target) - 3)
    for found, quantile, level in (
        (result, stats.norm.ppf(1 - 0.05 / 4), 0.925),
        (simultaneous, law.ppf(1 - 0.05 / 4), 0.9),
    ):
        assert found.intervals is not None
        for j, name in ((1, "X1"), (2, "X2")):
            expected = (weights[j] - quantile * se[j], weights[j] + quantile * se[j])
            assert found.intervals[name] == pytest.approx(expected, rel=1e-9)
        assert found.intervals["X3"] == (0.0, 0.0)
        assert found.interval_level == pytest.approx(level)


@pytest.mark.parametrize("test", ["residuals", "chow"])
def test_constant_columns_and_copies_neither_hide_nor_make_causes(test):
    inputs, target, environment = table(5)
    plain = icp(inputs, target, environment, test=test)
    constant = np.full(len(target), 0.1)
    wider = np.column_stack([inputs, constant, inputs[:, 2] * 2 + 1])
    result = icp(wider, target, environment, test=test)
    assert (result.outcome, result.estimate) == (plain.outcome, plain.estimate)
    assert SINGULAR in result.notes
    for names, p_value in plain.set_p_values.items():
        assert result.set_p_values[*names, "X4"] == pytest.approx(p_value, rel=1e-6, abs=1e-12)
    assert result.intervals is not None
    assert result.intervals["X4"] == (-np.inf, np.inf)
    assert result.intervals["X1"] == pytest.approx(plain.intervals["X1"], rel=1e-9)  # type: ignore[index]


def test_chow_where_the_other_environments_cannot_see_a_column():
    inputs, target, environment = table(6)
    switched = (environment == 0) * inputs[:, 0]
    result = icp(np.column_stack([inputs, switched]), target, environment, test="chow")
    assert all(0 <= p_value <= 1 for p_value in result.set_p_values.values())
    assert result.set_p_values["X1", "X2", "X4"] > 0.05


def test_a_target_without_noise_is_explained_exactly():
    inputs, _, environment = table(7)
    for test in ("residuals", "chow"):
        result = icp(inputs, inputs @ [1.0, 2.0, 0.0], environment, test=test)
        assert result.estimate == ("X1", "X2")
        assert result.set_p_values["X1", "X2"] == 1.0
        assert EXACT_FIT in result.notes


def test_least_squares_says_what_is_determined():
    random = np.random.default_rng(8)
    design = random.normal(size=(20, 3))
    design = np.column_stack([design, design[:, 0] + design[:, 1]])
    fit = least_squares(design, design @ [1.0, 2.0, 3.0, 0.0])
    assert fit.rank == 3
    assert fit.determined.tolist() == [False, False, True, False]
    assert fit.coefficients[2] == pytest.approx(3)
