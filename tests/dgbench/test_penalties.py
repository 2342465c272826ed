from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from dgbench.losses import output_errors
from dgbench.penalties import (
    gramian_weighted_norm,
    risk_excess,
    risk_variance,
    scale_gradients,
)
from tests.synthetic import assert_close


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def labels(count: int, classes: int, seed: int = 1) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def irm_penalty_by_double_backward(logits: Tensor, targets: Tensor) -> Tensor:
    """The IRM paper's code (colored_mnist/main.py, `penalty`), for any number of classes."""
    scale = torch.tensor(1.0, dtype=logits.dtype, requires_grad=True)
    loss = F.cross_entropy(logits * scale, targets)
    (gradient,) = torch.autograd.grad(loss, [scale], create_graph=True)
    return gradient**2


# scale_gradients


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("size", [0.01, 1.0, 10.0])
def test_scale_gradients_equal_the_double_backward(classes, size):
    inputs, targets = random(31, 5), labels(31, classes)
    weights = (size * random(5, classes, seed=2)).requires_grad_()
    hidden = inputs @ weights
    logits = hidden + hidden.tanh()

    closed = scale_gradients(logits, targets).mean().square()
    reference = irm_penalty_by_double_backward(logits, targets)

    assert_close(closed, reference)
    for wrt in (logits, weights):
        assert_close(
            *(torch.autograd.grad(p, wrt, retain_graph=True)[0] for p in (closed, reference))
        )


def test_scale_gradients_are_those_of_each_sample():
    logits, targets = random(7, 4), labels(7, 4)
    for sample in range(7):
        scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        loss = F.cross_entropy(logits[sample : sample + 1] * scale, targets[sample : sample + 1])
        (expected,) = torch.autograd.grad(loss, scale)
        assert_close(scale_gradients(logits, targets)[sample], expected)


def test_scale_gradients_of_two_classes_are_the_papers_binary_ones():
    z, targets = random(40, 1).mul(3).requires_grad_(), labels(40, 2)
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(z * scale, targets[:, None].double())
    (gradient,) = torch.autograd.grad(loss, [scale], create_graph=True)
    paper = gradient.square().sum()

    logits = torch.cat([torch.zeros_like(z), z], dim=1)
    ours = scale_gradients(logits, targets).mean().square()

    assert_close(ours, paper)
    assert_close(
        torch.autograd.grad(ours, z, retain_graph=True)[0], torch.autograd.grad(paper, z)[0]
    )


def test_scale_gradients_depend_on_differences_of_logits_alone():
    logits, targets = random(20, 3), labels(20, 3)
    shifted = logits + random(20, 1, seed=3)
    assert_close(scale_gradients(shifted, targets), scale_gradients(logits, targets))


def test_scale_gradients_vanish_where_the_logits_do_and_for_certain_right_answers():
    targets = labels(9, 3)
    zero = torch.zeros(9, 3, dtype=torch.float64)
    certain = 1e3 * F.one_hot(targets, 3).double()
    assert scale_gradients(zero, targets).abs().max() == 0
    assert scale_gradients(certain, targets).abs().max() == 0


def test_scale_gradients_of_numbers_equal_the_double_backward():
    outputs, targets = random(9, 1).requires_grad_(), random(9, seed=1)
    scale = torch.tensor(1.0, dtype=outputs.dtype, requires_grad=True)
    loss = F.mse_loss(outputs.squeeze(1) * scale, targets)
    (expected,) = torch.autograd.grad(loss, [scale])
    assert_close(scale_gradients(outputs, targets).mean(), expected)


# gramian_weighted_norm


def squared_loss_norm(features: Tensor, targets: Tensor, head: Tensor, ridge: float = 0.0):
    """The penalty of a head (outputs, features) under the loss sum_k (head_k phi - y_k)^2."""
    errors = features @ head.T - targets
    gradient = 2 * errors.T @ features / len(features)
    return gramian_weighted_norm(gradient, features.T @ features / len(features), ridge)


def squared_risk(features: np.ndarray, targets: np.ndarray, head: np.ndarray) -> float:
    return float(((features @ head.T - targets) ** 2).sum(axis=1).mean())


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_norm_is_the_excess_risk_over_the_best_least_squares_head(outputs, seed):
    features, targets = random(50, 4, seed=seed) + 0.5, random(50, outputs, seed=seed + 10)
    head = random(outputs, 4, seed=seed + 20)
    best = np.linalg.lstsq(features.numpy(), targets.numpy(), rcond=None)[0].T
    excess = squared_risk(features.numpy(), targets.numpy(), head.numpy()) - squared_risk(
        features.numpy(), targets.numpy(), best
    )
    norm = squared_loss_norm(features, targets, head)
    assert norm.item() == pytest.approx(excess, rel=1e-10)
    at_best = squared_loss_norm(features, targets, torch.from_numpy(best))
    assert at_best.item() == pytest.approx(0, abs=1e-20)


def test_norm_treats_each_environment_on_its_own():
    features, targets, head = random(3, 20, 4), random(3, 20, 2, seed=1), random(2, 4, seed=2)
    single = [squared_loss_norm(features[e], targets[e], head) for e in range(3)]
    errors = features @ head.T - targets
    stacked = gramian_weighted_norm(
        2 * errors.mT @ features / 20, features.mT @ features / 20, ridge=0.0
    )
    assert_close(stacked, torch.stack(single))


