"""Selection rules, and that they cannot see what they must not."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Sequence

import pytest

from leaderboard.errors import RecordError
from leaderboard.records import CheckLine, SelectionRule
from leaderboard.selection import UnavailableError, select, selected_steps
from tests.leaderboard.make_golden import make_check

TRAIN, TEST = ("a", "b"), ("t",)


def checks(holdouts: Sequence[tuple[float | None, float | None]]) -> list[CheckLine]:
    """Checks at steps 10, 20, ... with these holdout accuracies of environments a and b."""
    return [
        make_check(
            10 * position,
            {"a/holdout": a, "b/holdout": b, "t/main": 0.1 * position, "t/holdout": 0.9 / position},
        )
        for position, (a, b) in enumerate(holdouts, start=1)
    ]


def test_train_val_takes_the_highest_mean() -> None:
    assert select("train_val", checks([(0.9, 0.1), (0.6, 0.6), (0.5, 0.6)]), TRAIN, TEST) == 20


def test_train_val_takes_the_first_of_equal_checks() -> None:
    assert select("train_val", checks([(0.1, 0.1), (0.25, 0.5), (0.5, 0.25)]), TRAIN, TEST) == 20


@pytest.mark.parametrize("rule", ["last", "oracle"])
def test_last_and_oracle_take_the_last_check(rule: SelectionRule) -> None:
    assert select(rule, checks([(0.9, 0.9), (0.1, 0.1)]), TRAIN, TEST) == 20


def test_permuted_or_missing_held_out_columns_change_no_choice() -> None:
    original = checks([(0.5, 0.6), (0.7, 0.6), (0.9, 0.2), (0.1, 0.1)])
    expected = selected_steps(original, TRAIN, TEST)
    assert expected == {"train_val": 20, "oracle": 40, "last": 40}
    held_out = [{k: v for k, v in c["splits"].items() if k.startswith("t/")} for c in original]
    for order in itertools.permutations(range(4)):
        changed = copy.deepcopy(original)
        for check, source in zip(changed, order, strict=True):
            check["splits"].update(held_out[source])
        assert selected_steps(changed, TRAIN, TEST) == expected
    for check in original:
        check["splits"] = {k: v for k, v in check["splits"].items() if not k.startswith("t/")}
    assert selected_steps(original, TRAIN, TEST) == expected


def test_main_splits_and_unused_environments_change_no_choice() -> None:
    original = checks([(0.5, 0.6), (0.7, 0.6), (0.1, 0.1)])
    changed = copy.deepcopy(original)
    generator = random.Random(3)
    for check in changed:
        extra = make_check(0, {k: generator.random() for k in ("a/main", "u/holdout", "u/main")})
        check["splits"].update(extra["splits"])
    assert selected_steps(changed, TRAIN, TEST) == selected_steps(original, TRAIN, TEST)


def test_a_diverged_check_is_never_chosen_by_train_val() -> None:
    assert select("train_val", checks([(0.1, 0.1), (1.0, None)]), TRAIN, TEST) == 10
    with pytest.raises(UnavailableError, match="diverged before its first check"):
        select("train_val", checks([(None, 0.5)]), TRAIN, TEST)


def test_train_val_without_holdout_says_why() -> None:
    without = [make_check(10, {"t/main": 0.5})]
    with pytest.raises(UnavailableError, match=r"no 'a/holdout': choose the rule 'last'"):
        select("train_val", without, TRAIN, TEST)
    assert selected_steps(without, TRAIN, TEST) == {"train_val": None, "oracle": 10, "last": 10}


def test_leave_one_out_needs_several_runs() -> None:
    with pytest.raises(UnavailableError, match="one run cannot answer it: choose one of train_val"):
        select("leave_one_out", checks([(0.5, 0.5)]), TRAIN, TEST)


def test_a_run_without_checks() -> None:
    with pytest.raises(UnavailableError, match="no checks"):
        select("last", [], TRAIN, TEST)


def test_roles_are_refused() -> None:
    with pytest.raises(RecordError, match=r"\['a'\] are trained on and held out"):
        select("last", checks([(0.5, 0.5)]), TRAIN, ("a",))
    with pytest.raises(RecordError, match="no training environments"):
        select("train_val", checks([(0.5, 0.5)]), (), TEST)
