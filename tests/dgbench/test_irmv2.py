from __future__ import annotations

import math
from dataclasses import replace
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
HEAD_INPUTS = ("logits", "features")


def make_irmv2(network: Network, environments: int = 2, **options: Any) -> IRMv2:
    return IRMv2(network=network, n_environments=environments, anneal_steps=0, **options)


def slow_penalty(
    network: Network, inputs: Tensor, targets: Tensor, ridge: float, head_input: str
) -> Tensor:
    """One environment's penalty: the head's gradient by autograd, the Gramian sample by sample."""
    head = network.classifier
    assert isinstance(head, nn.Linear)
    read = network.featurizer(inputs)
    weight: Tensor = head.weight
    bias: Tensor = head.bias
    if head_input == "logits":
        logits = read @ weight.T + bias
        read = logits - logits.mean(dim=1, keepdim=True)
        weight = torch.eye(logits.shape[1], requires_grad=True)
        bias = torch.zeros(logits.shape[1], requires_grad=True)
    risk = F.cross_entropy(read @ weight.T + bias, targets)
    by_weight, by_bias = torch.autograd.grad(risk, [weight, bias], create_graph=True)
    gradient = torch.cat([by_weight, by_bias[:, None]], dim=1)
    extended = [torch.cat([row, row.new_ones(1)]) for row in read]
    gramian = torch.stack([torch.outer(row, row) for row in extended]).mean(dim=0)
    identity = torch.eye(len(gramian), dtype=gramian.dtype)
    regular = gramian + ridge * gramian.trace() / len(gramian) * identity
    inverse = torch.linalg.inv(regular)
    return torch.stack([row @ inverse @ row for row in gradient]).sum() / 4


