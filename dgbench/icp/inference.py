"""Invariant causal prediction of one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from dgbench.errors import UsageError, require
from dgbench.icp import subsets
from dgbench.icp.classification import Calibration, Interaction, MeanResidual
from dgbench.icp.invariance import Bonferroni, Coefficients, InvarianceTest, SetTest
from dgbench.icp.nonlinear import ResidualDistribution
from dgbench.icp.regression import Chow, Ranks, Residuals
from dgbench.icp.result import ICPResult, Interval
from dgbench.icp.sample import Sample, make_sample, target_kind
from dgbench.icp.screening import Screen, screen_note, select
from dgbench.icp.subsets import Subset

Intervals = Literal["marginal", "simultaneous"]

# 65,536 sets: a minute or so. More want a screen.
MOST_VARIABLES = 16

TESTS: Mapping[str, Callable[[], InvarianceTest]] = {
    "residuals": Residuals,
    "ranks": Ranks,
    "chow": Chow,
    "calibration": Calibration,
    "interaction": Interaction,
    "mean": MeanResidual,
    "nonlinear": ResidualDistribution,
}


def icp(
    X: npt.ArrayLike,  # noqa: N803 -- as everyone who fits to tables writes it
    y: npt.ArrayLike,
    environment: npt.ArrayLike,
    *,
    alpha: float = 0.05,
    test: str | InvarianceTest | None = None,
    variables: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    bonferroni: Bonferroni = "recommended",
    intervals: Intervals = "marginal",
    estimate_only: bool = False,
    screen: Screen | None = None,
    keep: int = 8,
    seed: int = 0,
) -> ICPResult:
    """Invariant causal prediction (Peters et al., 2016, https://arxiv.org/abs/1501.01332).

    ``dgbench.icp``'s own docstring says what is guaranteed and when.

    Args:
        X: ``(n, p)``, numeric, finite: the candidate variables.
        y: ``(n,)``: the target; numbers, or classes of any type.
        environment: ``(n,)``, the environment of each row, of any type; at least two.
        alpha: a set of variables is accepted when its p-value exceeds this.
        test: ``residuals`` (Method II; the default for a numeric target), ``chow`` (Method I),
            ``nonlinear``; for classes ``calibration`` (the default for a target that is not
            numeric or has two values), ``interaction``, ``mean``; or an object such as
            ``ResidualDistribution(my_regressor)``. Whole-numbered classes of three kinds or more
            look like numbers: name the test for them.
        variables: names of the columns.
        groups: columns that are one variable together, by the variable's name: a set has all
            columns of a variable or none. Not given, each column is a variable. Of groups there
            are no intervals, and they cannot be screened.
        bonferroni: ``recommended`` or ``R``: see ``environment_factor``.
        intervals: ``marginal``: each coefficient's by itself, b +- z(1 - alpha/4) se, as R and
            causalicp have them, covering with probability at least ``1 - 1.5 alpha`` in large
            samples; ``simultaneous``: the paper's, b +- t(1 - alpha/(2|S|)) se, all at once with
            ``1 - 2 alpha``.
        estimate_only: tests no superset of an accepted set. Outcome, estimate and defining sets
            are the same; p-values of variables and intervals are not computed.
        screen: ``boosting``, ``lasso`` or ``stability`` keep the ``keep`` best predictors of the
            target before any test. The guarantee then holds only if the screen keeps all parents:
            with probability ``1 - 2 alpha`` in all, if it does so with ``1 - alpha``.
        keep: how many variables a screen keeps.
        seed: of ``stability``'s half samples.

    Returns:
        Outcome, estimate, p-values, intervals and sets.

    Raises:
        UsageError: for tables and options that cannot be used, with what to do.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> environment = np.repeat(["observed", "shifted"], 200)
        >>> cause = random.normal(size=400) + 2 * (environment == "shifted")
        >>> target = cause + random.normal(size=400)
        >>> effect = target + random.normal(size=400) - 1.5 * (environment == "shifted")
        >>> X = np.column_stack([cause, effect])
        >>> icp(X, target, environment, variables=["cause", "effect"]).estimate
        ('cause',)
    """
    require(0 < alpha < 1, "alpha", alpha, "a level between 0 and 1")
    _require_one_of("bonferroni", bonferroni, ("recommended", "R"))
    _require_one_of("intervals", intervals, ("marginal", "simultaneous"))
    chosen = _choose_test(test, y)
    sample = make_sample(X, y, environment, variables, chosen.target)
    names, members = _groups(sample, groups, screen)
    notes: list[str] = []
    screened_out: tuple[str, ...] = ()
    if screen is not None:
        kept = select(sample, screen, keep, seed)
        screened_out = tuple(n for j, n in enumerate(sample.variables) if j not in kept)
        sample = sample.only(kept)
        names, members = _groups(sample, None, None)
        notes += [screen_note(screen, len(kept), alpha)] if screened_out else []
    _refuse_many(len(names))
    test_set = chosen.prepare(sample, bonferroni)
    tests: dict[Subset, SetTest] = {}

    def p_value(subset: Subset) -> float:
        columns = (column for variable in subset for column in members[variable])
        tests[subset] = test_set(tuple(sorted(columns)))
        return tests[subset].p_value

    found = subsets.search(len(names), p_value, alpha, estimate_only=estimate_only)
    notes += [assumed] if (assumed := getattr(chosen, "assumption", "")) else []
    notes += dict.fromkeys(tested.note for tested in tests.values() if tested.note)
    accepted = {subset: tests[subset] for subset, value in found.items() if value > alpha}
    return ICPResult.from_p_values(
        {tuple(names[j] for j in subset): value for subset, value in found.items()},
        names,
        alpha=alpha,
        test=chosen.name,
        complete=not estimate_only,
        intervals=None
        if estimate_only or groups is not None
        else _hulls(accepted, sample, alpha, intervals),
        interval_level=1 - (1.5 if intervals == "marginal" else 2) * alpha,
        screened_out=screened_out,
        notes=notes,
    )


def _choose_test(test: str | InvarianceTest | None, y: npt.ArrayLike) -> InvarianceTest:
    if test is None:
        return Residuals() if target_kind(y) == "numeric" else Calibration()
    if isinstance(test, str):
        _require_one_of("test", test, tuple(TESTS))
        return TESTS[test]()
    return test


def _require_one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    require(value in allowed, option, repr(value), f"one of {', '.join(allowed)}")


def _groups(
    sample: Sample, groups: Mapping[str, Sequence[str]] | None, screen: Screen | None
) -> tuple[tuple[str, ...], list[list[int]]]:
    """Names of the variables, and the columns of each."""
    if groups is None:
        return sample.variables, [[column] for column in range(len(sample.variables))]
    if screen is not None:
        raise UsageError(
            f"screen is {screen!r}; variables of several columns cannot be screened. Leave it out: "
            f"there are {len(groups)}, {', '.join(groups)}."
        )
    grouped = [name for group in groups.values() for name in group]
    if sorted(grouped) != sorted(sample.variables) or not all(groups.values()):
        raise UsageError(
            f"groups are {dict(groups)}; each of the columns {', '.join(sample.variables)} must be "
            "in one group."
        )
    return tuple(groups), [[sample.variables.index(n) for n in own] for own in groups.values()]


def _refuse_many(count: int) -> None:
    if count > MOST_VARIABLES:
        raise UsageError(
            f"{count} variables have 2^{count} subsets; at most {MOST_VARIABLES} are tested in "
            "full. Name fewer, on grounds of your own, or keep the best predictors: "
            "icp(..., screen='lasso', keep=8), on the command line --screen lasso --keep 8. The "
            "guarantee then holds only if the screen keeps every parent of the target."
        )


def _hulls(
    accepted: Mapping[Subset, SetTest], sample: Sample, alpha: float, kind: Intervals
) -> dict[str, Interval] | None:
    """For each variable the hull of its intervals over accepted sets, 0 where a set has it not."""
    lower = np.full(len(sample.variables), np.inf)
    upper = -lower
    for subset, tested in accepted.items():
        if tested.coefficients is None:
            return None
        low, high = np.zeros_like(lower), np.zeros_like(upper)
        low[list(subset)], high[list(subset)] = _bounds(tested.coefficients, alpha, kind)
        lower, upper = np.minimum(lower, low), np.maximum(upper, high)
    return {
        name: (float(low), float(high))
        for name, low, high in zip(sample.variables, lower, upper, strict=True)
    }


def _bounds(
    coefficients: Coefficients, alpha: float, kind: Intervals
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if kind == "marginal":
        quantile = float(special.ndtri(1 - alpha / 4))
    else:
        tail = 1 - alpha / (2 * max(1, len(coefficients.estimates)))
        # Of so many degrees of freedom the quantile is the normal one.
        quantile = float(special.stdtrit(min(coefficients.degrees, 1e12), tail))
    margin = quantile * coefficients.standard_errors
    return coefficients.estimates - margin, coefficients.estimates + margin
