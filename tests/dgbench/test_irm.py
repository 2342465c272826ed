from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.irm import IRM
from tests.synthetic import (
    assert_close,
    assert_same_loss,
    gradients,
    identity_network,
    make_batch,
    per_environment,
    small_network,
)

pytestmark = pytest.mark.usefixtures("float64")


def make_irm(environments: int = 2, **options: Any) -> IRM:
    network = options.pop("network", None) or small_network()
    return IRM(network=network, n_environments=environments, anneal_steps=0, **options)


def reordered(batch: EnvironmentBatch, order: Tensor) -> EnvironmentBatch:
    return EnvironmentBatch(
        batch.inputs[order],
        batch.targets[order],
        batch.environment[order],
        batch.indices[order],
        batch.rows[order],
        batch.counts,
    )


def domainbed_penalty(logits: Tensor, targets: Tensor) -> Tensor:
    """DomainBed's `IRM._irm_penalty`, algorithms.py:590-598."""
    scale = torch.tensor(1.0, dtype=logits.dtype, requires_grad=True)
    first = F.cross_entropy(logits[::2] * scale, targets[::2])
    second = F.cross_entropy(logits[1::2] * scale, targets[1::2])
    (gradient_1,) = torch.autograd.grad(first, [scale], create_graph=True)
    (gradient_2,) = torch.autograd.grad(second, [scale], create_graph=True)
    return torch.sum(gradient_1 * gradient_2)


def full_penalty(logits: Tensor, targets: Tensor) -> Tensor:
    scale = torch.tensor(1.0, dtype=logits.dtype, requires_grad=True)
    loss = F.cross_entropy(logits * scale, targets)
    gradient: Tensor = torch.autograd.grad(loss, [scale], create_graph=True)[0]
    return gradient.square()


# The IRM paper's code: colored_mnist/main.py


class PaperRun:
    """Its training loop (lines 119-160) on plain tensors: one logit, binary cross-entropy, Adam."""

    def __init__(self, weights: list[Tensor], options: dict[str, Any]) -> None:
        self.weights = [weight.detach().clone().requires_grad_() for weight in weights]
        self.options = options
        self.optimizer = torch.optim.Adam(self.weights, lr=options["learning_rate"])
        self.steps = 0

    def logit(self, inputs: Tensor) -> Tensor:
        w1, b1, w2, b2, w3, b3 = self.weights
        hidden = F.linear(F.linear(inputs, w1, b1).relu(), w2, b2).relu()
        return F.linear(hidden, w3, b3)

    def loss(self, batch: EnvironmentBatch) -> Tensor:
        risks, penalties = [], []
        for inputs, targets in per_environment(batch):
            logit, labels = self.logit(inputs), targets[:, None].to(inputs.dtype)
            scale = torch.tensor(1.0, dtype=inputs.dtype, requires_grad=True)
            scaled = F.binary_cross_entropy_with_logits(logit * scale, labels)
            (gradient,) = torch.autograd.grad(scaled, [scale], create_graph=True)
            risks.append(F.binary_cross_entropy_with_logits(logit, labels))
            penalties.append(torch.sum(gradient**2))
        weight_norm = sum((weight.norm().pow(2) for weight in self.weights), torch.tensor(0.0))
        loss: Tensor = torch.stack(risks).mean() + self.options["l2"] * weight_norm
        switched_on = self.steps >= self.options["anneal_steps"]
        penalty_weight = self.options["penalty_weight"] if switched_on else 1.0
        loss = loss + penalty_weight * torch.stack(penalties).mean()
        return loss / penalty_weight if penalty_weight > 1.0 else loss

    def step(self, batch: EnvironmentBatch) -> float:
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        return loss.item()


@pytest.mark.parametrize("penalty_weight", [91257.18613115903, 100.0, 0.3])
def test_five_adam_steps_are_those_of_the_papers_code(penalty_weight):
    options: dict[str, Any] = {
        "learning_rate": 0.0004898536566546834,
        "l2": 0.00110794568,
        "penalty_weight": penalty_weight,
        "anneal_steps": 2,
    }
    network = small_network(logits="one")
    paper = PaperRun(list(network.parameters()), options)
    ours = IRM(network=network, n_environments=2, rescale_loss=True, **options)
    optimizer = ours.configure_optimizers()

    for step in range(5):
        batch = make_batch((40, 40), seed=step)
        loss = ours.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.item() == pytest.approx(paper.step(batch), abs=1e-10)

    for parameter, weight in zip(network.parameters(), paper.weights, strict=True):
        assert_close(parameter, weight, rtol=0.0, atol=1e-10)


# The two estimators


@pytest.mark.parametrize("counts", [(64, 64), (7, 7), (5, 8, 2)])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    ("estimator", "reference"), [("full", full_penalty), ("split", domainbed_penalty)]
)
def test_objective_is_the_mean_risk_and_the_weighted_mean_of_the_peers_penalties(
    counts, classes, estimator, reference
):
    batch = make_batch(counts, classes=classes)
    network = small_network(classes=classes)
    irm = make_irm(len(counts), network=network, penalty_weight=30.0, estimator=estimator)

    pairs = [(network(inputs), targets) for inputs, targets in per_environment(batch)]
    risks = torch.stack([F.cross_entropy(*pair) for pair in pairs])
    penalty = torch.stack([reference(*pair) for pair in pairs]).mean()
    expected = risks.mean() + 30.0 * penalty

    outputs = irm.objective(batch)
    assert_close(outputs["risks"], risks)
    assert_close(outputs["penalty"], penalty)
    assert_same_loss(outputs["loss"], expected, network)


