"""Published models against closed forms and published figures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from datamodules.errors import DataError
from datamodules.scm_presets import EXAMPLES, SETTINGS, Problem, irm_paper_sem, linear_unit_test


def environments(problem: Problem, split="train", count=10_000):
    """Inputs and targets of each environment."""
    table = problem.sample(split, count)
    for name in problem.environments:
        rows = table.environment == name
        yield table.inputs[rows], table.target[rows]


def pooled_line(problem: Problem, count: int) -> np.ndarray:
    """Coefficients of the pooled least squares, without a constant, before any mixing."""
    table = problem.sample("train", count)
    inputs = table.inputs if problem.rotation is None else table.inputs @ problem.rotation.T
    return np.linalg.lstsq(inputs, table.target, rcond=None)[0]


# Linear unit tests


def test_draws_are_golden():
    golden = {
        "1": [1.2979948463655484, 2.413238732681851, -0.19336314027223844, -1.0212729549898123],
        "2": [0.007065009281959551, 0.012775054920663982, 1.3534658647427096, 0.7943079257472216],
        "3": [0.18322025519352148, 0.07303120354090371, -0.2088165524278665, 1.586767002767231],
    }
    for example, expected in golden.items():
        table = linear_unit_test(example, seed=1).sample("test", 2)
        np.testing.assert_allclose(table.inputs[2, [0, 4, 5, 9]], expected, rtol=1e-11)


def test_the_environments_of_example_1_have_the_published_noise():
    problem = linear_unit_test("1", seed=2)
    assert problem.weights is not None
    for (inputs, target), scale in zip(environments(problem), (0.1, 1.5, 2.0), strict=True):
        residuals = target - inputs[:, :5] @ problem.weights
        n = len(target)
        # The sum of five noises, and each cause.
        assert abs(residuals.var() / (5 * scale**2) - 1) < 4.5 * (2 / n) ** 0.5
        assert np.all(np.abs(inputs[:, :5].var(axis=0) / scale**2 - 1) < 4.5 * (2 / n) ** 0.5)


def test_the_best_invariant_predictor_of_example_1_has_the_published_error():
    # The oracle's error is the noise's variance: 5 * mean(.01, 2.25, 4) = 10.433.
    assert 5 * np.mean([0.1**2, 1.5**2, 2**2]) == pytest.approx(10.42, abs=0.16)


def test_example_2_shows_animals_on_grounds_as_published():
    shares = [(0.95, 0.3), (0.97, 0.5), (0.99, 0.7)]
    for (inputs, target), (agree, cows) in zip(
        environments(linear_unit_test("2")), shares, strict=True
    ):
        ground = inputs[:, 5:].mean(axis=1) > 0
        # Each of the five columns has mean 0.01 either way and standard deviation 0.01 / sqrt(10).
        assert abs(inputs[target == 1, 0].mean() / 0.01 - 1) < 0.03
        assert abs(inputs[target == 1, 0].std() / (0.01 * 0.1**0.5) - 1) < 0.05
        n = len(target)
        for seen, expected in ((target.mean(), cows), ((ground == target).mean(), agree)):
            assert abs(seen - expected) < 4.5 * (expected * (1 - expected) / n) ** 0.5


def test_example_3_has_one_invariant_and_many_spurious_directions():
    directions = []
    for inputs, target in environments(linear_unit_test("3", seed=5)):
        assert target.mean() == 0.5
        sign = 1 - 2 * target[:, None]
        n = len(target)
        assert np.all(np.abs((sign * inputs[:, :5]).mean(axis=0) - 0.1) < 4.5 * 0.1 / n**0.5)
        directions.append((sign * inputs[:, 5:]).mean(axis=0))
        assert np.all(np.abs((sign * inputs).std(axis=0) - 0.1) < 4.5 * 0.1 / (2 * n) ** 0.5)
    assert len({tuple(np.sign(direction)) for direction in directions}) > 1


def test_the_best_invariant_predictor_of_example_3_has_the_published_error():
    # Five columns of mean 0.1 and standard deviation 0.1: the sum is wrong with Phi(-sqrt(5)).
    assert stats.norm.cdf(-(5**0.5)) == pytest.approx(0.0126, abs=0.0011)
    inputs, target = next(environments(linear_unit_test("3")))
    error = np.mean((inputs[:, :5].sum(axis=1) < 0) != target)
    assert abs(error - stats.norm.cdf(-(5**0.5))) < 4.5 * (0.0127 / len(target)) ** 0.5


@pytest.mark.parametrize("example", ["1", "2", "3"])
def test_mixed_inputs_are_the_plain_ones_turned(example):
    plain, mixed = linear_unit_test(example, seed=4), linear_unit_test(f"{example}s", seed=4)
    assert mixed.rotation is not None
    np.testing.assert_allclose(mixed.rotation @ mixed.rotation.T, np.eye(10), atol=1e-12)
    for split in ("train", "validation", "test"):
        before, after = plain.sample(split, 50), mixed.sample(split, 50)
        np.testing.assert_allclose(after.inputs @ mixed.rotation.T, before.inputs, atol=1e-12)
        assert np.array_equal(after.target, before.target)
    assert not after.parents


@pytest.mark.parametrize("example", ["1", "2", "3"])
def test_a_test_split_says_nothing_about_the_target_through_z(example):
    for inputs, target in environments(linear_unit_test(example, seed=1), "test"):
        drawn = [abs(np.corrcoef(column, target)[0, 1]) for column in inputs[:, 5:].T]
        assert max(drawn) < 4.5 / len(target) ** 0.5
    problem = linear_unit_test(example, seed=1)
    own = {split: problem.sample(split, 30).target.tolist() for split in ("train", "validation")}
    assert own["train"] != own["validation"]


def test_any_number_of_environments_and_columns():
    few, many = (linear_unit_test("2", environments=number) for number in (1, 12))
    assert list(few.environments) == ["E0"]
    assert len(many.environments) == 12
    assert many.environments["E0"] == few.environments["E0"]
    for example in EXAMPLES:
        problem = linear_unit_test(example, environments=7, invariant=2, spurious=3, seed=1)
        table = problem.sample("train", 4)
        assert table.inputs.shape == (28, 5)
    drawn = [
        inputs[:, :5].std() for inputs, _ in environments(linear_unit_test("1", environments=40))
    ]
    assert 0.01 < min(drawn[3:]) < 0.1 < 1 < max(drawn[3:]) < 10


def test_parents_are_the_causes():
    assert linear_unit_test("1").sample("train", 2).parents == ("x1", "x2", "x3", "x4", "x5")
    assert linear_unit_test("2").sample("train", 2).parents == ("x1", "x2", "x3", "x4", "x5")
    # There the label comes first.
    assert linear_unit_test("3").sample("train", 2).parents == ()


# The IRM paper's models

# Mean squared error of the causal and the other coefficients, by the repository's results, for
# pooled least squares on three environments of 1,000 rows.
PUBLISHED_ERM = {
    "FO": (0.0091, 0.0090),
    "FE": (0.822, 0.821),
    "PO": (0.0196, 0.0180),
    "PE": (0.777, 0.774),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_pooled_least_squares_has_the_published_error(setting):
    draws = [irm_paper_sem(setting, seed=seed) for seed in range(8)]
    errors = np.array(
        [
            [np.mean((line[:5] - 1) ** 2), np.mean(line[5:] ** 2)]
            for line in (pooled_line(problem, 1000) for problem in draws)
        ]
    )
    spread = errors.std(axis=0, ddof=1) / len(errors) ** 0.5
    published = np.array(PUBLISHED_ERM[setting[:2]])
    # Theirs are means of 200 draws, with an error of their own.
    assert np.all(np.abs(errors.mean(axis=0) - published) < 4.5 * spread + 0.01 * published)


@pytest.mark.parametrize("setting", ["FOU", "FES", "PEU"])
def test_only_the_environments_scale_moves(setting):
    problem = irm_paper_sem(setting, seed=2)
    model = problem.model
    base, moved = model.sample(5000, seed=0), model.intervene(problem.environments["5"])
    residual = {}
    for name, values in (("1", base), ("5", moved.sample(5000, seed=0))):
        noise = model.abduct(values)
        residual[name] = {variable: noise[variable].std() for variable in "hxyz"}
    grown = {v for v in "hxyz" if abs(residual["5"][v] / residual["1"][v] - 5) < 1e-6}
    still = {v for v in "hxyz" if abs(residual["5"][v] / residual["1"][v] - 1) < 1e-6}
    assert grown == {"h", "x", "y" if setting[1] == "E" else "z"}
    assert still == set("hxyz") - grown


def test_bad_requests_say_what_there_is():
    with pytest.raises(DataError, match="no example '4'; choose one of 1, 2, 3, 1s, 2s, 3s"):
        linear_unit_test("4")
    with pytest.raises(DataError, match="environments is 0; give 1 or more"):
        linear_unit_test("1", environments=0)
    with pytest.raises(DataError, match="no setting 'XXX'"):
        irm_paper_sem("XXX")
    with pytest.raises(DataError, match="size is 5; give an even number"):
        irm_paper_sem("FOU", size=5)
