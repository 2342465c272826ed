from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from dgbench.errors import UsageError
from dgbench.icp import calibration_p_value, icp
from dgbench.icp.classification import SEPARATED, SINGULAR, fit_logistic, fit_multinomial
from tests.dgbench.icp.tables import Table, environments, flipped_colours, logistic


def table(seed: int = 0, **options) -> Table:
    return logistic(np.random.default_rng(seed), **options)


def slow_likelihood(columns: np.ndarray, positive: np.ndarray) -> float:
    design = np.column_stack([np.ones(len(columns)), columns])

    def negative(weights: np.ndarray) -> float:
        scores = design @ weights
        return float(np.logaddexp(0, np.where(positive, -scores, scores)).sum())

    return -float(optimize.minimize(negative, np.zeros(design.shape[1]), tol=1e-10).fun)


def welch_p_value(residuals: np.ndarray, environment: np.ndarray, factor: int) -> float:
    found = [
        stats.ttest_ind(residuals[environment == e], residuals[environment != e], equal_var=False)
        for e in np.unique(environment)
    ]
    return float(min(1.0, factor * min(test.pvalue for test in found)))


# The fit


def test_the_fit_has_the_largest_likelihood():
    inputs, target, _ = table(1)
    fit = fit_logistic(inputs, target == 1)
    assert fit.likelihood == pytest.approx(slow_likelihood(inputs, target == 1), abs=1e-6)
    assert not fit.separated
    assert fit.rank == 4
    # At the maximum residuals are orthogonal to the design.
    residuals = target - 1 / (1 + np.exp(-fit.scores))
    assert np.abs(inputs.T @ residuals).max() < 1e-6


def test_the_fit_of_one_bit_is_the_odds_of_its_two_cells():
    bit = np.repeat([0.0, 1.0], 50)
    positive = np.r_[np.arange(50) < 10, np.arange(50) < 40]
    fit = fit_logistic(bit[:, None], positive)
    assert fit.coefficients == pytest.approx([np.log(10 / 40), 2 * np.log(40 / 10)])
    variances = np.array([1 / 10 + 1 / 40, 2 * (1 / 10 + 1 / 40)])
    assert fit.standard_errors == pytest.approx(np.sqrt(variances))


def test_the_multinomial_fit_has_the_largest_likelihood():
    random = np.random.default_rng(1)
    columns = random.normal(size=(200, 2))
    design = np.column_stack([np.ones(200), columns])
    codes = (design @ random.normal(size=(3, 3)) + random.gumbel(size=(200, 3))).argmax(axis=1)

    def negative(weights: np.ndarray) -> float:
        logits = np.column_stack([np.zeros(200), design @ weights.reshape(3, 2)])
        return float((np.logaddexp.reduce(logits, axis=1) - logits[np.arange(200), codes]).sum())

    fit = fit_multinomial(columns, codes, 3)
    expected = optimize.minimize(negative, np.zeros(6), tol=1e-10).fun
    assert fit.likelihood == pytest.approx(-expected, abs=1e-6)
    two = fit_multinomial(columns, np.minimum(codes, 1), 2)
    assert two.logits[:, 1] == pytest.approx(fit_logistic(columns, codes > 0).scores, abs=1e-6)


@pytest.mark.parametrize("copies", [1, 3])
def test_separated_classes_have_a_likelihood_of_one(copies):
    values = np.linspace(-1, 1, 40)
    columns = np.column_stack([values] * copies)
    fit = fit_logistic(columns, values > 0.1)
    assert fit.separated
    assert fit.likelihood == pytest.approx(0, abs=1e-6)
    assert np.isinf(fit.standard_errors).all()


# Calibration


def test_calibration_of_a_bit_is_the_likelihood_ratio_of_contingency_tables():
    shape, target, environment = flipped_colours(np.random.default_rng(2), rows=300)
    bit = shape[:, 0]
    statistic = sum(
        stats.chi2_contingency(
            [
                [((target == y) & (environment == e) & (bit == b)).sum() for e in (0, 1)]
                for y in (0, 1)
            ],
            correction=False,
            lambda_="log-likelihood",
        ).statistic
        for b in (0, 1)
    )
    found = calibration_p_value(2 * bit - 1, target, environment)
    assert found == pytest.approx(stats.chi2(2).sf(statistic), rel=1e-8)


