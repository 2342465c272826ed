"""The metrics of a check, defined once, in float64 numpy.

`logits` is (n, k) float, one row a sample and one column a class; `targets` is (n,) integer in
0..k-1. Metrics of logits that are not all finite are NaN: a diverged model is a result, not an
error. Of equal logits the first class is the predicted one.
"""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from leaderboard.errors import RecordError

CALIBRATION_BINS = 15


class Metrics(TypedDict):
    """All metrics of one split, under the names they have in a record."""

    accuracy: float
    nll: float
    brier: float
    ece: float
    n: int


class _Predictions(NamedTuple):
    log_probabilities: npt.NDArray[np.float64]  # (n, k)
    correct: npt.NDArray[np.float64]  # (n,), 0 or 1, NaN where diverged
    targets: npt.NDArray[np.int64]  # (n,)


def accuracy(logits: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Fraction of samples whose largest logit is the target's, 0..1.

    Raises:
        RecordError: shapes, types or ranges are not those of this module, or there is no sample.
    """
    return _accuracy(_predictions(logits, targets))


def negative_log_likelihood(logits: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Mean of -log softmax(logits)[target], in nats, 0 or more.

    Raises:
        RecordError: shapes, types or ranges are not those of this module, or there is no sample.
    """
    return _negative_log_likelihood(_predictions(logits, targets))


def brier(logits: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Mean over samples of the sum over classes of (probability - one-hot target)^2, 0..2.

    The original definition (Brier, 1950, Monthly Weather Review 78, eq. 2); with two classes it is
    twice the score that counts the positive class alone.

    Raises:
        RecordError: shapes, types or ranges are not those of this module, or there is no sample.
    """
    return _brier(_predictions(logits, targets))


def expected_calibration_error(logits: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Expected calibration error (Guo et al., 2017, https://arxiv.org/abs/1706.04599, eq. 3), 0..1.

    Samples fall by their largest probability into 15 bins (lo, hi] of equal width; the result is
    the mean of |accuracy - mean largest probability| over the bins, weighted by their samples.

    Raises:
        RecordError: shapes, types or ranges are not those of this module, or there is no sample.
    """
    return _expected_calibration_error(_predictions(logits, targets))


def all_metrics(logits: npt.ArrayLike, targets: npt.ArrayLike) -> Metrics:
    """All metrics of this module at once, and the number of samples.

    Raises:
        RecordError: shapes, types or ranges are not those of this module, or there is no sample.
    """
    predictions = _predictions(logits, targets)
    return {
        "accuracy": _accuracy(predictions),
        "nll": _negative_log_likelihood(predictions),
        "brier": _brier(predictions),
        "ece": _expected_calibration_error(predictions),
        "n": len(predictions.targets),
    }


def _accuracy(predictions: _Predictions) -> float:
    return float(predictions.correct.mean())


def _negative_log_likelihood(predictions: _Predictions) -> float:
    rows = np.arange(len(predictions.targets))
    # 0 - x and not -x: the loss of a certain prediction is 0.0, not -0.0.
    return float(0.0 - predictions.log_probabilities[rows, predictions.targets].mean())


def _brier(predictions: _Predictions) -> float:
    difference = np.exp(predictions.log_probabilities)
    difference[np.arange(len(predictions.targets)), predictions.targets] -= 1
    return float((difference**2).sum(axis=1).mean())


def _expected_calibration_error(predictions: _Predictions) -> float:
    confidence = np.exp(predictions.log_probabilities.max(axis=1))
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.searchsorted(edges[1:-1], confidence, side="left")
    gaps = np.bincount(bins, weights=predictions.correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _predictions(logits: npt.ArrayLike, targets: npt.ArrayLike) -> _Predictions:
    scores, labels = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    _refuse_bad(scores, labels)
    if not np.isfinite(scores).all():
        nowhere = np.full(scores.shape, np.nan)
        return _Predictions(nowhere, nowhere[:, 0], labels.astype(np.int64))
    correct = (scores.argmax(axis=1) == labels).astype(np.float64)
    shifted = scores - scores.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return _Predictions(shifted - normaliser, correct, labels.astype(np.int64))


def _refuse_bad(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.generic]) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise RecordError(
            f"logits of shape {scores.shape} and targets of shape {labels.shape}: expected (n, k) "
            "and (n,), one row a sample and one column a class"
        )
    if scores.size == 0:
        raise RecordError("no samples, so no metrics: leave an empty split out of the check")
    if not np.issubdtype(labels.dtype, np.integer):
        raise RecordError(f"targets of type {labels.dtype}: expected integers, the class of a row")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise RecordError(
            f"targets from {labels.min()} to {labels.max()}: expected 0 to {scores.shape[1] - 1}, "
            "the columns of the logits"
        )
