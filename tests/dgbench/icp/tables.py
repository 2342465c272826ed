"""The reference cases, and structural models whose causes are known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CASES = Path(__file__).parent / "cases"
NAMES = sorted(path.stem for path in CASES.glob("*.json"))
# The reference's name of a test, and ours.
TESTS = {
    "method_II_residuals": "residuals",
    "method_I_chow": "chow",
    "classification_mean_residual": "mean",
    "classification_LR_env_interaction": "interaction",
    "classification_calibration_LR": "calibration",
}


class Table(NamedTuple):
    inputs: np.ndarray
    target: np.ndarray
    environment: np.ndarray


class Case(NamedTuple):
    table: Table
    expected: dict[str, Any]


@cache
def case(name: str) -> Case:
    document = json.loads((CASES / f"{name}.json").read_text())
    path = CASES / document["data"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == document["sha256"]
    rows = np.genfromtxt(path, delimiter=",", skip_header=1)
    table = Table(rows[:, 2:], rows[:, 1], rows[:, 0].astype(int))
    return Case(table, document["expected"])


def names(written: str) -> tuple[str, ...]:
    """A set as the reference writes it, ``{X1,X2}``."""
    inside = written.strip("{}")
    return tuple(inside.split(",")) if inside else ()


def environments(count: int, rows: int) -> np.ndarray:
    return np.repeat(np.arange(count), rows)


NOISE: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda random, n: random.normal(size=n),
    "t5": lambda random, n: random.standard_t(5, n),
    "laplace": lambda random, n: random.laplace(size=n),
    "exponential": lambda random, n: random.exponential(size=n) - 1,
}


def linear(
    random: np.random.Generator,
    *,
    count: int = 3,
    rows: int = 100,
    shift: float = 1.0,
    noise: str = "normal",
    scales: tuple[float, ...] = (1.0,),
) -> Table:
    """Two causes and an effect of Y; environments but the first shift a cause, and the effect.

    Y's noise has the law ``noise`` and, where ``scales`` has several, another size in each.
    """
    e = environments(count, rows)
    moves = np.zeros((count, 3))
    for number in range(1, count):
        moves[number, (number - 1) % 2] = 2 + 0.5 * number
        moves[number, 2] = (-1) ** number * 1.5
    moved = shift * moves[e]
    causes = random.normal(size=(len(e), 2)) + moved[:, :2]
    size = np.resize(scales, count)[e]
    target = 1.0 * causes[:, 0] - 0.7 * causes[:, 1] + size * NOISE[noise](random, len(e))
    effect = 0.8 * target + random.normal(size=len(e)) + moved[:, 2]
    return Table(np.column_stack([causes, effect]), target, e)


def logistic(
    random: np.random.Generator, *, count: int = 3, rows: int = 300, shift: float = 1.0
) -> Table:
    """Two causes of a binary Y and an effect; environments but the first shift a cause, and it."""
    e = environments(count, rows)
    first, second = (e % 2 == 1) * shift, (e > 0) * (e % 2 == 0) * shift
    causes = random.normal(size=(len(e), 2)) + np.column_stack([first, second])
    odds = causes[:, 0] - causes[:, 1]
    target = (random.random(len(e)) < 1 / (1 + np.exp(-odds))).astype(int)
    effect = target + random.normal(size=len(e)) + first - second
    return Table(np.column_stack([causes, effect]), target, e)


def flipped_colours(
    random: np.random.Generator, *, flips: tuple[float, ...] = (0.1, 0.2), rows: int = 1000
) -> Table:
    """Shape and colour as in Colored MNIST: bits that agree with Y in 75 % and 1 - flips."""
    e = environments(len(flips), rows)
    shape = random.random(len(e)) < 0.5
    target = shape ^ (random.random(len(e)) < 0.25)
    colour = target ^ (random.random(len(e)) < np.array(flips)[e])
    return Table(np.column_stack([shape, colour]).astype(float), target.astype(int), e)


def chain(
    random: np.random.Generator,
    *,
    noise_changes: bool,
    scales: tuple[float, ...] = (0.2, 0.5, 1.0),
    rows: int = 1000,
) -> Table:
    """X1 -> Y -> X2, the introductory example of the IRM paper (arXiv 1907.02893).

    There Y's own noise has the environment's scale, against ICP's assumption; or it keeps one.
    """
    e = environments(len(scales), rows)
    scale = np.array(scales)[e]
    cause = scale * random.normal(size=len(e))
    target = cause + (scale if noise_changes else 1.0) * random.normal(size=len(e))
    effect = target + random.normal(size=len(e))
    return Table(np.column_stack([cause, effect]), target, e)
