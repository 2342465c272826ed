"""Nonlinear invariant causal prediction with the invariant residual distribution test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from scipy import special

from dgbench.errors import UsageError, require
from dgbench.icp.invariance import (
    Bonferroni,
    SetTest,
    adjusted,
    environment_factor,
    rank_sums,
    refuse_few_rows,
)
from dgbench.icp.sample import FloatArray, IntArray, Sample, TargetKind
from dgbench.icp.subsets import Subset


class Regressor(Protocol):
    """Anything that learns a function of the variables."""

    def fit(self, inputs: Any, target: Any) -> Any:
        """Learns from ``(n, p)`` and ``(n,)``, forgetting what it knew."""

    def predict(self, inputs: Any) -> Any:
        """Predicts ``(n,)`` from ``(n, p)``."""


@dataclass(frozen=True)
class ResidualDistribution:
    """Invariant residual distribution test (Heinze-Deml et al., 2018, arXiv 1706.08576, method II).

    One pooled nonlinear fit; then Levene's test (around means) over all environments and a rank sum
    test of each environment against the others, and twice the smaller p-value. The paper finds it
    the most robust of its six. Its level rests on the regressor: what a set's pooled fit misses,
    because it is too smooth or has too few rows, moves with the inputs and looks like
    non-invariance. There are no coefficients, hence no intervals.

    Deviations: residuals are of predictions for rows that the fit did not see (``folds``), since
    a flexible regressor's own rows say nothing; R's default is a penalised additive model (mgcv),
    ours cubic splines in each variable with a ridge.

    Attributes:
        regressor: any object with ``fit`` and ``predict``; None for scikit-learn's splines.
        folds: parts of the rows, cut alike in each environment; 1 for the fit's own rows.
        seed: of the cut.
    """

    regressor: Regressor | None = None
    folds: int = 5
    seed: int = 0

    name: ClassVar[str] = "nonlinear"
    target: ClassVar[TargetKind] = "numeric"

    def prepare(self, sample: Sample, bonferroni: Bonferroni) -> Callable[[Subset], SetTest]:
        """See ``InvarianceTest``."""
        require(self.folds >= 1, "folds", self.folds, "at least 1")
        rows, counts = len(sample.target), sample.counts
        refuse_few_rows(sample, rows, "The table", max(self.folds, len(sample.variables) + 3))
        regressor = _splines() if self.regressor is None else self.regressor
        fold = _folds(sample.environment, self.folds, self.seed)
        factor = environment_factor(len(counts), bonferroni)

        def test(subset: Subset) -> SetTest:
            residuals = _residuals(regressor, sample.centred[:, list(subset)], sample.target, fold)
            spread = _levene(residuals, sample.environment, counts)
            location = adjusted(rank_sums(residuals, sample.environment, counts), factor)
            return SetTest(min(1.0, 2 * min(spread, location)))

        return test


def _splines() -> Regressor:
    try:
        from sklearn.linear_model import RidgeCV  # type: ignore[import-untyped]
        from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
        from sklearn.preprocessing import (  # type: ignore[import-untyped]
            SplineTransformer,
        )
    except ImportError:
        raise UsageError(
            "The nonlinear test's own regressor needs scikit-learn: pip install scikit-learn; or "
            "give any object with fit and predict: ResidualDistribution(my_regressor)."
        ) from None
    basis = SplineTransformer(n_knots=7, knots="quantile", extrapolation="linear")
    regressor: Regressor = make_pipeline(basis, RidgeCV(np.logspace(-4, 2, 13)))
    return regressor


def _folds(environment: IntArray, folds: int, seed: int) -> IntArray:
    """Each row's fold; folds of an environment differ by one row at most."""
    random = np.random.Generator(np.random.PCG64(seed))
    fold = np.empty(len(environment), dtype=np.int64)
    for number in range(int(environment.max()) + 1):
        rows = random.permutation(np.flatnonzero(environment == number))
        fold[rows] = np.arange(len(rows)) % folds
    return fold


def _residuals(
    regressor: Regressor, inputs: FloatArray, target: FloatArray, fold: IntArray
) -> FloatArray:
    if inputs.shape[1] == 0:
        return np.asarray(target - target.mean())
    predicted = np.empty_like(target)
    folds = int(fold.max()) + 1
    for number in range(folds):
        unseen = fold == number
        seen = ~unseen if folds > 1 else unseen
        regressor.fit(inputs[seen], target[seen])
        predicted[unseen] = np.asarray(regressor.predict(inputs[unseen]), dtype=np.float64)
    if not np.isfinite(predicted).all():
        raise UsageError(f"{type(regressor).__name__} predicted values that are not finite.")
    return target - predicted


def _levene(residuals: FloatArray, environment: IntArray, counts: IntArray) -> float:
    """Levene's test with deviations from means: one-way analysis of variance of their sizes."""
    means = np.bincount(environment, residuals) / counts
    sizes = np.abs(residuals - means[environment])
    group = np.bincount(environment, sizes) / counts
    between = float((counts * (group - sizes.mean()) ** 2).sum()) / (len(counts) - 1)
    within = float(((sizes - group[environment]) ** 2).sum()) / (len(sizes) - len(counts))
    if within == 0:
        return 1.0 if between == 0 else 0.0
    return float(special.fdtrc(len(counts) - 1, len(sizes) - len(counts), between / within))
