"""Behind which steps a run is checked."""

from __future__ import annotations


def check_steps(steps: int, check_every: int, first_check: int | None = None) -> frozenset[int]:
    """The steps behind which a run is checked: regular ones, and always the last.

    Args:
        steps: The run's budget, at least 1.
        check_every: Steps between two checks, at least 1.
        first_check: The step behind which the first one comes, at least 1; None is `check_every`.

    >>> sorted(check_steps(10, 3))
    [3, 6, 9, 10]
    >>> sorted(check_steps(10, 3, first_check=1))
    [1, 4, 7, 10]
    """
    first = check_every if first_check is None else first_check
    return frozenset({*range(first, steps + 1, check_every), steps})
