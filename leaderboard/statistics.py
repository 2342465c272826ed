"""Mean and standard error over trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.errors import RecordError


@dataclass(frozen=True)
class Summary:
    """Mean of n trials and its standard error.

    Attributes:
        mean: Arithmetic mean.
        standard_error: Sample standard deviation (ddof=1) divided by sqrt(n); None for n = 1, which
            says nothing about the spread.
        n: Number of trials, 1 or more.
    """

    mean: float
    standard_error: float | None
    n: int


def summarize(values: Sequence[float]) -> Summary:
    """Summarize one number a trial.

    The sums are exact (`math.fsum`), so the order of the trials cannot change the result.

    Raises:
        RecordError: there is no value, or one is not finite.
    """
    n = len(values)
    if n == 0:
        raise RecordError("no values to summarize: a cell without trials stays empty")
    if not all(math.isfinite(value) for value in values):
        raise RecordError(f"{list(values)} are not all finite: leave diverged trials out")
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Summary(mean, math.sqrt(variance / n), n)
