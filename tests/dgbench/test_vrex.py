from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.vrex import VREx, penalty_weight_of
from tests.synthetic import (
    assert_close,
    assert_same_loss,
    make_batch,
    per_environment,
    small_network,
)

pytestmark = pytest.mark.usefixtures("float64")


def make_vrex(environments: int, **options: Any) -> VREx:
    return VREx(
        network=small_network(), n_environments=environments, **{"anneal_steps": 0, **options}
    )


def paper(risks: Tensor, weight: float) -> Tensor:
    """Krueger et al., 2021, eq. 8."""
    return weight * risks.var(unbiased=False) + risks.sum()


def rex_code(risks: Tensor, weight: float) -> Tensor:
    """colored_mnist/main.py of the paper's repository, `--mse True`."""
    return (risks[0] + risks[1]) + weight * (risks[0] - risks[1]) ** 2


def fishr_code(risks: Tensor, weight: float) -> Tensor:
    """coloredmnist/train_coloredmnist.py of alexrame/fishr."""
    return (risks[0] + risks[1]) / 2 + weight * (risks[0] - risks[1]) ** 2


def domainbed(risks: Tensor, weight: float) -> Tensor:
    """algorithms.py:769-772."""
    mean = risks.mean()
    return mean + weight * ((risks - mean) ** 2).mean()


@pytest.mark.parametrize(
    ("source", "peer", "environments", "factor"),
    [
        ("paper", paper, 2, 2),
        ("paper", paper, 3, 3),
        ("paper", paper, 5, 5),
        ("rex-code", rex_code, 2, 2),
        ("fishr-code", fishr_code, 2, 1),
        ("domainbed", domainbed, 2, 1),
        ("domainbed", domainbed, 5, 1),
    ],
)
@pytest.mark.parametrize("weight", [0.5, 10.0, 1024.0])
def test_each_peers_loss_is_ours_at_the_converted_weight(
    source, peer, environments, factor, weight
):
    batch = make_batch([20 + 3 * e for e in range(environments)])
    ours = make_vrex(environments, penalty_weight=penalty_weight_of(source, weight, environments))
    risks = torch.stack(
        [
            F.cross_entropy(ours.network(inputs), targets)
            for inputs, targets in per_environment(batch)
        ]
    )
    expected = peer(risks, weight)

    loss = ours.objective(batch)["loss"]
    assert_same_loss(factor * loss, expected, ours.network, tolerance=1e-11)


@pytest.mark.parametrize("source", ["rex-code", "fishr-code"])
def test_losses_of_two_environments_have_no_weight_for_three(source):
    with pytest.raises(ValueError, match=f"{source} defines its loss for 2 environments, not 3"):
        penalty_weight_of(source, 1.0, 3)


def test_the_penalty_is_the_population_variance_of_the_risks():
    outputs = make_vrex(3).objective(make_batch((10, 20, 30)))
    expected = np.var(outputs["risks"].detach().numpy())
    assert outputs["penalty"].item() == pytest.approx(expected, rel=1e-12)
    assert expected > 1e-4


def test_environments_that_are_equal_have_no_penalty():
    batch = make_batch((16, 16))
    batch.inputs[16:], batch.targets[16:] = batch.inputs[:16], batch.targets[:16]
    outputs = make_vrex(2, penalty_weight=1e5).objective(batch)
    assert outputs["penalty"].item() < 1e-30
    assert_close(outputs["loss"], outputs["risks"][0])


def test_without_weight_it_is_erm():
    outputs = make_vrex(2, penalty_weight=0.0).objective(make_batch((20, 20)))
    assert outputs["penalty"] > 0
    assert outputs["loss"] == outputs["risks"].mean()


@pytest.mark.parametrize(("options", "before"), [({}, 1.0), ({"initial_weight": 2.0}, 2.0)])
def test_before_the_switch_the_weight_is_one_or_what_is_asked_for(options, before):
    vrex = make_vrex(2, penalty_weight=40.0, anneal_steps=2, **options)
    weights = []
    for step in range(4):
        vrex.training_step(make_batch((8, 8)), step)
        weights.append(vrex.outputs["penalty_weight"].item())
    assert weights == [before, before, 40.0, 40.0]