@pytest.mark.parametrize("head_input", HEAD_INPUTS)
@pytest.mark.parametrize("counts", [(30, 30), (12, 25, 40)])
@pytest.mark.parametrize("classes", [2, 4])
def test_objective_equals_a_slow_restatement(counts, classes, head_input):
    network = small_network(classes=classes)
    batch = make_batch(counts, classes=classes)
    options: dict[str, Any] = {"ridge": 0.02, "head_input": head_input}
    outputs = make_irmv2(network, len(counts), penalty_weight=7.0, **options).objective(batch)

    pairs = per_environment(batch)
    risks = torch.stack([F.cross_entropy(network(inputs), targets) for inputs, targets in pairs])
    penalty = torch.stack([slow_penalty(network, *pair, **options) for pair in pairs]).mean()
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
    """The reason why descent cannot make features invariant little by little."""
    batch = make_batch((40, 40))
    head, mapped_head = random_linear(FEATURES, 2), random_linear(FEATURES, 2)
    change = random_linear(FEATURES, FEATURES, bias=False, seed=5)
    with torch.no_grad():
        change.weight.mul_(0.3).add_(torch.eye(FEATURES))
        mapped_head.weight.copy_(head.weight @ torch.linalg.inv(change.weight))
    plain, mapped = Network(nn.Identity(), head), Network(change, mapped_head)
    assert_close(mapped(batch.inputs), plain(batch.inputs), rtol=1e-9, atol=1e-9)
    penalties = [
        make_irmv2(network, ridge=1e-14, head_input="features").objective(batch)["penalty"]
        for network in (plain, mapped)
    ]
    assert penalties[0] > 1e-3
    assert_close(penalties[1], penalties[0], rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("head_input", HEAD_INPUTS)
def test_one_logit_and_two_give_the_same_penalty(head_input):
    batch = make_batch((40, 40))
    one, two = OneLogitClassifier(FEATURES).double(), random_linear(FEATURES, 2)
    with torch.no_grad():
        two.weight.copy_(torch.cat([torch.zeros(1, FEATURES), one.weight]))
        two.bias.copy_(torch.cat([torch.zeros(1), one.bias]))
    penalties = [
        make_irmv2(Network(nn.Identity(), head), head_input=head_input).objective(batch)["penalty"]
        for head in (one, two)
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


@pytest.mark.parametrize(("head_input", "least"), [("features", 1e-3), ("logits", 5e-4)])
def test_it_vanishes_for_the_environments_own_best_head_and_not_for_another(head_input, least):
    batch = make_batch((200, 200), shift=0.8)
    network = Network(nn.Identity(), random_linear(FEATURES, 2))
    fit_head(network, *per_environment(batch)[0])
    penalties = [
        make_irmv2(network, 1, head_input=head_input)
        .objective(only(batch, environment))["penalty"]
        .item()
        for environment in (0, 1)
    ]
    assert penalties[0] < 1e-15
    assert penalties[1] > least


def test_heads_of_features_see_what_irmv1s_scale_does_not():
    """A head of zeros: no scale of it is better, but other heads are."""
    batch = make_batch((100, 100))
    head = random_linear(FEATURES, 2)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    network = Network(nn.Identity(), head)
    irm = IRM(network=network, n_environments=2)
    assert irm.objective(batch)["penalty"] == 0
    assert make_irmv2(network, head_input="features").objective(batch)["penalty"] > 1e-2


def test_without_weight_it_is_erm():
    outputs = make_irmv2(small_network(), penalty_weight=0.0).objective(make_batch((20, 20)))
    assert outputs["penalty"] > 0
    assert outputs["loss"] == outputs["risks"].mean()


@pytest.mark.parametrize("head_input", HEAD_INPUTS)
def test_dead_features_and_fewer_samples_than_features_leave_loss_and_gradients_finite(head_input):
    network = small_network(width=16)
    hidden = [module for module in network.featurizer.modules() if isinstance(module, nn.Linear)]
    nn.init.constant_(hidden[-1].bias, -1.0)
    batch = make_batch((3, 3))
    assert (network.featurizer(batch.inputs).abs().amax(dim=0) == 0).any()
    outputs = make_irmv2(network, head_input=head_input).objective(batch)
    assert outputs["loss"].isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(outputs["loss"], network))


# What heads of logits see, and what heads of features cannot


def penalty_of(network: Network, batch: EnvironmentBatch, head_input: str) -> float:
    algorithm = make_irmv2(network, ridge=1e-12, head_input=head_input)
    return algorithm.objective(batch)["penalty"].item()


def bits() -> EnvironmentBatch:
    """Colored MNIST in two bits: the shape is right in 75 %, the colour in 90 % and in 80 %."""
    rows = [
        (environment, label, shape, colour)
        for environment, right in enumerate((9, 8))
        for label in (0, 1)
        for shape, shapes in ((label, 3), (1 - label, 1))
        for colour, colours in ((label, right), (1 - label, 10 - right))
        for _ in range(shapes * colours)
    ]
    environment, targets, shape, colour = torch.tensor(rows).T
    inputs = 2.0 * torch.stack([shape, colour], dim=1) - 1
    numbers = torch.arange(len(rows)) % 80
    return EnvironmentBatch(inputs, targets, environment, numbers, numbers, torch.tensor([80, 80]))


def line(shape: float, colour: float, scale: float = 1.0) -> Network:
    """The log odds ``shape * s + colour * scale * c``, of features ``(s, scale * c)``."""
    head = OneLogitClassifier(2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[shape, colour]]))
        head.bias.zero_()
    featurizer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        featurizer.weight.copy_(torch.diag(torch.tensor([1.0, scale])))
    return Network(featurizer, head)


# The head of the least mean risk on both bits, and on the shape alone: log(3) is 75 %.
POOLED, INVARIANT = (math.log(3), 1.7346), (math.log(3), 0.0)


def test_heads_of_features_prefer_the_pooled_line_as_long_as_the_colour_is_there():
    batch = bits()
    pooled = line(*POOLED)
    risk = make_irmv2(pooled).objective(batch)["risks"].mean()
    assert all(gradient.abs().max() < 1e-5 for gradient in gradients(risk, pooled))
    shares = [
        penalty_of(line(POOLED[0], (1 - share) * POOLED[1]), batch, "features")
        for share in (0, 0.1, 0.2, 0.5, 1)
    ]
    assert shares == sorted(shares)
    assert shares[-1] > 20 * shares[0]
    for scale in (1e-1, 1e-3):
        pooled = line(POOLED[0], POOLED[1] / scale, scale)
        assert penalty_of(pooled, batch, "features") == pytest.approx(shares[0])
        assert penalty_of(line(*INVARIANT, scale), batch, "features") == pytest.approx(shares[-1])
    assert penalty_of(line(*INVARIANT, 0.0), batch, "features") < 1e-20


