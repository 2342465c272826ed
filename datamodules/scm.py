"""Structural causal models: data whose causes are known, in all three of Pearl's rungs.

A model is a set of variables, each made from its parents by an equation and a noise of its own
(Pearl, 2009, Causality, chapter 7). From it come samples (seeing), samples and average effects
under interventions (doing) and what would have happened to these very rows (imagining). An
environment is a set of interventions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from datamodules.errors import DataError
from datamodules.seeds import uniforms
from datamodules.streams import EnvironmentBatch

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
Law = Callable[[FloatArray], Values]
"""A law of noise: its quantile function, which maps uniform numbers from (0, 1) to draws of it. The
``ppf`` of a distribution of scipy.stats is one."""

# How far observed values may lie from what an equation without noise makes of their parents.
_TOLERANCE = 1e-8


# Laws


@dataclass(frozen=True)
class Normal:
    """The normal law.

    Args:
        scale: standard deviation, at least 0; one a column if it is an array.
        mean: mean, likewise.
    """

    scale: float | FloatArray = 1.0
    mean: float | FloatArray = 0.0

    def __call__(self, uniform: FloatArray) -> FloatArray:
        """Draws from uniform numbers."""
        from scipy.special import ndtri

        drawn: FloatArray = self.mean + self.scale * ndtri(uniform)
        return drawn


@dataclass(frozen=True)
class Uniform:
    """The uniform law between two ends."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, uniform: FloatArray) -> FloatArray:
        """Draws from uniform numbers."""
        return self.low + (self.high - self.low) * uniform


@dataclass(frozen=True)
class Categorical:
    """The integers from 0, each with a probability in proportion to its weight."""

    weights: tuple[float, ...]

    def __call__(self, uniform: FloatArray) -> Values:
        """Draws from uniform numbers, int64."""
        edges = np.cumsum(self.weights)
        return np.searchsorted(edges / edges[-1], uniform, side="right")


# Mechanisms and what interventions make of them


@dataclass(frozen=True)
class Mechanism:
    """How one variable comes about: ``scale * (equation(parents) + noise) + shift``.

    The names of the equation's arguments are the variable's parents, so the graph cannot say
    anything else than the equations. An equation with an argument called ``noise`` gets the noise
    and uses it as it likes; to others it is added.

    Args:
        equation: a function of its parents' values, each (n,) or (n, size), that returns the
            variable's or something that broadcasts to them; or a constant.
        noise: the law of its noise; None for none.
        size: None for a number, (n,); else a vector, (n, size).
        scale: what an intervention multiplies with.
        shift: what an intervention adds.
    """

    equation: Callable[..., npt.ArrayLike] | float | FloatArray
    noise: Law | None = None
    size: int | None = None
    scale: float = 1.0
    shift: float | FloatArray = 0.0

    @cached_property
    def parents(self) -> tuple[str, ...]:
        """Names of the variables that the equation reads."""
        return tuple(name for name in self._arguments if name != "noise")

    @property
    def is_additive(self) -> bool:
        """Whether the noise is added, so that it can be read off the values."""
        return "noise" not in self._arguments

    def values(self, parents: Mapping[str, Values], noise: Values | None, count: int) -> Values:
        """Applies the mechanism.

        Args:
            parents: values of the parents, at least.
            noise: the drawn noise, or None.
            count: number of rows n.

        Returns:
            (n,) or (n, size); integers and booleans stay what they are where nothing is added.
        """
        explained = self._explained(parents, noise, count)
        if noise is not None and self.is_additive:
            explained = explained + noise
        if self.scale == 1 and not np.any(self.shift):
            return explained
        return self.scale * explained + self.shift

    def abduct(self, values: Values, parents: Mapping[str, Values]) -> FloatArray:
        """Reads the noise off the values of the variable and its parents.

        Args:
            values: (n,) or (n, size).
            parents: values of the parents, at least.

        Returns:
            The noise, of the same shape.
        """
        explained = self._explained(parents, None, len(values))
        noise: FloatArray = (values - self.shift) / self.scale - explained
        return noise

    @cached_property
    def _arguments(self) -> tuple[str, ...]:
        if not callable(self.equation):
            return ()
        return tuple(inspect.signature(self.equation).parameters)

    def _explained(self, parents: Mapping[str, Values], noise: Values | None, count: int) -> Values:
        """What the equation says, in the variable's shape."""
        value: Any = self.equation
        if callable(self.equation):
            given = {name: parents[name] for name in self.parents}
            value = self.equation(**given, **({} if self.is_additive else {"noise": noise}))
        return np.broadcast_to(np.asarray(value), self.shape(count))

    def shape(self, count: int) -> tuple[int, ...]:
        """Shape of the variable's values in `count` rows."""
        return (count,) if self.size is None else (count, self.size)


