"""Tests of invariance for classes: calibration, full interaction, and the mean of residuals.

No test here compares variances, ranks or losses of residuals. The noise of a class depends on the
inputs, so wherever these move between environments such tests reject the true set: Levene's in 53 %
of draws at a shift of one standard deviation and in all at two (tests/dgbench/icp/test_level.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special
from scipy.linalg import lapack

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
_CONVERGED = 1e-10  # of the log-likelihood, a sample
_RANK_TOLERANCE = 1e-9
_SEPARATED_RESIDUAL = 1e-6

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
        design: ``(n, rank)``, intercept first, without columns that add nothing.
        coefficients: ``(k,)``, intercept first; 0 for columns that add nothing.
        scores: ``(n,)``, the log-odds.
        likelihood: the log-likelihood, at its limit where classes are separated.
        separated: whether some rows' classes are separated perfectly.
    """

    design: FloatArray
    coefficients: FloatArray
    scores: FloatArray
    likelihood: float
    separated: bool

    @property
    def rank(self) -> int:
        """Of the design, intercept included."""
        return len(self.design.T)

    @property
    def standard_errors(self) -> FloatArray:
        """``(k,)``, from the information matrix; infinite where not determined."""
        if self.separated or self.rank < len(self.coefficients):
            return np.full(len(self.coefficients), np.inf)
        information = _information(self.design, special.expit(self.scores))
        errors: FloatArray = np.sqrt(np.linalg.inv(information).diagonal())
        return errors


def fit_logistic(
    columns: FloatArray,
    positive: BoolArray,
    start: npt.ArrayLike | None = None,
    *,
    regular: bool = False,
) -> Logistic:
    """Fits the probability of ``positive`` by Newton's method with step halving.

    Args:
        columns: ``(n, k - 1)``, without the intercept.
        positive: ``(n,)``.
        start: ``(k,)``, a guess that saves steps; 0 where there is none.
        regular: whether ``is_regular`` is known to hold, which saves asking.
    """
    design = _with_intercept(columns)
    kept = np.arange(design.shape[1]) if regular else _independent(design)
    reduced, target = design[:, kept], positive.astype(np.float64)
    weights: FloatArray = np.zeros(len(kept)) if start is None else np.asarray(start)[kept]
    scores = reduced @ weights
    likelihood = _likelihood(target, scores)
    for _ in range(_STEPS):
        before = scores
        step = _newton_step(reduced, target, scores)
        weights, scores, gained = _climb(reduced, target, weights, step, likelihood)
        likelihood += gained
        if gained <= _CONVERGED * len(target):
            break
    separated = _still_moves(before, scores)
    coefficients = np.zeros(design.shape[1])
    coefficients[kept] = weights
    scores = np.clip(scores, -_LOGIT_LIMIT, _LOGIT_LIMIT)
    return Logistic(reduced, coefficients, scores, likelihood, separated)


class Multinomial(NamedTuple):
    """A multinomial logistic fit by maximum likelihood.

    Attributes:
        logits: ``(n, classes)``, the first class's 0.
        likelihood: the log-likelihood, at its limit where classes are separated.
        rank: of the design, intercept included.
        separated: whether some rows' classes are separated perfectly.
    """

    logits: FloatArray
    likelihood: float
    rank: int
    separated: bool


def fit_multinomial(columns: FloatArray, codes: IntArray, classes: int) -> Multinomial:
    """Fits the probabilities of several classes, as ``fit_logistic`` does those of two.

    Args:
        columns: ``(n, k - 1)``, without the intercept.
        codes: ``(n,)``, 0..classes-1; not all of them need occur.
        classes: how many there are.
    """
    design = _with_intercept(columns)
    reduced = design[:, _independent(design)]
    indicators = (codes[:, None] == np.arange(1, classes)).astype(np.float64)
    weights: FloatArray = np.zeros((reduced.shape[1], classes - 1))
    scores = reduced @ weights
    likelihood = _several_likelihood(indicators, scores)
    for _ in range(_STEPS):
        before, step = scores, _several_step(reduced, indicators, scores)
        for halving in range(30):
            scores = before + reduced @ step / 2**halving
            gained = _several_likelihood(indicators, scores) - likelihood
            if gained >= -_CONVERGED * len(codes):
                break
        likelihood += gained
        if gained <= _CONVERGED * len(codes):
            break
    logits = np.column_stack([np.zeros(len(codes)), scores])
    return Multinomial(logits, likelihood, reduced.shape[1], _still_moves(before, scores))


def _several_likelihood(indicators: FloatArray, scores: FloatArray) -> float:
    largest = np.maximum(scores.max(axis=1), 0)
    total = np.exp(-largest) + np.exp(scores - largest[:, None]).sum(axis=1)
    return float((indicators * scores).sum() - (largest + np.log(total)).sum())


