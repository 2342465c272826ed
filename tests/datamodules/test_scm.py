"""Structural causal models: all three rungs against closed forms, draws against golden values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from datamodules.errors import DataError
from datamodules.scm import (
    SCM,
    Categorical,
    ChangeNoise,
    Do,
    Mechanism,
    Normal,
    Scale,
    Shift,
    Uniform,
)

# A confounder u of x and y, an effect z of y, and a mediator m between x and y.
#            u    x    m    y    z
WEIGHTS = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.8, 0.0, 0.0, 0.0, 0.0],
        [0.0, 1.5, 0.0, 0.0, 0.0],
        [-1.0, 0.7, 2.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.5, 0.0],
    ]
)
NAMES = ("u", "x", "m", "y", "z")
SCALES = np.array([1.0, 0.5, 0.2, 0.4, 2.0])


def linear() -> SCM:
    return SCM(
        {
            # Children first: the model finds the order.
            "z": Mechanism(lambda y: 0.5 * y, Normal(2.0)),
            "y": Mechanism(lambda x, m, u: 0.7 * x + 2 * m - u, Normal(0.4)),
            "m": Mechanism(lambda x: 1.5 * x, Normal(0.2)),
            "x": Mechanism(lambda u: 0.8 * u, Normal(0.5)),
            "u": Mechanism(0.0, Normal()),
        }
    )


def matrix(values: dict) -> np.ndarray:
    return np.column_stack([values[name] for name in NAMES])


def total(weights: np.ndarray = WEIGHTS) -> np.ndarray:
    """What a unit of each variable's noise adds to each variable, (I - B)^-1."""
    return np.linalg.inv(np.eye(len(weights)) - weights)


def moments(weights: np.ndarray, scales: np.ndarray, means: np.ndarray):
    effects = total(weights)
    return effects @ means, effects @ np.diag(scales**2) @ effects.T


def assert_moments(values: dict, weights: np.ndarray, scales: np.ndarray, means: np.ndarray):
    mean, covariance = moments(weights, scales, means)
    drawn = matrix(values)
    spread = np.sqrt(np.diag(covariance))
    n = len(drawn)
    assert np.all(np.abs(drawn.mean(axis=0) - mean) <= 4.5 * spread / n**0.5)
    # The standard error of a covariance of normal variables (Isserlis' theorem).
    error = np.sqrt((np.outer(spread**2, spread**2) + covariance**2) / n)
    assert np.all(np.abs(np.cov(drawn.T, ddof=0) - covariance) <= 4.5 * error + 1e-12)


# Seeing


def test_samples_have_the_closed_forms_mean_and_covariance():
    assert_moments(linear().sample(20_000, seed=1), WEIGHTS, SCALES, np.zeros(5))


def test_draws_are_golden():
    drawn = matrix(linear().sample(2, seed=3, environment="one"))
    golden = [
        [-0.8428143459426587, -0.3475046323079865, -0.5421071203164411, -0.6392050544111748],
        [-1.731820209420947, -2.1994258920266514, -3.125636970909625, -6.5260295608675225],
    ]
    np.testing.assert_allclose(drawn[:, :4], golden, rtol=1e-12)
    np.testing.assert_allclose(drawn[:, 4], [-0.41936766832411854, 0.48131811157181037], rtol=1e-12)


def test_fewer_rows_are_the_first_rows_and_other_names_other_rows():
    model = linear()
    many, few = model.sample(50, seed=2), model.sample(7, seed=2)
    assert all(np.array_equal(many[name][:7], few[name]) for name in NAMES)
    for other in (model.sample(7, seed=3), model.sample(7, seed=2, environment="b")):
        assert not np.any(matrix(other) == matrix(few))


def test_no_global_random_state_is_read_or_moved():
    np.random.seed(0)
    first = linear().sample(3, seed=0)
    after = np.random.random()
    np.random.seed(0)
    assert after == np.random.random()
    assert np.array_equal(matrix(first), matrix(linear().sample(3, seed=0)))


@pytest.mark.parametrize(
    ("law", "reference"),
    [
        (Normal(2.0, 1.0), stats.norm(1, 2)),
        (Uniform(-1.0, 3.0), stats.uniform(-1, 4)),
        (stats.laplace(scale=0.5).ppf, stats.laplace(scale=0.5)),
    ],
)
def test_noise_has_its_law(law, reference):
    drawn = SCM({"x": Mechanism(0.0, law)}).sample(5000, seed=0)["x"]
    assert stats.kstest(drawn, reference.cdf).pvalue > 0.001