class Intervention(Protocol):
    """What an environment does to one variable."""

    def __call__(self, mechanism: Mechanism) -> Mechanism:
        """Makes the mechanism of the variable under the intervention."""


@dataclass(frozen=True)
class Do:
    """Sets a variable to a value, whatever its parents say."""

    value: float | FloatArray

    def __call__(self, mechanism: Mechanism) -> Mechanism:
        """A constant, without parents or noise."""
        return Mechanism(self.value, size=mechanism.size)


@dataclass(frozen=True)
class Shift:
    """Adds a number to a variable."""

    by: float | FloatArray

    def __call__(self, mechanism: Mechanism) -> Mechanism:
        """The same, shifted."""
        return replace(mechanism, shift=mechanism.shift + self.by)


@dataclass(frozen=True)
class Scale:
    """Multiplies a variable by a number."""

    by: float

    def __call__(self, mechanism: Mechanism) -> Mechanism:
        """The same, scaled."""
        return replace(mechanism, scale=mechanism.scale * self.by, shift=self.by * mechanism.shift)


@dataclass(frozen=True)
class ChangeNoise:
    """Gives a variable's noise another law."""

    law: Law

    def __call__(self, mechanism: Mechanism) -> Mechanism:
        """The same equation with the new noise."""
        return replace(mechanism, noise=self.law)


Interventions = Mapping[str, Intervention]


# Models


class Effect(NamedTuple):
    """An average treatment effect.

    Attributes:
        mean: what the treatment changes, on average over rows; by column for a vector.
        standard_error: of that mean, over rows; rounding where the effect is the same for
            everybody, as in a linear model: the mean is then exact.
    """

    mean: Any
    standard_error: Any


class Table(NamedTuple):
    """Rows of all environments, in the form that tests, regressions and CSV files take.

    Attributes:
        inputs: (n, p) float64.
        target: (n,) float64, or int64 where the target is a class.
        environment: (n,) str, the environment of each row.
        variables: p names, `x1`, `x2`, ... for the columns of a vector `x`.
        parents: which of them are direct causes of the target.
    """

    inputs: FloatArray
    target: Values
    environment: npt.NDArray[np.str_]
    variables: tuple[str, ...]
    parents: tuple[str, ...]

    def frame(self, target: str = "target") -> pd.DataFrame:
        """A pandas frame with columns `environment`, the target and the variables.

        Args:
            target: the name of the target's column.
        """
        import pandas as pd

        columns = dict(zip(self.variables, self.inputs.T, strict=True))
        return pd.DataFrame({"environment": self.environment, target: self.target, **columns})

    def batch(self) -> EnvironmentBatch:
        """All rows as one full batch, which the objective of any algorithm takes.

        Environments stand in the order of their first rows.
        """
        names = list(dict.fromkeys(self.environment.tolist()))
        rows = [np.flatnonzero(self.environment == name) for name in names]
        order = np.concatenate(rows)
        counts = torch.tensor([len(chosen) for chosen in rows])
        target = torch.from_numpy(self.target[order])
        within = torch.cat([torch.arange(count) for count in counts.tolist()])
        return EnvironmentBatch(
            inputs=torch.from_numpy(self.inputs[order]).float(),
            targets=target.float() if target.is_floating_point() else target.long(),
            environment=torch.repeat_interleave(counts),
            indices=within,
            rows=within,
            counts=counts,
        )


