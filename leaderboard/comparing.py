"""Compares all rows of a column at once, by their trials.

Two tests share the 5 %, half for each, and what either finds counts:

- One takes the variance as equal in all rows and estimates it from all of them: of paired trials
  that of differences (randomised blocks), of others that within rows. Its critical values are those
  of Tukey and of Dunnett (`leaderboard.critical_values`). A pair of rows whose own trials vary more
  is judged by its own standard error, and by its own t-test besides.
- The other is the t-test of each pair by its own variance (Welch's where trials are not paired),
  with the level divided by the number of pairs (Bonferroni).

The first finds much in few trials, the second where rows vary unlike each other: a method that
fails in some trials takes the verdict from no other. Two rows have but one difference, and the
plain t-test.

For normal trials that vary alike in all rows the 5 % are a bound. Where rows vary unlike each other
the first test errs more often, in few trials of many rows: the README has simulated figures. What
holds there, too, is each interval alone, as it is never narrower than its own t-interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Generic, NamedTuple, TypeVar

from leaderboard.critical_values import below_the_best, from_the_control
from leaderboard.statistics import LEVEL, MINIMUM_TRIALS, Interval, mean_of, sum_of_squares

_NO_SPREAD = 1e-12  # standard error of differences that are equal but for rounding

Key = TypeVar("Key")
Name = TypeVar("Name")
Trials = Mapping[Name, Mapping[Key, float]]


@dataclass(frozen=True)
class Difference:
    """Mean difference between two algorithms, ours minus theirs.

    Attributes:
        mean: The difference.
        standard_error: Of the difference by the trials of the two; None with fewer than two.
        n: Trials it is made of: pairs if paired, the smaller of the two numbers otherwise.
        interval: Ends of its interval; those of all rows that are compared with the same one hold
            together with 95 %. None with fewer than two trials.
        p_value: Of the two-sided t-test that there is no difference, of this difference alone; None
            below three trials.
        paired: Whether trials were paired (t-test of differences), or both sides have trials of
            their own (Welch's t-test).
    """

    mean: float
    standard_error: float | None
    n: int
    interval: Interval | None
    p_value: float | None
    paired: bool


class _Pair(NamedTuple):
    """Ours minus theirs.

    Attributes:
        mean: The mean difference.
        n: Trials it is made of.
        error: Its standard error by the trials of the two; None with fewer than two.
        freedom: Degrees of freedom of that; 0 with fewer than two trials.
        share: Its variance in units of that of all rows.
    """

    mean: float
    n: int
    error: float | None
    freedom: float
    share: float


@dataclass(frozen=True)
class Comparison(Generic[Name]):
    """The rows of a column beside each other.

    Attributes:
        means: Mean of each row.
        paired: Whether equal keys were the same trial.
        pairs: Each two rows that have a trial to compare, both ways round.
        variance: Of all rows together: of a difference if paired, of a number otherwise.
        freedom: Degrees of freedom of the variance, 1 or more.
    """

    means: Mapping[Name, float]
    paired: bool
    pairs: Mapping[tuple[Name, Name], _Pair]
    variance: float
    freedom: int

    def not_shown_worse(self) -> dict[Name, bool] | None:
        """Tell which rows are not shown to be worse than the best.

        Rows that equal the best are all among them with 95 %. Step by step those go that are worse
        than another by more than chance makes the least of those left. That is the shortcut of a
        closed test (Marcus, Peritz and Gabriel, 1976, Biometrika 63): whether all of some rows are
        best is tested by the one of them that is farthest below any row. With all rows left it is
        Tukey's test; with one left it is multiple comparison with the best (Hsu, 1984, Ann.
        Statist. 12), which alone keeps a given one of the best rows with 95 %, but not all.

        Returns:
            For each row whether it is the one of the highest mean, or not shown to be worse. None
            without a verdict: for one row, or where two have fewer than three trials to compare.
        """
        several = [pair for pair in self.pairs.values() if pair.n >= MINIMUM_TRIALS]
        if len(self.means) < 2 or len(several) < len(self.means) * (len(self.means) - 1):
            return None
        best = max(self.means, key=self.means.__getitem__)
        left = set(self.means)
        while worse := self._shown_worse(best, left):
            left -= worse
        return {name: name in left for name in self.means}

    def differences_to(self, control: Name) -> dict[Name, Difference]:
        """Compare each row with one of them.

        Returns:
            The difference of each other row that has a trial to compare; their intervals hold
            together.
        """
        pairs = {name: self.pairs.get((name, control)) for name in self.means if name != control}
        return {name: self._difference(pair) for name, pair in pairs.items() if pair is not None}

    def _shown_worse(self, best: Name, left: set[Name]) -> set[Name]:
        rows = len(self.means)
        shared = below_the_best(rows, len(left), self.freedom, self._level)
        tail = self._level / (len(left) * (rows - 1))
        return {
            name
            for (other, name), pair in self.pairs.items()
            if pair.mean > 0
            and name in left
            and name != best
            and (
                pair.mean > self._alone(pair, tail)
                or (other == best and pair.mean > self._together(pair, shared))
            )
        }

    def _difference(self, pair: _Pair) -> Difference:
        mean, n, error = pair.mean, pair.n, pair.error
        if error is None:
            return Difference(mean, None, n, None, None, self.paired)
        others = len(self.means) - 1
        shared = from_the_control(others, self.freedom, self._level)
        alone = self._alone(pair, self._level / (2 * others))
        margin = min(alone, self._together(pair, shared))
        interval = mean - margin, mean + margin
        return Difference(mean, error, n, interval, _p_value(pair), self.paired)

    @property
    def _level(self) -> float:
        """The part of the 5 % that each of the two tests has; two rows need but one."""
        return LEVEL / 2 if len(self.means) > 2 else LEVEL

    def _alone(self, pair: _Pair, tail: float) -> float:
        """How far apart two means must be to count by the variance of the two rows.

        Args:
            pair: Of two trials or more.
            tail: The probability of more, in one direction.
        """
        assert pair.error is not None
        if pair.error < _NO_SPREAD and len(self.means) > 2:
            # Trials that all differ by the same do so by chance, where accuracies are whole images.
            return math.inf
        return _quantile(tail, pair.freedom) * pair.error

    def _together(self, pair: _Pair, shared: float) -> float:
        """How far apart two means must be to count by the variance of all rows.

        Args:
            pair: Of two trials or more.
            shared: The critical value.
        """
        assert pair.error is not None
        if len(self.means) == 2:
            return math.inf
        own = max(shared, _quantile(LEVEL / 2, pair.freedom)) * pair.error
        return max(shared * math.sqrt(self.variance * pair.share), own)


def compare(trials: Trials[Name, Key], *, paired: bool) -> Comparison[Name]:
    """Set rows beside each other.

    Paired trials saw the same data, so that what the data contributed cancels; a trial that only
    one of two rows has is left out of their difference then.

    Args:
        trials: For each row one number a trial, one trial or more.
        paired: Whether equal keys are the same trial.
    """
    return _blocks(trials) if paired else _independent(trials)


def _blocks(trials: Trials[Name, Key]) -> Comparison[Name]:
    """Rows whose trials saw the same data.

    The variance of a difference is the mean of those of all pairs: where all rows have the same
    trials, twice the mean square of the error of randomised blocks.
    """
    pairs: dict[tuple[Name, Name], _Pair] = {}
    squares, freedom = [], 0
    for (ours, our), (theirs, their) in combinations(trials.items(), 2):
        found = [our[key] - their[key] for key in our if key in their]
        if found:
            n, square = len(found), sum_of_squares(found)
            error = math.sqrt(square / (n - 1) / n) if n > 1 else None
            _add(pairs, ours, theirs, _Pair(mean_of(found), n, error, n - 1, 1 / n))
            squares.append(square)
            freedom += n - 1
    variance = math.fsum(squares) / max(freedom, 1)
    return Comparison(_means(trials), True, pairs, variance, _freedom_of_blocks(trials))


def _freedom_of_blocks(trials: Trials[Name, Key]) -> int:
    """Numbers that have another beside them, less their rows and their trials."""
    shared = [
        key
        for key in set().union(*trials.values())
        if sum(key in own for own in trials.values()) > 1
    ]
    numbers = [sum(key in own for key in shared) for own in trials.values()]
    return max(1, sum(numbers) - sum(map(bool, numbers)) - len(shared) + 1)


def _independent(trials: Trials[Name, Key]) -> Comparison[Name]:
    """Rows that have trials of their own."""
    means = _means(trials)
    squares = {name: sum_of_squares(list(own.values())) for name, own in trials.items()}
    pairs: dict[tuple[Name, Name], _Pair] = {}
    for ours, theirs in combinations(trials, 2):
        sizes, mean = (len(trials[ours]), len(trials[theirs])), means[ours] - means[theirs]
        error, own_freedom = _welch((squares[ours], squares[theirs]), sizes)
        share = sum(1 / n for n in sizes)
        _add(pairs, ours, theirs, _Pair(mean, min(sizes), error, own_freedom, share))
    freedom = max(1, sum(len(own) - 1 for own in trials.values()))
    return Comparison(means, False, pairs, math.fsum(squares.values()) / freedom, freedom)


def _welch(squares: Sequence[float], sizes: Sequence[int]) -> tuple[float | None, float]:
    """Standard error and degrees of freedom of Welch and Satterthwaite, from sums of squares."""
    if min(sizes) == 1:
        return None, 0
    parts = [square / (n - 1) / n for square, n in zip(squares, sizes, strict=True)]
    spread = sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
    return math.sqrt(sum(parts)), sum(parts) ** 2 / spread if spread else sum(sizes) - 2


def _add(pairs: dict[tuple[Name, Name], _Pair], ours: Name, theirs: Name, pair: _Pair) -> None:
    pairs[ours, theirs] = pair
    pairs[theirs, ours] = pair._replace(mean=-pair.mean)


def _means(trials: Trials[Name, Key]) -> dict[Name, float]:
    return {name: mean_of(list(own.values())) for name, own in trials.items()}


def _p_value(pair: _Pair) -> float | None:
    from scipy.special import stdtr

    if pair.n < MINIMUM_TRIALS:
        return None
    if not pair.error:
        return 1.0 if pair.mean == 0 else 0.0
    return float(2 * stdtr(pair.freedom, -abs(pair.mean) / pair.error))


@lru_cache(maxsize=4096)
def _quantile(tail: float, freedom: float) -> float:
    """Student's, with a probability above it."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - tail))
