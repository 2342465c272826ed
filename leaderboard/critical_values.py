"""How far means of equal rows lie apart by chance: critical values of rows that share a variance.

Both are in standard errors of a difference of two means, for normal numbers of one variance that is
estimated with some degrees of freedom: of a row of trials, or of trials in blocks. Each is the root
of a probability that is integrated over one mean and over the estimate of the standard deviation,
by Gauss and Legendre with as many nodes as give seven digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
_FAR = 8.0  # standard deviations beyond which no mean is looked for
_UNLIKELY = 1e-11  # probability of an estimate that is not looked for
_CLOSE = 1e-8  # two guesses of a value that are the same
_DIGITS = 6  # kept of a value, so that no machine's last bit reaches a table


@cache
def below_the_best(rows: int, left: int, freedom: int, level: float) -> float:
    """What the least of some rows is below the greatest of all with probability `level`.

    With `left` equal to `rows` it is Tukey's studentized range over the root of two, with one left
    it is the one-sided value of Dunnett (1955, JASA 50) that Hsu (1984, Ann. Statist. 12) compares
    with the best.

    Args:
        rows: All rows, 2 or more.
        left: Those of which the least is taken, 1 to `rows`.
        freedom: Degrees of freedom of the variance, 1 or more.
        level: The probability, above 0 and below 1.
    """
    from scipy.special import ndtr

    mean, weight = _means()

    def inside(width: _Array) -> _Array:
        """The least of those left is at a mean; the others are above it and below its width."""
        below: _Array = ndtr(mean + width[:, None])
        between = below - ndtr(mean)
        return left * between ** (left - 1) * below ** (rows - left) @ weight

    return _root(inside, freedom, level, left * (rows - 1))


@cache
def from_the_control(others: int, freedom: int, level: float) -> float:
    """What the farthest of some rows is from one more row with probability `level`: Dunnett's.

    Args:
        others: Rows that are compared with the control, 1 or more.
        freedom: Degrees of freedom of the variance, 1 or more.
        level: The probability that any of them is farther, in either direction.
    """
    from scipy.special import ndtr

    mean, weight = _means()

    def inside(width: _Array) -> _Array:
        """The control is at a mean; the others are within a width of it."""
        within: _Array = ndtr(mean + width[:, None]) - ndtr(mean - width[:, None])
        return within**others @ weight

    return _root(inside, freedom, level, 2 * others)


def _means() -> tuple[_Array, _Array]:
    """Nodes of a standard normal mean, and their weights."""
    mean = _FAR * _NODES
    return mean, _FAR * _WEIGHTS * np.exp(-(mean**2) / 2) / math.sqrt(2 * math.pi)


def _root(
    inside: Callable[[_Array], _Array], freedom: int, level: float, comparisons: int
) -> float:
    """Where the probability falls to the level: by secants from Bonferroni's value, on logarithms.

    Not by scipy's search: importing `scipy.optimize` costs more than all the values of a table.
    """
    from scipy.special import stdtrit

    deviation, weight = _deviations(freedom)

    def excess(logarithm: float) -> float:
        within = float(weight @ inside(math.sqrt(2) * math.exp(logarithm) * deviation))
        return math.log((1 - within) / level)

    found = math.log(stdtrit(freedom, 1 - level / comparisons))  # never below the root
    before = found - 0.05
    height = excess(before)
    while abs(found - before) > _CLOSE:
        rest = excess(found)
        before, found, height = found, found - rest * (found - before) / (rest - height), rest
    return round(math.exp(found), _DIGITS)


def _deviations(freedom: int) -> tuple[_Array, _Array]:
    """Nodes of the estimate of a standard deviation that is 1, and their weights.

    On its logarithm, over which the density of chi is smooth for any degrees of freedom.
    """
    from scipy.special import gammainccinv, gammaincinv, gammaln

    half = freedom / 2
    ends = [math.log(f(half, _UNLIKELY) / half) / 2 for f in (gammaincinv, gammainccinv)]
    span = (ends[1] - ends[0]) / 2
    logarithm = (ends[0] + ends[1]) / 2 + span * _NODES
    squares = half * np.exp(2 * logarithm)
    density = 2 * np.exp(half * np.log(squares) - squares - gammaln(half))
    return np.exp(logarithm), span * _WEIGHTS * density
