from __future__ import annotations

from typing import Annotated, Any

import pytest

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.irm import IRM
from dgbench.search_space import Choice, LogInt, LogUniform, Uniform, hyperparameters


class Base:
    def __init__(
        self,
        *,
        network: object,
        learning_rate: Annotated[float, LogUniform(1e-4, 1e-2)] = 1e-3,
        l2: float = 0.0,
    ) -> None: ...


class Middle(Base):
    def __init__(
        self,
        *,
        steps: Annotated[int, LogInt(1, 100)] = 10,
        l2: Annotated[float, Uniform(0.0, 1.0)] = 0.5,
        **base: Any,
    ) -> None: ...


class Silent(Middle):
    """Adds no option."""


class Last(Silent):
    def __init__(self, *, kind: Annotated[str, Choice(("a", "b"))] = "a", **base: Any) -> None: ...


def test_options_come_in_the_order_of_the_signatures_ones_own_first():
    names = [parameter.name for parameter in hyperparameters(Last)]
    assert names == ["kind", "steps", "l2", "learning_rate"]


def test_the_most_derived_signature_states_default_and_range():
    found = {parameter.name: parameter for parameter in hyperparameters(Last)}
    assert (found["l2"].default, found["l2"].range) == (0.5, Uniform(0.0, 1.0))
    base = {parameter.name: parameter for parameter in hyperparameters(Base)}
    assert (base["l2"].default, base["l2"].range) == (0.0, None)
    assert found["learning_rate"] == base["learning_rate"]
    assert found["kind"].range == Choice(("a", "b"))


def test_a_class_without_a_signature_has_its_bases_options():
    assert hyperparameters(Silent) == hyperparameters(Middle)


def test_options_without_default_are_no_hyperparameters():
    assert "network" not in {parameter.name for parameter in hyperparameters(Last)}


def test_algorithms_have_the_options_of_the_base_behind_their_own():
    shared = hyperparameters(ERM)
    assert shared[0].name == "learning_rate"
    own = hyperparameters(IRM)[: -len(shared)]
    assert [parameter.name for parameter in own] == ["penalty_weight", "anneal_steps", "estimator"]
    assert hyperparameters(IRM)[-len(shared) :] == shared


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (Uniform(-1.0, 2.0), (-1.0, 0.0, 2.0), (-1.001, 2.001)),
        (LogUniform(1e-3, 1e5), (1e-3, 1.0, 1e5), (0.0, 9e-4, 1.1e5)),
        (LogInt(1, 10_000), (1, 10_000), (0, 10_001)),
        (Choice(("full", "split")), ("full", "split"), ("half",)),
    ],
)
def test_membership(space, inside, outside):
    assert all(value in space for value in inside)
    assert not any(value in space for value in outside)


def test_ranges_of_different_scales_differ():
    ranges: list[object] = [Uniform(1.0, 2.0), LogUniform(1.0, 2.0), LogInt(1.0, 2.0)]
    assert ranges.count(Uniform(1.0, 2.0)) == 1


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (LogUniform(1e-1, 1e5), "LogUniform(0.1, 100000)"),
        (Uniform(-100.0, 0.0), "Uniform(-100, 0)"),
        (Choice((0, 0.5)), "Choice(0, 0.5)"),
    ],
)
def test_ranges_are_shown_as_they_are_written(space, text):
    assert str(space) == text
