"""Tests of invariance for classes: calibration, full interaction, and the mean of residuals.

No test here compares variances, ranks or losses of residuals. The noise of a class depends on the
inputs, so wherever these move between environments such tests reject the true set: at a unit shift
in every draw (tests/dgbench/icp/test_level.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from dgbench.errors import UsageError
from dgbench.icp.invariance import (
    Bonferroni,
    Coefficients,
    SetTest,
    adjusted,
    compare_moments,
    environment_factor,
    refuse_few_rows,
)
from dgbench.icp.sample import BoolArray, FloatArray, IntArray, Sample, TargetKind
from dgbench.icp.subsets import Subset

_STEPS = 60
_LOGIT_LIMIT = 30.0  # a probability within 1e-13 of 0 or 1
_CONVERGED = 1e-11  # of the log-likelihood, a sample
_RANK_TOLERANCE = 1e-9

SEPARATED = (
    "Some sets separate the classes perfectly, in all rows or in some. Their likelihood is taken "
    "at its limit, where nothing contradicts what is separated, so they tend to be accepted; "
    "their coefficients are not finite and have infinite intervals."
)
SINGULAR = (
    "Some sets are singular (constant columns, copies, or exact combinations). Columns that add "
    "nothing are dropped from their fits, and degrees of freedom follow the rank; coefficients of "
    "such sets have infinite intervals."
)


class Logistic(NamedTuple):
    """A logistic fit by maximum likelihood.

    Attributes:
        coefficients: ``(k,)``, intercept first.
        standard_errors: ``(k,)``, from the information matrix; infinite where not determined.
        scores: ``(n,)``, the log-odds.
        likelihood: the log-likelihood, at its limit where classes are separated.
        rank: of the design, intercept included.
        separated: whether some rows' classes are separated perfectly.
    """

    coefficients: FloatArray
    standard_errors: FloatArray
    scores: FloatArray
    likelihood: float
    rank: int
    separated: bool


def fit_logistic(columns: FloatArray, positive: BoolArray) -> Logistic:
    """Fits the probability of ``positive`` by Newton's method with step halving.

    Args:
        columns: ``(n, k - 1)``, without the intercept.
        positive: ``(n,)``.
    """
    design = np.column_stack([np.ones(len(columns)), columns])
    kept = _independent(design)
    reduced, target = design[:, kept], positive.astype(np.float64)
    weights: FloatArray = np.zeros(len(kept))
    scores: FloatArray = np.zeros(len(target))
    likelihood = -len(target) * float(np.log(2))
    for _ in range(_STEPS):
        step = _newton_step(reduced, target, scores)
        weights, scores, gained = _climb(reduced, target, weights, step, likelihood)
        likelihood += gained
        if gained <= _CONVERGED * len(target) or np.abs(scores).max() > _LOGIT_LIMIT:
            break
    separated = bool(np.abs(scores).max() > _LOGIT_LIMIT / 2)
    coefficients = np.zeros(design.shape[1])
    coefficients[kept] = weights
    errors: FloatArray = np.full(design.shape[1], np.inf)
    if not separated and len(kept) == design.shape[1]:
        covariance = np.linalg.inv(_information(reduced, scores))
        errors = np.asarray(np.sqrt(np.diag(covariance)), dtype=np.float64)
    scores = np.clip(scores, -_LOGIT_LIMIT, _LOGIT_LIMIT)
    return Logistic(coefficients, errors, scores, likelihood, len(kept), separated)


def _independent(design: FloatArray) -> IntArray:
    """Columns that are no combination of earlier ones, as R's fits keep them."""
    sizes = np.sqrt((design**2).sum(axis=0))
    scaled = design / np.where(sizes > 0, sizes, 1.0)
    factor = np.asarray(np.linalg.qr(scaled, mode="r"), dtype=np.float64)
    if np.abs(np.diag(factor)).min() > _RANK_TOLERANCE and len(factor) == design.shape[1]:
        return np.arange(design.shape[1])
    kept: list[int] = []
    for column in range(design.shape[1]):
        trial = factor[:, [*kept, column]]
        if np.linalg.matrix_rank(trial, tol=_RANK_TOLERANCE) > len(kept):
            kept.append(column)
    return np.array(kept, dtype=np.int64)


def _information(design: FloatArray, scores: FloatArray) -> FloatArray:
    probability = special.expit(scores)
    information: FloatArray = (design * (probability * (1 - probability))[:, None]).T @ design
    return information


