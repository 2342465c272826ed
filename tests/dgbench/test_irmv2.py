from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.irm import IRM
from dgbench.algorithms.irmv2 import IRMv2
from dgbench.networks import Network, OneLogitClassifier
from tests.synthetic import (
    FEATURES,
    assert_close,
    assert_same_loss,
    gradients,
    make_batch,
    per_environment,
    small_network,
)

pytestmark = pytest.mark.usefixtures("float64")


def make_irmv2(network: Network, environments: int = 2, **options: Any) -> IRMv2:
    return IRMv2(network=network, n_environments=environments, anneal_steps=0, **options)


def slow_penalty(network: Network, inputs: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """One environment's penalty: the head's gradient by autograd, the Gramian sample by sample."""
    head = network.classifier
    assert isinstance(head, nn.Linear)
    features = network.featurizer(inputs)
    risk = F.cross_entropy(features @ head.weight.T + head.bias, targets)
    by_weight, by_bias = torch.autograd.grad(risk, [head.weight, head.bias], create_graph=True)
    gradient = torch.cat([by_weight, by_bias[:, None]], dim=1)
    extended = [torch.cat([row, row.new_ones(1)]) for row in features]
    gramian = torch.stack([torch.outer(row, row) for row in extended]).mean(dim=0)
    identity = torch.eye(len(gramian), dtype=gramian.dtype)
    regular = gramian + ridge * gramian.trace() / len(gramian) * identity
    inverse = torch.linalg.inv(regular)
    return torch.stack([row @ inverse @ row for row in gradient]).sum() / 4


@pytest.mark.parametrize("counts", [(30, 30), (12, 25, 40)])
@pytest.mark.parametrize("classes", [2, 4])
def test_objective_equals_a_slow_restatement(counts, classes):
    network = small_network(classes=classes)
    batch = make_batch(counts, classes=classes)
    outputs = make_irmv2(network, len(counts), penalty_weight=7.0, ridge=0.02).objective(batch)

    pairs = per_environment(batch)
    risks = torch.stack([F.cross_entropy(network(inputs), targets) for inputs, targets in pairs])
    penalty = torch.stack([slow_penalty(network, *pair, ridge=0.02) for pair in pairs]).mean()
    expected = risks.mean() + 7.0 * penalty

    assert_close(outputs["risks"], risks)
    assert_close(outputs["penalty"], penalty, rtol=1e-10)
    assert_same_loss(outputs["loss"], expected, network, tolerance=1e-9)


def random_linear(inputs: int, outputs: int, *, bias: bool = True, seed: int = 4) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=bias).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in linear.parameters():
        nn.init.normal_(parameter, generator=generator)
    return linear


def test_an_invertible_map_of_the_features_changes_nothing_but_for_the_ridge():
    batch = make_batch((40, 40))
    head, mapped_head = random_linear(FEATURES, 2), random_linear(FEATURES, 2)
    change = random_linear(FEATURES, FEATURES, bias=False, seed=5)
    with torch.no_grad():
        change.weight.mul_(0.3).add_(torch.eye(FEATURES))
        mapped_head.weight.copy_(head.weight @ torch.linalg.inv(change.weight))
    plain, mapped = Network(nn.Identity(), head), Network(change, mapped_head)
    assert_close(mapped(batch.inputs), plain(batch.inputs), rtol=1e-9, atol=1e-9)
    penalties = [
        make_irmv2(network, ridge=1e-14).objective(batch)["penalty"] for network in (plain, mapped)
    ]
    assert penalties[0] > 1e-3
    assert_close(penalties[1], penalties[0], rtol=1e-8, atol=0.0)


def test_one_logit_and_two_give_the_same_penalty():
    batch = make_batch((40, 40))
    one, two = OneLogitClassifier(FEATURES).double(), random_linear(FEATURES, 2)
    with torch.no_grad():
        two.weight.copy_(torch.cat([torch.zeros(1, FEATURES), one.weight]))
        two.bias.copy_(torch.cat([torch.zeros(1), one.bias]))
    penalties = [
        make_irmv2(Network(nn.Identity(), head)).objective(batch)["penalty"] for head in (one, two)
    ]
    assert_close(penalties[0], penalties[1])


def fit_head(network: Network, inputs: Tensor, targets: Tensor) -> None:
    parameters = list(network.classifier.parameters())
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=500, tolerance_grad=1e-12, tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(inputs), targets)
        loss.backward()
        return loss

    optimizer.step(closure)


def only(batch: EnvironmentBatch, environment: int) -> EnvironmentBatch:
    chosen = batch.environment == environment
    parts = (batch.inputs, batch.targets, batch.indices, batch.rows)
    inputs, targets, indices, rows = (part[chosen] for part in parts)
    here = torch.zeros_like(targets)
    return EnvironmentBatch(
        inputs, targets, here, indices, rows, batch.counts[environment : environment + 1]
    )


def test_it_vanishes_for_the_environments_own_best_head_and_not_for_another():
    batch = make_batch((200, 200), shift=0.8)
    network = Network(nn.Identity(), random_linear(FEATURES, 2))
    fit_head(network, *per_environment(batch)[0])
    penalties = [
        make_irmv2(network, 1).objective(only(batch, environment))["penalty"].item()
        for environment in (0, 1)
    ]
    assert penalties[0] < 1e-15
    assert penalties[1] > 1e-3


def test_it_sees_what_irmv1s_scale_does_not():
    """A head of zeros: no scale of it is better, but other heads are."""
    batch = make_batch((100, 100))
    head = random_linear(FEATURES, 2)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    network = Network(nn.Identity(), head)
    irm = IRM(network=network, n_environments=2)
    assert irm.objective(batch)["penalty"] == 0
    assert make_irmv2(network).objective(batch)["penalty"] > 1e-2


def test_without_weight_it_is_erm():
    outputs = make_irmv2(small_network(), penalty_weight=0.0).objective(make_batch((20, 20)))
    assert outputs["penalty"] > 0
    assert outputs["loss"] == outputs["risks"].mean()


def test_dead_features_and_fewer_samples_than_features_leave_loss_and_gradients_finite():
    network = small_network(width=16)
    hidden = [module for module in network.featurizer.modules() if isinstance(module, nn.Linear)]
    nn.init.constant_(hidden[-1].bias, -1.0)
    batch = make_batch((3, 3))
    assert (network.featurizer(batch.inputs).abs().amax(dim=0) == 0).any()
    outputs = make_irmv2(network).objective(batch)
    assert outputs["loss"].isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(outputs["loss"], network))
