"""Metrics against scikit-learn, slow references and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss  # type: ignore[import-untyped]

from leaderboard import metrics
from leaderboard.errors import RecordError


def sample(n: int = 300, k: int = 4, scale: float = 2.0) -> tuple[Any, Any]:
    generator = np.random.Generator(np.random.PCG64(7))
    return scale * generator.standard_normal((n, k)), generator.integers(0, k, n)


def softmax(logits: Any) -> Any:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def slow_calibration_error(logits: Any, targets: Any) -> float:
    probabilities = softmax(logits)
    error = 0.0
    for i in range(15):
        members = [
            row for row in range(len(targets)) if i / 15 < probabilities[row].max() <= (i + 1) / 15
        ]
        if members:
            right = [float(probabilities[row].argmax() == targets[row]) for row in members]
            confidence = [float(probabilities[row].max()) for row in members]
            gap = abs(sum(right) / len(members) - sum(confidence) / len(members))
            error += gap * len(members) / len(targets)
    return error


@pytest.mark.parametrize("k", [2, 4, 10])
def test_against_scikit_learn_and_slow_references(k: int) -> None:
    logits, targets = sample(k=k)
    probabilities = softmax(logits)
    one_hot = np.eye(k)[targets]
    assert metrics.accuracy(logits, targets) == accuracy_score(targets, logits.argmax(axis=1))
    assert metrics.negative_log_likelihood(logits, targets) == pytest.approx(
        log_loss(targets, probabilities, labels=range(k)), rel=1e-12
    )
    assert metrics.brier(logits, targets) == pytest.approx(
        float(((probabilities - one_hot) ** 2).sum(axis=1).mean()), rel=1e-12
    )
    assert metrics.expected_calibration_error(logits, targets) == pytest.approx(
        slow_calibration_error(logits, targets), rel=1e-12
    )


def test_all_metrics_holds_the_single_ones() -> None:
    logits, targets = sample()
    assert metrics.all_metrics(logits, targets) == {
        "accuracy": metrics.accuracy(logits, targets),
        "nll": metrics.negative_log_likelihood(logits, targets),
        "brier": metrics.brier(logits, targets),
        "ece": metrics.expected_calibration_error(logits, targets),
        "n": 300,
    }


def test_closed_forms() -> None:
    undecided = metrics.all_metrics(np.zeros((4, 2)), [0, 1, 1, 1])
    assert undecided["accuracy"] == 0.25  # of equal logits the first class
    assert undecided["nll"] == pytest.approx(math.log(2))
    assert undecided["brier"] == pytest.approx(0.5)
    assert undecided["ece"] == pytest.approx(0.25)
    assert metrics.all_metrics([[0.0, 1e4]], [1]) == {
        "accuracy": 1.0,
        "nll": 0.0,
        "brier": 0.0,
        "ece": 0.0,
        "n": 1,
    }
    wrong = metrics.all_metrics([[0.0, 1e4]], [0])
    assert (wrong["nll"], wrong["brier"], wrong["ece"]) == (1e4, 2.0, 1.0)


def test_a_bin_holds_its_upper_edge() -> None:
    # Probabilities 0.6 = 9/15 and 0.65 lie in (8/15, 9/15] and (9/15, 10/15]: two bins, whose gaps
    # add up, where one bin [9/15, 10/15) would let them cancel.
    logits = np.log([[0.6, 0.4], [0.65, 0.35]])
    assert softmax(logits)[0, 0] <= 9 / 15
    assert metrics.expected_calibration_error(logits, [0, 1]) == pytest.approx((0.4 + 0.65) / 2)


def test_shifting_all_logits_of_a_row_and_permuting_rows_changes_nothing() -> None:
    logits, targets = sample()
    order = np.random.Generator(np.random.PCG64(1)).permutation(len(targets))
    expected = metrics.all_metrics(logits, targets)
    shifted = metrics.all_metrics(logits[order] + 1000.0, targets[order])
    assert shifted == pytest.approx(expected, rel=1e-9)


def test_large_logits_do_not_overflow() -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        result = metrics.all_metrics([[1e300, 0.0], [0.0, -1e300]], [0, 0])
    assert result["nll"] == 0.0


def test_tiny_differences_decide_the_class() -> None:
    assert metrics.accuracy([[0.0, 1e-20]], [1]) == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_give_nan(bad: float) -> None:
    result = metrics.all_metrics([[0.0, 1.0], [bad, 0.0]], [1, 1])
    assert result.pop("n") == 2  # type: ignore[misc]
    assert all(math.isnan(float(str(value))) for value in result.values())


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        ([0.0, 1.0], [1], r"logits of shape \(2,\)"),
        ([[0.0, 1.0]], [[1]], r"targets of shape \(1, 1\)"),
        ([[0.0, 1.0]], [1, 0], r"expected \(n, k\) and \(n,\)"),
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "no samples"),
        ([[0.0, 1.0]], [1.0], "targets of type float64: expected integers"),
        ([[0.0, 1.0]], [2], "targets from 2 to 2: expected 0 to 1"),
        ([[0.0, 1.0]], [-1], "targets from -1 to -1: expected 0 to 1"),
    ],
)
def test_refused_input(logits: Any, targets: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        metrics.all_metrics(logits, targets)
