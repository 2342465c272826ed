from __future__ import annotations

import copy
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm
from dgbench.algorithms.erm import ERM
from dgbench.algorithms.irm import IRM
from dgbench.algorithms.vrex import VREx
from dgbench.errors import UsageError
from tests.synthetic import (
    assert_close,
    identity_network,
    make_algorithm,
    make_batch,
    make_data,
    small_network,
    train,
)


def make_erm(environments: int = 2, **options: Any) -> ERM:
    return ERM(network=small_network(), n_environments=environments, **options)


def make_irm(**options: Any) -> IRM:
    return IRM(network=small_network(), n_environments=2, **options)


class GroupDRO(Algorithm):
    """Sagawa et al., 2020, as an example of an algorithm with a state."""

    weights: Tensor

    def __init__(self, *, eta: float = 0.5, **base: Any) -> None:
        super().__init__(**base)
        self.eta = eta
        self.register_buffer("weights", torch.full((self.n_environments,), 1.0).double())

    def objective(self, batch: EnvironmentBatch) -> dict[str, Any]:
        risks = self.risks(batch)
        weights = (self.weights * (self.eta * risks).exp()).softmax(dim=0)
        return {"loss": weights.detach() @ risks, "risks": risks, "state": {"weights": weights}}


def make_group_dro() -> GroupDRO:
    return GroupDRO(network=small_network(), n_environments=2)


# Annealing and the optimiser


@pytest.mark.parametrize("weight", [0.0, 0.25, 1024.0])
def test_the_weight_is_one_up_to_the_switch_and_itself_from_it_on(weight):
    erm = make_erm()
    seen = []
    for step in range(5):
        erm.steps_taken.fill_(step)
        seen.append(erm.annealed(weight, 3).item())
    assert seen == [1.0, 1.0, 1.0, weight, weight]
    assert erm.annealed(torch.tensor(weight), torch.tensor(3)).item() == weight


def test_a_switch_at_zero_is_never_waited_for():
    assert make_erm().annealed(7.0, 0).item() == 7.0


