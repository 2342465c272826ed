from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from tests.synthetic import (
    assert_close,
    assert_same_loss,
    make_batch,
    per_environment,
    small_network,
)


def test_loss_is_the_mean_of_the_environments_risks_whatever_their_sizes():
    network = small_network(classes=3)
    batch = make_batch((4, 9, 30), classes=3)
    risks = [
        F.cross_entropy(network(inputs), targets) for inputs, targets in per_environment(batch)
    ]
    outputs = ERM(network=network, n_environments=3).objective(batch)
    assert_close(outputs["risks"], torch.stack(risks))
    assert_close(outputs["loss"], torch.stack(risks).sum() / 3)
    pooled = F.cross_entropy(network(batch.inputs), batch.targets)
    assert (outputs["loss"] - pooled).abs() > 1e-3


def test_minibatches_of_one_size_give_domainbeds_loss():
    """algorithms.py, ERM.update: one cross-entropy over all minibatches, concatenated."""
    network = small_network()
    batch = make_batch((16, 16, 16))
    pooled = F.cross_entropy(network(batch.inputs), batch.targets)
    loss = ERM(network=network, n_environments=3).objective(batch)["loss"]
    assert_same_loss(loss, pooled, network)


def test_one_environment_is_plain_training():
    network = small_network()
    plain = copy.deepcopy(network)
    erm = ERM(network=network, n_environments=1, learning_rate=0.01, weight_decay=0.1)
    ours = erm.configure_optimizers()
    theirs = torch.optim.Adam(plain.parameters(), lr=0.01, weight_decay=0.1)
    for step in range(5):
        batch = make_batch((20,), seed=step)
        for optimizer, loss in (
            (ours, erm.training_step(batch, step)),
            (theirs, F.cross_entropy(plain(batch.inputs), batch.targets)),
        ):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for mine, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert_close(mine, other)


def test_the_order_of_samples_does_not_matter():
    erm = ERM(network=small_network(), n_environments=2)
    batch = make_batch((5, 8))
    before = erm.objective(batch)["loss"]
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    for name in ("inputs", "targets", "environment", "indices", "rows"):
        setattr(batch, name, getattr(batch, name)[order])
    assert_close(erm.objective(batch)["loss"], before)