def _newton_step(design: FloatArray, target: FloatArray, scores: FloatArray) -> FloatArray:
    gradient = design.T @ (target - special.expit(scores))
    information = _information(design, scores)
    try:
        step = np.linalg.solve(information, gradient)
    except np.linalg.LinAlgError:  # separated: its curvature is gone
        step = np.linalg.lstsq(information, gradient, rcond=None)[0]
    return np.asarray(step, dtype=np.float64)


def _likelihood(target: FloatArray, scores: FloatArray) -> float:
    return float(-np.logaddexp(0, np.where(target > 0, -scores, scores)).sum())


def _climb(
    design: FloatArray, target: FloatArray, weights: FloatArray, step: FloatArray, before: float
) -> tuple[FloatArray, FloatArray, float]:
    """The step, halved until the likelihood does not fall; weights, scores and what it gained."""
    for halving in range(30):
        moved = weights + step / 2**halving
        scores = design @ moved
        gained = _likelihood(target, scores) - before
        if gained >= 0:
            return moved, scores, gained
    return weights, design @ weights, 0.0


def calibration_p_value(
    scores: npt.ArrayLike, targets: npt.ArrayLike, environment: npt.ArrayLike
) -> float:
    """Is a predictor equally calibrated in every environment?

    Compares Y ~ [1, z] with Y ~ [1, z] in each environment by their likelihood ratio, chi-squared
    with 2 (K - 1) degrees of freedom, K - 1 for a constant z. With several classes the scores of
    each against the rest are its log-odds; the smallest p-value is multiplied by their number.
    It is the Wald type of TRAMICP (Kook et al., 2024, https://arxiv.org/abs/2309.12833), reduced to
    the two directions that matter, so it loses no power with the number of variables.

    Its null is "the predictor is calibrated alike everywhere". That is invariance of Y given the
    predictor's inputs only if the predictor *is* P(Y | X), or if the law of X does not move. With
    the in-sample z of a plain logistic fit it is valid and conservative. With held-out z of a
    learnt predictor under covariate shift it rejects invariant sets: a rejection may be misfit.

    Args:
        scores: ``(n,)``, the log-odds of class 1, or ``(n, classes)``, logits.
        targets: ``(n,)``, class numbers from 0.
        environment: ``(n,)``, numbers of the environments.

    Raises:
        UsageError: where shapes differ, scores are not finite, or there is one environment.

    Example:
        >>> import numpy as np
        >>> flips = np.repeat([0.1, 0.2], 1000)
        >>> random = np.random.default_rng(0)
        >>> label = random.random(2000) < 0.5
        >>> colour = np.where(label ^ (random.random(2000) < flips), 1.5, -1.5)
        >>> calibration_p_value(colour, label, np.repeat([0, 1], 1000)) < 1e-4
        True
    """
    logits = np.asarray(scores, dtype=np.float64)
    labels = np.asarray(targets).astype(np.int64)
    _, groups = np.unique(np.asarray(environment), return_inverse=True)
    if logits.shape[:1] != labels.shape or groups.shape != labels.shape or logits.ndim > 2:
        raise UsageError(
            f"scores of shape {logits.shape}, targets of shape {labels.shape} and environments of "
            f"shape {groups.shape}; they must be (n,) or (n, classes), (n,) and (n,)."
        )
    if not np.isfinite(logits).all() or groups.max(initial=0) == 0:
        raise UsageError("calibration needs finite scores and at least 2 environments.")
    if logits.ndim == 1:
        return _calibration(logits, labels == 1, groups)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return _over_classes(
        logits.shape[1], lambda k: _calibration(_log_odds(shifted, k), labels == k, groups)
    )


def _log_odds(logits: FloatArray, of: int) -> FloatArray:
    others: FloatArray = special.logsumexp(np.delete(logits, of, axis=1), axis=1)
    return np.clip(logits[:, of] - others, -_LOGIT_LIMIT, _LOGIT_LIMIT)


def _over_classes(classes: int, p_value: Callable[[int], float]) -> float:
    """Each class against the rest with Bonferroni's factor; two classes are one question."""
    asked = range(1, 2) if classes == 2 else range(classes)
    return min(1.0, len(asked) * min(p_value(one) for one in asked))


def _calibration(scores: FloatArray, positive: BoolArray, environment: IntArray) -> float:
    column = scores[:, None]
    pooled = fit_logistic(column, positive)
    return _likelihood_ratio(pooled, _by_environment(column, positive, environment))


def _by_environment(
    columns: FloatArray, positive: BoolArray, environment: IntArray
) -> list[Logistic]:
    return [
        fit_logistic(columns[rows], positive[rows])
        for rows in (environment == e for e in range(int(environment.max()) + 1))
    ]


