"""Pre-screening: a few good predictors out of many variables, before any test.

Environments play no part in it. Every screen ranks variables by how well they predict the pooled
target, so a parent whose effect is weak or cancels is lost, and the guarantee with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from dgbench.errors import require
from dgbench.icp.sample import FloatArray, Sample

Screen = Literal["boosting", "lasso", "stability"]
Rank = Callable[[FloatArray, FloatArray, int], FloatArray]

_SCREENS = ("boosting", "lasso", "stability")
_BOOSTING_STEPS, _BOOSTING_RATE = 100, 0.1
_LASSO_PENALTIES = 0.93 ** np.arange(95)  # from the first that selects anything to 0.001 of it
_LASSO_SWEEPS = 50
_HALF_SAMPLES = 20


def select(sample: Sample, screen: Screen, keep: int, seed: int) -> tuple[int, ...]:
    """Columns that a screen keeps, in ascending order.

    Args:
        sample: the table.
        screen: ``boosting``: componentwise least squares boosting (Buehlmann and Yu, 2003), 100
            steps of 0.1, the columns chosen most often; ``lasso``: the first to enter its path;
            ``stability``: those that enter it most often over 20 half samples (Meinshausen and
            Buehlmann, 2010).
        keep: how many, at most.
        seed: of the half samples.

    Raises:
        UsageError: for an unknown screen or ``keep`` below 1.
    """
    require(screen in _SCREENS, "screen", repr(screen), f"one of {', '.join(_SCREENS)}")
    require(keep >= 1, "keep", keep, "at least 1")
    targets = _columns_of_target(sample)
    rank = _boosting if screen == "boosting" else _lasso
    if screen == "stability":
        random = np.random.Generator(np.random.PCG64(seed))
        scores = np.zeros(len(sample.variables))
        for _ in range(_HALF_SAMPLES):
            rows = random.permutation(len(targets))[: len(targets) // 2]
            entered = _score(sample.centred[rows], targets[rows], rank, keep)
            scores[np.argsort(-entered, kind="stable")[:keep]] += 1
    else:
        scores = _score(sample.centred, targets, rank, keep)
    best = np.argsort(-scores, kind="stable")[:keep]
    return tuple(sorted(int(column) for column in best if scores[column] > 0))


def screen_note(screen: Screen, kept: int, alpha: float) -> str:
    """What a reader of a screened result must know."""
    return (
        f"Screened by {screen} to {kept} variables: the guarantee of {100 * (1 - alpha):g} % holds "
        "only if these hold every parent of the target. If they do so with probability "
        f"{100 * (1 - alpha):g} %, it is {100 * (1 - 2 * alpha):g} % in all. What was screened out "
        "was not tested."
    )


def _columns_of_target(sample: Sample) -> FloatArray:
    """The numeric target, or an indicator of each class but the first, with mean 0."""
    if sample.classes:
        columns = sample.target[:, None] == np.arange(1, len(sample.classes))
    else:
        columns = sample.target[:, None]
    values = columns.astype(np.float64)
    centred: FloatArray = values - values.mean(axis=0)
    return centred


def _score(inputs: FloatArray, targets: FloatArray, rank: Rank, keep: int) -> FloatArray:
    spread = inputs.std(axis=0)
    centred = (inputs - inputs.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    scores: FloatArray = np.sum(
        [rank(centred, target - target.mean(), keep) for target in targets.T], axis=0
    )
    return scores


def _boosting(inputs: FloatArray, target: FloatArray, keep: int) -> FloatArray:
    """How often each column is chosen; of equals the earlier."""
    chosen = np.zeros(inputs.shape[1])
    residuals = target.copy()
    for _ in range(_BOOSTING_STEPS):
        slopes = inputs.T @ residuals / len(target)
        best = int(np.abs(slopes).argmax())
        chosen[best] += 1
        residuals -= _BOOSTING_RATE * slopes[best] * inputs[:, best]
    return chosen


def _lasso(inputs: FloatArray, target: FloatArray, keep: int) -> FloatArray:
    """How early each column enters the lasso's path, until ``keep`` have: 0 is never."""
    gram, slopes = inputs.T @ inputs / len(target), inputs.T @ target / len(target)
    entered = np.zeros(inputs.shape[1])
    weights = np.zeros(inputs.shape[1])
    for number, penalty in enumerate(np.abs(slopes).max() * _LASSO_PENALTIES):
        _descend(weights, gram, slopes, penalty)
        fresh = (weights != 0) & (entered == 0)
        # Of columns that enter together, the larger weight goes first.
        sizes = np.abs(weights[fresh])
        entered[fresh] = len(_LASSO_PENALTIES) - number + sizes / (1 + sizes)
        if np.count_nonzero(entered) >= keep:
            break
    return entered


def _descend(weights: FloatArray, gram: FloatArray, slopes: FloatArray, penalty: float) -> None:
    """Coordinate descent to the lasso's solution for one penalty, in place."""
    for _ in range(_LASSO_SWEEPS):
        before = weights.copy()
        for column in np.flatnonzero((np.abs(slopes - gram @ weights) >= penalty) | (weights != 0)):
            if gram[column, column] == 0:
                continue
            pull = slopes[column] - gram[column] @ weights + gram[column, column] * weights[column]
            size = max(0.0, abs(pull) - penalty) / gram[column, column]
            weights[column] = np.copysign(size, pull) if size else 0.0
        if np.abs(weights - before).max(initial=0.0) <= 1e-6 * np.abs(weights).max(initial=0.0):
            return