@dataclass(frozen=True)
class SCM:
    """A structural causal model.

    Noises are independent. They are drawn from raw PCG64 integers that depend on (seed,
    environment, variable) alone: taking a variable away, or more rows, moves no other draw.

    Args:
        mechanisms: how each variable comes about, by name.

    Attributes:
        order: the variables, parents before children.

    Raises:
        DataError: If an equation reads a variable that there is not, or they go round in a circle.

    Example:
        >>> model = SCM({
        ...     "sun": Mechanism(0.0, Normal()),
        ...     "harvest": Mechanism(lambda sun: 2 * sun, Normal(0.5)),
        ... })
        >>> model.parents("harvest")
        ('sun',)
        >>> model.intervene({"sun": Do(3.0)}).sample(2, seed=0)["sun"]
        array([3., 3.])
        >>> float(model.average_effect("harvest", {"sun": Do(1.0)}, {"sun": Do(0.0)}).mean)
        2.0
    """

    mechanisms: Mapping[str, Mechanism]
    order: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        graph = {name: mechanism.parents for name, mechanism in self.mechanisms.items()}
        for name, parents in graph.items():
            for parent in parents:
                self._require(parent, f"the equation of {name!r} reads it")
        try:
            order = tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            circle = " -> ".join(error.args[1])
            raise DataError(
                f"the equations go round in a circle: {circle}; take out one of these arrows"
            ) from None
        object.__setattr__(self, "order", order)

    def parents(self, variable: str) -> tuple[str, ...]:
        """Direct causes of a variable, in the order of its equation's arguments."""
        self._require(variable, "its parents are asked for")
        return self.mechanisms[variable].parents

    # Seeing

    def draw_noise(self, count: int, *, seed: int, environment: str = "") -> dict[str, Values]:
        """Draws the noise of every variable that has some.

        Args:
            count: number of rows n; a smaller one gives the beginning of a larger one.
            seed: decides the draws, together with the names of environment and variable.
            environment: name of the environment they are for.

        Returns:
            By variable, (n,) or (n, size).
        """
        drawn: dict[str, Values] = {}
        for name, mechanism in self.mechanisms.items():
            if mechanism.noise is not None:
                shape = mechanism.shape(count)
                uniform = uniforms(int(np.prod(shape)), seed, "scm", environment, name)
                drawn[name] = mechanism.noise(uniform.reshape(shape))
        return drawn

    def solve(self, noise: Mapping[str, Values], count: int) -> dict[str, Values]:
        """Computes all variables from the noises.

        Args:
            noise: of every variable that has some; that of others is not read.
            count: number of rows n.

        Returns:
            By variable, (n,) or (n, size).
        """
        values: dict[str, Values] = {}
        for name in self.order:
            mechanism = self.mechanisms[name]
            own = None if mechanism.noise is None else noise[name]
            try:
                values[name] = mechanism.values(values, own, count)
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"the equation of {name!r} does not give numbers of shape "
                    f"{mechanism.shape(count)}: {error}; set its mechanism's size, or mend the "
                    "equation"
                ) from error
        return values

    def sample(self, count: int, *, seed: int, environment: str = "") -> dict[str, Values]:
        """Draws rows.

        Args:
            count: number of rows n.
            seed: decides them, together with `environment`.
            environment: a name that gives environments draws of their own.

        Returns:
            By variable, (n,) or (n, size).
        """
        return self.solve(self.draw_noise(count, seed=seed, environment=environment), count)

    # Doing

    def intervene(self, interventions: Interventions) -> SCM:
        """The model under interventions; its samples follow the interventional distribution.

        Args:
            interventions: what is done to which variable; the others keep their mechanisms.
        """
        for name in interventions:
            self._require(name, "an intervention names it")
        return SCM(
            {
                name: interventions[name](mechanism) if name in interventions else mechanism
                for name, mechanism in self.mechanisms.items()
            }
        )

    def average_effect(
        self,
        outcome: str,
        treatment: Interventions,
        control: Interventions,
        *,
        count: int = 100_000,
        seed: int = 0,
    ) -> Effect:
        """The true average treatment effect, ``E[outcome | treatment] - E[outcome | control]``.

        Both worlds get the same noise, so each row's difference is its own effect. Where that is
        the same for every row, as in linear models, the answer is exact; elsewhere its standard
        error says how well `count` rows pin it down.

        Args:
            outcome: the variable whose mean is compared.
            treatment: interventions of one world, such as ``{"x": Do(1.0)}``.
            control: interventions of the other.
            count: rows to average over, at least 2.
            seed: decides them.
        """
        self._require(outcome, "its mean is asked for")
        treated, untreated = (
            self.intervene(done).sample(count, seed=seed, environment="average effect")[outcome]
            for done in (treatment, control)
        )
        effects = treated.astype(float) - untreated
        return Effect(effects.mean(axis=0), effects.std(axis=0, ddof=1) / count**0.5)

    # Imagining

    def abduct(self, observed: Mapping[str, npt.ArrayLike]) -> dict[str, FloatArray]:
        """Finds the noise that made these rows.

        Args:
            observed: values of every variable, (n,) or (n, size); a number stands for one row.

        Returns:
            The noise, by variable; of variables with noise alone.

        Raises:
            DataError: If a variable is missing, has noise that is not added, is multiplied by 0,
                or has no noise and another value than its equation gives.
        """
        values = self._observed(observed)
        found: dict[str, FloatArray] = {}
        for name, mechanism in self.mechanisms.items():
            if not mechanism.is_additive or not mechanism.scale:
                raise DataError(
                    f"the noise of {name!r} cannot be read off its values, because it is not just "
                    "added; counterfactuals need additive noise"
                )
            noise = mechanism.abduct(values[name], values)
            if mechanism.noise is not None:
                found[name] = noise
            elif np.abs(noise).max(initial=0.0) > _TOLERANCE * max(1.0, np.abs(values[name]).max()):
                raise DataError(
                    f"the values of {name!r} contradict its equation, which has no noise; they "
                    "cannot come from this model"
                )
        return found

    def counterfactual(
        self, observed: Mapping[str, npt.ArrayLike], interventions: Interventions
    ) -> dict[str, Values]:
        """What these rows would have been under interventions: abduction, action, prediction.

        Args:
            observed: values of every variable, (n,) or (n, size); a number stands for one row.
            interventions: what would have been done. Not a change of noise: the noise is theirs.

        Returns:
            By variable, (n,) or (n, size).

        Raises:
            DataError: As `abduct`, or for a change of noise.
        """
        for name, intervention in interventions.items():
            if isinstance(intervention, ChangeNoise):
                raise DataError(
                    f"a counterfactual keeps each row's noise, so that of {name!r} cannot change; "
                    "use Do, Shift or Scale, or sample from intervene() instead"
                )
        count = len(next(iter(self._observed(observed).values())))
        return self.intervene(interventions).solve(self.abduct(observed), count)

    # Tables

    def table(
        self,
        environments: Mapping[str, Interventions],
        count: int,
        *,
        target: str,
        variables: Sequence[str] | None = None,
        seed: int,
    ) -> Table:
        """Draws a table, environment by environment.

        Args:
            environments: interventions by the environment's name; ``{}`` for none.
            count: rows of each environment.
            target: the variable to explain.
            variables: those shown; all others by default. What is left out is hidden.
            seed: decides the rows.
        """
        shown = [name for name in self.mechanisms if name != target]
        shown = shown if variables is None else list(variables)
        for name in (target, *shown):
            self._require(name, "the table shows it")
        parts = [
            self.intervene(done).sample(count, seed=seed, environment=name)
            for name, done in environments.items()
        ]
        columns = {name: self._columns(name) for name in shown}
        stacked = {
            name: np.concatenate([part[name] for part in parts]) for name in (*shown, target)
        }
        labels = stacked[target]
        return Table(
            inputs=np.column_stack([stacked[name].astype(float) for name in shown]),
            target=labels.astype(np.int64 if labels.dtype.kind in "iub" else np.float64),
            environment=np.repeat(np.array(list(environments), dtype=np.str_), count),
            variables=tuple(column for name in shown for column in columns[name]),
            parents=tuple(
                column
                for name in shown
                if name in self.mechanisms[target].parents
                for column in columns[name]
            ),
        )

    def _columns(self, variable: str) -> list[str]:
        size = self.mechanisms[variable].size
        return [variable] if size is None else [f"{variable}{i + 1}" for i in range(size)]

    def _observed(self, observed: Mapping[str, npt.ArrayLike]) -> dict[str, Values]:
        missing = [name for name in self.mechanisms if name not in observed]
        if missing:
            raise DataError(
                f"no values of {missing} were observed; a counterfactual needs those of all "
                f"variables: {list(self.mechanisms)}"
            )
        return {
            name: np.asarray(observed[name]).reshape(mechanism.shape(-1))
            for name, mechanism in self.mechanisms.items()
        }

    def _require(self, variable: str, why: str) -> None:
        if variable not in self.mechanisms:
            raise DataError(
                f"there is no variable {variable!r}, but {why}; there are {list(self.mechanisms)}"
            )
