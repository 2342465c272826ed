"""Means, intervals, clusters and ranks.

The unit is a trial. Sums are exact (`math.fsum`), so no order of trials can change a result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from leaderboard.errors import RecordError

LEVEL = 0.05
"""Probability of an error that intervals, verdicts and tests allow."""

MINIMUM_TRIALS = 3
"""Trials below which nothing is called worse."""

MINIMUM_DATA_SETS = 5
"""Data sets below which ranks are not tested: environments of one are no independent blocks."""

CLUSTERED_TRIALS = 10
"""Trials from which on two clusters are looked for: chance parts fewer too often."""

LEAST_GAP = 0.01
"""Gap that parts two clusters: closer ones have a mean that misleads nobody."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """Mean of n trials, its standard error and its interval.

    Attributes:
        mean: Arithmetic mean.
        standard_error: Sample standard deviation (ddof=1) divided by sqrt(n); None for n = 1, which
            says nothing about the spread.
        n: Number of trials, 1 or more.
        interval: Ends of the 95 % interval by Student's t with n - 1 degrees of freedom; None for
            n = 1.
    """

    mean: float
    standard_error: float | None
    n: int
    interval: Interval | None


@dataclass(frozen=True)
class Clusters:
    """Two clusters of trials, which no mean and no interval of Student's t describes.

    Attributes:
        lower: Mean of the lower one.
        below: Its number of trials, 2 or more.
        upper: Mean of the upper one.
        above: Its number of trials, 2 or more.
    """

    lower: float
    below: int
    upper: float
    above: int


@dataclass(frozen=True)
class Friedman:
    """Friedman's test of equal ranks, in the form of Iman and Davenport.

    Attributes:
        chi_square: Friedman's statistic, corrected for ties.
        statistic: Iman and Davenport's F; infinite where all data sets agree.
        p_value: Of F, with k - 1 and (k - 1)(N - 1) degrees of freedom.
        critical_difference: Nemenyi's: mean ranks closer than this are not distinguishable at 5 %.
    """

    chi_square: float
    statistic: float
    p_value: float
    critical_difference: float


def beyond_two_errors(difference: float, ours: float | None, theirs: float | None) -> bool | None:
    """Whether two means with errors of their own differ by more than chance easily makes.

    Args:
        difference: Between them.
        ours: The standard error of one; None if it is not known.
        theirs: The standard error of the other.

    Returns:
        Whether the difference is beyond two of its standard errors; None without both errors.
    """
    if ours is None or theirs is None:
        return None
    return abs(difference) > 2 * math.hypot(ours, theirs)


def mean_of(values: Sequence[float]) -> float:
    """Arithmetic mean, the same for any order of the values; there is at least one."""
    return math.fsum(values) / len(values)


def summarize(values: Sequence[float]) -> Summary:
    """Summarize one number a trial.

    Raises:
        RecordError: there is no value, or one is not finite.
    """
    n = len(values)
    if n == 0:
        raise RecordError("no values to summarize: a cell without trials stays empty")
    if not all(map(math.isfinite, values)):
        raise RecordError(f"{list(values)} are not all finite: leave diverged trials out")
    mean = mean_of(values)
    if n == 1:
        return Summary(mean, None, 1, None)
    error = math.sqrt(sum_of_squares(values) / (n - 1) / n)
    return Summary(mean, error, n, t_interval(mean, error, n - 1))


def t_interval(mean: float, standard_error: float, degrees_of_freedom: float) -> Interval:
    """Ends of the 95 % interval of Student's t around a mean."""
    from scipy.special import stdtrit

    half = float(stdtrit(degrees_of_freedom, 1 - LEVEL / 2)) * standard_error
    return mean - half, mean + half


def sum_of_squares(values: Sequence[float]) -> float:
    """Sum of squared deviations from the mean, the same for any order of the values."""
    mean = mean_of(values)
    return math.fsum((value - mean) ** 2 for value in values)


def two_clusters(values: Sequence[float]) -> Clusters | None:
    """Find two clusters of trials: a gap wider than half of their range, with two at each side.

    One trial apart is no cluster: long tails have such. Of trials without clusters the rule finds
    some in at most 5 %: of n uniform ones in (n - 3) / 2^(n - 2), 2.7 % of ten; by simulation of
    ten normal ones in 0.8 % and of ten exponential ones in 4.9 %; of more in fewer.

    Returns:
        The clusters; None if there are none, or fewer than ten values.
    """
    ordered = sorted(values)
    if len(ordered) < CLUSTERED_TRIALS:
        return None
    gaps = {at: ordered[at] - ordered[at - 1] for at in range(2, len(ordered) - 1)}
    at = max(gaps, key=gaps.__getitem__)
    if gaps[at] <= max((ordered[-1] - ordered[0]) / 2, LEAST_GAP):
        return None
    return Clusters(mean_of(ordered[:at]), at, mean_of(ordered[at:]), len(ordered) - at)