def test_heads_of_logits_prefer_the_shape():
    batch = bits()
    assert penalty_of(line(*POOLED), batch, "logits") > 1e-4
    assert penalty_of(line(*INVARIANT), batch, "logits") < 1e-20


def test_on_no_more_rows_than_features_their_heads_see_nothing_but_the_errors():
    """All that such a penalty can teach besides the labels is to lose features."""
    batch = make_batch((FEATURES, FEATURES + 1))
    network = Network(nn.Identity(), random_linear(FEATURES, 2))
    errors = network(batch.inputs).softmax(dim=1) - F.one_hot(batch.targets, 2)
    squares = errors.square().sum(dim=1)
    means = [squares[batch.environment == environment].mean() for environment in (0, 1)]
    expected = (means[0] + means[1]).item() / 8
    assert penalty_of(network, batch, "features") == pytest.approx(expected, rel=1e-6)


def test_logits_that_shrink_lose_irmv1s_penalty_and_not_this_one():
    batch = bits()
    shrunk = [line(*(scale * weight for weight in POOLED)) for scale in (0.02, 0.01)]
    first = [IRM(network=n, n_environments=2).objective(batch)["penalty"].item() for n in shrunk]
    second = [penalty_of(network, batch, "logits") for network in shrunk]
    assert first[1] < 0.3 * first[0]
    assert second[1] > second[0] > 0.05


def test_logits_of_zero_have_the_penalty_of_the_mean_error_and_finite_gradients():
    network = small_network(classes=3)
    for parameter in network.classifier.parameters():
        nn.init.zeros_(parameter)
    batch = make_batch((30, 40), classes=3)
    outputs = make_irmv2(network, ridge=0.1).objective(batch)
    shares = [F.one_hot(targets, 3).double().mean(dim=0) for _, targets in per_environment(batch)]
    means = torch.stack([(1 / 3 - share).square().sum() for share in shares])
    assert_close(outputs["penalty"], means.mean() / 4 / (1 + 0.1 / 4))
    assert all(gradient.isfinite().all() for gradient in gradients(outputs["loss"], network))


def test_what_is_added_to_all_logits_of_a_sample_is_not_seen():
    batch = make_batch((40, 40), classes=3)
    plain, moved = random_linear(FEATURES, 3), random_linear(FEATURES, 3)
    with torch.no_grad():
        moved.weight.add_(5 * torch.eye(FEATURES)[0])
    losses = [
        make_irmv2(Network(nn.Identity(), head)).objective(batch)["loss"] for head in (plain, moved)
    ]
    assert_close(losses[0], losses[1])


@pytest.mark.parametrize(("options", "leaves"), [({}, True), ({"ridge": 1e-3}, False)])
def test_the_default_ridge_lets_logits_leave_zero(options, leaves):
    """With a smaller one the way to the classes' own centres begins uphill, at weight 1 already."""
    batch = make_batch((64, 64), classes=10)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, FEATURES, generator=generator)
    noise = torch.randn(128, FEATURES, generator=generator)
    batch = replace(batch, inputs=centres[batch.targets] + noise / 2)
    losses = []
    for scale in (0, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1):
        head = nn.Linear(FEATURES, 10)
        head.weight.data, head.bias.data = scale * centres, torch.zeros(10)
        network = Network(nn.Identity(), head)
        outputs = make_irmv2(network, penalty_weight=1.0, **options).objective(batch)
        losses.append(outputs["loss"].item())
    assert losses[-1] < losses[0] - 0.3
    assert (losses == sorted(losses, reverse=True)) is leaves
