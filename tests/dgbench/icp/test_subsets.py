from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from dgbench.icp.subsets import conclude, defining_sets, search, subsets, variable_p_values


def random_p_values(seed: int, count: int = 5) -> dict[tuple[int, ...], float]:
    """Mostly small, so that few sets are accepted."""
    random = np.random.default_rng(seed)
    return {subset: float(random.random() ** 20) for subset in subsets(count)}


def smallest_hitting_sets(accepted: list[tuple[int, ...]], count: int) -> set[tuple[int, ...]]:
    """By trying all."""
    meeting = [s for s in subsets(count) if all(set(s) & set(a) for a in accepted)]
    return {s for s in meeting if not any(set(t) < set(s) for t in meeting)}


def test_every_subset_once_and_the_empty_one_first():
    found = list(subsets(4))
    assert found[0] == ()
    assert found[-1] == (0, 1, 2, 3)
    assert len(found) == len(set(found)) == 16


@pytest.mark.parametrize(
    ("accepted", "outcome", "estimate"),
    [
        ([(0, 1), (0, 2)], "identified", (0,)),
        ([(), (0,), (1,)], "empty_set_accepted", ()),
        ([(0,), (1,)], "empty_intersection", ()),
        ([], "rejected", None),
    ],
)
def test_the_four_outcomes(accepted, outcome, estimate):
    p_values = {subset: 1.0 if subset in accepted else 0.01 for subset in subsets(3)}
    assert conclude(p_values, 0.05) == (outcome, estimate)
    assert conclude(p_values, 0.01)[0] == outcome, "a set at the level itself is not accepted"


def test_a_variable_has_the_largest_p_value_of_the_sets_without_it():
    p_values = {(): 0.1, (0,): 0.2, (1,): 0.3, (0, 1): 0.9}
    assert variable_p_values(p_values, 2) == (0.3, 0.2)


@pytest.mark.parametrize("seed", range(20))
def test_stopping_early_changes_no_answer(seed):
    p_values = random_p_values(seed)
    asked: list[tuple[int, ...]] = []

    def p_value(subset):
        asked.append(subset)
        return p_values[subset]

    found = search(5, p_value, 0.05, estimate_only=True)
    accepted = [s for s, p in p_values.items() if p > 0.05]
    fewer = [s for s, p in found.items() if p > 0.05]
    assert conclude(found, 0.05) == conclude(p_values, 0.05)
    assert defining_sets(fewer) == defining_sets(accepted)
    assert len(asked) == len(set(asked)) < 32 or not accepted
    for one, other in combinations(fewer, 2):
        assert not set(one) <= set(other)


@pytest.mark.parametrize("seed", range(20))
def test_defining_sets_are_the_smallest_that_meet_all(seed):
    accepted = [s for s, p in random_p_values(seed, 6).items() if p > 0.05 and s]
    found = defining_sets(accepted)
    assert set(found) == (smallest_hitting_sets(accepted, 6) if accepted else set())
    assert list(found) == sorted(found, key=lambda s: (len(s), s))