def test_categories_come_as_often_as_their_weights_say():
    drawn = SCM({"c": Mechanism(0, Categorical((1, 2, 5)))}).sample(8000, seed=0)["c"]
    assert drawn.dtype == np.int64
    assert stats.chisquare(np.bincount(drawn), [1000, 2000, 5000]).pvalue > 0.001


def test_parents_are_those_that_the_equations_read():
    model = linear()
    assert {name: set(model.parents(name)) for name in NAMES} == {
        name: {NAMES[cause] for cause in np.flatnonzero(row)}
        for name, row in zip(NAMES, WEIGHTS, strict=True)
    }
    assert [model.order.index(a) < model.order.index(b) for a, b in ("ux", "xm", "my", "yz")]


# Doing


def test_do_cuts_the_arrows_into_a_variable():
    values = linear().intervene({"x": Do(3.0)}).sample(20_000, seed=1)
    weights, scales, means = WEIGHTS.copy(), SCALES.copy(), np.zeros(5)
    weights[1], scales[1], means[1] = 0, 0, 3
    assert_moments(values, weights, scales, means)


def test_a_shift_keeps_them():
    values = linear().intervene({"m": Shift(-2.0)}).sample(20_000, seed=1)
    assert_moments(values, WEIGHTS, SCALES, np.array([0, 0, -2.0, 0, 0]))


def test_a_scale_multiplies_what_the_parents_and_the_noise_make():
    values = linear().intervene({"m": Scale(3.0)}).sample(20_000, seed=1)
    weights, scales = WEIGHTS.copy(), SCALES.copy()
    weights[2], scales[2] = 3 * weights[2], 3 * scales[2]
    assert_moments(values, weights, scales, np.zeros(5))


def test_changed_noise_leaves_the_equation():
    values = linear().intervene({"y": ChangeNoise(Normal(3.0, 1.0))}).sample(20_000, seed=1)
    scales, means = SCALES.copy(), np.zeros(5)
    scales[3], means[3] = 3, 1
    assert_moments(values, WEIGHTS, scales, means)


def test_interventions_follow_one_another():
    model = SCM({"x": Mechanism(1.0)})
    twice = model.intervene({"x": Shift(2.0)}).intervene({"x": Scale(10.0)})
    assert twice.sample(1, seed=0)["x"] == 30
    assert model.sample(1, seed=0)["x"] == 1


def test_the_average_effect_of_a_linear_model_is_the_sum_over_its_paths():
    effect = linear().average_effect("z", {"x": Do(2.0)}, {"x": Do(0.0)}, count=10)
    assert effect.mean == pytest.approx(2 * total()[4, 1], abs=1e-12)
    assert effect.mean == pytest.approx(2 * (0.7 + 1.5 * 2) * 0.5, abs=1e-12)
    assert effect.standard_error < 1e-12
    # The regression of z on x says something else: u moves both.
    _, covariance = moments(WEIGHTS, SCALES, np.zeros(5))
    assert abs(covariance[4, 1] / covariance[1, 1] - total()[4, 1]) > 0.3


def test_the_average_effect_of_a_nonlinear_model_lies_within_its_error():
    # E[exp(t + w)] with normal w of scale 0.5 is exp(t + 1/8).
    model = SCM(
        {
            "w": Mechanism(0.0, Normal(0.5)),
            "t": Mechanism(lambda w: w, Normal()),
            "y": Mechanism(lambda t, w: np.exp(t + w), Normal()),
        }
    )
    effect = model.average_effect("y", {"t": Do(1.0)}, {"t": Do(0.0)}, count=50_000)
    truth = (np.e - 1) * np.exp(1 / 8)
    assert 0 < effect.standard_error < 0.01
    assert abs(effect.mean - truth) < 4 * effect.standard_error


# Imagining


def test_abduction_finds_the_noise_that_was_drawn():
    model = linear().intervene({"m": Scale(-2.0), "y": Shift(1.0)})
    noise = model.draw_noise(40, seed=5)
    found = model.abduct(model.solve(noise, 40))
    for name in NAMES:
        np.testing.assert_allclose(found[name], noise[name], atol=1e-12)


def test_a_counterfactual_is_the_closed_form():
    observed = linear().sample(30, seed=4)
    imagined = linear().counterfactual(observed, {"x": Do(1.0)})
    # Each row's own deviation of x from 1 reaches its descendants along the paths, all else kept.
    expected = matrix(observed) + np.outer(1 - observed["x"], total()[:, 1])
    np.testing.assert_allclose(matrix(imagined), expected, atol=1e-12)
    assert np.array_equal(imagined["u"], observed["u"])


