"""Statistics against scipy, hand calculations, Demšar's table, and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import sem

from leaderboard.errors import RecordError
from leaderboard.statistics import (
    Summary,
    average_ranks,
    critical_difference,
    friedman,
    groups_not_different,
    mean_of_means,
    summarize,
    two_clusters,
)


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


# Demšar (2006), table 6: AUC of C4.5 with parameters none, m, cf, both, over 14 data sets. The last
# but one prints 0.975 twice and ranks the two apart.
DEMSAR = [
    (0.763, 0.768, 0.771, 0.798),
    (0.599, 0.591, 0.590, 0.569),
    (0.954, 0.971, 0.968, 0.967),
    (0.628, 0.661, 0.654, 0.657),
    (0.882, 0.888, 0.886, 0.898),
    (0.936, 0.931, 0.916, 0.931),
    (0.661, 0.668, 0.609, 0.685),
    (0.583, 0.583, 0.563, 0.625),
    (0.775, 0.838, 0.866, 0.875),
    (1.000, 1.000, 1.000, 1.000),
    (0.940, 0.962, 0.965, 0.962),
    (0.619, 0.666, 0.614, 0.669),
    (0.972, 0.981, 0.9751, 0.975),
    (0.957, 0.978, 0.946, 0.970),
]


def random_values(seed: int, *shape: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=shape)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_interval_is_scipys(n: int) -> None:
    values = random_values(n, n).tolist()
    interval = summarize(values).interval
    expected = stats.t.interval(0.95, n - 1, loc=np.mean(values), scale=stats.sem(values))
    assert interval == pytest.approx(expected, rel=1e-10)


def test_three_trials_have_an_interval_of_4_30_errors() -> None:
    interval = summarize([1.0, 2.0, 3.0]).interval
    assert interval is not None
    assert (interval[1] - 2) / math.sqrt(1 / 3) == pytest.approx(4.30, abs=0.005)


@pytest.mark.parametrize("n", [3, 5])
def test_intervals_cover_what_they_say(n: int) -> None:
    draws = random_values(n, 4000, n)
    intervals = [summarize(row.tolist()).interval for row in draws]
    covered = [each[0] <= 0 <= each[1] for each in intervals if each is not None]
    assert len(covered) == 4000
    # Four standard deviations of a share of 4000 draws are 1.4 points.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.014)
    # What DomainBed prints after its +- covers half, and not 95 %.
    printed = draws.std(axis=1) / math.sqrt(n)
    assert np.mean(np.abs(draws.mean(axis=1)) <= printed) < 0.65


def test_two_clusters_are_told_with_their_means_and_sizes() -> None:
    failed, worked = [0.21, 0.19], [0.65, 0.66, 0.64, 0.65, 0.67, 0.63, 0.65, 0.66]
    found = two_clusters([*worked[:5], *failed, *worked[5:]])
    assert found is not None
    assert (found.below, found.above) == (2, 8)
    assert (found.lower, found.upper) == pytest.approx((0.20, 0.65125))


@pytest.mark.parametrize(
    "values",
    [
        [0.2, 0.2, *[0.65] * 7],  # nine trials
        [0.2, *[0.65, 0.66] * 5],  # one alone is no cluster
        [0.2, 0.21, *np.linspace(0.3, 0.7, 9)],  # the gap is no wider than half of the range
        [*[0.987] * 5, *[0.988] * 5],  # one image of a thousand is no gap
        [0.5] * 12,
    ],
)
def test_other_trials_are_no_two_clusters(values: list[float]) -> None:
    assert two_clusters(values) is None


@pytest.mark.parametrize("n", [10, 12])
def test_of_uniform_trials_so_many_look_like_clusters_as_the_gaps_of_a_range_say(n: int) -> None:
    draws = np.random.Generator(np.random.PCG64(n)).random((20_000, n)).tolist()
    expected = (n - 3) / 2 ** (n - 2)  # gaps are a uniform part of the range; n - 3 of them count
    alarms = np.mean([two_clusters(values) is not None for values in draws])
    assert alarms == pytest.approx(expected, abs=4 * math.sqrt(expected / 20_000))


@pytest.mark.parametrize(
    ("shape", "most"), [("normal", 0.012), ("exponential", 0.05 + 0.006), ("laplace", 0.018)]
)
def test_few_trials_without_clusters_look_like_some(shape: str, most: float) -> None:
    generator = np.random.Generator(np.random.PCG64(2))
    draws = getattr(generator, shape)(size=(5000, 10)).tolist()
    assert np.mean([two_clusters(values) is not None for values in draws]) <= most


def test_most_methods_that_fail_in_three_of_ten_trials_are_told() -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    failed = generator.random((2000, 10)) < 0.3
    values = np.where(failed, 0.2, 0.65) + 0.02 * generator.normal(size=failed.shape)
    assert np.mean([two_clusters(row) is not None for row in values.tolist()]) > 0.8


def test_ranks_of_demsars_table() -> None:
    assert average_ranks(DEMSAR) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)


def test_friedman_of_demsars_table() -> None:
    found = friedman(DEMSAR)
    assert found is not None
    expected = stats.friedmanchisquare(*zip(*DEMSAR, strict=True))
    assert found.chi_square == pytest.approx(float(expected.statistic), rel=1e-9)
    # The paper does not correct for ties: 9.28, and F of 3.69.
    uncorrected = 12 * 14 / 20 * (sum(rank**2 for rank in average_ranks(DEMSAR)) - 25)
    assert uncorrected == pytest.approx(9.28, abs=0.005)
    assert found.chi_square > uncorrected
    assert found.p_value < 0.05
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_friedmans_statistic_is_the_papers_where_nothing_ties() -> None:
    scores = random_values(3, 9, 5).tolist()
    found, ranks = friedman(scores), average_ranks(scores)
    assert found is not None
    n, k = 9, 5
    chi_square = 12 * n / (k * (k + 1)) * (sum(r**2 for r in ranks) - k * (k + 1) ** 2 / 4)
    assert found.chi_square == pytest.approx(chi_square)
    statistic = (n - 1) * chi_square / (n * (k - 1) - chi_square)
    assert found.statistic == pytest.approx(statistic)
    assert found.p_value == pytest.approx(float(stats.f.sf(statistic, k - 1, (k - 1) * (n - 1))))


@pytest.mark.parametrize(
    ("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (10, 3.164)]
)
def test_critical_values_of_demsars_table_5(k: int, q: float) -> None:
    assert critical_difference(k, 1) / math.sqrt(k * (k + 1) / 6) == pytest.approx(q, abs=1e-3)


def test_few_data_sets_are_not_tested() -> None:
    assert friedman(DEMSAR[:4]) is None
    assert friedman(DEMSAR[:5]) is not None
    assert friedman([(1.0,)] * 9) is None


def test_data_sets_that_all_agree_are_certain() -> None:
    found = friedman([(3.0, 2.0, 1.0)] * 5)
    assert found is not None
    assert (found.statistic, found.p_value) == (math.inf, 0.0)


def test_bars_join_what_is_closer_than_the_critical_difference() -> None:
    assert groups_not_different([3.143, 2.0, 2.893, 1.964], 1.25) == [(3, 1, 2, 0)]
    assert groups_not_different([3.143, 2.0, 2.893, 1.964], 1.0) == [(3, 1, 2), (2, 0)]
    assert groups_not_different([1.0, 2.0], 0.5) == []


def test_the_mean_over_data_sets_has_the_error_of_independent_trials() -> None:
    draws = random_values(8, 3000, 2, 5) * np.array([[[1.0], [3.0]]])
    found = [mean_of_means([summarize(row.tolist()) for row in draw]) for draw in draws]
    covered = [f.interval[0] <= 0 <= f.interval[1] for f in found if f and f.interval]
    assert len(covered) == 3000
    assert np.mean(covered) == pytest.approx(0.95, abs=0.016)
    assert mean_of_means([]) is None
