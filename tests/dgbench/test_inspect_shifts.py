"""Diversity and correlation shift: exact on tables, by quadrature on curves, and measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate as quadrature
from scipy import stats

from datamodules.colored_mnist import ColoredMNIST
from dgbench.inspect import shifts
from dgbench.inspect.shifts import (
    Densities,
    ShiftReport,
    estimate,
    integrate,
    measure,
    published,
)


def table(first: list[list[float]], second: list[list[float]]) -> Densities:
    """Joint tables ``(classes, values of z)`` as densities of which every value is a point once."""
    p, q = np.array(first), np.array(second)
    shares = p.sum(axis=1)
    np.testing.assert_allclose(shares, q.sum(axis=1))
    points = p.shape[1]
    uniform = np.full(points, 1 / points)
    first_of_class, second_of_class = (joint / shares[:, None] for joint in (p, q))
    return Densities(p.sum(axis=0), q.sum(axis=0), first_of_class, second_of_class, shares, uniform)


@pytest.mark.parametrize(
    ("first", "second", "diversity", "correlation"),
    [
        # Nothing differs.
        ([[0.1, 0.4], [0.4, 0.1]], [[0.1, 0.4], [0.4, 0.1]], 0, 0),
        # All of z is new.
        ([[0.5, 0], [0.5, 0]], [[0, 0.5], [0, 0.5]], 1, 0),
        # A half of q is new, and a half of p with it no more there: (1/2 + 1/2) / 2.
        ([[0.25, 0.25, 0], [0.25, 0.25, 0]], [[0.25, 0, 0.25], [0.25, 0, 0.25]], 0.5, 0),
        # The colour of Colored MNIST: it agrees in 85 and in 10 of 100 samples.
        ([[0.425, 0.075], [0.075, 0.425]], [[0.05, 0.45], [0.45, 0.05]], 0, 0.75),
        # Both: z = 0 is common, with laws (2/3, 1/3) and (1/3, 2/3); the others are not.
        (
            [[0.4, 0.1, 0], [0.2, 0.3, 0]],
            [[0.2, 0, 0.3], [0.4, 0, 0.1]],
            0.4,
            0.6 / 3,
        ),
    ],
)
def test_tables_have_the_shifts_of_the_definition(first, second, diversity, correlation):
    found = integrate(table(first, second))
    assert found.diversity == pytest.approx(diversity, abs=1e-12)
    assert found.correlation == pytest.approx(correlation, abs=1e-12)


def test_a_common_value_with_other_shares_weighs_as_their_geometric_mean():
    p, q = np.array([[0.1, 0.4], [0.3, 0.2]]), np.array([[0.3, 0.2], [0.3, 0.2]])
    weight = np.sqrt(p.sum(axis=0) * q.sum(axis=0))
    gaps = np.abs(p / p.sum(axis=0) - q / q.sum(axis=0)).sum(axis=0)
    assert integrate(table(p.tolist(), q.tolist())).correlation == pytest.approx(weight @ gaps / 2)


def sample(random: np.random.Generator, slope: float, centre: float, n: int = 4000):
    """Features around a centre, the class logistic in them; as many rows of each class."""
    features = random.normal(size=(n, 1))
    labels = random.random(n) < 1 / (1 + np.exp(-slope * features[:, 0]))
    fewest = min(labels.sum(), (~labels).sum(), n // 2 - 200)
    rows = np.concatenate([np.flatnonzero(labels == y)[:fewest] for y in (False, True)])
    return torch.from_numpy(features[rows] + centre), torch.from_numpy(labels[rows].astype(int))


def test_a_curve_that_turns_round_is_measured_as_by_quadrature(monkeypatch):
    monkeypatch.setattr(shifts, "POINTS", 2000)
    random = np.random.default_rng(0)
    first, second = sample(random, 2, 0), sample(random, -2, 0)
    rows = min(len(first[1]), len(second[1])) // 2 * 2
    assert rows == len(first[1]) == len(second[1])
    # abs(p(1 | z) - q(1 | z)) = tanh(abs(z)), once for each class, halved.
    expected = 2 * quadrature.quad(lambda z: stats.norm.pdf(z) * np.tanh(z), 0, 10)[0]
    found = integrate(estimate(first, second, 0))
    assert found.correlation == pytest.approx(expected, abs=0.03)
    assert found.diversity < 0.01
    again = integrate(estimate(first, sample(random, 2, 0), 0))
    assert again.correlation < 0.05


def test_features_far_apart_are_new(monkeypatch):
    monkeypatch.setattr(shifts, "POINTS", 2000)
    random = np.random.default_rng(0)
    found = integrate(estimate(sample(random, 2, 0), sample(random, 2, 10), 0))
    assert found.diversity == pytest.approx(1, abs=0.03)
    assert found.correlation == pytest.approx(0, abs=1e-9)


def test_published_figures_stand_for_the_environments_they_were_measured_on():
    assert published("colored_mnist", ["-90%"])["diversity"] == (0.0013, 0.0006)
    assert published("colored_mnist", ["+90%"]) == {}
    assert published("pacs", ["sketch"])["correlation"] == (0.0338, 0.0156)
    assert published("rotated_mnist", ["0deg"]) == {}


def test_of_too_few_rows_it_says_so():
    data = ColoredMNIST(test_envs=[2], draws=120)
    counts = [
        data.environment(e).targets[data.environment(e).main].bincount(minlength=2)
        for e in range(3)
    ]
    sides = (counts[0] + counts[1], counts[2])
    best = int(torch.minimum(*sides).argmax())
    assert measure(data, "colored_mnist") == (
        "Diversity and correlation shift are not measured: that takes a class with 80 images in "
        "the main splits of the training environments and as many in those held out, and "
        f"{data.class_names[best]}, which has the most, has {sides[0][best]} and {sides[1][best]}. "
        "Published: diversity 0.0013 ± 0.0006, correlation 0.5468 ± 0.0278."
    )


@pytest.mark.slow
def test_colored_mnist_has_the_published_shifts():
    found = measure(ColoredMNIST(test_envs=[2]), "colored_mnist")
    assert isinstance(found, ShiftReport)
    for name, (mean, deviation) in found.published.items():
        ours = [getattr(one, name) for one in found.trials]
        assert abs(np.mean(ours) - mean) < 2 * np.hypot(np.std(ours), deviation)
    assert np.mean([one.correlation for one in found.alike]) < 0.2