def _likelihood_ratio(pooled: Logistic, separate: Sequence[Logistic]) -> float:
    degrees = sum(fit.rank for fit in separate) - pooled.rank
    gained = sum(fit.likelihood for fit in separate) - pooled.likelihood
    return float(special.chdtrc(degrees, 2 * max(0.0, gained)))


def _note(fits: Sequence[Logistic], size: int) -> str:
    if any(fit.separated for fit in fits):
        return SEPARATED
    return SINGULAR if any(fit.rank < size + 1 for fit in fits) else ""


def _fits(sample: Sample, subset: Subset) -> list[tuple[BoolArray, Logistic]]:
    """The pooled fit of each class against the rest, with its indicator."""
    classes = range(1, 2) if len(sample.classes) == 2 else range(len(sample.classes))
    columns = sample.centred[:, list(subset)]
    indicators = [sample.target == one for one in classes]
    return [(positive, fit_logistic(columns, positive)) for positive in indicators]


def _set_test(
    sample: Sample,
    subset: Subset,
    p_value: Callable[[FloatArray, BoolArray, Logistic], float],
) -> SetTest:
    """Tests a set by a p-value for each class against the rest."""
    columns, fits = sample.centred[:, list(subset)], _fits(sample, subset)
    smallest = min(p_value(columns, positive, fit) for positive, fit in fits)
    found = [fit for _, fit in fits]
    coefficients = None
    if len(sample.classes) == 2:
        scales = sample.scales[list(subset)]
        coefficients = Coefficients(
            found[0].coefficients[1:] / scales, found[0].standard_errors[1:] / scales, np.inf
        )
    return SetTest(min(1.0, len(fits) * smallest), coefficients, _note(found, len(subset)))


@dataclass(frozen=True)
class Calibration:
    """Likelihood ratio of Y ~ [1, z] against Y ~ [1, z] x E, z the pooled fit's log-odds.

    Not in the paper; ``calibration_p_value`` says what it is. Its power does not fall with the
    number of variables, and it sees what the mean of residuals cannot: an association that changes
    while all marginals stay. Its chi-squared law is for large samples.
    """

    name: ClassVar[str] = "calibration"
    target: ClassVar[TargetKind] = "classes"

    def prepare(self, sample: Sample, bonferroni: Bonferroni) -> Callable[[Subset], SetTest]:
        """See ``InvarianceTest``; environments need no Bonferroni factor."""
        refuse_few_rows(sample, len(sample.target), "The table", len(sample.variables) + 3)

        def p_value(columns: FloatArray, positive: BoolArray, fit: Logistic) -> float:
            return _calibration(fit.scores, positive, sample.environment)

        return lambda subset: _set_test(sample, subset, p_value)


@dataclass(frozen=True)
class Interaction:
    """Likelihood ratio of one pooled logistic fit against a fit for each environment.

    The classical test, chi-squared with (K - 1)(|S| + 1) degrees of freedom. It sees every change
    of coefficients, and its power falls with the number of variables.
    """

    name: ClassVar[str] = "interaction"
    target: ClassVar[TargetKind] = "classes"

    def prepare(self, sample: Sample, bonferroni: Bonferroni) -> Callable[[Subset], SetTest]:
        """See ``InvarianceTest``; environments need no Bonferroni factor."""
        counts = sample.counts
        smallest = sample.environments[int(counts.argmin())]
        needed = len(sample.variables) + 2
        refuse_few_rows(sample, int(counts.min()), f"Environment {smallest}", needed)

        def p_value(columns: FloatArray, positive: BoolArray, fit: Logistic) -> float:
            separate = _by_environment(columns, positive, sample.environment)
            return _likelihood_ratio(fit, separate)

        return lambda subset: _set_test(sample, subset, p_value)


@dataclass(frozen=True)
class MeanResidual:
    """Welch's t test of the residuals Y - p of one pooled logistic fit, as R's package has it.

    Blind wherever every environment has the same share of each class at the same mean prediction:
    on Colored MNIST it accepts every set.
    """

    name: ClassVar[str] = "mean"
    target: ClassVar[TargetKind] = "classes"

    def prepare(self, sample: Sample, bonferroni: Bonferroni) -> Callable[[Subset], SetTest]:
        """See ``InvarianceTest``."""
        refuse_few_rows(sample, len(sample.target), "The table", len(sample.variables) + 3)
        counts = sample.counts
        factor = environment_factor(len(counts), bonferroni)

        def p_value(columns: FloatArray, positive: BoolArray, fit: Logistic) -> float:
            # Rounded, so that perfect separation leaves none of its last digits to compare.
            residuals = np.round(positive - special.expit(fit.scores), 12)
            return adjusted(compare_moments(residuals, sample.environment, counts).means, factor)

        return lambda subset: _set_test(sample, subset, p_value)
