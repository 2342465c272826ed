"""Losses of classes and of numbers, and algorithms on either."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.scm import SCM, Mechanism, Normal, Scale
from dgbench.algorithms.erm import ERM
from dgbench.algorithms.irm import IRM
from dgbench.algorithms.irmv2 import IRMv2
from dgbench.algorithms.mm_rex import MMREx
from dgbench.algorithms.vrex import VREx
from dgbench.losses import output_errors, sample_losses
from dgbench.networks import Network
from tests.synthetic import assert_close

GENERATOR = torch.Generator()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR.manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_errors_are_the_derivative_of_the_losses(kind):
    outputs = random(11, 4 if kind == "classes" else 1).mul(5).requires_grad_()
    targets = torch.arange(11) % 4 if kind == "classes" else random(11, seed=1)
    losses = sample_losses(outputs, targets)
    reference = (
        F.cross_entropy(outputs, targets)
        if kind == "classes"
        else F.mse_loss(outputs, targets[:, None])
    )
    assert_close(losses.mean(), reference)
    (expected,) = torch.autograd.grad(losses.sum(), outputs)
    errors = output_errors(outputs, targets)
    assert_close(errors, expected)
    if kind == "classes":
        assert errors.sum(dim=1).abs().max() < 1e-14


# Regression


def table():
    """x causes y, y causes z, and y's noise differs between environments."""
    model = SCM(
        {
            "x": Mechanism(0.0, Normal(), size=2),
            "y": Mechanism(lambda x: x[:, 0] - 2 * x[:, 1], Normal()),
            "z": Mechanism(lambda y: y, Normal()),
        }
    )
    environments = {"a": {}, "b": {"x": Scale(3.0)}}
    return model.table(environments, 200, target="y", seed=0)


def algorithm_and_batch(kind: type, **options):
    batch = table().batch()
    torch.manual_seed(0)
    network = Network(nn.Identity(), nn.Linear(3, 1))
    return kind(network=network, n_environments=2, **options), batch


def test_risks_of_numbers_are_mean_squares():
    erm, batch = algorithm_and_batch(ERM)
    squares = (erm(batch.inputs).squeeze(1) - batch.targets).square()
    expected = torch.stack([squares[:200].mean(), squares[200:].mean()])
    assert_close(erm.objective(batch)["risks"], expected, rtol=1e-6)


@pytest.mark.parametrize("head_input", ["logits", "features"])
def test_the_penalty_of_irmv2_is_the_excess_risk_over_the_best_head(head_input):
    algorithm, batch = algorithm_and_batch(IRMv2, ridge=1e-9, head_input=head_input)
    read = algorithm(batch.inputs).detach() if head_input == "logits" else batch.inputs
    outputs = algorithm.objective(batch)
    excess = []
    for rows, risk in zip((slice(200), slice(200, 400)), outputs["risks"], strict=True):
        extended = F.pad(read[rows], (0, 1), value=1.0).double()
        targets = batch.targets[rows].double()
        best = torch.linalg.lstsq(extended, targets).solution
        excess.append(risk - (extended @ best - targets).square().mean())
    assert_close(outputs["penalty"], torch.stack(excess).mean().float(), rtol=1e-4)


@pytest.mark.parametrize("kind", [ERM, IRM, IRMv2, MMREx, VREx])
def test_algorithms_on_risks_and_errors_predict_numbers(kind):
    algorithm, batch = algorithm_and_batch(kind)
    loss = algorithm.training_step(batch, 0)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in algorithm.network.parameters())