def test_a_counterfactual_of_one_row_by_hand():
    # Pearl, Glymour and Jewell (2016, section 4.2.3): encouragement, homework, exam score.
    model = SCM(
        {
            "x": Mechanism(0.0, Normal()),
            "h": Mechanism(lambda x: 0.5 * x, Normal()),
            "y": Mechanism(lambda x, h: 0.7 * x + 0.4 * h, Normal()),
        }
    )
    joe = {"x": 0.5, "h": 1.0, "y": 1.5}
    assert model.abduct(joe) == pytest.approx({"x": 0.5, "h": 0.75, "y": 0.75})
    assert model.counterfactual(joe, {"h": Do(2.0)})["y"] == pytest.approx([1.9])


def test_a_counterfactual_without_a_change_is_what_was_observed():
    observed = linear().sample(9, seed=1)
    imagined = linear().counterfactual(observed, {"y": Shift(0.0)})
    np.testing.assert_allclose(matrix(imagined), matrix(observed), atol=1e-12)


# Vectors, classes, tables


def vectors() -> SCM:
    return SCM(
        {
            "x": Mechanism(0.0, Normal(), size=2),
            "label": Mechanism(lambda x: x.sum(axis=1) > 0),
            "z": Mechanism(lambda label: 2.0 * label[:, None] - 1, Normal(0.1), size=3),
        }
    )


def test_a_table_stacks_the_environments_and_knows_the_parents():
    model = vectors()
    environments = {"a": {}, "b": {"x": Shift(np.array([1.0, 0.0]))}}
    table = model.table(environments, 5, target="label", seed=2)
    assert table.variables == ("x1", "x2", "z1", "z2", "z3")
    assert table.parents == ("x1", "x2")
    assert table.environment.tolist() == ["a"] * 5 + ["b"] * 5
    assert table.target.dtype == np.int64
    second = model.intervene(environments["b"]).sample(5, seed=2, environment="b")
    np.testing.assert_array_equal(table.inputs[5:], np.column_stack([second["x"], second["z"]]))
    frame = table.frame("y")
    assert list(frame.columns) == ["environment", "y", *table.variables]
    np.testing.assert_array_equal(frame[list(table.variables)].to_numpy(), table.inputs)


def test_a_hidden_variable_is_no_column():
    table = linear().table({"a": {}}, 3, target="y", variables=["x", "m"], seed=0)
    assert table.variables == ("x", "m")
    assert set(table.parents) == {"x", "m"}


def test_a_table_is_a_full_batch():
    table = vectors().table({"a": {}, "b": {"x": Do(1.0)}}, 4, target="label", seed=2)
    batch = table.batch()
    assert batch.inputs.dtype == torch.float32
    assert batch.targets.dtype == torch.int64
    assert batch.counts.tolist() == [4, 4]
    assert batch.environment.tolist() == [0] * 4 + [1] * 4
    np.testing.assert_array_equal(batch.targets.numpy(), table.target)
    numbers = linear().table({"a": {}}, 3, target="y", seed=0).batch()
    assert numbers.targets.dtype == torch.float32


# Bad input


def test_models_that_cannot_be_are_refused():
    with pytest.raises(DataError, match=r"no variable 'w', but the equation of 'x' reads it"):
        SCM({"x": Mechanism(lambda w: w)})
    with pytest.raises(DataError, match=r"circle: .* -> "):
        SCM({"a": Mechanism(lambda b: b), "b": Mechanism(lambda a: a)})
    with pytest.raises(DataError, match="an intervention names it"):
        linear().intervene({"q": Do(0.0)})
    with pytest.raises(DataError, match=r"equation of 'x' does not give numbers of shape \(3,\)"):
        SCM({"x": Mechanism(lambda: np.zeros((3, 2)))}).sample(3, seed=0)


def test_counterfactuals_that_cannot_be_are_refused():
    observed = linear().sample(2, seed=0)
    with pytest.raises(DataError, match="no values of \\['u'\\] were observed"):
        linear().abduct({name: observed[name] for name in "xmyz"})
    with pytest.raises(DataError, match="that of 'y' cannot change"):
        linear().counterfactual(observed, {"y": ChangeNoise(Normal())})
    multiplied = SCM({"x": Mechanism(lambda noise: np.exp(noise), Normal())})
    assert np.all(multiplied.sample(5, seed=0)["x"] > 0)
    with pytest.raises(DataError, match="need additive noise"):
        multiplied.abduct({"x": 1.0})
    certain = SCM({"x": Mechanism(0.0, Normal()), "y": Mechanism(lambda x: 2 * x)})
    with pytest.raises(DataError, match="'y' contradict its equation"):
        certain.abduct({"x": 1.0, "y": 3.0})
