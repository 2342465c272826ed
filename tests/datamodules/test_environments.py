from __future__ import annotations

from typing import Any

import pytest
import torch

from datamodules.environments import (
    EnvironmentData,
    check_sources,
    resolve_environments,
    split_fingerprint,
    split_main_holdout,
)
from datamodules.errors import DataError

NAMES = ("+90%", "+80%", "-90%")
ALIASES = {"plus90": "+90%", "minus90": "-90%"}


def make(**changes: Any) -> EnvironmentData:
    parts: dict[str, Any] = {
        "inputs": torch.arange(12.0).reshape(6, 2),
        "targets": torch.tensor([0, 1, 0, 1, 0, 1]),
        "sources": torch.arange(6),
        "main": torch.tensor([0, 2, 3, 5]),
        "holdout": torch.tensor([1, 4]),
        "factors": {"colour": torch.tensor([1, 1, 0, 0, 1, 0])},
    }
    return EnvironmentData(**{**parts, **changes})


def resolve(*given: int | str) -> tuple[int, ...]:
    return resolve_environments("test_envs", given, NAMES, ALIASES)


@pytest.mark.parametrize("count", [1, 2, 10, 101, 1667])
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.99])
def test_main_and_holdout_are_a_partition(count: int, fraction: float) -> None:
    main, holdout = split_main_holdout(count, fraction, "partition")

    assert sorted(main.tolist() + holdout.tolist()) == list(range(count))
    assert len(holdout) == int(count * fraction)
    assert main.tolist() == sorted(main.tolist())
    assert holdout.tolist() == sorted(holdout.tolist())
    assert main.dtype == holdout.dtype == torch.int64


def test_split_keeps_its_golden_value_and_depends_on_its_seed() -> None:
    assert split_main_holdout(10, 0.3, 0, "golden")[1].tolist() == [0, 2, 8]
    assert split_main_holdout(10, 0.3, 1, "golden")[1].tolist() != [0, 2, 8]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_impossible_holdout_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(DataError, match=r"holdout_fraction is .*give a share from 0"):
        split_main_holdout(10, fraction, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": torch.zeros(5, dtype=torch.int64)}, "one entry a sample"),
        ({"factors": {"colour": torch.zeros(7)}}, "'colour': 7"),
        ({"main": torch.tensor([0, 6])}, "indices from 0 to 5"),
        ({"main": torch.tensor([-1, 0])}, "indices from 0 to 5"),
        ({"main": torch.tensor([2, 0])}, "the main split .* ascending"),
        ({"holdout": torch.tensor([1, 1])}, "the holdout split .* distinct"),
        ({"holdout": torch.tensor([1, 5])}, "share samples"),
    ],
)
def test_environments_that_do_not_fit_together_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make(**changes)


def test_holdout_may_be_empty() -> None:
    assert len(make(holdout=torch.tensor([], dtype=torch.int64)).indices("holdout")) == 0


@pytest.mark.parametrize("shares_sources", [False, True])
def test_a_source_in_both_splits_of_an_environment_leaks(shares_sources: bool) -> None:
    data = make(sources=torch.tensor([0, 0, 2, 3, 4, 5]))

    with pytest.raises(DataError, match="source image 0 stands in"):
        check_sources([data], ["a"], shares_sources=shares_sources)


def test_a_source_in_two_environments_leaks_unless_declared() -> None:
    environments = [make(), make(sources=torch.tensor([0, 11, 12, 13, 14, 15]))]

    with pytest.raises(DataError, match="source image 0 stands in a/main and in b/main"):
        check_sources(environments, ["a", "b"], shares_sources=False)
    check_sources(environments, ["a", "b"], shares_sources=True)


def test_a_shared_source_may_not_change_its_split() -> None:
    environments = [make(), make(sources=torch.tensor([1, 11, 12, 13, 14, 15]))]

    with pytest.raises(DataError, match="source image 1 stands in the holdout splits"):
        check_sources(environments, ["a", "b"], shares_sources=True)


def test_repeated_samples_of_a_source_in_one_split_are_fine() -> None:
    check_sources([make(sources=torch.tensor([0, 1, 0, 0, 1, 0]))], ["a"], shares_sources=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": torch.tensor([1, 1, 0, 1, 0, 1])},
        {"sources": torch.tensor([9, 1, 2, 3, 4, 5])},
        {"main": torch.tensor([0, 2, 3])},
        {"factors": {"colour": torch.tensor([0, 1, 0, 0, 1, 0])}},
        {"factors": {"hue": torch.tensor([1, 1, 0, 0, 1, 0])}},
        {"factors": {}},
    ],
)
def test_fingerprint_sees_all_that_is_not_a_pixel(changes: dict[str, Any]) -> None:
    before = split_fingerprint(make(), "main", {"version": 1})

    assert split_fingerprint(make(**changes), "main", {"version": 1}) != before


def test_fingerprint_tells_descriptions_and_splits_apart_and_ignores_pixels() -> None:
    same = torch.tensor([], dtype=torch.int64)
    empty = make(main=same, holdout=same)
    before = split_fingerprint(empty, "main", {"version": 1})

    assert split_fingerprint(empty, "holdout", {"version": 1}) != before
    assert split_fingerprint(empty, "main", {"version": 2}) != before
    assert split_fingerprint(make(), "main", {"a": 1}) == split_fingerprint(
        make(inputs=torch.zeros(6, 2)), "main", {"a": 1}
    )


def test_main_fingerprint_does_not_depend_on_holdout_samples() -> None:
    changed = make(targets=torch.tensor([0, 0, 0, 1, 0, 1]))

    assert split_fingerprint(changed, "main", {}) == split_fingerprint(make(), "main", {})
    assert split_fingerprint(changed, "holdout", {}) != split_fingerprint(make(), "holdout", {})


def test_names_aliases_and_indices_are_resolved_in_the_order_given() -> None:
    assert resolve("minus90", 0, "+80%") == (2, 0, 1)
    assert resolve("-90%") == (2,)
    assert resolve("2") == resolve(2) == (2,)
    assert resolve() == ()


def test_one_environment_need_not_be_in_a_list() -> None:
    assert resolve_environments("test_envs", "-90%", NAMES, ALIASES) == (2,)


@pytest.mark.parametrize("index", [3, -1, "3", "-1", 10**20])
def test_indices_out_of_range_are_refused(index: int | str) -> None:
    with pytest.raises(DataError) as caught:
        resolve(index)

    assert str(caught.value) == (
        f"test_envs: index {index} is out of range; "
        "choose from 0 = +90% = plus90, 1 = +80%, 2 = -90% = minus90"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("+8%", "did you mean '+80%'? "),
        ("minus9", "did you mean 'minus90'? "),
        ("sketch", ""),
        ("", ""),
        ("1.0", ""),
    ],
)
def test_unknown_names_get_a_hint_and_the_list(name: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        resolve(name)

    assert str(caught.value) == (
        f"test_envs: no environment is called {name!r}; {hint}"
        "choose from 0 = +90% = plus90, 1 = +80%, 2 = -90% = minus90"
    )


def test_duplicates_are_refused_in_whatever_spelling() -> None:
    with pytest.raises(DataError, match=r"test_envs names '-90%' twice; give each .* once"):
        resolve("minus90", 2)