def test_a_constant_score_compares_the_shares_of_classes():
    _, target, environment = table(3, rows=80, shift=0.4)
    counts = [[((target == y) & (environment == e)).sum() for e in range(3)] for y in (0, 1)]
    expected = stats.chi2_contingency(counts, correction=False, lambda_="log-likelihood").pvalue
    found = calibration_p_value(np.full(len(target), 0.7), target, environment)
    assert found == pytest.approx(expected, rel=1e-8)


def test_logits_of_two_classes_are_one_score():
    inputs, target, environment = table(4)
    score = inputs[:, 0] - inputs[:, 1]
    both = np.column_stack([np.zeros_like(score), score]) + 5
    expected = calibration_p_value(score, target, environment)
    assert calibration_p_value(both, target, environment) == pytest.approx(expected, rel=1e-9)


def test_several_classes_are_asked_one_against_the_rest():
    random = np.random.default_rng(5)
    environment = environments(2, 400)
    logits = random.normal(size=(800, 3))
    target = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    single = [
        calibration_p_value(
            logits[:, k] - np.logaddexp(logits[:, (k + 1) % 3], logits[:, (k + 2) % 3]),
            target == k,
            environment,
        )
        for k in range(3)
    ]
    found = calibration_p_value(logits, target, environment)
    assert found == pytest.approx(min(1, 3 * min(single)), rel=1e-9)
    flipped = np.where(environment == 1, (target + 1) % 3, target)
    assert calibration_p_value(logits, flipped, environment) < 1e-10


def test_a_wrong_predictor_under_shift_looks_like_non_invariance():
    # The trap of held-out scores that the docstring names: X is the cause, z is half its effect.
    random = np.random.default_rng(6)
    environment = environments(2, 1000)
    cause = random.normal(size=2000) + environment
    target = random.random(2000) < 1 / (1 + np.exp(-2 * np.abs(cause)))
    assert calibration_p_value(0.5 * cause, target, environment) < 0.01
    assert calibration_p_value(2 * np.abs(cause), target, environment) > 0.05


@pytest.mark.parametrize(
    ("scores", "targets", "environment", "expected"),
    [
        (np.zeros(4), np.zeros(3), np.arange(4), "shape"),
        (np.array([0.0, np.nan, 1, 1]), np.zeros(4), np.arange(4), "finite"),
        (np.zeros(4), np.arange(4) % 2, np.zeros(4), "at least 2 environments"),
    ],
)
def test_calibration_refuses_what_it_cannot_read(scores, targets, environment, expected):
    with pytest.raises(UsageError, match=expected):
        calibration_p_value(scores, targets, environment)


# Tests of sets


def test_interaction_is_the_likelihood_ratio_of_separate_fits():
    inputs, target, environment = table(7)
    found = icp(inputs, target, environment, test="interaction").set_p_values["X1", "X3"]
    columns = inputs[:, [0, 2]]
    separate = sum(
        slow_likelihood(columns[environment == e], target[environment == e] == 1) for e in range(3)
    )
    statistic = 2 * (separate - slow_likelihood(columns, target == 1))
    assert found == pytest.approx(stats.chi2(2 * 3).sf(statistic), rel=1e-4)


def test_the_mean_test_compares_residuals():
    inputs, target, environment = table(8, shift=0.3)
    result = icp(inputs, target, environment, test="mean")
    fit = fit_logistic(inputs[:, [0]], target == 1)
    residuals = target - 1 / (1 + np.exp(-fit.scores))
    expected = welch_p_value(residuals, environment, 3)
    assert result.set_p_values["X1",] == pytest.approx(expected, rel=1e-6)
    expected = welch_p_value(target.astype(float), environment, 3)
    assert result.set_p_values[()] == pytest.approx(expected, rel=1e-6)


