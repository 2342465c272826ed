from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.networks import Network, NetworkOptions, OneLogitClassifier, build_network
from tests.synthetic import assert_close

IMAGE = (2, 14, 14)


def build(
    shape: tuple[int, ...] = IMAGE, classes: int = 2, seed: int = 0, **options: Any
) -> Network:
    return build_network(NetworkOptions(**{"width": 16, **options}), shape, classes, seed)


@pytest.mark.parametrize(
    ("backbone", "shape", "classes", "logits"),
    [
        ("mlp", (2, 14, 14), 2, "one"),
        ("mlp", (1, 28, 28), 10, "all"),
        ("mlp", (6,), 3, "all"),
        ("small_cnn", (1, 28, 28), 10, "all"),
        ("small_cnn", (2, 14, 14), 2, "one"),
        ("small_cnn", (3, 33, 20), 2, "all"),
        ("mnist_cnn", (1, 28, 28), 10, "all"),
        ("mnist_cnn", (2, 14, 14), 2, "one"),
        ("mnist_cnn", (3, 33, 20), 2, "all"),
    ],
)
def test_logits_and_features_have_one_row_an_input(backbone, shape, classes, logits):
    network = build(shape, classes, backbone=backbone, logits=logits)
    inputs = torch.rand(5, *shape)
    features = network.featurizer(inputs)
    assert features.shape == (5, 16)
    assert network(inputs).shape == (5, classes)
    assert torch.equal(network(inputs), network.classifier(features))


def test_the_seed_alone_decides_the_weights():
    torch.manual_seed(1)
    first = build(seed=3)
    torch.manual_seed(2)
    again, other = build(seed=3), build(seed=4)
    for name, weight in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
    assert not torch.equal(
        first.state_dict()["classifier.weight"], other.state_dict()["classifier.weight"]
    )


@pytest.mark.parametrize("backbone", ["mlp", "small_cnn", "mnist_cnn"])
def test_building_leaves_the_global_random_state_as_it_was(backbone):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build(backbone=backbone)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_mlp_is_the_irm_papers():
    """colored_mnist/main.py: three layers, Xavier's uniform weights, no biases."""
    network = build((2, 14, 14), width=390, logits="one")
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert [layer.weight.shape for layer in layers] == [(390, 392), (390, 390), (1, 390)]
    for layer in layers:
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.abs().max() == 0


def same_with_gradients(network: nn.Module, found: torch.Tensor, expected: torch.Tensor) -> None:
    assert_close(found, expected)
    for ours, theirs in zip(
        *(torch.autograd.grad(each.square().sum(), list(network.parameters()), retain_graph=True)
          for each in (found, expected)),
        strict=True,
    ):  # fmt: skip
        assert_close(ours, theirs)


def test_the_mlp_is_two_hidden_layers_and_a_head():
    network = build((3, 5), width=13).double()
    w1, b1, w2, b2, w3, b3 = network.parameters()
    torch.nn.init.normal_(b1)
    torch.nn.init.normal_(b2)
    inputs = torch.randn(40, 3, 5, dtype=torch.float64)
    hidden = F.linear(F.linear(inputs.flatten(1), w1, b1).relu(), w2, b2).relu()
    same_with_gradients(network, network(inputs), F.linear(hidden, w3, b3))


@pytest.mark.parametrize("backbone", ["mlp", "small_cnn", "mnist_cnn"])
def test_many_inputs_go_through_in_parts_and_come_out_as_one(backbone):
    network = build((1, 28, 28), backbone=backbone).double()
    inputs = torch.rand(20, 1, 28, 28, dtype=torch.float64)
    whole = network(inputs)
    network.rows = 7
    same_with_gradients(network, network(inputs), whole)


def test_a_part_has_activations_of_4_mib():
    assert build((2, 14, 14), width=390).rows == 2**22 // 4 // 390
    assert build((2, 28, 28), backbone="mnist_cnn", width=128).rows == 2**22 // 4 // (64 * 28 * 28)
    assert build((1, 28, 28), backbone="small_cnn", width=64).rows == 2**22 // 4 // (16 * 14 * 14)
    assert build((3, 5000, 5000), backbone="small_cnn").rows == 1
    assert Network(nn.Identity(), nn.BatchNorm1d(3)).rows is None


def test_one_logit_is_returned_as_zero_and_z():
    head = OneLogitClassifier(4)
    features = torch.randn(7, 4)
    z = features @ head.weight.T + head.bias
    logits = head(features)
    assert torch.equal(logits[:, 0], torch.zeros(7))
    assert_close(logits[:, 1:], z, rtol=1e-6, atol=1e-6)


def test_the_cross_entropy_of_one_logit_is_the_papers_binary_one():
    network = build(logits="one").double()
    inputs, targets = torch.rand(20, *IMAGE).double(), torch.arange(20) % 2
    logits = network(inputs)
    binary = F.binary_cross_entropy_with_logits(logits[:, 1], targets.double())
    assert_close(F.cross_entropy(logits, targets), binary)


def test_one_logit_for_more_than_two_classes_is_refused():
    with pytest.raises(ValueError, match=r"'one'.* there are 3; use --network\.logits all"):
        build(classes=3, logits="one")


def test_the_mnist_cnn_is_domainbeds():
    """networks.py: convolution, activation, normalisation, four times; then the mean of pixels."""
    network = build((2, 28, 28), backbone="mnist_cnn", width=128)
    state = network.state_dict()
    shapes = [tuple(value.shape) for value in state.values() if value.dim() == 4]
    assert shapes == [(64, 2, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3), (128, 128, 3, 3)]
    assert sum(value.numel() for value in state.values()) == 371_394

    weights = iter(state.values())
    hidden = inputs = torch.rand(5, 2, 28, 28)
    for stride in (1, 2, 1, 1):
        hidden = F.conv2d(hidden, next(weights), next(weights), stride=stride, padding=1)
        hidden = F.group_norm(hidden.relu(), 8, next(weights), next(weights))
    expected = F.linear(hidden.mean(dim=(2, 3)), next(weights), next(weights))
    assert_close(network(inputs), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backbone", ["small_cnn", "mnist_cnn"])
def test_convolutions_of_vectors_are_refused(backbone):
    with pytest.raises(ValueError, match=r"shape \(6,\); use --network\.backbone mlp"):
        build((6,), backbone=backbone)


def test_groups_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"network\.width is 24; .* a multiple of 16"):
        NetworkOptions(backbone="mnist_cnn", width=24)


def test_a_network_without_units_is_refused():
    with pytest.raises(ValueError, match=r"network\.width is 0; it must be at least 1"):
        NetworkOptions(width=0)