class AdamSteps(pl.Callback):
    """Notes how many steps Adam has averaged over, after each step."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        (state, *_others) = trainer.optimizers[0].state.values()
        self.seen.append(int(state["step"]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"restart_optimizer": True, "anneal_steps": 3}, [1, 2, 3, 1, 2, 3]),
        ({"restart_optimizer": False, "anneal_steps": 3}, [1, 2, 3, 4, 5, 6]),
        ({"restart_optimizer": True, "anneal_steps": 0}, [1, 2, 3, 4, 5, 6]),
        ({"restart_optimizer": True, "anneal_steps": 100}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_adam_is_restarted_at_the_switch_if_that_is_asked_for(options, expected):
    data = make_data()
    watch = AdamSteps()
    train(make_algorithm("irm", data, **options), data, 6, callbacks=[watch])
    assert watch.seen == expected


def test_a_restart_takes_the_steps_of_a_fresh_adam_from_the_switch_on():
    data = make_data()
    options = {"restart_optimizer": True, "anneal_steps": 3, "penalty_weight": 50.0}
    restarted = make_algorithm("irm", data, **options)
    by_hand = copy.deepcopy(restarted)
    train(restarted, data, 6)

    stream = data.train_dataloader()
    for step in range(6):
        if step in (0, 3):
            optimizer = by_hand.configure_optimizers()
        loss = by_hand.training_step(stream.batch(step), step)
        assert by_hand.outputs["penalty_weight"] == (1.0 if step < 3 else 50.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for ours, expected in zip(restarted.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_adam_has_all_parameters_and_the_options_that_were_given():
    erm = make_erm(learning_rate=0.125, weight_decay=0.5)
    optimizer = erm.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.125, 0.5)
    assert list(map(id, group["params"])) == list(map(id, erm.network.parameters()))


# What a step does with an objective


@pytest.mark.parametrize(("weight", "divisor"), [(50.0, 50.0), (1.0, 1.0), (0.25, 1.0), (0.0, 1.0)])
def test_rescaling_divides_by_weights_above_one(weight, divisor):
    batch = make_batch((9, 9))
    options = {"penalty_weight": weight, "anneal_steps": 0, "l2": 0.01}
    plain = make_irm(**options).training_step(batch, 0)
    rescaled = make_irm(**options, rescale_loss=True).training_step(batch, 0)
    assert_close(rescaled, plain / divisor)


def test_rescaling_leaves_algorithms_without_a_weight_alone():
    batch = make_batch((9, 9))
    loss = make_erm().training_step(batch, 0)
    assert make_erm(rescale_loss=True).training_step(batch, 0) == loss


def test_the_loss_is_scaled_before_l2_is_added():
    batch = make_batch((9, 9))
    l2 = (make_erm(l2=0.5).training_step(batch, 0) - make_erm().training_step(batch, 0)).item()
    scaled = make_erm(l2=0.5, loss_scale=4.0).training_step(batch, 0).item()
    assert scaled == pytest.approx(4 * make_erm().training_step(batch, 0).item() + l2, rel=1e-12)
    with pytest.raises(UsageError, match=r"loss_scale is 0\.0; it must be above 0"):
        make_erm(loss_scale=0.0)


def test_l2_is_over_all_parameters_biases_included():
    erm = make_erm(l2=0.5)
    for position, parameter in enumerate(erm.parameters()):
        torch.nn.init.constant_(parameter, 0.1 * (position + 1))
    squares = sum(
        parameter.numel() * (0.1 * (position + 1)) ** 2
        for position, parameter in enumerate(erm.parameters())
    )
    batch = make_batch((9, 9))
    added = erm.training_step(batch, 0) - erm.objective(batch)["loss"]
    assert added.item() == pytest.approx(0.5 * squares, rel=1e-12)
    biases = [name for name, _ in erm.named_parameters() if name.endswith("bias")]
    assert len(biases) == 3


def test_outputs_are_the_objectives_detached_before_l2_and_rescaling():
    batch = make_batch((9, 9))
    irm = make_irm(penalty_weight=40.0, anneal_steps=0, l2=0.1, rescale_loss=True)
    expected = irm.objective(batch)
    loss = irm.training_step(batch, 0)
    assert list(irm.outputs) == list(expected)
    for name, value in irm.outputs.items():
        assert not value.requires_grad
        assert torch.equal(value, expected[name].detach())
    assert loss.requires_grad
    assert (loss - irm.outputs["loss"]).abs() > 1e-3


def test_steps_are_counted_and_survive_a_state_dict():
    irm = make_irm(penalty_weight=9.0, anneal_steps=3)
    batch = make_batch((5, 5))
    for step in range(3):
        assert irm.steps_taken == step
        irm.training_step(batch, step)

    resumed = make_irm(penalty_weight=9.0, anneal_steps=3)
    resumed.load_state_dict(irm.state_dict())
    assert resumed.steps_taken == 3
    resumed.training_step(batch, 3)
    assert resumed.outputs["penalty_weight"] == 9.0


def test_an_objective_must_be_written():
    algorithm = Algorithm(network=small_network(), n_environments=2)
    with pytest.raises(NotImplementedError):
        algorithm.objective(make_batch((2, 2)))


# State


def test_values_under_state_are_assigned_to_buffers_and_not_recorded():
    algorithm = make_group_dro()
    weights = [1.0, 1.0]
    for step in range(3):
        batch = make_batch((12, 12), seed=step)
        risks = algorithm.risks(batch).tolist()
        grown = torch.tensor(
            [w * torch.tensor(0.5 * r).double().exp() for w, r in zip(weights, risks, strict=True)]
        ).double()
        weights = grown.softmax(dim=0).tolist()
        loss = algorithm.training_step(batch, step)
        assert algorithm.weights.tolist() == pytest.approx(weights, rel=1e-6)
        assert loss.item() == pytest.approx(
            sum(w * r for w, r in zip(weights, risks, strict=True)), rel=1e-6
        )
    assert weights[0] != weights[1]
    assert not algorithm.weights.requires_grad
    assert list(algorithm.outputs) == ["loss", "risks"]


def test_state_survives_a_round_trip_and_decides_the_next_step():
    algorithm = make_group_dro()
    for step in range(3):
        algorithm.training_step(make_batch((12, 12), seed=step), step)
    copied = make_group_dro()
    batch = make_batch((12, 12), seed=9)
    unaware = copied.training_step(batch, 0)
    copied.load_state_dict(algorithm.state_dict())
    assert torch.equal(copied.weights, algorithm.weights)
    assert torch.equal(copied.training_step(batch, 3), algorithm.training_step(batch, 3))
    assert copied.outputs["loss"] != unaware


def test_state_that_is_no_buffer_is_refused():
    class Forgetful(ERM):
        def objective(self, batch: EnvironmentBatch) -> dict[str, Any]:
            return {**super().objective(batch), "state": {"moments": torch.zeros(())}}

    forgetful = Forgetful(network=small_network(), n_environments=2)
    with pytest.raises(AttributeError, match="moments"):
        forgetful.training_step(make_batch((2, 2)), 0)


# Means over environments


def test_means_of_unequal_environments():
    erm = make_erm(3)
    batch = make_batch((1, 4, 2))
    values = torch.tensor([5.0, 1.0, 2.0, 3.0, 6.0, -1.0, 0.5], dtype=torch.float64)
    assert erm.environment_means(values, batch).tolist() == [5.0, 3.0, -0.25]


def test_means_of_25_000_float32_rows_are_exact_to_a_millionth():
    batch = make_batch((25_000, 25_000), dtype=torch.float32)
    erm = ERM(network=identity_network(), n_environments=2)
    generator = torch.Generator().manual_seed(1)
    values = 3 * torch.rand(50_000, generator=generator)
    exact = values.double().reshape(2, -1).mean(dim=1)
    means = erm.environment_means(values, batch)
    assert means.dtype == torch.float32
    assert_close(means.double(), exact, rtol=1e-6, atol=0.0)


def test_risks_take_logits_that_are_there_already():
    erm = make_erm()
    batch = make_batch((6, 6))
    expected = erm.risks(batch)
    assert torch.equal(erm.risks(batch, erm(batch.inputs)), expected)
    assert not torch.equal(erm.risks(batch, 2 * erm(batch.inputs)), expected)


# Refusals


def test_too_few_environments_are_refused_with_a_way_out():
    expected = (
        r"VREx compares environments and needs at least 2 to train on; this run has 1\. "
        r"Hold out or leave out fewer of them, or use --algo erm\."
    )
    with pytest.raises(UsageError, match=expected):
        VREx(network=small_network(), n_environments=1)
    VREx(network=small_network(), n_environments=2)