def average_ranks(scores: Sequence[Sequence[float]]) -> list[float]:
    """Mean rank of each algorithm over data sets; 1 is the best, equal scores share their ranks.

    Args:
        scores: `(N, k)`, one row a data set and one column an algorithm; higher is better.
    """
    ranks = [_ranks(row) for row in scores]
    return [mean_of(column) for column in zip(*ranks, strict=True)]


def _ranks(row: Sequence[float]) -> list[float]:
    return [
        (1 + sum(other > score for other in row) + sum(other >= score for other in row)) / 2
        for score in row
    ]


def friedman(scores: Sequence[Sequence[float]]) -> Friedman | None:
    """Test whether algorithms differ over data sets (Demšar, 2006, JMLR 7, section 3.2.2).

    Friedman's statistic (corrected for ties, as scipy's) in the form of Iman and Davenport, and
    Nemenyi's critical difference.

    Args:
        scores: `(N, k)`, one row a data set and one column an algorithm; higher is better.

    Returns:
        The test, or None with fewer than five data sets or two algorithms: with so few almost
        nothing can be found to differ.
    """
    n, k = len(scores), len(scores[0]) if scores else 0
    if n < MINIMUM_DATA_SETS or k < 2:
        return None
    from scipy.special import fdtrc

    squares = math.fsum((rank - (k + 1) / 2) ** 2 for rank in average_ranks(scores))
    # The sum of squares of all ranks around their mean, which ties make smaller.
    spread = math.fsum((rank - (k + 1) / 2) ** 2 for row in scores for rank in _ranks(row))
    chi_square = n * n * (k - 1) * squares / spread if spread else 0.0
    rest = n * (k - 1) - chi_square
    statistic = (n - 1) * chi_square / rest if rest > 0 else math.inf
    p_value = float(fdtrc(k - 1, (k - 1) * (n - 1), statistic))
    return Friedman(chi_square, statistic, p_value, critical_difference(k, n))


def critical_difference(algorithms: int, data_sets: int) -> float:
    """Nemenyi's critical difference of mean ranks at 5 % (Demšar, 2006, JMLR 7, table 5)."""
    # Half a second and a third of the memory of all else that is imported: only where it is used.
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - LEVEL, algorithms, math.inf)) / math.sqrt(2)
    return quantile * math.sqrt(algorithms * (algorithms + 1) / (6 * data_sets))


def groups_not_different(ranks: Sequence[float], critical: float) -> list[tuple[int, ...]]:
    """The bars of a critical-difference diagram: largest groups of neighbours that do not differ.

    Args:
        ranks: Mean ranks.
        critical: The critical difference.

    Returns:
        Positions in `ranks`, ascending by rank, of each group of two or more.
    """
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    groups: list[tuple[int, ...]] = []
    for start, end in combinations(range(len(order)), 2):
        if ranks[order[end]] - ranks[order[start]] < critical:
            group = tuple(order[start : end + 1])
            groups = [g for g in groups if not set(g) < set(group)]
            if not any(set(group) <= set(g) for g in groups):
                groups.append(group)
    return groups


def mean_of_means(summaries: Sequence[Summary]) -> Summary | None:
    """The mean over data sets of an algorithm, with trials independent between them.

    Data sets are fixed: the error says how the mean would move if all trials were run anew, not
    what another data set would show. Its degrees of freedom are Welch and Satterthwaite's.

    Returns:
        The mean; `n` is the least number of trials. None without summaries.
    """
    if not summaries:
        return None
    count = len(summaries)
    mean, n = mean_of([each.mean for each in summaries]), min(each.n for each in summaries)
    errors = [each.standard_error for each in summaries if each.standard_error is not None]
    if len(errors) < count:
        return Summary(mean, None, n, None)
    squares = [(error / count) ** 2 for error in errors]
    error = math.sqrt(math.fsum(squares))
    parts = [s**2 / (each.n - 1) for s, each in zip(squares, summaries, strict=True)]
    freedom = math.fsum(squares) ** 2 / math.fsum(parts) if any(parts) else float(n - 1)
    return Summary(mean, error, n, t_interval(mean, error, freedom))
