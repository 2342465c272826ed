"""What is asked of variables without looking at the target."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dgbench.icp.covariates import principal_components, shift_p_value


def test_components_are_those_of_the_singular_value_decomposition():
    random = np.random.default_rng(0)
    values = random.normal(size=(50, 6)) @ random.normal(size=(6, 6)) + 3
    found = principal_components(values, 2)
    centred = values - values.mean(axis=0)
    left, _, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * np.sqrt(50)
    assert np.abs(np.abs((found * expected).mean(axis=0)) - 1).max() < 1e-10
    np.testing.assert_allclose(found.T @ found / 50, np.eye(2), atol=1e-10)


def test_directions_without_spread_are_left_out():
    values = np.random.default_rng(0).normal(size=(30, 2))
    assert principal_components(np.column_stack([values, values, np.ones(30)]), 5).shape == (30, 2)
    assert principal_components(np.ones((30, 3)), 5).shape == (30, 0)


@pytest.mark.parametrize("groups", [2, 3])
def test_of_one_column_the_shift_is_the_analysis_of_variance(groups):
    """Wilks' lambda of one column is 1 / (1 + F (K - 1) / (n - K)); its law here is Bartlett's."""
    random = np.random.default_rng(1)
    environment = np.repeat(np.arange(groups), 200)
    values = random.normal(size=200 * groups) + 0.1 * environment
    f = stats.f_oneway(*(values[environment == e] for e in range(groups))).statistic
    count = len(values)
    wilks = 1 / (1 + f * (groups - 1) / (count - groups))
    statistic = -(count - 1 - (1 + groups) / 2) * np.log(wilks)
    expected = stats.chi2(groups - 1).sf(statistic)
    assert shift_p_value(values[:, None], environment) == pytest.approx(expected, rel=1e-9)


def test_the_shift_has_its_level_and_does_not_depend_on_the_axes():
    random = np.random.default_rng(2)
    environment = np.repeat([0, 1, 2], 60)
    p_values = []
    for _ in range(400):
        values = random.normal(size=(180, 5))
        p_values.append(shift_p_value(values, environment))
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    turned = values @ random.normal(size=(5, 5)) + 7
    assert shift_p_value(turned, environment) == pytest.approx(p_values[-1], rel=1e-6)


def test_what_never_moves_and_what_always_does():
    environment = np.repeat([0, 1], 20)
    assert shift_p_value(np.ones((40, 2)), environment) == 1
    assert shift_p_value(environment[:, None] * 2.0, environment) < 1e-100