def _several_step(design: FloatArray, indicators: FloatArray, scores: FloatArray) -> FloatArray:
    """Newton's step, ``(k, classes - 1)``."""
    logits = np.column_stack([np.zeros(len(scores)), scores])
    probability = special.softmax(logits, axis=1)[:, 1:]
    size, others = design.shape[1], scores.shape[1]
    information = np.empty((others, size, others, size))
    for a in range(others):
        for b in range(others):
            curvature = probability[:, a] * ((a == b) - probability[:, b])
            information[a, :, b] = (design.T * curvature) @ design
    gradient = (design.T @ (indicators - probability)).T.reshape(-1)
    step = _solve(information.reshape(others * size, -1), gradient)
    return step.reshape(others, size).T


def is_regular(columns: FloatArray) -> bool:
    """Whether no column is a combination of the intercept and others, nor is any in any subset.

    A column is at least as far from the span of some columns as from that of more.
    """
    return len(_independent(_with_intercept(columns))) == 1 + len(columns.T)


def _with_intercept(columns: FloatArray) -> FloatArray:
    design = np.ones((len(columns), columns.shape[1] + 1))
    design[:, 1:] = columns
    return design


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


def _information(design: FloatArray, probability: FloatArray) -> FloatArray:
    information: FloatArray = (design.T * (probability * (1 - probability))) @ design
    return information


def _newton_step(design: FloatArray, target: FloatArray, scores: FloatArray) -> FloatArray:
    probability = special.expit(scores)
    gradient = design.T @ (target - probability)
    information = _information(design, probability)
    return _solve(information, gradient)


def _solve(information: FloatArray, gradient: FloatArray) -> FloatArray:
    _, step, failed = lapack.dposv(information, gradient)
    if failed:  # separated: its curvature is gone
        step = np.linalg.lstsq(information, gradient, rcond=None)[0]
    return np.asarray(step, dtype=np.float64)


def _still_moves(before: FloatArray, after: FloatArray) -> bool:
    """Whether scores run away though the likelihood has converged: separation's mark.

    Newton's steps vanish at a maximum; without one they go on by about 1 each.
    """
    return bool(np.abs(after - before).max() > 0.1)


def _likelihood(target: FloatArray, scores: FloatArray) -> float:
    # log(1 + exp(s)) without overflow.
    normaliser = np.maximum(scores, 0) + np.log1p(np.exp(-np.abs(scores)))
    return float(target @ scores - normaliser.sum())


def _climb(
    design: FloatArray, target: FloatArray, weights: FloatArray, step: FloatArray, before: float
) -> tuple[FloatArray, FloatArray, float]:
    """The step, halved until the likelihood does not fall; weights, scores and what it gained."""
    for halving in range(30):
        moved = weights + step / 2**halving
        scores = design @ moved
        gained = _likelihood(target, scores) - before
        if gained >= -_CONVERGED * len(target):  # at the summit all that is left is rounding
            return moved, scores, gained
    return weights, design @ weights, 0.0


