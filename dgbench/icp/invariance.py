"""What a test of invariance is, and the comparisons of environments that several tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import numpy as np
from scipy import special

from dgbench.errors import UsageError
from dgbench.icp.sample import FloatArray, IntArray, Sample, TargetKind
from dgbench.icp.subsets import Subset

Bonferroni = Literal["recommended", "R"]


class Coefficients(NamedTuple):
    """Of the variables of one set, in its order.

    Attributes:
        estimates: ``(|S|,)``.
        standard_errors: ``(|S|,)``; infinite where the data do not determine a coefficient.
        degrees: degrees of freedom of the residuals; infinite where errors are asymptotic.
    """

    estimates: FloatArray
    standard_errors: FloatArray
    degrees: float


class SetTest(NamedTuple):
    """The test of one set of variables.

    Attributes:
        p_value: of "given these variables, the target has one law in all environments".
        coefficients: None where the test has none.
        note: what was special about the set, the same text for all sets of the kind.
    """

    p_value: float
    coefficients: Coefficients | None = None
    note: str = ""


class InvarianceTest(Protocol):
    """A test of invariance; ``icp`` takes any object that has these.

    One whose guarantee asks for more than the module's docstring says may have an ``assumption``,
    a text, which becomes a note of the result.
    """

    @property
    def name(self) -> str:
        """How the result calls it."""

    @property
    def target(self) -> TargetKind:
        """Which targets it is for."""

    def prepare(self, sample: Sample, bonferroni: Bonferroni) -> Callable[[Subset], SetTest]:
        """Does once what all sets share, and returns the test of one set."""


def environment_factor(environments: int, bonferroni: Bonferroni) -> int:
    """What the smallest of K comparisons of one environment with the rest is multiplied by.

    With two environments both comparisons are the same one, so ``recommended`` has 1 there and
    K from three on. The paper (Peters et al., 2016, section 3.2.2) has K always, which wastes half
    of the level at K = 2; ``R`` has K - 1, as R's InvariantCausalPrediction and causalicp, which
    exceeds the level a little at K = 3 (0.054 at 0.05).
    """
    if bonferroni == "R":
        return environments - 1
    return environments if environments > 2 else 1


def adjusted(p_values: FloatArray, factor: int) -> float:
    """The smallest p-value times a factor, at most 1."""
    return min(1.0, factor * float(p_values.min()))


class Comparison(NamedTuple):
    """Two-sided p-values of each environment against all others, ``(K,)`` each."""

    means: FloatArray
    variances: FloatArray


def compare_moments(residuals: FloatArray, environment: IntArray, counts: IntArray) -> Comparison:
    """Compares each environment's residuals with those of all others.

    Args:
        residuals: ``(n,)``.
        environment: ``(n,)``, 0..K-1.
        counts: ``(K,)``, rows of each environment, at least 2.

    Returns:
        Welch's t test of the means and the F test of the variances.
    """
    size = counts.astype(np.float64)
    mean = np.bincount(environment, residuals, len(counts)) / size
    squares = np.bincount(environment, (residuals - mean[environment]) ** 2, len(counts))
    others = 1 - np.eye(len(counts))
    rest_size = others @ size
    rest_mean = others @ (size * mean) / rest_size
    between = (others * size * (mean - rest_mean[:, None]) ** 2).sum(axis=1)
    rest_squares = others @ squares + between
    variance, rest_variance = squares / (size - 1), rest_squares / (rest_size - 1)
    return Comparison(
        _welch(mean, variance, size, rest_mean, rest_variance, rest_size),
        _variance_ratio(variance, size - 1, rest_variance, rest_size - 1),
    )


def _welch(
    mean: FloatArray,
    variance: FloatArray,
    size: FloatArray,
    rest_mean: FloatArray,
    rest_variance: FloatArray,
    rest_size: FloatArray,
) -> FloatArray:
    a, b = variance / size, rest_variance / rest_size
    difference = np.abs(mean - rest_mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = (a + b) ** 2 / (a**2 / (size - 1) + b**2 / (rest_size - 1))
        p_values = 2 * special.stdtr(degrees, -difference / np.sqrt(a + b))
    # Without any spread two means are the same, or they are not.
    return np.where(a + b > 0, p_values, np.where(difference > 0, 0.0, 1.0))


def _variance_ratio(
    variance: FloatArray, degrees: FloatArray, rest_variance: FloatArray, rest_degrees: FloatArray
) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = variance / rest_variance
    below = special.fdtr(degrees, rest_degrees, ratio)
    above = special.fdtrc(degrees, rest_degrees, ratio)
    p_values = np.minimum(1.0, 2 * np.minimum(below, above))
    no_spread = (variance == 0) & (rest_variance == 0)
    return np.where(no_spread, 1.0, np.where(rest_variance == 0, 0.0, p_values))


def rank_sums(values: FloatArray, environment: IntArray, counts: IntArray) -> FloatArray:
    """Two-sided rank sum tests of each environment against all others.

    Normal approximation, corrected for ties and for continuity, as R's for 50 rows and more.

    Args:
        values: ``(n,)``.
        environment: ``(n,)``, 0..K-1.
        counts: ``(K,)``, rows of each environment.

    Returns:
        ``(K,)``, p-values.
    """
    _, position, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[position]
    rows, own = len(values), counts.astype(np.float64)
    difference = np.bincount(environment, ranks) - own * (rows + 1) / 2
    tied = float((ties.astype(np.float64) ** 3 - ties).sum()) / (rows * (rows - 1))
    deviation = np.sqrt(own * (rows - own) / 12 * (rows + 1 - tied))
    distance = np.maximum(0.0, np.abs(difference) - 0.5)
    with np.errstate(invalid="ignore", divide="ignore"):
        p_values = 2 * special.ndtr(-distance / deviation)
    return np.where(deviation > 0, p_values, 1.0)


def refuse_few_rows(sample: Sample, rows: int, what: str, needed: int) -> None:
    """Refuses a table that is too small for its largest set of variables.

    Raises:
        UsageError: when ``rows`` is below ``needed``.
    """
    if rows < needed:
        raise UsageError(
            f"{what} has {rows} rows; with {len(sample.variables)} variables the largest set needs "
            f"{needed}. Leave variables out, or screen them first: icp(..., screen='lasso', "
            "keep=8), on the command line --screen lasso --keep 8."
        )