def test_a_batch_of_one_has_no_split_penalty_and_a_finite_loss():
    irm = make_irm(estimator="split")
    outputs = irm.objective(make_batch((1, 1)))
    assert outputs["penalty"] == 0
    assert outputs["loss"] == outputs["risks"].mean()
    assert all(gradient.isfinite().all() for gradient in gradients(outputs["loss"], irm.network))


def test_halves_are_cut_by_rows_of_the_global_batch_not_by_order():
    batch = make_batch((9, 6))
    order = torch.randperm(15, generator=torch.Generator().manual_seed(5))
    irm = make_irm(estimator="split")
    expected = irm.objective(batch)["penalty"]
    assert_close(irm.objective(reordered(batch, order))["penalty"], expected)

    renumbered = reordered(batch, order)
    renumbered.rows = batch.rows
    assert (irm.objective(renumbered)["penalty"] - expected).abs() > 1e-6


def resampled_penalties(estimator: str, population: EnvironmentBatch, size: int) -> Tensor:
    """Mean penalties of 100 x 200 batches drawn with replacement from one environment."""
    environments = 200
    irm = make_irm(environments, network=identity_network(), estimator=estimator)
    generator = torch.Generator().manual_seed(11)
    rows = torch.arange(size).repeat(environments)
    found = []
    for _ in range(100):
        drawn = torch.randint(len(population.targets), (environments * size,), generator=generator)
        batch = EnvironmentBatch(
            population.inputs[drawn],
            population.targets[drawn],
            torch.arange(environments).repeat_interleave(size),
            drawn,
            rows,
            torch.full((environments,), size),
        )
        found.append(irm.objective(batch)["penalty"])
    return torch.stack(found)


def one_environment_of_logits(count: int, classes: int = 3) -> EnvironmentBatch:
    batch = make_batch((count,), classes=classes, seed=3)
    batch.inputs = batch.inputs[:, :classes]
    return batch


def test_split_is_unbiased_and_full_is_biased_by_the_variance_of_the_mean():
    size = 4
    population = one_environment_of_logits(500)
    derivatives = torch.stack(
        [
            full_penalty(z[None], y[None]).sqrt() * torch.sign(F.softmax(z, 0) @ z - z[y])
            for z, y in zip(population.inputs, population.targets, strict=True)
        ]
    )
    truth = derivatives.mean().square()
    bias = derivatives.var(unbiased=False) / size
    assert bias > 0.2 * truth

    for estimator, expected in (("split", truth), ("full", truth + bias)):
        means = resampled_penalties(estimator, population, size)
        error = means.std() / len(means) ** 0.5
        assert error < 0.1 * bias
        assert (means.mean() - expected).abs() < 4 * error


def test_split_is_negative_for_about_half_of_the_batches_of_calibrated_logits():
    irm = make_irm(400, network=identity_network(), estimator="split")
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(400 * 64, generator=generator, dtype=torch.float64)
    calibrated = (
        torch.rand(z.shape, generator=generator, dtype=torch.float64) < z.sigmoid()
    ).long()
    rows = torch.arange(64).repeat(400)
    batch = EnvironmentBatch(
        torch.stack([torch.zeros_like(z), z], dim=1),
        calibrated,
        torch.arange(400).repeat_interleave(64),
        rows,
        rows,
        torch.full((400,), 64),
    )
    logits = irm(batch.inputs)
    expected = logits.softmax(1)[:, 1] * z - calibrated * z
    negative = (irm.half_means(expected, batch).prod(dim=0) < 0).double().mean()
    assert 0.4 < negative < 0.6


def test_one_row_pulling_up_and_one_pulling_down_make_a_negative_penalty():
    batch = make_batch((2,))
    batch.inputs = torch.tensor([[0.0, 2.0], [0.0, 2.0]], dtype=torch.float64)
    batch.targets = torch.tensor([0, 1])
    split = make_irm(1, network=identity_network(), estimator="split").objective(batch)["penalty"]
    full = make_irm(1, network=identity_network(), estimator="full").objective(batch)["penalty"]
    assert split < 0 <= full


# Limits and schedule


@pytest.mark.parametrize("estimator", ["full", "split"])
def test_without_weight_it_is_erm(estimator):
    outputs = make_irm(penalty_weight=0.0, estimator=estimator).objective(make_batch((20, 20)))
    assert outputs["penalty"] != 0
    assert outputs["loss"] == outputs["risks"].mean()


def test_before_the_switch_the_weight_is_one():
    irm = IRM(network=small_network(), n_environments=2, penalty_weight=50.0, anneal_steps=1)
    batch = make_batch((20, 20))
    weights = []
    for step in range(3):
        irm.training_step(batch, step)
        weights.append(irm.outputs["penalty_weight"].item())
    assert weights == [1.0, 50.0, 50.0]