def test_norm_is_invariant_under_invertible_maps_of_the_representation():
    features, targets, head = random(30, 4), random(30, 2, seed=1), random(2, 4, seed=2)
    change = random(4, 4, seed=3) + 2 * torch.eye(4, dtype=torch.float64)
    mapped = squared_loss_norm(features @ change.T, targets, head @ torch.linalg.inv(change))
    assert_close(mapped, squared_loss_norm(features, targets, head), rtol=1e-10, atol=0.0)


def excess_cross_entropy(features: Tensor, targets: Tensor, head: Tensor) -> float:
    """Risk of a head above that of the best one, which scipy finds."""
    shape = head.shape

    def risk(flat: Any) -> Any:
        weights = torch.from_numpy(flat.reshape(shape)).requires_grad_()
        loss = F.cross_entropy(features @ weights.T, targets)
        (gradient,) = torch.autograd.grad(loss, weights)
        return loss.item(), gradient.numpy().ravel()

    start = head.numpy().ravel().copy()
    options: Any = {"gtol": 1e-10, "ftol": 1e-15, "maxiter": 2000}
    found: Any = minimize(risk, start, jac=True, method="L-BFGS-B", options=options)
    return float(risk(start)[0] - found.fun)


def cross_entropy_norm(features: Tensor, targets: Tensor, head: Tensor) -> float:
    gradient = output_errors(features @ head.T, targets).T @ features / len(features)
    gramian = features.T @ features / len(features)
    return gramian_weighted_norm(gradient, gramian, 0.0).item()


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("size", [0.0, 0.3, 3.0])
def test_four_norms_are_a_lower_bound_of_the_cross_entropys_excess_risk(classes, size):
    features, targets = random(80, 3, seed=classes), labels(80, classes)
    head = size * random(classes, 3, seed=7)
    norm = cross_entropy_norm(features, targets, head)
    excess = excess_cross_entropy(features, targets, head)
    assert 0 < 4 * norm <= excess * (1 + 1e-9)


def test_that_bound_is_attained_for_two_classes_close_to_the_best_head():
    features, targets = random(4000, 3), labels(4000, 2)
    head = torch.zeros(2, 3, dtype=torch.float64)
    norm = cross_entropy_norm(features, targets, head)
    assert 4 * norm == pytest.approx(excess_cross_entropy(features, targets, head), rel=0.01)


def test_features_that_are_never_active_add_nothing_once_there_is_a_ridge():
    features, targets, head = random(30, 4), random(30, 2, seed=1), random(2, 4, seed=2)
    dead = torch.zeros(30, 2, dtype=torch.float64)
    padded = torch.cat([features, dead], dim=1).requires_grad_()
    norm = squared_loss_norm(padded, targets, F.pad(head, (0, 2)), ridge=1e-10)
    assert_close(norm, squared_loss_norm(features, targets, head), rtol=1e-8, atol=0.0)
    (gradient,) = torch.autograd.grad(norm, padded)
    assert gradient.isfinite().all()


def test_a_ridge_is_in_units_of_the_gramians_mean_diagonal():
    gradient, features = random(2, 4), random(30, 4, seed=1)
    gramian = features.T @ features / 30
    ridge = 0.1 * gramian.diagonal().mean().item() * np.eye(4)
    inverse = np.linalg.inv(gramian.numpy() + ridge)
    expected = sum(g @ inverse @ g for g in gradient.numpy()) / 4
    assert gramian_weighted_norm(gradient, gramian, 0.1).item() == pytest.approx(
        expected, rel=1e-12
    )


# Functions of risks


@pytest.mark.parametrize("environments", [1, 2, 5])
def test_risk_variance_equals_numpy(environments):
    risks = random(environments).abs()
    assert risk_variance(risks).item() == pytest.approx(np.var(risks.numpy()), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("environments", [1, 2, 5])
def test_risk_excess_equals_numpy(environments):
    risks = random(environments).abs()
    expected = risks.numpy().max() - risks.numpy().mean()
    assert risk_excess(risks).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("function", [risk_variance, risk_excess])
def test_equal_risks_have_no_penalty(function):
    assert function(torch.full((4,), 0.75, dtype=torch.float64)) == 0


@pytest.mark.parametrize("function", [risk_variance, risk_excess])
def test_what_all_risks_share_and_their_order_do_not_matter(function):
    risks = random(5)
    assert_close(function(risks.flip(0) + 3), function(risks))


def test_a_factor_of_the_risks_enters_squared_in_the_variance_and_once_in_the_excess():
    risks = random(5)
    assert_close(risk_variance(3 * risks), 9 * risk_variance(risks))
    assert_close(risk_excess(3 * risks), 3 * risk_excess(risks))


def test_of_two_risks_both_are_functions_of_their_difference():
    risks = random(2)
    gap = (risks[0] - risks[1]).abs()
    assert_close(risk_variance(risks), gap.square() / 4)
    assert_close(risk_excess(risks), gap / 2)