def calibration_p_value(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    environment: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
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
        clusters: ``(n,)``, whole numbers: rows of one number are not independent, such as samples
            of one source image. The likelihood ratio is then divided by the mean design effect of
            the environments' fits, if that is above 1 (Rao and Scott, 1984,
            https://doi.org/10.1214/aos/1176346391): the first-order correction. None for
            independent rows.

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
    dependent = None if clusters is None else np.asarray(clusters)
    if logits.ndim == 1:
        return _calibration(logits, labels == 1, groups, dependent)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return _over_classes(
        logits.shape[1],
        lambda k: _calibration(_log_odds(shifted, k), labels == k, groups, dependent),
    )


def _log_odds(logits: FloatArray, of: int) -> FloatArray:
    others: FloatArray = special.logsumexp(np.delete(logits, of, axis=1), axis=1)
    return np.clip(logits[:, of] - others, -_LOGIT_LIMIT, _LOGIT_LIMIT)


def _over_classes(classes: int, p_value: Callable[[int], float]) -> float:
    """Each class against the rest with Bonferroni's factor; two classes are one question."""
    asked = range(1, 2) if classes == 2 else range(classes)
    return min(1.0, len(asked) * min(p_value(one) for one in asked))


def _calibration(
    scores: FloatArray,
    positive: BoolArray,
    environment: IntArray,
    clusters: npt.NDArray[Any] | None = None,
) -> float:
    pooled = _recalibrated(scores, positive)
    members = [environment == e for e in range(int(environment.max()) + 1)]
    separate = [_recalibrated(scores[rows], positive[rows]) for rows in members]
    gained = sum(fit.likelihood for fit in separate) - pooled.likelihood
    if clusters is not None:
        effects = [
            _design_effect(positive[rows], fit, clusters[rows])
            for rows, fit in zip(members, separate, strict=True)
        ]
        gained /= max(1.0, float(np.mean(effects)))
    return _chi_squared(sum(fit.rank for fit in separate) - pooled.rank, gained)


def _recalibrated(scores: FloatArray, positive: BoolArray) -> Logistic:
    # What `is_regular` asks, of a single column.
    varies = scores.std() > _RANK_TOLERANCE * np.abs(scores).max()
    return fit_logistic(scores[:, None], positive, (0.0, 1.0), regular=bool(varies))


def _design_effect(positive: BoolArray, fit: Logistic, clusters: npt.NDArray[Any]) -> float:
    """How many times wider a fit's coefficients scatter than with independent rows, on average."""
    design, probability = fit.design, special.expit(fit.scores)
    _, cluster = np.unique(clusters, return_inverse=True)
    gradients = design * (positive - probability)[:, None]
    sums = np.column_stack([np.bincount(cluster, column) for column in gradients.T])
    inverse = np.linalg.pinv(_information(design, probability), hermitian=True)
    return float(np.trace(inverse @ (sums.T @ sums)) / design.shape[1])


def _chi_squared(degrees: int, gained: float) -> float:
    """P-value of a likelihood ratio."""
    return float(special.chdtrc(degrees, 2 * max(0.0, gained)))


class _Fit(NamedTuple):
    """The fit of one set to some rows."""

    of: Logistic | Multinomial
    scales: FloatArray  # of the set's columns

    @property
    def log_odds(self) -> FloatArray:
        """Of each class against all others, ``(n, classes)``."""
        if isinstance(self.of, Logistic):
            return np.column_stack([-self.of.scores, self.of.scores])
        logits = self.of.logits
        return np.column_stack([_log_odds(logits, k) for k in range(logits.shape[1])])

    @property
    def parameters(self) -> int:
        classes = 2 if isinstance(self.of, Logistic) else len(self.of.logits.T)
        return self.of.rank * (classes - 1)

    @property
    def coefficients(self) -> Coefficients | None:
        if isinstance(self.of, Multinomial):
            return None
        estimates, errors = self.of.coefficients[1:], self.of.standard_errors[1:]
        return Coefficients(estimates / self.scales, errors / self.scales, np.inf)

    def tested(self, p_value: float) -> SetTest:
        note = SINGULAR if self.of.rank <= len(self.scales) else ""
        return SetTest(p_value, self.coefficients, SEPARATED if self.of.separated else note)


def _fits(sample: Sample, rows: BoolArray | slice = slice(None)) -> Callable[..., _Fit]:
    """The fit of any set to some rows; what all sets share is done once."""
    columns, codes = sample.centred[rows], sample.target[rows].astype(np.int64)
    positive, classes = codes == 1, len(sample.classes)
    regular = is_regular(columns)

    def fit(subset: Subset, start: FloatArray | None = None) -> _Fit:
        own = list(subset)
        found: Logistic | Multinomial = (
            fit_logistic(columns[:, own], positive, start, regular=regular)
            if classes == 2
            else fit_multinomial(columns[:, own], codes, classes)
        )
        return _Fit(found, sample.scales[own])

    return fit


@dataclass(frozen=True)
class Calibration:
    """Likelihood ratio of Y ~ [1, z] against Y ~ [1, z] x E, z the pooled fit's log-odds.

    Not in the paper; ``calibration_p_value`` says what it is. With several classes z comes from one
    multinomial fit. Its power does not fall with the
    number of variables, and it sees what the mean of residuals cannot: an association that changes
    while all marginals stay. Its chi-squared law is for large samples.
    """

    name: ClassVar[str] = "calibration"
    target: ClassVar[TargetKind] = "classes"

    def prepare(self, sample: Sample, bonferroni: Bonferroni) -> Callable[[Subset], SetTest]:
        """See ``InvarianceTest``; environments need no Bonferroni factor."""
        refuse_few_rows(sample, len(sample.target), "The table", len(sample.variables) + 3)

        fit_set = _fits(sample)

        def test(subset: Subset) -> SetTest:
            fit = fit_set(subset)
            odds = fit.log_odds
            return fit.tested(
                _over_classes(
                    len(sample.classes),
                    lambda k: _calibration(odds[:, k], sample.target == k, sample.environment),
                )
            )

        return test


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

        fit_set = _fits(sample)
        fit_own = [_fits(sample, sample.environment == e) for e in range(len(counts))]

        def test(subset: Subset) -> SetTest:
            fit = fit_set(subset)
            pooled = fit.of.coefficients if isinstance(fit.of, Logistic) else None
            separate = [fit_one(subset, pooled) for fit_one in fit_own]
            gained = sum(one.of.likelihood for one in separate) - fit.of.likelihood
            degrees = sum(one.parameters for one in separate) - fit.parameters
            return fit.tested(_chi_squared(degrees, gained))

        return test


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

        fit_set = _fits(sample)

        def test(subset: Subset) -> SetTest:
            fit = fit_set(subset)
            odds = fit.log_odds

            def compare(one: int) -> float:
                residuals = (sample.target == one) - special.expit(odds[:, one])
                # Perfect separation leaves rounding, whose mean says nothing.
                residuals = np.where(np.abs(residuals) < _SEPARATED_RESIDUAL, 0.0, residuals)
                compared = compare_moments(residuals, sample.environment, counts)
                return adjusted(compared.means, factor)

            return fit.tested(_over_classes(len(sample.classes), compare))

        return test
