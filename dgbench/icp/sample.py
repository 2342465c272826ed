"""The table that invariant causal prediction works on, checked once and never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dgbench.errors import UsageError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
TargetKind = Literal["numeric", "classes"]

# A column whose spread is this far below its size is constant but for rounding.
_CONSTANT = 1e-10
_SHOWN = 5


@dataclass(frozen=True)
class Sample:
    """Rows of all environments.

    Attributes:
        inputs: ``(n, p)``, the candidate variables as given.
        centred: ``(n, p)``, the same with mean 0 and standard deviation 1; constant columns are 0.
        scales: ``(p,)``, what a centred column was divided by.
        target: ``(n,)``, the target; a class's position where there are ``classes``.
        environment: ``(n,)``, an environment's position, 0..K-1.
        variables: the columns' names.
        environments: the environments' names.
        classes: the classes' names, in order; empty for a numeric target.
    """

    inputs: FloatArray
    centred: FloatArray
    scales: FloatArray
    target: FloatArray
    environment: IntArray
    variables: tuple[str, ...]
    environments: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def counts(self) -> IntArray:
        """Rows of each environment, ``(K,)``."""
        return np.bincount(self.environment, minlength=len(self.environments)).astype(np.int64)

    def only(self, columns: Sequence[int]) -> Sample:
        """The same rows with some of the variables."""
        kept = list(columns)
        return Sample(
            self.inputs[:, kept],
            self.centred[:, kept],
            self.scales[kept],
            self.target,
            self.environment,
            tuple(self.variables[column] for column in kept),
            self.environments,
            self.classes,
        )


def target_kind(y: npt.ArrayLike) -> TargetKind:
    """What a target looks like: classes where it is not numeric or has just two values."""
    values = np.asarray(y)
    if values.dtype.kind not in "iuf":
        return "classes"
    return "classes" if len(np.unique(values[~np.isnan(values)])) == 2 else "numeric"


def make_sample(
    inputs: npt.ArrayLike,
    target: npt.ArrayLike,
    environment: npt.ArrayLike,
    variables: Sequence[str] | None,
    kind: TargetKind,
) -> Sample:
    """Checks a table and brings it into the form that the tests read.

    Args:
        inputs: ``(n, p)``, numeric, finite.
        target: ``(n,)``; numbers, or classes of any type.
        environment: ``(n,)``, the environment of each row, of any type.
        variables: names of the columns; None for X1, X2, ...
        kind: how to read the target.

    Raises:
        UsageError: for values, shapes or environments that cannot be used, with what to do.
    """
    columns = _inputs(inputs)
    names = _names(variables, columns.shape[1])
    codes, environments = _labels(environment, len(columns), "environment")
    if len(environments) < 2:
        raise UsageError(
            f"There is one environment, {environments[0]!r}; invariance needs at least 2 to "
            "compare. Name another environment column, or hold fewer environments out."
        )
    small = [environments[e] for e, n in enumerate(np.bincount(codes)) if n < 2]
    if small:
        more = f" and {len(small) - _SHOWN} more" if len(small) > _SHOWN else ""
        raise UsageError(
            f"Environments with a single row: {', '.join(small[:_SHOWN])}{more}; each needs at "
            "least 2. Leave them out, or join them with another on grounds that do not look at the "
            "target."
        )
    values, classes = _target(target, len(columns), kind)
    spread = columns.std(axis=0)
    constant = spread <= _CONSTANT * np.abs(columns).max(axis=0)
    scales = np.where(constant, 1.0, spread)
    centred = np.where(constant, 0.0, (columns - columns.mean(axis=0)) / scales)
    return Sample(columns, centred, scales, values, codes, names, environments, classes)


def _inputs(inputs: npt.ArrayLike) -> FloatArray:
    try:
        columns = np.asarray(inputs, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(
            "X has entries that are not numbers; encode categories as 0/1 columns first."
        ) from None
    if columns.ndim != 2 or columns.shape[0] == 0 or columns.shape[1] == 0:
        raise UsageError(
            f"X has shape {columns.shape}; it must be (n, p): a row a sample, a column a variable."
        )
    _refuse_not_finite(columns, "X")
    return columns


def _names(variables: Sequence[str] | None, count: int) -> tuple[str, ...]:
    names = tuple(variables) if variables is not None else tuple(f"X{j + 1}" for j in range(count))
    if len(names) != count or len(set(names)) != count:
        raise UsageError(
            f"There are {count} columns and the names {', '.join(names)}; "
            "give each column one name of its own."
        )
    return names


def _labels(labels: npt.ArrayLike, rows: int, what: str) -> tuple[IntArray, tuple[str, ...]]:
    values = np.asarray(labels)
    if values.shape != (rows,):
        raise UsageError(f"{what} has shape {values.shape}; it must be ({rows},), one entry a row.")
    missing = np.array([value is None or value != value for value in values.tolist()])
    if missing.any():
        raise UsageError(f"{what} is missing in {missing.sum()} rows; leave those rows out.")
    if values.dtype.kind == "O":
        values = values.astype(str)
    names, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64), tuple(str(name) for name in names)


def _target(
    target: npt.ArrayLike, rows: int, kind: TargetKind
) -> tuple[FloatArray, tuple[str, ...]]:
    codes, names = _labels(target, rows, "y")
    if len(names) < 2:
        raise UsageError(f"y is {names[0]} in every row; there is nothing to explain.")
    values = np.asarray(target)
    if kind == "classes":
        _refuse_measurements(values, len(names))
        return codes.astype(np.float64), names
    if values.dtype.kind not in "iuf":
        raise UsageError(
            "y is not numeric and the test is for regression; "
            "choose a test for classes, such as 'calibration'."
        )
    if len(names) == 2:
        raise UsageError(
            f"y has two values, {names[0]} and {names[1]}; its noise cannot have the same law at "
            "every value of X, which tests for regression need. Choose test='calibration'."
        )
    numbers = values.astype(np.float64)
    _refuse_not_finite(numbers, "y")
    return numbers, ()


def _refuse_measurements(values: npt.NDArray[Any], classes: int) -> None:
    """Two values of any kind are classes; more are not if they are fractions or too many."""
    whole = values.dtype.kind != "f" or bool((values == np.round(values)).all())
    if classes > 2 and (classes > len(values) // 4 or not whole):
        raise UsageError(
            f"y has {classes} different values in {len(values)} rows and the test is for classes; "
            "choose a test for numbers, such as 'residuals', or group the values."
        )


def _refuse_not_finite(values: FloatArray, what: str) -> None:
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        raise UsageError(
            f"{what} has {bad.sum()} rows with NaN or infinite entries, the first at row "
            f"{int(bad.argmax())}. Drop those rows or impute them: both can break invariance, so "
            "the choice is yours."
        )
