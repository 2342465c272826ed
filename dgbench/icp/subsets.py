"""Sets of variables: which to test, and what follows from their p-values.

A set is a tuple of column numbers in ascending order; the empty set is one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal

Subset = tuple[int, ...]
Outcome = Literal["identified", "empty_set_accepted", "empty_intersection", "rejected"]


def subsets(count: int) -> Iterator[Subset]:
    """All ``2**count`` sets, smaller ones first, beginning with the empty set."""
    for size in range(count + 1):
        yield from combinations(range(count), size)


def search(
    count: int, p_value: Callable[[Subset], float], alpha: float, *, estimate_only: bool
) -> dict[Subset, float]:
    """Tests sets of variables.

    Args:
        count: number of variables.
        p_value: the test of one set.
        alpha: a set is accepted when its p-value exceeds this.
        estimate_only: leaves out every superset of an accepted set. It changes neither the
            intersection of the accepted sets nor the smallest of them, hence neither outcome,
            estimate nor defining sets; p-values of variables and intervals need all sets.

    Returns:
        The p-values of the sets that were tested.
    """
    tested: dict[Subset, float] = {}
    accepted: list[int] = []
    for subset in subsets(count):
        bits = _bits(subset)
        if estimate_only and any(smaller & bits == smaller for smaller in accepted):
            continue
        tested[subset] = p_value(subset)
        if tested[subset] > alpha:
            accepted.append(bits)
    return tested


def conclude(p_values: Mapping[Subset, float], alpha: float) -> tuple[Outcome, Subset | None]:
    """The outcome and the intersection of the accepted sets; None where none was accepted."""
    accepted = [subset for subset, p_value in p_values.items() if p_value > alpha]
    if not accepted:
        return "rejected", None
    common = set(accepted[0]).intersection(*accepted)
    if common:
        return "identified", tuple(sorted(common))
    return ("empty_set_accepted" if () in accepted else "empty_intersection"), ()


def variable_p_values(p_values: Mapping[Subset, float], count: int) -> tuple[float, ...]:
    """For each variable the largest p-value of the sets without it.

    It tests that the variable is no parent of the target (Peters et al., 2016, section 3.1).
    """
    without = [0.0] * count
    for subset, p_value in p_values.items():
        for variable in set(range(count)) - set(subset):
            without[variable] = max(without[variable], p_value)
    return tuple(without)


def defining_sets(accepted: Sequence[Subset]) -> tuple[Subset, ...]:
    """The smallest sets that meet every accepted set (Heinze-Deml et al., 2018, section 2.2).

    With probability at least 1 - alpha each of them holds a parent of the target. They say what
    can be said when the accepted sets have no variable in common. There is none where the empty
    set is accepted, nor where nothing is.
    """
    if not accepted or () in accepted:
        return ()
    hitting = [0]
    for subset in accepted:
        bits = _bits(subset)
        meeting = [chosen for chosen in hitting if chosen & bits]
        missing = [chosen for chosen in hitting if not chosen & bits]
        extended = {chosen | 1 << variable for chosen in missing for variable in subset}
        # A superset of a set that meets all is not minimal.
        grown = [new for new in extended if not any(old & new == old for old in meeting)]
        hitting = meeting + grown
    return tuple(sorted((_columns(bits) for bits in hitting), key=lambda s: (len(s), s)))


def _bits(subset: Subset) -> int:
    return sum(1 << variable for variable in subset)


def _columns(bits: int) -> Subset:
    return tuple(column for column in range(bits.bit_length()) if bits >> column & 1)