def test_only_the_mean_test_is_blind_to_colour():
    drawn = flipped_colours(np.random.default_rng(9), rows=4000)
    assert len(icp(*drawn, test="mean").accepted_sets) == 4
    for test in ("calibration", "interaction"):
        result = icp(*drawn, test=test)
        assert result.accepted_sets == ((), ("X1",))
        assert result.outcome == "empty_set_accepted"


def test_classes_of_any_type_and_number():
    inputs, target, environment = table(10)
    named = icp(inputs, np.where(target == 1, "yes", "no"), environment)
    assert named.test == "calibration"
    assert named.set_p_values == icp(inputs, target, environment).set_p_values
    random = np.random.default_rng(0)
    logits = inputs[:, [0]] * [0.0, 1.5, -1.0] + random.gumbel(size=(len(target), 3))
    effect = (logits[:, 1] - logits[:, 2] + environment)[:, None]
    for test in ("calibration", "interaction", "mean"):
        columns = np.hstack([inputs[:, [0]], effect])
        result = icp(columns, logits.argmax(axis=1), environment, test=test)
        assert result.intervals is None
        assert result.estimate == ("X1",)


@pytest.mark.parametrize("test", ["calibration", "interaction", "mean"])
def test_perfect_separation_is_stated(test):
    inputs, _, environment = table(11, rows=60)
    target = (inputs[:, 0] > 0.2).astype(int)
    result = icp(inputs[:, :2], target, environment, test=test)
    assert result.set_p_values["X1",] == pytest.approx(1, abs=1e-3)
    assert SEPARATED in result.notes
    assert result.intervals is not None
    assert result.intervals["X1"] == (-np.inf, np.inf)


@pytest.mark.parametrize("test", ["calibration", "interaction", "mean"])
def test_singular_columns_change_no_conclusion(test):
    inputs, target, environment = table(12)
    plain = icp(inputs, target, environment, test=test)
    wider = np.column_stack([inputs, np.full(len(target), 3.3), inputs[:, 0]])
    result = icp(wider, target, environment, test=test)
    assert SINGULAR in result.notes
    for names, p_value in plain.set_p_values.items():
        assert result.set_p_values[*names, "X4"] == pytest.approx(p_value, rel=1e-5)


def clustered(random, *, clusters=300, repeats=6):
    """Labels that samples of one source share a reason for, in two environments alike."""
    environment = np.repeat([0, 1], clusters // 2 * repeats)
    cluster = np.repeat(np.arange(clusters), repeats)
    chance = np.repeat(random.choice([0.2, 0.8], size=clusters), repeats)
    target = random.random(len(chance)) < chance
    return random.normal(size=len(chance)), target, environment, cluster


def test_dependent_rows_keep_the_level_when_they_are_said_to_be():
    random = np.random.default_rng(0)
    told, untold = np.zeros(300), np.zeros(300)
    for draw in range(300):
        _, target, environment, cluster = clustered(random)
        constant = np.zeros(len(target))
        untold[draw] = calibration_p_value(constant, target, environment)
        told[draw] = calibration_p_value(constant, target, environment, cluster)
    assert (untold < 0.05).mean() > 0.15
    # Binomial: three standard deviations above 0.05.
    assert (told < 0.05).mean() < 0.09


def test_repeating_every_row_says_nothing_new():
    score, target, environment, _ = clustered(np.random.default_rng(1), clusters=800, repeats=1)
    target = target ^ (environment * (score > 0)).astype(bool)
    rows = np.repeat(np.arange(len(score)), 5)
    once = calibration_p_value(score, target, environment, np.arange(len(score)))
    again = calibration_p_value(score[rows], target[rows], environment[rows], rows)
    believed = calibration_p_value(score[rows], target[rows], environment[rows])
    assert np.log(again) == pytest.approx(np.log(once), rel=0.05)
    assert np.log(believed) < 4 * np.log(once)
