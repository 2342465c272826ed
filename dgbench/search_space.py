"""Ranges of hyper-parameters, written once, as ``Annotated`` types in an algorithm's signature."""

from __future__ import annotations

import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

from datamodules.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Range(ABC):
    """An interval ``[low, high]`` from which a search draws, on the scale its subclass names."""

    low: float
    high: float
    least: ClassVar[float] = -math.inf

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"{self} has no two finite ends")
        if not self.least <= self.low <= self.high:
            raise ValueError(f"{self} must ascend, from {self.least:g} at the least")

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.low:g}, {self.high:g})"

    @abstractmethod
    def draw(self, fraction: float) -> Any:
        """The value at a fraction of the way from one end to the other.

        Args:
            fraction: in [0, 1).
        """

    def plain(self) -> dict[str, list[Any]]:
        """As a search space's file and a record have it: ``{"LogUniform": [0.1, 10.0]}``."""
        return {type(self).__name__: [self.low, self.high]}

    def rounded(self, value: float) -> float:
        """Four significant digits: readable, and the same where two libraries' powers differ."""
        return min(max(float(f"{value:.4g}"), self.low), self.high)


class Uniform(Range):
    """Floats, uniform between the ends."""

    def draw(self, fraction: float) -> float:
        """Uniform in the value."""
        return self.rounded(self.low + (self.high - self.low) * fraction)


class LogUniform(Range):
    """Floats, their logarithm uniform between the ends; both ends are above 0."""

    least = sys.float_info.min

    def draw(self, fraction: float) -> float:
        """Uniform in the logarithm."""
        return self.rounded(self.low * (self.high / self.low) ** fraction)


class LogInt(Range):
    """Integers, the logarithm uniform before rounding down; both ends are at least 1."""

    least = 1

    def draw(self, fraction: float) -> int:
        """Uniform in the logarithm, rounded down: an integer, which a step is compared with."""
        return int(self.low * (self.high / self.low) ** fraction)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, each as likely."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a choice of nothing")

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return "Choice(" + ", ".join(str(value) for value in self.values) + ")"

    def draw(self, fraction: float) -> Any:
        """The value whose share of [0, 1) a fraction lies in."""
        return self.values[int(fraction * len(self.values))]

    def plain(self) -> dict[str, list[Any]]:
        """As a search space's file and a record have it: ``{"Choice": [8, 16]}``."""
        return {"Choice": list(self.values)}


SCALES: dict[str, type[Range]] = {scale.__name__: scale for scale in (Uniform, LogUniform, LogInt)}


def draw(ranges: Mapping[str, Range | Choice], hparams_seed: int) -> dict[str, Any]:
    """Values of searched options, each a function of the seed and its own name and nothing else.

    A new option, or a range that changes, moves no other option's value.

    Args:
        ranges: by the option's name, section included, such as ``algo.learning_rate``.
        hparams_seed: which draw; 0 draws nothing, which leaves every option as it is.
    """
    if hparams_seed == 0:
        return {}
    return {name: ranges[name].draw(_fraction(hparams_seed, name)) for name in ranges}


def _fraction(hparams_seed: int, name: str) -> float:
    # A float holds 53 bits exactly, so that the fraction stays below 1.
    return (derive_seed("hparams", hparams_seed, name) >> 10) / 2**53


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
