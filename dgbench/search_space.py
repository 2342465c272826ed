"""Ranges of hyper-parameters, written once, as ``Annotated`` types in an algorithm's signature."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints


@dataclass(frozen=True, slots=True)
class Range:
    """An interval ``[low, high]`` from which a search draws, on the scale its subclass names."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.low:g}, {self.high:g})"


class Uniform(Range):
    """Floats, uniform between the ends."""


class LogUniform(Range):
    """Floats, their logarithm uniform between the ends; both ends are above 0."""


class LogInt(Range):
    """Integers, the logarithm uniform before rounding down; both ends are at least 1."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, each as likely."""

    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return "Choice(" + ", ".join(str(value) for value in self.values) + ")"


@dataclass(frozen=True, slots=True)
class HyperParameter:
    """One keyword option of an algorithm: its name, default and, if it is searched, its range."""

    name: str
    default: Any
    range: Range | Choice | None


def hyperparameters(algorithm: type) -> list[HyperParameter]:
    """Lists an algorithm's options, its own before those of the classes it builds on.

    Args:
        algorithm: a class whose ``__init__`` and those of its bases state defaults and ranges.

    Returns:
        One entry for each keyword with a default, in the order of the signatures.
    """
    found: dict[str, HyperParameter] = {}
    for owner in algorithm.__mro__:
        if "__init__" in vars(owner):
            for parameter in _options(owner):
                found.setdefault(parameter.name, parameter)
    return list(found.values())


def _options(owner: type) -> Iterator[HyperParameter]:
    initializer = vars(owner)["__init__"]
    keywords = [
        parameter
        for parameter in inspect.signature(initializer).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        and parameter.default is not inspect.Parameter.empty
    ]
    hints = get_type_hints(initializer, include_extras=True) if keywords else {}
    for parameter in keywords:
        (declared,) = getattr(hints[parameter.name], "__metadata__", (None,))
        yield HyperParameter(parameter.name, parameter.default, declared)
